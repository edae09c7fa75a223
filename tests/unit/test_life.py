"""Under load, at the end, and when somebody hangs up: on the fake engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp

GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A", "B"]}
NDJSON = {"accept": "application/x-ndjson"}


async def settled(running: Running) -> None:
    """Everything that was cancelled has let go."""
    for _ in range(100):
        if not running.engine.running and not running.service.admission.in_house:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{running.engine.running} jobs and {running.service.admission.in_house} sequences are left")


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


@pytest.mark.parametrize("headers", [None, NDJSON], ids=["json", "ndjson"])
async def test_hanging_up_cancels_the_work(running: Running, headers: dict[str, str] | None) -> None:
    body = json.dumps(GOOD).encode()
    raw = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in (headers or {}).items())]
    hung_up = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None: ...

    running.engine.delay_s = 60
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/score",
        "raw_path": b"/score",
        "query_string": b"",
        "headers": raw,
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    request = asyncio.create_task(running.app(scope, receive, send))
    while running.engine.running < 2:
        await asyncio.sleep(0.001)
    hung_up.set()
    await asyncio.wait_for(request, 5)
    await settled(running)


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


async def test_a_dead_engine_ends_a_stream_with_the_reason(running: Running) -> None:
    streaming = await post(running, delay_s=60, headers=NDJSON)
    running.engine.die()
    end = json.loads((await streaming).text.splitlines()[-1])
    assert end["error"]["code"] == "engine_dead"


async def test_a_reward_that_is_not_finite_is_an_error(running: Running) -> None:
    from criticrm_model import NonFiniteReward
    from criticrm_server.engines.base import Job, Output

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


async def test_metrics_count_what_happened(running: Running) -> None:
    await running.client.post("/score", json=GOOD | {"critique": {"max_tokens": 5}})
    await running.client.post("/score", json={"prompt": "word " * 2000, "responses": ["A"], "on_overflow": "truncate"})
    await running.client.post("/score", json=GOOD | {"prompt": 1})
    await running.client.post("/score", json={"prompt": "Q", "responses": ["A", "word " * 2000]})
    response = await running.client.get("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    values = {name: float(value) for name, value in lines.items()}
    assert response.headers["content-type"].startswith("text/plain")
    assert values['criticrm_requests_total{route="/score",status="200"}'] == 3
    assert values['criticrm_requests_total{route="/score",status="422"}'] == 1
    assert values['criticrm_errors_total{code="invalid_request"}'] == 1
    assert values['criticrm_errors_total{code="prompt_too_long"}'] == 1
    assert values["criticrm_truncations_total"] == 1
    assert values["criticrm_score_count"] == values["criticrm_direct_score_count"] == 4
    assert values["criticrm_critique_tokens_sum"] == values['criticrm_tokens_total{kind="critique"}'] == 5 + 5 + 24 + 24
    assert values['criticrm_critiques_total{finish_reason="stop"}'] == 4
    assert values["criticrm_decode_seconds_count"] == 4
    assert values["criticrm_sequences"] == values["criticrm_waiting_requests"] == 0


async def test_the_model_route_names_the_checkpoint(running: Running) -> None:
    body = (await running.client.get("/v1/model")).json()
    assert body["manifest"]["base_model"] == "tiny-llama"
    assert body["model_version"] == running.service.checkpoint.manifest.version
    assert body["max_model_len"] == 512
    assert body["limits"]["max_items"] == 256
