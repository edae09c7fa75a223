"""What the SDK sends beside its bodies, through whose HTTP client, what it logs, and what its errors carry."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Using, serving
from criticrm_client import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    AsyncCriticRM,
    AuthenticationError,
    CheckpointChangedError,
    CriticRM,
    InvalidRequestError,
    Retries,
    ServiceUnavailableError,
    errors,
    retry_log,
)
from criticrm_client.errors import STATUS_ERRORS
from criticrm_client.rewards.trl import critic_rm_reward
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.commands.score import Score
from support.null_server import NullServer

KEY = "a-key"
QUICK = Retries(attempts=3, first_wait_s=0.001)
ONCE = Retries(attempts=1)


def body(*rewards: float, version: str = "v") -> dict[str, Any]:
    results = [
        {
            "id": None, "index": index, "status": "ok", "score": reward, "direct_score": 0.0, "score_std": None,
            "critiques": [], "warnings": [], "error": None, "usage": {},
        }
        for index, reward in enumerate(rewards)
    ]  # fmt: skip
    return {"id": "a", "model": "m", "model_version": version, "usage": {}, "results": results}


@pytest.fixture(scope="module")
def url(opened_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(opened_checkpoint, api_keys=(KEY,)) as url:
        yield url


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CRITICRM_URL", "CRITICRM_KEY"):
        monkeypatch.delenv(name, raising=False)


class Recording(httpx.AsyncBaseTransport):
    """Answers in turn, the last one for ever; an exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = answers or (httpx.Response(200, json=body(0.5)),)
        self.requests: list[httpx.Request] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def aclose(self) -> None:
        self.closed += 1


def ask(client: Any) -> Any:
    return client.score("Why?", ["So."])


def test_who_asks_is_in_the_user_agent(using: Using) -> None:
    transport = Recording()
    using(ask, transport=transport)
    (sent,) = transport.requests
    name, python = sent.headers["user-agent"].split()
    assert name.startswith("criticrm/0.")
    assert python == f"python/{platform.python_version()}"


def test_headers_of_the_caller_are_sent_with_every_request(using: Using) -> None:
    transport = Recording()
    headers = {"X-Team": "träining", "user-agent": "mine/1"}
    using(ask, key=KEY, headers=headers, transport=transport)
    (sent,) = transport.requests
    assert (b"X-Team", "träining".encode()) in sent.headers.raw
    assert sent.headers["user-agent"] == "mine/1"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert len(sent.headers.get_list("user-agent")) == 1


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Authorization": "Bearer SECRET"}, "Authorization can't be set here: give `key`"),
        ({"authorization": "Bearer SECRET"}, "give `key`"),
        ({"Content-Type": "text/plain"}, "bodies are JSON"),
        ({"X-Request-ID": "SECRET"}, "an id of its own"),
        ({"Accept": "application/x-ndjson"}, "read as JSON"),
        ({"X Team": "SECRET"}, "is no header's name"),
        ({"X-Team\r\nX": "SECRET"}, "is no header's name"),
        ({"": "SECRET"}, "is no header's name"),
        ({"X-Team": "SECRET\r\nX: y"}, "the value of X-Team"),
        ({"X-Team": "SECRET\ud800"}, "the value of X-Team"),
        ({"X-Team": 1}, "the value of X-Team"),
    ],
)
@pytest.mark.parametrize("kind", [CriticRM, AsyncCriticRM])
def test_headers_that_can_not_be(kind: Callable[..., Any], headers: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        kind("http://a", headers=headers)
    assert "SECRET" not in str(refused.value)


def test_the_http_client_of_the_caller_is_used_and_closed(using: Using, url: str) -> None:
    made: list[httpx.AsyncClient] = []
    sent: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        sent.append(request)

    def make() -> httpx.AsyncClient:
        made.append(httpx.AsyncClient(event_hooks={"request": [note]}, headers={"X-Of": "mine"}, timeout=0.000_001))
        return made[-1]

    assert using(ask, url, key=KEY, http_client=make).rewards
    (client,) = made
    assert client.is_closed
    (request,) = sent
    assert request.headers["x-of"] == "mine"
    assert request.headers["user-agent"].startswith("criticrm/")
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_one_http_client_serves_one_loop(using: Using) -> None:
    transport = Recording()
    http = httpx.AsyncClient(transport=transport)
    assert using(ask, http_client=http).rewards == [0.5]
    assert (http.is_closed, transport.closed) == (True, 1)


def test_an_http_client_is_of_one_loop_and_a_function_of_all() -> None:
    with_one = AsyncCriticRM(http_client=httpx.AsyncClient(transport=Recording()))
    asyncio.run(with_one.score("Why?", ["So."]))
    with pytest.raises(ValueError, match="serves one event loop"):
        asyncio.run(with_one.score("Why?", ["So."]))
    with_many = AsyncCriticRM(http_client=lambda: httpx.AsyncClient(transport=Recording()))
    for _ in range(2):
        assert asyncio.run(with_many.score("Why?", ["So."])).rewards == [0.5]


def test_the_auth_of_an_http_client_replaces_the_key(using: Using) -> None:
    transport = Recording()
    using(ask, key=KEY, http_client=lambda: httpx.AsyncClient(transport=transport, auth=("me", "word")))
    assert transport.requests[0].headers["authorization"].startswith("Basic ")


def test_http_clients_that_can_not_be() -> None:
    with pytest.raises(TypeError, match=r"httpx\.AsyncClient or a function"):
        CriticRM(http_client=httpx.Client())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="transport and http_client"):
        CriticRM(http_client=httpx.AsyncClient(), transport=Recording())


def test_an_http_client_needs_no_variables_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    monkeypatch.setenv("ALL_PROXY", "foo://p")
    transport = Recording()
    with CriticRM("https://a.test", http_client=lambda: httpx.AsyncClient(transport=transport)) as client:
        assert ask(client).rewards == [0.5]


def make_recording() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=Recording())


@pytest.mark.parametrize("kind", [CriticRM, AsyncCriticRM])
def test_a_client_with_headers_and_a_function_goes_between_processes(kind: Any) -> None:
    client = kind("http://a", key=KEY, headers={"X-Team": "a"}, http_client=make_recording)
    copy = pickle.loads(pickle.dumps(client))
    inner = copy._client if kind is CriticRM else copy
    assert inner._sessions.headers[b"X-Team"] == b"a"
    assert inner._sessions.headers[b"Authorization"] == f"Bearer {KEY}".encode()


def test_the_service_is_where_the_variables_say(using: Using, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_URL", f"{url}, {url}/")
    monkeypatch.setenv("CRITICRM_KEY", f"{KEY}\n")
    assert using(ask).rewards
    with pytest.raises(AuthenticationError):
        using(ask, key="", retries=ONCE)
    with NullServer() as other:
        assert using(ask, other.url).rewards  # an argument goes before the variable


def test_variables_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_URL", "http://a,key:SECRET@b")
    with pytest.raises(ValueError, match="CRITICRM_URL: ") as refused:
        CriticRM()
    assert "SECRET" not in str(refused.value)
    monkeypatch.setenv("CRITICRM_KEY", "SEC\nRET")
    with pytest.raises(ValueError, match="CRITICRM_KEY: ") as refused:
        AsyncCriticRM("http://a")
    assert "SEC" not in str(refused.value)
    CriticRM("http://a", key="")


def of_class(kind: type[APIError], using: Using) -> APIError:
    """The exception as a caller gets it."""
    by_status = {kind: status for status, kind in STATUS_ERRORS.items()}
    answer = httpx.Response(by_status.get(kind, 418), headers={"X-Served-By": "s1"})
    if kind is APIResponseError:
        answer = httpx.Response(200, json={}, headers={"X-Served-By": "s1"})
    elif kind is CheckpointChangedError:
        answer = httpx.Response(200, json=body(0.5, version="w"), headers={"X-Served-By": "s1"})
    with pytest.raises(kind) as raised:
        using(ask, transport=Recording(answer), retries=ONCE, model_version="v")
    return raised.value


WITH_ANSWER = [APIStatusError, *STATUS_ERRORS.values(), APIResponseError, CheckpointChangedError]


@pytest.mark.parametrize("kind", WITH_ANSWER)
def test_an_error_carries_the_answers_headers(kind: type[APIError], using: Using) -> None:
    error = of_class(kind, using)
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert one.headers["x-served-by"] == "s1"
        assert one.status_code is not None
        assert one.request_id


def test_every_error_has_the_same_attributes(using: Using) -> None:
    def all_of(kind: type[APIError]) -> Iterator[type[APIError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from all_of(child)

    with_answer = set(WITH_ANSWER)
    without = set(all_of(APIError)) - with_answer
    assert {kind.__name__ for kind in without} == {
        "APIError", "APIConnectionError", "APITimeoutError", "ClientClosedError", "ResultError",
    }  # fmt: skip
    with pytest.raises(APIConnectionError) as raised:
        using(ask, transport=Recording(httpx.ConnectError("refused")), retries=ONCE)
    assert (dict(raised.value.headers), raised.value.status_code) == ({}, None)
    assert all(name in vars(errors) for name in (kind.__name__ for kind in all_of(APIError)))
    assert all(inspect.getdoc(kind) for kind in all_of(APIError))


def test_headers_of_the_services_own_errors(using: Using, url: str) -> None:
    with pytest.raises(InvalidRequestError) as invalid:
        using(lambda client: client.score("Why?", ["So."], critique={"n": 99}), url, key=KEY)
    assert invalid.value.headers["x-request-id"] == invalid.value.request_id
    assert invalid.value.status_code == invalid.value.status == 422
    with pytest.raises(AuthenticationError) as refused:
        using(ask, url)
    assert refused.value.headers["www-authenticate"].startswith("Bearer")


def overloaded(status: int = 503, code: str = "overloaded") -> httpx.Response:
    error = {"code": code, "message": "SECRET text", "request_id": "r\nforged", "details": []}
    return httpx.Response(status, json={"error": error}, headers={"Retry-After": "0"})


def lines(caplog: pytest.LogCaptureFixture) -> Sequence[tuple[int, str]]:
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "criticrm_client"]


def test_retries_are_logged_and_a_kind_warns_once(using: Using, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "criticrm_client")
    good = httpx.Response(200, json=body(0.5))
    transport = Recording(overloaded(), overloaded(), httpx.ReadError("SECRET"), good)
    address = "http://user:SECRET@a.test"
    using(ask, address, key="SECRET", transport=transport, retries=Retries(4, 0.001))
    found = lines(caplog)
    assert [level for level, _ in found] == [logging.WARNING, logging.INFO, logging.WARNING]
    first, _, third = (line for _, line in found)
    sent = transport.requests[0].headers["x-request-id"]
    assert first.startswith("http://a.test: status 503 overloaded in attempt 1 of 4; the next one follows in 0.0 s")
    assert first.endswith(f"[request {sent}]")
    assert third.startswith("http://a.test: ReadError in attempt 3 of 4")
    assert "SECRET" not in caplog.text
    assert "So." not in caplog.text
    assert "forged" not in caplog.text


def test_a_code_that_is_none_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "criticrm_client")
    transport = Recording(overloaded(code="forged\nline"), httpx.Response(200, json=body(0.5)))
    with CriticRM(transport=transport, retries=QUICK) as client:
        ask(client)
    ((_, line),) = lines(caplog)
    assert "status 503 in attempt 1" in line


def test_a_kind_warns_again_after_a_while(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, "criticrm_client")
    clock = iter((0.0, 1.0, 599.0, 601.0, 602.0, 602.0))
    monkeypatch.setattr("criticrm_client.retry_log.time.monotonic", lambda: next(clock))
    log = retry_log.RetryLog()
    error = APIConnectionError("m")
    for url in [*["http://a"] * 5, "http://b"]:
        log.retrying(url, error, 1, 2, 0.0, "r")
    warned = [level == logging.WARNING for level, _ in lines(caplog)]
    assert warned == [True, False, False, True, False, True]


def test_what_is_not_sent_again_is_not_logged(using: Using, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "criticrm_client")
    with pytest.raises(ServiceUnavailableError):
        using(ask, transport=Recording(overloaded()), retries=ONCE)
    using(ask, transport=Recording())
    assert lines(caplog) == []


@pytest.mark.usefixtures("logging_as_before")
def test_the_score_command_asks_where_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "Why?", "response": "So."}\n')
    with NullServer() as server:
        monkeypatch.setenv("CRITICRM_URL", server.url)
        assert Score(source=source, out=out, quiet=True).run() == 0
        assert server.rows["So."] == 1


async def test_reward_functions_send_the_same() -> None:
    transport = Recording()
    reward = critic_rm_reward(
        "http://a.test", headers={"X-Team": "a"}, http_client=lambda: httpx.AsyncClient(transport=transport)
    )
    assert await reward(["Why?"], ["So."]) == [0.5]
    (sent,) = transport.requests
    assert sent.headers["user-agent"].startswith("criticrm/")
    assert sent.headers["x-team"] == "a"
