"""`POST /v1/render`: what the engine would get, without the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conftest import Running, StartApp
from criticrm_server.engines.base import Job, Output
from criticrm_server.routes import render as render_route

LONG = "word " * 2000
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "Why?", "responses": ["So.", ""]},
    {"prompt": TALK, "responses": ["<|im_end|>"], "critique": {"n": 3, "max_tokens": 7}},
    {"prompt": "Why?", "responses": ["So."], "critique": False},
    {"prompt": "Why?", "responses": [LONG, "So."], "on_overflow": "truncate"},
    {"items": [{"id": "a", "prompt": "Why?", "responses": ["So."]}, {"prompt": TALK, "responses": ["No.", LONG]}]},
]


@pytest.mark.parametrize("body", REQUESTS)
async def test_it_is_what_score_sends(running: Running, body: dict[str, Any]) -> None:
    rendered = await running.client.post("/v1/render", json=body)
    assert rendered.status_code == 200
    jobs: list[Job] = []
    run = running.service.engine.run

    async def note(job: Job) -> Output:
        jobs.append(job)
        return await run(job)

    running.service.engine.run = note
    scored = (await running.score(body)).json()
    answer = rendered.json()
    assert list(answer) == ["id", "model", "model_version", "prompt_tokens", "results"]
    assert answer["id"] == rendered.headers["x-request-id"]
    assert (answer["model"], answer["model_version"]) == (scored["model"], scored["model_version"])
    sent = iter(jobs)
    for ours, theirs in zip(answer["results"], scored["results"], strict=True):
        assert [ours[name] for name in ("id", "index", "status")] == [
            theirs[name] for name in ("id", "index", "status")
        ]
        assert ours["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
        assert set(ours["warnings"]) == set(theirs["warnings"]) - {"critique_cut"}
        if ours["status"] == "error":
            assert ours["prompt_token_ids"] is None
            assert ours["error"]["code"] == theirs["error"]["code"] == "prompt_too_long"
            continue
        job = next(sent)
        assert ours["prompt_token_ids"] == job.token_ids
        assert ours["max_critique_tokens"] == (0 if body.get("critique") is False else job.max_tokens)
        assert ours["error"] is None
    assert answer["prompt_tokens"] == scored["usage"]["prompt_tokens"]


async def test_no_engine_is_asked(running: Running) -> None:
    async def no_engine(_: Job) -> Output:
        raise AssertionError

    running.service.engine.run = no_engine
    answer = await running.client.post("/v1/render", json=REQUESTS[0])
    assert answer.status_code == 200
    assert running.service.admission.admitted == 0


async def test_what_can_not_be_rendered_fails_as_in_score(running: Running) -> None:
    body = {"prompt": "Why?", "responses": [LONG]}
    rendered, scored = [await running.client.post(path, json=body) for path in ("/v1/render", "/score")]
    assert rendered.status_code == scored.status_code == 422
    ours, theirs = rendered.json()["error"], scored.json()["error"]
    assert ours | {"request_id": ""} == theirs | {"request_id": ""}


async def test_it_has_the_limits_and_the_key_of_score(start_app: StartApp) -> None:
    async with start_app(max_responses=2, max_body_bytes=2**16, api_keys="one") as running:
        key = {"Authorization": "Bearer one"}
        assert (await running.client.post("/v1/render", json=REQUESTS[0])).status_code == 401
        many = await running.client.post("/v1/render", json={"prompt": "Q", "responses": ["A"] * 3}, headers=key)
        assert many.json()["error"]["code"] == "limit_exceeded"
        huge = await running.client.post("/v1/render", json={"prompt": "Q" * 2**17, "responses": ["A"]}, headers=key)
        assert huge.status_code == 413


async def test_it_waits_its_turn_and_is_refused_when_draining(start_app: StartApp) -> None:
    async with start_app(max_sequences=2, max_critiques=1, queue_timeout_s=0.05) as running:
        with await running.service.admission.admit(2):
            full = await running.client.post("/v1/render", json=REQUESTS[0])
            assert full.json()["error"]["code"] == "overloaded"
            assert int(full.headers["retry-after"]) >= 1
        running.service.admission.drain()
        answer = await running.client.post("/v1/render", json=REQUESTS[0])
        assert answer.json()["error"]["code"] == "draining"


async def test_an_answer_holds_a_bounded_number_of_token_ids(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    one = (await running.client.post("/v1/render", json=REQUESTS[2])).json()["prompt_tokens"]
    monkeypatch.setattr(render_route, "MAX_TOKEN_IDS", 1)
    limit = running.service.max_model_len  # one response always fits
    enough = limit // one
    for count, status in ((enough, 200), (enough + 1, 422)):
        items = [{"prompt": "Why?", "responses": ["So."]}] * count
        answer = await running.client.post("/v1/render", json={"items": items, "critique": False})
        assert answer.status_code == status
    (detail,) = answer.json()["error"]["details"]
    assert (detail["field"], detail["limit"], detail["actual"]) == ("body", limit, one * (enough + 1))


async def test_many_at_once_give_each_its_own(running: Running) -> None:
    async def one(i: int) -> None:
        body = {"prompt": f"Why {i}?", "responses": ["So."]}
        many, alone = await asyncio.gather(
            running.client.post("/v1/render", json=body),
            running.client.post("/v1/render", json=body | {"critique": False}),
        )
        ids = [answer.json()["results"][0]["prompt_token_ids"] for answer in (many, alone)]
        assert ids[0] == ids[1]
        found.add(tuple(ids[0]))

    found: set[tuple[int, ...]] = set()
    await asyncio.gather(*(one(i) for i in range(20)))
    assert len(found) == 20
