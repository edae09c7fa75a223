"""One settings object: every field explained, every conflict named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from criticrm_server.commands.serve import Serve
from criticrm_server.settings import Settings


def test_every_field_has_a_sentence_of_help() -> None:
    for name, field in Serve.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith((".", ")")), name


def test_all_conflicts_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(
            host="0.0.0.0",
            engine="fake",
            tensor_parallel_size=2,
            prefix_caching=False,
            critique_tokens=2000,
            max_critiques=9999,
        )
    message = str(caught.value)
    for word in (
        "0.0.0.0",
        "CRITICRM_API_KEYS",
        "tensor_parallel_size 2 needs engine vllm, not fake",
        "prefix_caching False needs engine vllm",
        "critique_tokens 2000",
        "max_critiques 9999",
    ):
        assert word in message


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "rewards.example.org", ""])
def test_what_is_not_loopback_is_public(host: str) -> None:
    with pytest.raises(ValidationError, match="can be reached from other machines, but there are no API keys"):
        Settings(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).host == host


def test_a_public_address_needs_a_key_or_a_word() -> None:
    assert Settings(host="0.0.0.0", api_keys=("k",)).host == "0.0.0.0"
    assert Settings(host="0.0.0.0", allow_unauthenticated=True).host == "0.0.0.0"
    with pytest.raises(ValidationError, match="empty key"):
        Settings(host="0.0.0.0", api_keys=("",))


def test_variables_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_MAX_SEQUENCES", "77")
    monkeypatch.setenv("CRITICRM_API_KEYS", '["one", "two"]')
    settings = Settings(_cli_parse_args=["some/folder", "--port", "9000", "--no-allow-unauthenticated"])
    assert settings.model == "some/folder"
    assert settings.port == 9000
    assert settings.max_sequences == 77
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("one", ["one"]),
        ("", []),
        ("one,two", ["one", "two"]),
        (" one,\ttwo\n", ["one", "two"]),
        ('["one\\n", " two"]', ["one", "two"]),
        ('["a,b"]', ["a,b"]),
    ],
)
def test_keys_as_people_write_them(monkeypatch: pytest.MonkeyPatch, value: str, keys: list[str]) -> None:
    monkeypatch.setenv("CRITICRM_API_KEYS", value)
    assert [key.get_secret_value() for key in Settings().api_keys] == keys
    assert [key.get_secret_value() for key in Settings(_cli_parse_args=["--api-keys", value]).api_keys] == keys


@pytest.mark.parametrize("value", ["sek\nrit", "one,sek\x00rit", '["sek\\nrit"]'])
def test_a_key_that_no_header_carries(value: str) -> None:
    with pytest.raises(ValidationError, match="control character") as refused:
        Settings(api_keys=value)
    assert "rit" not in str(refused.value)
    with pytest.raises(ValidationError, match="control character"):
        Settings(engine="remote", remote_urls="http://a", remote_api_key="sek\nrit")


@pytest.mark.parametrize("value", [",", "one,,two", "one,", '[" "]'])
def test_an_empty_key_is_no_key(value: str) -> None:
    with pytest.raises(ValidationError, match="empty key"):
        Settings(api_keys=value)


def test_no_error_prints_a_key_or_a_password() -> None:
    for options in ({"host": "0.0.0.0", "port": "x"}, {"critique_tokens": 9999}, {"remote_urls": "http://k:SECRET@a"}):
        with pytest.raises(ValidationError) as refused:
            Settings(api_keys="SECRET", **options)
        assert "SECRET" not in str(refused.value)
    assert Settings(engine="remote", remote_urls="http://a", remote_api_key="\n").remote_api_key is None


def test_keys_are_not_printed() -> None:
    assert "topsecret" not in repr(Settings(api_keys=("topsecret",)))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_gateway_is_told_its_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_REMOTE_API_KEY", "topsecret")
    settings = Settings(_cli_parse_args=["--engine", "remote", "--remote-urls", "http://a:8001,https://b:8001/"])
    assert settings.remote_urls == ("http://a:8001", "https://b:8001")
    assert "topsecret" not in repr(settings)
    with pytest.raises(ValidationError) as caught:
        Settings(engine="remote", dtype="float32", tensor_parallel_size=2, data_parallel_size=2)
    for word in (
        "engine remote needs remote_urls",
        "dtype float32 has no effect in a gateway: start the vLLM servers with --dtype",
        "tensor_parallel_size 2 needs engine vllm, not remote",
        "data_parallel_size 2 needs engine vllm, not remote",
    ):
        assert word in str(caught.value)
    monkeypatch.delenv("CRITICRM_REMOTE_API_KEY")
    with pytest.raises(ValidationError) as caught:
        Settings(remote_urls="http://a:8001", remote_wait_s=1)
    for word in ("remote_urls needs engine remote, not vllm", "remote_wait_s needs engine remote"):
        assert word in str(caught.value)


@pytest.mark.parametrize("urls", ["a:8001", "ftp://a", "http://", "http://key@a", "http://a?x=1", "http://a,http://a/"])
def test_what_is_no_list_of_servers(urls: str) -> None:
    with pytest.raises(ValidationError, match="remote_urls"):
        Settings(engine="remote", remote_urls=urls)
