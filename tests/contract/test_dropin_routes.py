"""What holds for every drop-in route: keys, options, all or nothing, load; and real clients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from conftest import Running, StartApp, serving
from criticrm_model import NonFiniteReward
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job, Output
from support.dropin import ASKED, PROMPT, bodies, reward, score
from support.tiny import make_checkpoint

LONG = "word " * 2000


each_route = pytest.mark.parametrize("path", bodies())


@each_route
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("?critique=false", {"critique": False}),
        ("?critique=true", {"critique": True}),
        ("?n=4&max_tokens=5", {"critique": {"n": 4, "max_tokens": 5}}),
        ("?temperature=0.5&seed=7", {"critique": {"temperature": 0.5, "seed": 7}}),
        ("?normalize=true", {"normalize": True}),
        ("?critique=0&normalize=1", {"critique": False, "normalize": True}),
    ],
)
async def test_the_options_are_those_of_score(running: Running, path: str, query: str, options: dict[str, Any]) -> None:
    answer = await running.client.post(path + query, json=bodies()[path])
    assert answer.status_code == 200
    assert reward(path, answer.json()) == await score(running, ASKED, "So.", **options)


@each_route
async def test_an_unknown_option_is_refused(running: Running, path: str) -> None:
    answer = await running.client.post(f"{path}?critque=false", json=bodies()[path])
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "query.critque"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?critique=maybe", "query.critique"),
        ("?n=0", "query.n"),
        ("?n=many", "query.n"),
        ("?n=99", "critique.n"),
        ("?n=2&temperature=0", "query"),
        ("?max_tokens=99999", "critique.max_tokens"),
        ("?temperature=nan", "query.temperature"),
        ("?seed=-1", "query.seed"),
        ("?on_overflow=drop", "query.on_overflow"),
        ("?critique=false&n=4", "query"),
        ("?critique=false&max_tokens=4", "query"),
    ],
)
async def test_options_that_can_not_be(running: Running, query: str, field: str) -> None:
    answer = await running.client.post(f"/slime{query}", json=bodies()["/slime"])
    assert answer.status_code == 422
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == [field]


@each_route
async def test_too_long_is_an_error_or_cut(running: Running, path: str) -> None:
    body = bodies(LONG)[path]
    refused = await running.client.post(path, json=body)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "prompt_too_long"
    cut = await running.client.post(f"{path}?on_overflow=truncate", json=body)
    assert reward(path, cut.json()) == await score(running, ASKED, LONG, on_overflow="truncate")


@pytest.mark.parametrize("path", ["/get_reward", "/v1/score/evaluation", "/classify"])
async def test_one_failure_fails_the_batch_and_nothing_runs(running: Running, path: str) -> None:
    ran: list[Job] = []

    async def watched(job: Job) -> Output:
        ran.append(job)
        raise AssertionError

    running.service.engine.run = watched
    texts = [PROMPT + "So.", PROMPT + LONG]
    body = {"/get_reward": {"query": texts, "prompts": [PROMPT] * 2}, "/classify": {"input": texts}}
    answer = await running.client.post(path, json=body.get(path, {"messages": texts}))
    assert answer.status_code == 422
    assert ran == []
    assert running.service.admission.admitted == 0


@pytest.mark.parametrize("path", ["/get_reward", "/v1/score/evaluation", "/classify"])
async def test_one_reward_that_is_not_finite_fails_the_batch(running: Running, path: str) -> None:
    run, jobs = running.engine.run, 0

    async def second_fails(job: Job) -> Output:
        nonlocal jobs
        jobs += 1
        if jobs == 2:
            raise NonFiniteReward("nan")
        return await run(job)

    running.service.engine.run = second_fails
    texts = [PROMPT + "So."] * 3
    body = {"/get_reward": {"query": texts, "prompts": [PROMPT] * 3}, "/classify": {"input": texts}}
    answer = await running.client.post(path, json=body.get(path, {"messages": texts}))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "non_finite_reward"


@each_route
async def test_roles_that_the_critics_template_refuses(start_app: StartApp, tmp_path: Any, path: str) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "gemma", "gemma"))
    async with start_app(checkpoint=checkpoint) as app:
        answer = await app.client.post(path, json=bodies()[path])
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "unsupported_conversation"


@each_route
async def test_full_house_deadline_and_dead_engine(start_app: StartApp, path: str) -> None:
    async with start_app(max_sequences=2, max_critiques=1, max_waiting=0, deadline_s=0.05) as app:
        with await app.service.admission.admit(2):
            full = await app.client.post(path, json=bodies()[path])
        app.engine.delay_s = 60
        late = await app.client.post(path, json=bodies()[path])
        app.engine.die()
        dead = await app.client.post(path, json=bodies()[path])
    assert [full.status_code, late.status_code, dead.status_code] == [503, 504, 503]
    assert "retry-after" in full.headers
    assert "retry-after" in dead.headers


@each_route
async def test_a_body_that_is_too_large_or_no_json(start_app: StartApp, path: str) -> None:
    async with start_app(max_body_bytes=1000) as app:
        large = await app.client.post(path, json=bodies(LONG)[path])
        undeclared = await app.client.post(path, content=b"{}")
    assert large.status_code == 413
    assert undeclared.status_code == 415


async def test_too_many_markers_are_text(running: Running) -> None:
    body = {"messages": ["<|im_start|>assistant\n" * 20_000], "model": "model"}
    answer = await running.client.post("/v1/score/evaluation", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "limit_exceeded"


def basic(password: str, user: str = "key") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("key-one"), 200),
        (basic("key-two", user=""), 200),
        (basic("schl\u00fcssel"), 200),
        ("basic " + basic("key-one").partition(" ")[2], 200),
        ("Bearer key-one", 200),
        (basic("wrong"), 401),
        (basic(""), 401),
        (basic("wrong", user="key-one"), 401),
        (basic("key-one:"), 401),
        ("Basic key-one", 401),
        ("Basic " + base64.b64encode(b"key-one").decode(), 401),
        ("Basic", 401),
        ("Basic \xff", 401),
        ("Bearer wrong", 401),
        ("Digest key-one", 401),
        ("", 401),
    ],
)
async def test_a_key_in_either_form(start_app: StartApp, authorization: str, status: int) -> None:
    async with start_app(api_keys=["key-one", "key-two", "schl\u00fcssel"]) as app:
        headers = {b"authorization": authorization.encode("latin-1")}
        answer = await app.client.post("/slime", json=bodies()["/slime"], headers=headers)
    assert answer.status_code == status


@each_route
async def test_each_asks_for_a_key(start_app: StartApp, path: str) -> None:
    async with start_app(api_keys=["key"]) as app:
        assert (await app.client.post(path, json=bodies()[path])).status_code == 401


async def test_only_the_drop_in_routes_take_a_password(start_app: StartApp) -> None:
    async with start_app(api_keys=["key"]) as app:
        headers = {"authorization": basic("key")}
        assert (await app.score(prompt="q", responses=["a"])).status_code == 401
        assert (await app.client.get("/v1/model", headers=headers)).status_code == 401
        answer = await app.client.post("/score", json={"prompt": "q", "responses": ["a"]}, headers=headers)
    assert answer.status_code == 401
    assert "URL" not in answer.json()["error"]["message"]


async def test_the_refusal_says_how_to_put_a_key_into_the_url(start_app: StartApp) -> None:
    async with start_app(api_keys=["key"]) as app:
        answer = await app.client.post("/slime", json={})
    assert "http://key:KEY@host" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def address(opened_checkpoint: Checkpoint) -> Iterator[str]:
    with serving(opened_checkpoint, api_keys=("secret",)) as url:
        yield url.removeprefix("http://")


@each_route
async def test_the_clients_that_the_frameworks_use(address: str, path: str) -> None:
    """requests (LLaMA-Factory) and aiohttp (OpenRLHF, slime, verl, NeMo-Gym): their JSON, and a key in the URL."""
    url, body = f"http://key:secret@{address}{path}?critique=false", bodies()[path]
    by_requests = await asyncio.to_thread(requests.post, url, json=body, timeout=60)
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        by_aiohttp = response.status, await response.json()
    by_httpx = await asyncio.to_thread(httpx.post, url, json=body)
    assert by_requests.status_code == by_aiohttp[0] == by_httpx.status_code == 200
    rewards = {reward(path, answer) for answer in (by_requests.json(), by_aiohttp[1], by_httpx.json())}
    assert len(rewards) == 1


@each_route
async def test_one_option_twice_is_refused(running: Running, path: str) -> None:
    answer = await running.client.post(f"{path}?critique=false&critique=true", json=bodies()[path])
    assert answer.status_code == 422
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["query.critique"]


def with_a_call(name: str, call: object) -> list[tuple[str, dict[str, Any], str]]:
    """Each entrance that takes messages, the field at fault last."""
    asked = [*ASKED, {"role": "assistant", "content": "", name: call}, {"role": "tool", "content": "42"}]
    said = {"role": "assistant", "content": "So."}
    return [
        ("/score", {"prompt": asked, "responses": ["So."]}, f"prompt[2].{name}"),
        ("/slime", {"prompt": asked, "response": "So."}, f"prompt[2].{name}"),
        ("/classify", {"messages": [*asked, said]}, f"messages[2].{name}"),
        (
            "/verify",
            {"responses_create_params": {"input": asked}, "response": {"output": [said]}},
            f"responses_create_params.input[2].{name}",
        ),
    ]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("tool_calls", [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        ("function_call", {"name": "f", "arguments": "{}"}),
        ("images", ["picture"]),
        ("audio", {"id": "1"}),
    ],
)
async def test_what_a_message_says_beside_its_content_is_refused_by_name(
    running: Running, name: str, call: object
) -> None:
    """A call that is dropped leaves an empty turn, and another reward."""
    for path, body, field in with_a_call(name, call):
        answer = await running.client.post(path, json=body)
        assert answer.status_code == 422, (path, answer.text)
        assert [detail["field"].startswith(field) for detail in answer.json()["error"]["details"]] == [True], path


async def test_no_calls_are_no_fault(running: Running) -> None:
    for path, body, _ in with_a_call("tool_calls", [])[1:] + with_a_call("function_call", None)[1:]:
        assert (await running.client.post(path, json=body)).status_code == 200
