"""Flags before variables before a file; what is unknown or wrong is named with where it came from."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from criticrm_server import cli
from criticrm_server.commands.serve import Serve
from criticrm_server.commands.verify import Verify
from criticrm_server.setting_sources import OTHER_PREFIXES, PREFIX, unknown_variables
from criticrm_server.settings import Settings


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What `criticrm` says of a wrong call."""
    monkeypatch.setattr("sys.argv", ["criticrm", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "max-waiting: 7\nvllm_args: {block_size: 32}\napi_keys: [one, two]\nport: 9000\n"),
        ("c.yml", "max_waiting: 7\nvllm-args: block_size=32\napi-keys: one,two\nport: 9000\n"),
        ("c.toml", 'max-waiting = 7\napi_keys = ["one", "two"]\nport = 9000\n[vllm_args]\nblock-size = 32\n'),
    ],
)
def test_flags_before_variables_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    settings = Settings(_cli_parse_args=["--config", str(path)])
    assert (settings.max_waiting, settings.port, settings.vllm_args) == (7, 9000, {"block_size": 32})
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    monkeypatch.setenv("CRITICRM_CONFIG", str(path))
    monkeypatch.setenv("CRITICRM_MAX_WAITING", "8")
    monkeypatch.setenv("CRITICRM_PORT", "9001")
    settings = Settings(_cli_parse_args=["--port", "9002"])
    assert (settings.max_waiting, settings.port) == (8, 9002)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("c.yaml", "max-waitng: 7\nprt: 1", r"unknown settings: max_waitng \(did you mean max_waiting\?\), prt \("),
        ("c.toml", "config = 'x'", "unknown settings: config"),
        ("c.yaml", "max-items: 1\nmax_items: 7", "set twice, with hyphens and with underscores: max-items"),
        ("c.yaml", "- one", "is not a file of settings"),
        ("c.yaml", "word", "is not a file of settings"),
        ("c.yaml", "a: [", "is not a file of settings"),
        ("c.toml", "a = ", "is not a file of settings"),
        ("c.json", "{}", "is named .yaml, .yml or .toml"),
        ("absent.yaml", None, "no such file"),
    ],
)
def test_a_file_that_is_no_file_of_settings(tmp_path: Path, name: str, text: str | None, named: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=named):
        Settings(config=tmp_path / name)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").touch()
    assert Settings(config=tmp_path / "c.yaml").port == 8000


def test_a_wrong_value_is_named_with_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("deadline_s: -1\ncors_origins: [x]\nport: one\n")
    monkeypatch.setenv("CRITICRM_MAX_WAITING", "many")
    monkeypatch.setenv("criticrm_log_level", "loud")
    said = run(capsys, monkeypatch, "serve", "--config", str(path), "--port", "two")
    for line in (
        "--port: Input should be a valid integer",
        "CRITICRM_MAX_WAITING: Input should be a valid integer",
        "criticrm_log_level: Input should be 'debug', ",
        f"deadline_s in {path}: Input should be greater than 0",
        f"cors_origins in {path}: 'x' is no origin",
    ):
        assert f"\n  {line}" in said


def test_an_unknown_variable_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICRM_MAX_SEQUENCE", "1")
    monkeypatch.setenv("CRITICRM_PORT", "one")
    said = run(capsys, monkeypatch, "serve")
    assert "CRITICRM_MAX_SEQUENCE: there is no such variable (did you mean CRITICRM_MAX_SEQUENCES?)" in said
    assert "CRITICRM_PORT: Input should be a valid integer" in said
    monkeypatch.setenv("CRITICRM_SCORE_CONCURENCY", "1")
    said = run(capsys, monkeypatch, "score", "a.jsonl", "b.jsonl")
    assert "CRITICRM_SCORE_CONCURENCY: there is no such variable (did you mean CRITICRM_SCORE_CONCURRENCY?)" in said
    assert "MAX_SEQUENCE" not in said  # not among what this command reads


def test_a_key_by_another_name_starts_no_server_without_keys() -> None:
    (fault,) = unknown_variables(Serve, {"CRITICRM_API_KEY": "secret"})
    assert "did you mean CRITICRM_API_KEYS?" in fault
    assert "secret" not in fault


def test_variables_of_everything_else_are_known() -> None:
    others = ("CRITICRM_URL", "CRITICRM_KEY", "CRITICRM_REWARD_OPTIONS", "CRITICRM_MODEL_VERSION")
    makefile = ("CRITICRM_HOST", "CRITICRM_PORT", "CRITICRM_MODEL", "CRITICRM_CACHE")
    commands = ("CRITICRM_TOLERANCE", "CRITICRM_JSON", "CRITICRM_START", "CRITICRM_TRAIN_ANYTHING", "criticrm_port")
    environment = dict.fromkeys((*others, *makefile, *commands, "HOME"), "")
    assert unknown_variables(Serve, environment) == unknown_variables(Verify, environment) == []


@pytest.mark.parametrize("name", ["CRITICRM_SERVICE_HOST", "CRITICRM_PORT_8000_TCP_ADDR", "CRITICRM_GPU_SERVICE_PORT"])
def test_variables_that_kubernetes_makes_of_a_service(name: str) -> None:
    assert "set enableServiceLinks to false" in unknown_variables(Serve, {name: ""})[0]


def test_each_command_has_a_prefix_that_the_others_know() -> None:
    prefixes = {
        str(point.load().model_config["env_prefix"])
        for point in entry_points(group="criticrm.commands")
        if point.module.startswith("criticrm_")
    }
    assert prefixes == {PREFIX, *OTHER_PREFIXES}
