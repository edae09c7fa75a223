"""Whatever a server, a proxy or the network does: a caller of the SDK gets an APIError, soon."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from criticrm_client import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AsyncCriticRM,
    CriticRM,
    Retries,
)
from support.raw_server import Send, raw_server

QUICK = Retries(attempts=3, first_wait_s=0.001)
PATIENT = Retries(attempts=9, first_wait_s=60)
RESULT = {
    "id": None, "index": 0, "status": "ok", "score": 0.5, "direct_score": 0.0, "score_std": None,
    "critiques": [], "warnings": [], "error": None, "usage": {},
}  # fmt: skip


def body(**fields: Any) -> bytes:
    return json.dumps(
        {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": [RESULT]} | fields
    ).encode()


def http(content: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = "Content-Encoding: gzip"
ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a bad head": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a long head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "half a body": http(body())[:-9],
    "half a chunk": CHUNKED + b"ff\r\n{",
    "a bad chunk": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "no last chunk": CHUNKED + b"%x\r\n%s\r\n" % (len(body()), body()),
    "no gzip": http(body(), GZIP),
    "half a gzip": http(gzip.compress(body())[:-20], GZIP),
    "an unknown encoding": http(gzip.compress(body()), "Content-Encoding: rot13"),
    "no deflate": http(b"\x00\xff", "Content-Encoding: deflate"),
    "no JSON": http(b"<html>", "Content-Type: application/json"),
    "no UTF-8": http(b'{"id": "\xff"}'),
    "an empty body": http(b""),
    "a large number of brackets": http(b"[" * 100_000),
    "a large body": http(b"x" * 5_000_000),
    "a NaN": http(body(results=[RESULT | {"score": float("nan")}])),
    "an infinity": http(body(results=[RESULT | {"score": float("-inf")}])),
    "a score in quotes": http(body(results=[RESULT | {"score": "0.5"}])),
    "a score that is true": http(body(results=[RESULT | {"score": True}])),
    "no results": http(body(results=[])),
    "one result too many": http(body(results=[RESULT, RESULT])),
    "another index": http(body(results=[RESULT | {"index": 1}])),
    "another id": http(body(results=[RESULT | {"id": "x"}])),
    "results that are none": http(body(results=None)),
    "a redirect": http(b"", "Location: http://key:SECRET@elsewhere/score", status="307 Temporary Redirect"),
    "a redirect to itself": http(b"", "Location: /score", status="301 Moved"),
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a charset of bytes": http(b"zz", "Content-Type: text/plain; charset=hex", status="400 Bad"),
    "an error in no form": http(b'{"error": "no"}', status="400 Bad"),
    "an error in half a form": http(b'{"error": {"code": 1}}', status="422 x"),
    "a strange status": http(b"", status="999 x"),
    "a wrong Retry-After": http(b"", "Retry-After: Wed, 99 Xxx 99999 99:99:99 GMT", status="503 x"),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_is_answered(answer: bytes, kind: str) -> None:
    async def ask(url: str) -> object:
        async with AsyncCriticRM(url, retries=QUICK, timeout_s=20) as client:
            return (await client.score("Why?", ["So."])).rewards

    with raw_server(answer) as (url, heads), pytest.raises(APIError) as raised:  # noqa: PT012
        if kind == "async":
            asyncio.run(ask(url))
        with CriticRM(url, retries=QUICK, timeout_s=20) as client:
            _ = client.score("Why?", ["So."]).rewards
    assert raised.value.request_id
    assert "SECRET" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert len(heads) <= 3


def drip(send: Callable[[bytes], None]) -> None:
    send(CHUNKED)
    for _ in range(500):
        send(b"1\r\n \r\n")
        time.sleep(0.02)


def early_hints(send: Callable[[bytes], None]) -> None:
    for _ in range(500):
        send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("slowly", [drip, early_hints])
def test_an_attempt_ends_in_time_however_it_drips(slowly: Send) -> None:
    with (
        raw_server(slowly) as (url, _),
        CriticRM(url, retries=Retries(attempts=1), timeout_s=0.2) as client,
        pytest.raises(APITimeoutError, match=r"timeout_s=0\.2"),
    ):
        client.score("Why?", ["So."])


@pytest.mark.parametrize(
    "broken",
    [
        httpx.DecodingError("bad"),
        httpx.InvalidURL("bad"),
        httpx.LocalProtocolError("bad"),
        httpx.UnsupportedProtocol("bad"),
        httpx.TooManyRedirects("bad"),
        ExceptionGroup("several", [ValueError("bad")]),
        UnicodeEncodeError("ascii", "ü", 0, 1, "bad"),
        RuntimeError("Event loop is closed"),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_would_come_again_is_not_waited_for(broken: Exception) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise broken

    with (
        CriticRM(transport=httpx.MockTransport(answer), retries=PATIENT) as client,
        pytest.raises(APIResponseError if isinstance(broken, httpx.DecodingError) else APIConnectionError) as raised,
    ):
        client.score("Why?", ["So."])
    assert (raised.value.__cause__, asked) == (broken, [1])


def test_a_certificate_that_is_not_trusted_is_not_waited_for() -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError("failed") from ssl.SSLCertVerificationError(1, "self-signed certificate")

    with CriticRM(transport=httpx.MockTransport(answer), retries=PATIENT) as client, pytest.raises(APIConnectionError):
        client.score("Why?", ["So."])
    assert asked == [1]


@pytest.mark.parametrize("error", [OSError(28, "full"), ssl.SSLError(1, "bad record"), httpx.ReadError("")])
def test_an_exception_of_the_connection_may_pass(error: Exception) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        if len(asked) < 3:
            raise error
        return httpx.Response(200, content=body())

    with CriticRM(transport=httpx.MockTransport(answer), retries=QUICK) as client:
        assert client.score("Why?", ["So."]).rewards == [0.5]


KILLERS: dict[str, Callable[[], httpx.Response]] = {
    "cut": lambda: (_ for _ in ()).throw(httpx.RemoteProtocolError("cut")),
    "late": lambda: (_ for _ in ()).throw(httpx.ReadTimeout("")),
    "500": lambda: httpx.Response(500),
    "502": lambda: httpx.Response(502),
    "engine_dead": lambda: httpx.Response(503, json=_error("engine_dead")),
    "engine_failed": lambda: httpx.Response(503, json=_error("engine_failed")),
}


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "", "request_id": "r", "details": []}}


@pytest.mark.parametrize("killed", KILLERS.values(), ids=KILLERS)
def test_a_request_that_brings_servers_down_gets_to_three(killed: Callable[[], httpx.Response]) -> None:
    down: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host in down:
            raise httpx.ConnectError("refused")
        down.add(request.url.host)
        return killed()

    urls = [f"http://s{number}.test" for number in range(10)]
    retries = Retries(attempts=12, first_wait_s=0.001)
    with CriticRM(urls, transport=httpx.MockTransport(answer), retries=retries) as client, pytest.raises(APIError):
        client.score("Why?", ["So."])
    assert len(down) == 3


@pytest.mark.parametrize(
    "refused",
    [
        lambda: httpx.Response(503, json=_error("overloaded")),
        lambda: httpx.Response(429),
        lambda: (_ for _ in ()).throw(httpx.ConnectError("refused")),
    ],
)
def test_a_request_that_no_server_took_may_go_to_all(refused: Callable[[], httpx.Response]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body()) if request.url.host == "s9.test" else refused()

    urls = [f"http://s{number}.test" for number in range(10)]
    retries = Retries(attempts=10, first_wait_s=60)  # none of those that refused comes back meanwhile
    with CriticRM(urls, transport=httpx.MockTransport(answer), retries=retries) as client:
        assert client.score("Why?", ["So."]).rewards == [0.5]


@pytest.mark.parametrize("status", [408, 409, 429, 503])
def test_too_many_requests_are_waited_for_and_not_multiplied(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten requests of eight items; each is answered with Retry-After 7, and waits so long."""
    asked: dict[str, int] = {}
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, *_: object) -> None:
        if seconds:
            waits.append(seconds)
        await sleep(0)

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.headers["x-request-id"]
        asked[name] = asked.get(name, 0) + 1
        if asked[name] == 1:
            return httpx.Response(status, headers={"Retry-After": "7"})
        return httpx.Response(200, content=body(results=[RESULT] * len(json.loads(request.content)["items"])))

    monkeypatch.setattr("criticrm_client.async_client.asyncio.sleep", note)
    with CriticRM(transport=httpx.MockTransport(answer), retries=Retries(longest_wait_s=30)) as client:
        found = client.score_many([("Why?", ["So."])] * 80, pack=8)
    assert not any(scores.failure for scores in found)
    assert list(asked.values()) == [2] * 10
    assert waits == [7.0] * 10


@pytest.mark.parametrize("status", [429, 408, 409])
def test_items_that_were_never_answered_are_named_and_not_sent_alone(status: int) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(status)

    with CriticRM(transport=httpx.MockTransport(answer), retries=QUICK) as client:
        found = client.score_many([("Why?", ["So."])] * 80, pack=8)
    failures = [scores.failure for scores in found]
    assert [error.status_code for error in failures if isinstance(error, APIStatusError)] == [status] * 80
    assert len(asked) == 10 * QUICK.attempts


@pytest.mark.parametrize("status", [204, 301, 401, 402, 404, 405, 418])
def test_a_fault_of_the_job_ends_it_at_its_first_request(status: int) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(status)

    with CriticRM(transport=httpx.MockTransport(answer), retries=QUICK) as client, pytest.raises(APIStatusError):
        client.score_many([("Why?", ["So."])] * 80, pack=8, concurrency=1)
    assert asked == [1]


def test_an_error_with_a_number_is_no_reward() -> None:
    answer = http(body(results=[RESULT | {"status": "error"}]))
    with raw_server(answer) as (url, _), CriticRM(url) as client, pytest.raises(APIError):
        _ = client.score("Why?", ["So."]).rewards
