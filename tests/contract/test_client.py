"""The SDK against the app, and against whatever else may answer. Each test runs both clients."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import criticrm_client
from conftest import Using, serving
from criticrm_client import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AsyncCriticRM,
    AuthenticationError,
    CheckpointChangedError,
    ClientClosedError,
    CriticRM,
    CritiqueOptions,
    InternalServerError,
    InvalidRequestError,
    Options,
    ResultError,
    Retries,
    ServiceUnavailableError,
)
from criticrm_client.errors import STATUS_ERRORS
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.schemas import ScoreMany
from support.null_server import NullServer, score_of

KEY = "a-key"
QUICK = Retries(attempts=3, first_wait_s=0.001)


@pytest.fixture(scope="module")
def url(opened_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(opened_checkpoint, api_keys=(KEY,), max_items=4) as url:
        yield url


def transport(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(answer)


def status(code: int, body: Any = None, **headers: str) -> httpx.MockTransport:
    return transport(lambda _: httpx.Response(code, json=body, headers=headers))


def test_the_two_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
        found = {}
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") or name == "__init__":
                parameters = inspect.signature(member).parameters.values()
                found[name] = [(p.name, p.kind, p.default) for p in parameters]
        return found

    assert methods(CriticRM) == methods(AsyncCriticRM)


def test_all_that_is_public_is_exported() -> None:
    public = {name for name in vars(criticrm_client) if name[0].isupper()}
    assert public == set(criticrm_client.__all__)


def test_it_gives_what_the_service_gives(using: Using, url: str) -> None:
    body = {"prompt": "Why?", "responses": ["So.", "", "Because of it."], "critique": {"n": 2, "seed": 1}}
    raw = httpx.post(f"{url}/score", json=body, headers={"Authorization": f"Bearer {KEY}"}).json()
    options = CritiqueOptions(n=2, seed=1)
    scored = using(lambda client: client.score("Why?", body["responses"], critique=options), url, key=KEY)
    assert json.loads(scored.model_dump_json())["results"] == [
        {**result, "usage": ours["usage"]}
        for result, ours in zip(raw["results"], json.loads(scored.model_dump_json())["results"], strict=True)
    ]
    assert scored.rewards == [result["score"] for result in raw["results"]]
    assert scored.results[1].warnings == ["empty_response"]


def test_compare_and_best_of(using: Using, url: str) -> None:
    responses = ["So.", "Because of it.", "For no reason."]
    rewards = using(lambda client: client.score("Why?", responses), url, key=KEY).rewards
    best = using(lambda client: client.best_of("Why?", responses), url, key=KEY)
    assert best.result.reward == max(rewards)
    assert best.response == responses[rewards.index(max(rewards))]
    compared = using(lambda client: client.compare("Why?", *responses[:2]), url, key=KEY)
    assert compared.margin == rewards[0] - rewards[1]
    assert compared.preferred == int(rewards[1] > rewards[0])
    assert (compared.probability > 0.5) == (compared.margin > 0)
    tie = using(lambda client: client.compare("Why?", "So.", "So."), url, key=KEY)
    assert (tie.preferred, tie.probability) == (None, 0.5)


def test_health_and_model(using: Using, url: str, opened_checkpoint: Checkpoint) -> None:
    assert using(lambda client: client.health(), url, key=KEY) is True
    info = using(lambda client: client.model_info(), url, key=KEY)
    assert info.model_version == opened_checkpoint.manifest.version
    assert info.limits["max_items"] == 4


def test_the_services_own_errors(using: Using, url: str) -> None:
    with pytest.raises(AuthenticationError) as refused:
        using(lambda client: client.score("Why?", ["So."]), url)
    assert refused.value.code == "unauthorized"
    assert refused.value.request_id
    with pytest.raises(InvalidRequestError) as invalid:
        using(lambda client: client.score("Why?", ["So."], critique={"n": 99}), url, key=KEY)
    assert invalid.value.details == [
        {
            "field": "critique.n",
            "message": "critique.n: 99 critiques a response, the limit is 16",
            "limit": 16,
            "actual": 99,
        }
    ]
    with pytest.raises(InvalidRequestError, match="prompt_too_long"):
        using(lambda client: client.score("word " * 2000, ["So."]), url, key=KEY)
    some = using(lambda client: client.score("Why?", ["So.", "word " * 2000]), url, key=KEY)
    assert some.results[0].reward == some.results[0].score
    with pytest.raises(ResultError, match="prompt_too_long"):
        _ = some.rewards
    with pytest.raises(ResultError, match="prompt_too_long"):
        using(lambda client: client.best_of("Why?", ["So.", "word " * 2000]), url, key=KEY)


def test_many_items_in_order_each_with_its_own_fate(using: Using, url: str) -> None:
    items: list[Any] = [(f"Prompt {i}", [f"Response {i}.{j}" for j in range(i % 3 + 1)]) for i in range(40)]
    items[7] = {"prompt": "word " * 2000, "responses": ["So."], "id": "long"}
    found = using(lambda client: client.score_many(items, concurrency=3, pack=4), url, key=KEY)
    assert [scores.item.prompt for scores in found[:7]] == [f"Prompt {i}" for i in range(7)]
    assert [len(scores.results) for scores in found[8:]] == [i % 3 + 1 for i in range(8, 40)]
    assert [bool(scores.failure) for scores in found] == [i == 7 for i in range(40)]
    assert found[7].item.id == "long"
    with pytest.raises((ResultError, InvalidRequestError), match="prompt_too_long"):
        _ = found[7].rewards
    alone = using(lambda client: client.score(*items[9]), url, key=KEY)
    assert found[9].rewards == alone.rewards


def test_a_fault_of_the_job_ends_it(using: Using, url: str) -> None:
    with pytest.raises(AuthenticationError):
        using(lambda client: client.score_many([("Why?", ["So."])] * 50), url, key="wrong")


@pytest.mark.parametrize("code", [204, 302, 400, 418, *(code for code in STATUS_ERRORS if code < 500)])
def test_what_is_refused_is_not_tried_again(using: Using, code: int) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["x-request-id"])
        return httpx.Response(code, text="" if code == 204 else "<html>no</html>")

    with pytest.raises(APIStatusError) as refused:
        using(lambda client: client.score("Why?", ["So."]), transport=transport(answer), retries=QUICK)
    assert type(refused.value) is STATUS_ERRORS.get(code, APIStatusError)
    assert (refused.value.status_code, refused.value.code) == (code, f"http_{code}")
    assert asked == [refused.value.request_id]


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_as_often_as_was_said(using: Using, code: int) -> None:
    body = {"error": {"code": "overloaded", "message": "later", "request_id": "abc", "details": []}}
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["x-request-id"])
        return httpx.Response(code, json=body)

    with pytest.raises(APIStatusError, match="overloaded: later") as refused:
        using(lambda client: client.score("Why?", ["So."]), transport=transport(answer), retries=QUICK)
    assert type(refused.value) is STATUS_ERRORS.get(code, APIStatusError)
    assert refused.value.request_id == "abc"
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_health_asks_once(using: Using) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(503)

    with pytest.raises(ServiceUnavailableError):
        using(lambda client: client.health(), transport=transport(answer))
    assert asked == ["/health/ready"]


@pytest.mark.parametrize(
    "broken", [httpx.ConnectError("refused"), httpx.ReadError(""), httpx.RemoteProtocolError("cut")]
)
def test_a_broken_connection(using: Using, broken: httpx.TransportError) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise broken

    with pytest.raises(APIConnectionError, match=type(broken).__name__) as failed:
        using(lambda client: client.score("Why?", ["So."]), transport=transport(answer), retries=QUICK)
    assert failed.value.request_id
    assert len(asked) == 3


def test_a_deadline_covers_all_attempts(using: Using) -> None:
    patient = Retries(attempts=9, first_wait_s=30)
    with pytest.raises(APITimeoutError, match=r"deadline_s=0\.05"):
        using(lambda client: client.score("Why?", ["So."]), transport=status(503), retries=patient, deadline_s=0.05)


def test_an_attempt_that_takes_too_long(using: Using) -> None:
    async def stall(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")

    with pytest.raises(APITimeoutError, match="ReadTimeout"):
        using(lambda client: client.score("Why?", ["So."]), transport=httpx.MockTransport(stall), retries=QUICK)


def _answer(*results: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "model": "m", "model_version": "v", "usage": {}, "results": list(results)}


def _result(index: int, score: Any = 0.5) -> dict[str, Any]:
    return {
        "id": None, "index": index, "status": "ok", "score": score, "direct_score": 0.0, "score_std": None,
        "critiques": [], "warnings": [], "error": None, "usage": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"hello": "world"},
        _answer(_result(0)),
        _answer(_result(1), _result(0)),
        _answer(_result(0), _result(0)),
        _answer(_result(0), _result(1), _result(2)),
        _answer(_result(0), _result(1, "NaN")),
    ],
    ids=["another service", "one is missing", "out of order", "one twice", "one too many", "not a number"],
)
def test_an_answer_that_is_none(using: Using, body: Any) -> None:
    with pytest.raises(APIResponseError):
        using(lambda client: client.score("Why?", ["So.", "No."]), transport=status(200, body))


def test_an_error_that_is_no_default_score(using: Using) -> None:
    failed = {**_result(0, None), "status": "error"}
    scored = using(lambda client: client.score("Why?", ["So."]), transport=status(200, _answer(failed)))
    with pytest.raises(ResultError, match="missing"):
        _ = scored.results[0].reward


def test_what_a_newer_server_adds_is_ignored(using: Using) -> None:
    newer = _answer({**_result(0), "percentile": 0.9}) | {"region": "x"}
    assert using(lambda client: client.score("Why?", ["So."]), transport=status(200, newer)).rewards == [0.5]


@pytest.mark.parametrize(
    ("prompt", "responses", "told"),
    [
        ("Why?", "So.", "responses: a list of texts, not one text"),
        ("Why?", [], "responses: .* at least 1"),
        ("Why?", ["So.", "\ud800"], r"responses\[1\]: not Unicode"),
        ("\ud800", ["So."], "prompt.*: not Unicode"),
        ([{"role": "critic", "content": "Hm."}], ["So."], r"prompt.*role: .*'system', 'user'"),
        ([], ["So."], "prompt: .* at least 1"),
    ],
)
def test_what_no_server_would_take(using: Using, prompt: Any, responses: Any, told: str) -> None:
    nobody = status(500)
    with pytest.raises(ValueError, match=told):
        using(lambda client: client.score(prompt, responses), transport=nobody)
    with pytest.raises(ValueError, match=told):
        using(lambda client: client.score_many([("Why?", ["So."]), (prompt, responses)]), transport=nobody)
    with pytest.raises(ValueError, match=told):
        using(lambda client: client.score_items([{"prompt": prompt, "responses": responses}]), transport=nobody)


@pytest.mark.parametrize("item", [5, "Why?", ("Why?",), None, iter(("Why?", ["So."], "No."))])
def test_what_is_no_item(using: Using, item: Any) -> None:
    with pytest.raises(ValueError, match="an item is an Item, a mapping, or a prompt and its responses, not"):
        using(lambda client: client.score_many([item]), transport=status(500))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_option_that_is_no_number_is_named(using: Using, url: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"critique\.temperature"):
        using(lambda client: client.score("Why?", ["So."], critique={"temperature": value}), url, key=KEY)


@pytest.mark.parametrize("first_wait_s", [60.0, 0.001], ids=["while it is away", "when it is back"])
def test_a_dead_server_is_set_aside_and_tried_again(using: Using, first_wait_s: float) -> None:
    asked: list[str] = []
    dead = {"b.test"}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host in dead:
            dead.clear()  # it is back at once, which nobody can know
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=_answer(_result(0)))

    def many(client: Any) -> Any:
        async def later(client: AsyncCriticRM) -> None:
            for _ in range(20):
                await client.score("Why?", ["So."])
                await asyncio.sleep(0.002)

        if isinstance(client, AsyncCriticRM):
            return later(client)
        for _ in range(20):
            client.score("Why?", ["So."])
            time.sleep(0.002)
        return None

    urls = ["http://a.test", "http://b.test"]
    using(many, urls, transport=transport(answer), retries=Retries(2, first_wait_s, longest_wait_s=60))
    assert len(asked) == 21
    if first_wait_s > 1:
        assert asked.count("b.test") == 1
    else:
        assert asked.count("b.test") > 5


def test_the_least_busy_server_is_asked(using: Using) -> None:
    in_flight = {"a.test": 0, "b.test": 0}
    most = dict(in_flight)
    asked = dict(in_flight)

    async def answer(request: httpx.Request) -> httpx.Response:
        host = request.url.host
        in_flight[host] += 1
        asked[host] += 1
        most[host] = max(most[host], in_flight[host])
        await asyncio.sleep(0.1 if host == "a.test" else 0.001)
        in_flight[host] -= 1
        body = json.loads(request.content)
        return httpx.Response(200, json=_answer(*(_result(0) for _ in body["items"])))

    urls = ["http://a.test", "http://b.test"]
    items = [("Why?", ["So."])] * 100
    using(
        lambda client: client.score_many(items, concurrency=8, pack=1),
        urls,
        transport=httpx.MockTransport(answer),
    )
    assert max(most.values()) <= 5
    assert asked["b.test"] > 2 * asked["a.test"]


def test_ten_thousand_rows_through_a_faulty_server(using: Using) -> None:
    retries = Retries(attempts=4, first_wait_s=0.001)
    with NullServer(faults=0.3) as server:
        found = using(
            lambda client: client.score_many([("Why?", [str(i)]) for i in range(10_000)], pack=4),
            server.url,
            retries=retries,
        )
    assert min(server.happened.values()) > 100
    assert max(server.asked.values()) <= retries.attempts
    assert [scores.item.responses for scores in found] == [[str(i)] for i in range(10_000)]
    named = [scores for scores in found if scores.failure]
    for scores in found:
        if scores.error is None:
            assert scores.rewards == [score_of(scores.item.responses[0])]
    # Three of the four faults fail an attempt: 0.225 ** 4 of the packs, 6 of 2500, fail in all attempts.
    assert 0 < len(named) < 200
    assert {type(scores.error) for scores in named} <= {APIConnectionError, InternalServerError}


@pytest.mark.parametrize("told", [None, "v"])
def test_rewards_of_two_checkpoints_are_not_mixed(using: Using, told: str | None) -> None:
    """One of two servers has another checkpoint, or the only one gets another."""
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        version = "other" if asked > 3 or (told and request.url.host == "b.test") else "v"
        items = json.loads(request.content)["items"]
        return httpx.Response(200, json=_answer(*(_result(0) for _ in items)) | {"model_version": version})

    for urls in ("http://a.test", ["http://a.test", "http://b.test"]):
        asked = 0
        with pytest.raises(CheckpointChangedError, match="checkpoint other, and this client's is v"):
            using(
                lambda client: client.score_many([("Why?", ["So."])] * 100, concurrency=1, pack=1),
                urls,
                transport=transport(answer),
                model_version=told,
            )
        assert asked < 6


def test_a_checkpoint_other_than_the_one_told(using: Using, url: str) -> None:
    for ask in (lambda client: client.model_info(), lambda client: client.score("Why?", ["So."])):
        with pytest.raises(CheckpointChangedError, match="this client's is the-old-one"):
            using(ask, url, key=KEY, model_version="the-old-one")


def test_a_service_that_has_gone_ends_the_job(using: Using) -> None:
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(APIConnectionError):
        using(
            lambda client: client.score_many([("Why?", ["So."])] * 1000, concurrency=4, pack=1),
            transport=transport(gone),
            retries=QUICK,
        )


def test_a_closed_client_says_so(url: str) -> None:
    client = CriticRM(url)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()


@pytest.mark.parametrize(
    "kind", [APIConnectionError, APITimeoutError, APIResponseError, CheckpointChangedError, *STATUS_ERRORS.values()]
)
def test_exceptions_go_between_processes(kind: type[Exception]) -> None:
    arguments = (418, "c", "m", [{"field": "f"}], "r") if issubclass(kind, APIStatusError) else ("m", "r")
    error = kind(*arguments)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))


def test_closing_ends_what_waits() -> None:
    async def stall(_: httpx.Request) -> httpx.Response:
        began.set()
        await asyncio.sleep(60)
        return httpx.Response(200)

    began = threading.Event()
    ended: list[BaseException] = []
    client = CriticRM(transport=httpx.MockTransport(stall))

    def wait() -> None:
        try:
            client.score("Why?", ["So."])
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert began.wait(10)
    client.close()
    thread.join(10)
    assert [type(error) for error in ended] == [ClientClosedError]


def test_a_client_that_is_not_closed_lets_the_process_end(url: str) -> None:
    program = "import sys; from criticrm_client import CriticRM; print(CriticRM(sys.argv[1]).health())"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_it_works_after_a_fork(url: str) -> None:
    program = (
        "import os, sys; from criticrm_client import CriticRM; client = CriticRM(sys.argv[1]); client.health()\n"
        "child = os.fork()\n"
        "print(client.health(), flush=True)\n"
        "if child: os.waitpid(child, 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("True\nTrue\n", 0), done.stderr


def test_a_stream_can_be_left(url: str) -> None:
    read: list[int] = []

    def items() -> Iterator[tuple[str, list[str]]]:
        for i in range(100_000):
            read.append(i)
            yield "Why?", [str(i)]

    with CriticRM(url, key=KEY) as client:
        for scores in client.score_stream(items(), concurrency=2, pack=4):
            assert scores.rewards
            break
    assert len(read) < 1000


def test_it_works_where_a_loop_is_running(url: str) -> None:
    async def in_a_notebook() -> float:
        with CriticRM(url, key=KEY) as client:
            return client.score("Why?", ["So."]).rewards[0]

    assert asyncio.run(in_a_notebook())


def test_the_options_of_a_call_are_those_of_a_request() -> None:
    of_the_client = {"model", "model_version"}  # whose constructor takes them
    assert set(Options.__annotations__) == set(ScoreMany.model_fields) - {"items"} - of_the_client
