"""`/score` as server-sent events: critiques and rewards while they are written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from conftest import Running, StartApp
from criticrm_model import Completion
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.engines.watching import watch_at_the_end
from criticrm_server.schemas import ScoreOne

EVENTS = {"accept": "text/event-stream"}
BODY: dict[str, Any] = {"prompt": "Why?", "responses": ["So.", "Thus."]}
ONE = ScoreOne(prompt="Why?", responses=["So."])


async def events(running: Running, **changes: object) -> list[tuple[str, dict[str, Any]]]:
    answer = await running.client.post("/score", json=BODY | changes, headers=EVENTS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize("critique", [True, {"n": 3, "max_tokens": 9, "temperature": 1.0}])
async def test_tokens_make_the_critiques_and_their_scores(running: Running, critique: object) -> None:
    found = await events(running, critique=critique)
    results = [data for name, data in found if name == "result"]
    assert [name for name, _ in found][-1] == "end"
    assert found[-1][1]["count"] == 2
    assert found[-1][1]["error"] is None
    for result in results:
        for k, written in enumerate(result["critiques"]):
            tokens = [d for n, d in found if n == "token" and (d["index"], d["critique"]) == (result["index"], k)]
            assert "".join(token["text"] for token in tokens).strip() == written["text"]
            assert len(tokens) == written["tokens"]
            assert tokens[0]["score"] == result["direct_score"]
            assert tokens[-1]["score"] == written["score"]
            assert written["trace"] is None


async def test_the_results_are_those_of_any_other_answer(running: Running) -> None:
    plain = (await running.score(BODY)).json()
    found = await events(running)
    results = sorted((data for name, data in found if name == "result"), key=lambda data: data["index"])
    assert results == plain["results"]
    assert found[-1][1]["usage"] == plain["usage"]


async def test_tokens_come_while_the_critique_is_written(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    go_on = asyncio.Event()

    class Slow(FakeEngine):
        async def run(self, job: Job) -> Output:
            assert job.watch is not None
            job.watch(0, [50, 51], [0.5, 0.25])
            await go_on.wait()
            return await super().run(Job(job.token_ids, 1, 4, 0.0, None))

    async with start_app(Slow(opened_checkpoint.renderer.stop_token_ids[0])) as app:
        plan = await app.service.scorer.plan(ONE, "id")
        seen: list[Any] = []
        with await app.service.admission.admit(1, "") as permit:
            async for event in app.service.scorer.events(plan, permit):
                seen.append(event)
                if len(seen) == 2:
                    go_on.set()
    assert [event.score for event in seen[:2]] == [0.5, 0.25]
    assert len(seen) == 3


async def test_a_caller_that_leaves_frees_the_engine(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    engine = FakeEngine(opened_checkpoint.renderer.stop_token_ids[0], delay_s=60)
    async with start_app(engine) as app:
        plan = await app.service.scorer.plan(ONE, "id")
        with await app.service.admission.admit(1, "") as permit:
            stream = app.service.scorer.events(plan, permit)
            waiting = asyncio.ensure_future(anext(stream))
            while engine.running == 0:
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await stream.aclose()
        assert engine.running == 0


async def test_without_critiques_there_are_no_tokens(running: Running) -> None:
    for changes in ({"critique": False}, {"critiques": [["a"], ["b"]]}):
        assert [name for name, _ in await events(running, **changes)] == ["result", "result", "end"]


async def test_what_fails_later_is_in_the_end(running: Running) -> None:
    running.engine.die()
    found = await events(running)
    assert [name for name, _ in found] == ["end"]
    assert found[0][1]["error"]["code"] == "engine_dead"


async def test_many_tokens_at_once_hold_up_nobody() -> None:
    """An engine that returns critiques whole shows them in parts, and others have their turns between."""
    shown: list[int] = []
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def watch(_k: int, token_ids: Sequence[int], _scores: Sequence[float]) -> None:
        shown.extend(token_ids)

    job = Job([1], n=2, max_tokens=2000, temperature=1.0, seed=0, watch=watch)
    completions = [Completion(list(range(2000)), "length", 0.0, 1.0, (), (0.0,) * 2000) for _ in range(2)]
    beside = asyncio.create_task(others())
    await watch_at_the_end(job, Output(completions))
    beside.cancel()
    assert shown == [*range(2000)] * 2
    assert turns >= 16


async def test_more_than_eyes_can_follow_are_refused(running: Running) -> None:
    body = BODY | {"responses": ["a"] * 13, "critique": {"n": 5}}
    answer = await running.client.post("/score", json=body, headers=EVENTS)
    assert answer.status_code == 422
    (fault,) = answer.json()["error"]["details"]
    assert (fault["field"], fault["actual"], fault["limit"]) == ("responses", 65, 64)


@pytest.mark.parametrize("text", ["line\nbreak \u2028 \r", "event: end\ndata: {}"])
async def test_a_text_ends_no_event(running: Running, text: str) -> None:
    found = await events(running, responses=[text])
    assert [name for name, _ in found if name != "token"] == ["result", "end"]
