"""Under load, at the deadline, while draining, and when the engine dies: on the fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp
from criticrm_model import NonFiniteReward
from criticrm_server.engines.base import Job, Output

GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A", "B"]}
NDJSON = {"accept": "application/x-ndjson"}


async def settled(running: Running) -> None:
    """Everything that was cancelled has let go."""
    for _ in range(100):
        if not running.engine.running and not running.service.admission.admitted:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{running.engine.running} jobs and {running.service.admission.admitted} sequences are left")


async def post(running: Running, delay_s: float, headers: dict[str, str] | None = None) -> asyncio.Task[httpx.Response]:
    """A request that is at work in the engine."""
    running.engine.delay_s = delay_s
    task = asyncio.create_task(running.client.post("/score", json=GOOD, headers=headers))
    while not running.engine.running:
        await asyncio.sleep(0)
    return task


async def test_overload_is_an_answer_for_everyone(start_app: StartApp) -> None:
    """500 at once into a house of 64."""
    async with start_app(max_sequences=64, max_waiting=100, queue_timeout_s=0.2) as app:
        app.engine.delay_s = 0.05
        answers = await asyncio.gather(*(app.client.post("/score", json=GOOD) for _ in range(500)))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 503]
        await settled(app)
    assert len(served) + len(refused) == 500
    assert served
    assert refused
    for answer in refused:
        assert answer.json()["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
    for answer in served:
        assert all(isinstance(result["score"], float) for result in answer.json()["results"])


async def test_the_deadline_is_504_and_frees_the_engine(start_app: StartApp) -> None:
    async with start_app(deadline_s=0.05) as app:
        app.engine.delay_s = 60
        response = await app.client.post("/score", json=GOOD)
        await settled(app)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


async def test_the_deadline_in_a_stream_is_told_in_its_last_line(start_app: StartApp) -> None:
    async with start_app(deadline_s=0.05) as app:
        app.engine.delay_s = 60
        response = await app.client.post("/score", json=GOOD, headers=NDJSON)
        await settled(app)
    (end,) = [json.loads(line) for line in response.text.splitlines()]
    assert response.status_code == 200
    assert end["count"] == 0
    assert end["error"]["code"] == "deadline_exceeded"


async def test_draining_finishes_what_was_accepted(running: Running) -> None:
    accepted = await post(running, delay_s=0.1)
    running.service.admission.drain()
    refused = await running.client.post("/score", json=GOOD)
    ready = await running.client.get("/health/ready")
    assert refused.status_code == ready.status_code == 503
    assert refused.json()["error"]["code"] == ready.json()["error"]["code"] == "draining"
    assert "retry-after" in refused.headers
    assert (await running.client.get("/health/live")).status_code == 200
    assert (await accepted).status_code == 200
    assert await running.service.admission.empty(timeout_s=1)


async def test_a_dead_engine_fails_every_waiter(running: Running) -> None:
    running.engine.delay_s = 60
    waiters = [asyncio.create_task(running.client.post("/score", json=GOOD)) for _ in range(20)]
    while running.engine.running < 40:
        await asyncio.sleep(0.001)
    running.engine.die()
    for answer in await asyncio.wait_for(asyncio.gather(*waiters), 5):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_dead"
    assert (await running.client.get("/health/ready")).status_code == 503
    assert (await running.client.post("/score", json=GOOD)).status_code == 503
    await asyncio.wait_for(running.service.engine_died.wait(), 5)


async def test_a_dead_engine_fails_those_before_the_house_too(start_app: StartApp) -> None:
    async with start_app(max_sequences=2, max_critiques=1, queue_timeout_s=60) as app:
        working = await post(app, delay_s=60)
        waiting = [asyncio.create_task(app.client.post("/score", json=GOOD, headers=h)) for h in (None, NDJSON)]
        while app.service.admission.waiting < 2:
            await asyncio.sleep(0.001)
        app.engine.die()
        whole, stream = await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert (await working).status_code == whole.status_code == 503
        assert whole.json()["error"]["code"] == "engine_dead"
        assert json.loads(stream.text.splitlines()[-1])["error"]["code"] == "engine_dead"
        await settled(app)


async def test_draining_keeps_those_before_the_house(start_app: StartApp) -> None:
    async with start_app(max_sequences=2, max_critiques=1) as app:
        working = await post(app, delay_s=0.05)
        waiting = asyncio.create_task(app.client.post("/score", json=GOOD))
        while not app.service.admission.waiting:
            await asyncio.sleep(0.001)
        app.service.admission.drain()
        assert (await working).status_code == (await waiting).status_code == 200
        assert await app.service.admission.empty(timeout_s=1)


async def test_what_the_drain_leaves_over_is_told_so(start_app: StartApp) -> None:
    """Admitted, waiting, and in a stream: everyone gets an answer when the drain takes too long."""
    async with start_app(max_sequences=4, max_critiques=1, queue_timeout_s=60) as app:
        working = await post(app, delay_s=60)
        streaming = await post(app, delay_s=60, headers=NDJSON)
        waiting = asyncio.create_task(app.client.post("/score", json=GOOD))
        while not app.service.admission.waiting:
            await asyncio.sleep(0.001)
        app.service.admission.drain()
        app.service.deadlines.stop()
        for answer in (await working, await waiting):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "draining"
            assert "retry-after" in answer.headers
        assert json.loads((await streaming).text.splitlines()[-1])["error"]["code"] == "draining"
        await settled(app)
        assert (await app.client.post("/score", json=GOOD)).status_code == 503


async def test_what_is_refused_or_waits_is_not_rendered(start_app: StartApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start_app(max_sequences=2, max_critiques=1, max_waiting=1) as app:
        working = await post(app, delay_s=0.05)
        plan = app.service.scorer.plan
        planned = []

        async def counted(*arguments: Any, **options: Any) -> Any:
            planned.append(arguments)
            return await plan(*arguments, **options)

        monkeypatch.setattr(app.service.scorer, "plan", counted)
        waiting = asyncio.create_task(app.client.post("/score", json=GOOD))
        while not app.service.admission.waiting:
            await asyncio.sleep(0.001)
        assert (await app.client.post("/score", json=GOOD)).status_code == 503
        assert not planned
        assert (await working).status_code == (await waiting).status_code == 200
        assert len(planned) == 1


async def test_a_request_that_can_not_be_rendered_leaves_no_place_taken(running: Running) -> None:
    for headers in (None, NDJSON):
        answer = await running.client.post("/score", json=GOOD | {"prompt": "long " * 600}, headers=headers)
        assert answer.json()["error"]["code"] == "prompt_too_long"
        assert running.service.admission.admitted == 0


async def test_a_body_that_never_ends_meets_the_deadline(start_app: StartApp) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with start_app(deadline_s=0.05) as app:
        answer = await app.client.post("/score", content=body(), headers={"content-type": "application/json"})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


async def test_a_stream_of_which_nothing_could_be_scored_ends_in_an_error(running: Running) -> None:
    async def never(_: Job) -> Output:
        raise NonFiniteReward("the reward logit is nan")

    running.service.engine.run = never
    answer = await running.client.post("/score", json=GOOD, headers=NDJSON)
    *results, end = map(json.loads, answer.text.splitlines())
    assert [result["error"]["code"] for result in results] == ["non_finite_reward"] * 2
    assert end["error"]["code"] == "non_finite_reward"


async def test_a_dead_engine_ends_a_stream_with_the_reason(running: Running) -> None:
    streaming = await post(running, delay_s=60, headers=NDJSON)
    running.engine.die()
    end = json.loads((await streaming).text.splitlines()[-1])
    assert end["error"]["code"] == "engine_dead"


async def test_a_reward_that_is_not_finite_is_an_error(running: Running) -> None:
    run = running.engine.run
    longest = 0

    async def sometimes(job: Job) -> Output:
        nonlocal longest
        longest = max(longest, len(job.token_ids))
        if len(job.token_ids) == longest:
            raise NonFiniteReward("the reward logit is nan")
        return await run(job)

    running.service.engine.run = sometimes
    body = {"prompt": "Q", "responses": ["a long response, longer than the other", "b"]}
    failed, scored = (await running.client.post("/score", json=body)).json()["results"]
    assert failed["status"] == "error"
    assert failed["score"] is None
    assert failed["error"]["code"] == "non_finite_reward"
    assert scored["status"] == "ok"
    alone = await running.client.post("/score", json=body | {"responses": ["a long response, longer than the other"]})
    assert alone.status_code == 500
    assert alone.json()["error"]["code"] == "non_finite_reward"


async def test_the_model_route_names_the_checkpoint(running: Running) -> None:
    body = (await running.client.get("/v1/model")).json()
    assert body["manifest"]["base_model"] == "tiny-llama"
    assert body["model_version"] == running.service.checkpoint.manifest.version
    assert body["max_model_len"] == 512
    assert body["limits"]["max_items"] == 256
