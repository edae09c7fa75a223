"""URLs, keys and proxies: what can't be is refused at once, and no secret is printed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from criticrm_client import APIError, AsyncCriticRM, CriticRM, Retries
from criticrm_client.addresses import masked, parse_key, parse_url, proxies_of
from criticrm_client.rewards import environment
from criticrm_client.rewards.trl import critic_rm_reward
from support.null_server import NullServer
from support.raw_server import raw_server

ONCE = Retries(attempts=1)


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("http://a", "http://a"),
        (" HTTP://A:80/ \n", "http://a"),
        ("https://a:8000/prefix/", "https://a:8000/prefix"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://key:SECRET@a/", "http://a"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
    ],
)
def test_a_url(url: str, parsed: str) -> None:
    assert parse_url(url)[0] == parsed


@pytest.mark.parametrize(
    "url",
    [
        "", "a:8000", "localhost", "127.0.0.1:8000", "//a", "ftp://a", "http://", "http:///x", "http:a",
        "http://a:99999", "http://a:0", "http://a:x", "http://a b", "http://a?x=1", "http://a#x", "http://a..b",
        "http://" + "a" * 64, "http://fd00::1:80", "http://a\x00b", "http://a\nb", "http://[::1", "http://\ud800",
        "key:SECRET@a:8000", "http://key:SECRET@a:99999", "http://key:SECRET@", "ftp://key:SECRET@a", "http://k:S/ECRET@a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [CriticRM, AsyncCriticRM, critic_rm_reward])
def test_what_is_no_url_is_refused_at_once(kind: Callable[..., Any], url: str) -> None:
    with pytest.raises(ValueError, match="is no server's address; one looks like") as refused:
        kind(url)
    assert "SECRET" not in str(refused.value)
    assert "S/ECRET" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__  # a traceback prints these too


@pytest.mark.parametrize("key", ["sekrit\n", " sekrit", "\tsekrit\r\n", "sekrit"])
def test_white_space_around_a_key_is_not_sent(key: str) -> None:
    assert parse_key(key) == "sekrit"
    with NullServer() as server, CriticRM(server.url, key=key, retries=ONCE) as client:
        assert client.score("Why?", ["So."]).rewards


@pytest.mark.parametrize("key", ["sek\nrit", "sek\rrit", "sekrit\x00", "\x7fsekrit", "sekrit\ud800"])
@pytest.mark.parametrize("kind", [CriticRM, AsyncCriticRM])
def test_a_key_that_no_header_carries_is_refused_and_not_printed(kind: Callable[..., Any], key: str) -> None:
    with pytest.raises(ValueError, match="the key holds a control character") as refused:
        kind(key=key)
    assert "sek" not in str(refused.value)


@pytest.mark.parametrize("key", ["schlüssel", "鍵", "with space"])
def test_a_key_of_any_language(key: str) -> None:
    refusing = b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n"
    with raw_server(refusing) as (url, heads), CriticRM(url, key=key) as client, pytest.raises(APIError):
        client.score("Why?", ["So."])
    assert f"Authorization: Bearer {key}\r\n".encode() in heads[0]


@pytest.mark.parametrize("empty", [None, "", " ", "\n"])
def test_no_key(empty: str | None) -> None:
    assert parse_key(empty) is None


def test_the_password_in_a_url_is_sent_and_never_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (url, heads):
        secret = url.replace("//", "//key:SECRET@")
        with CriticRM(secret, retries=ONCE) as client, pytest.raises(APIError) as no_service:
            client.score("Why?", ["So."])
    assert b"Authorization: Basic a2V5OlNFQ1JFVA==" in heads[0]
    with CriticRM(secret, retries=ONCE) as client, pytest.raises(APIError) as unreachable:
        client.score("Why?", ["So."])
    assert "SECRET" not in str(no_service.value) + str(unreachable.value) + caplog.text


def test_masked() -> None:
    assert masked("http://key:SECRET@a/x") == "http://***@a/x"
    assert masked("key:SECRET@a") == "***@a"
    assert masked("http://k:p@ss@a") == "http://***@a"
    assert masked("http://a") == "http://a"


@pytest.fixture
def proxy_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("no_proxy", ["fd00::/8", "*.local,fd00::/8,10.0.0.0/8", "[::1]", "::1,,", "a:99999"])
def test_any_no_proxy(proxy_variables: pytest.MonkeyPatch, no_proxy: str) -> None:
    proxy_variables.setenv("NO_PROXY", no_proxy)
    with NullServer() as server, CriticRM(server.url) as client:
        assert client.score("Why?", ["So."]).rewards


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_direct"),
    [
        ("http://a.test", "", False),
        ("http://a.test", "*", True),
        ("http://a.test:8000", "test", True),
        ("http://a.test:8000", ".a.test", True),
        ("http://a.test:8000", "a.test:8000", True),
        ("http://a.test:8000", "a.test:8001", False),
        ("http://b.test", "a.test", False),
        ("http://10.1.2.3:8000", "localhost, 10.0.0.0/8", True),
        ("http://11.1.2.3:8000", "10.0.0.0/8", False),
        ("http://[fd00::1]:8000", "fd00::/8", True),
        ("http://[::1]:8000", "::1", True),
    ],
)
def test_who_is_asked_through_the_proxy(
    proxy_variables: pytest.MonkeyPatch, url: str, no_proxy: str, is_direct: bool
) -> None:
    proxy_variables.setenv("HTTP_PROXY", "proxy.test:3128")
    proxy_variables.setenv("NO_PROXY", no_proxy)
    found = proxies_of([url])
    assert (url not in found) == is_direct
    assert all(proxy.url == httpx.URL("http://proxy.test:3128") for proxy in found.values())


def test_a_proxy_is_asked(proxy_variables: pytest.MonkeyPatch) -> None:
    with raw_server(b"HTTP/1.1 407 no\r\nContent-Length: 0\r\n\r\n") as (url, heads):
        proxy_variables.setenv("HTTP_PROXY", url.replace("//", "//user:SECRET@"))
        with CriticRM("http://far.test", retries=ONCE) as client, pytest.raises(APIError, match="407") as refused:
            client.score("Why?", ["So."])
    assert heads[0].startswith(b"POST http://far.test/score HTTP/1.1\r\n")
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("proxy", ["foo://u:SECRET@p", "socks5://u:SECRET@p", "http://u:SECRET@p:99x"])
def test_a_proxy_that_can_not_be(proxy_variables: pytest.MonkeyPatch, proxy: str) -> None:
    proxy_variables.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match="ALL_PROXY") as refused:
        CriticRM("http://a.test")
    assert "SECRET" not in str(refused.value)


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    with pytest.raises(ValueError, match="SSL_CERT_FILE"):
        CriticRM("https://a.test")


@pytest.mark.parametrize("name", ["timeout_s", "deadline_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_times_that_are_none(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        CriticRM(**{name: value})


def test_the_variables_of_reward_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.KEY, "sekrit\n")
    assert environment.key() == "sekrit"
    monkeypatch.setenv(environment.URL, "http://a,key:SECRET@b")
    with pytest.raises(ValueError, match=environment.URL) as refused:
        environment.urls()
    assert "SECRET" not in str(refused.value)
