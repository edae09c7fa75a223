"""Identical greedy requests have one result: computed once, shared while it runs, kept afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from conftest import Running, StartApp
from criticrm_model import Completion
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.errors import EngineFailed
from criticrm_server.greedy_results import GreedyResults

JOB = Job([5, 6, 7], n=1, max_tokens=4, temperature=0.0, seed=None)


class Drifting(FakeEngine):
    """As an engine in bfloat16: no two runs of a job have the same reward."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__(2, delay_s)
        self.runs: Counter[int] = Counter()
        self.fails = False

    async def run(self, job: Job) -> Output:
        self.runs[job.max_tokens] += 1
        run = self.runs.total()
        output = await super().run(job)
        if self.fails:
            raise EngineFailed("as told")
        completions = [replace(c, score=c.score + run, finish_reason="length") for c in output.completions]
        return Output(completions, cached_tokens=output.cached_tokens)


def make(engine: FakeEngine, max_bytes: int = 2**20) -> GreedyResults:
    return GreedyResults(engine, "version", max_bytes)


def only(output: Output) -> Completion:
    (completion,) = output.completions
    return completion


async def test_identical_jobs_in_flight_share_one_run() -> None:
    engine = Drifting(delay_s=0.01)
    results = make(engine)
    outputs = await asyncio.gather(*(results.run(JOB) for _ in range(20)))
    assert engine.runs.total() == 1
    assert len({only(output).score for output in outputs}) == 1
    assert [output.reused for output in outputs] == [False] + [True] * 19


async def test_a_repeat_is_the_same_result_marked_as_reused() -> None:
    engine = Drifting()
    results = make(engine)
    first, again = await results.run(JOB), await results.run(replace(JOB, seed=9))
    assert engine.runs.total() == 1
    assert only(again) == only(first)
    assert (again.reused, again.cached_tokens, again.timings) == (True, 3, None)


@pytest.mark.parametrize("other", [{"token_ids": [5, 6]}, {"max_tokens": 5}, {"ban": None}])
async def test_other_tokens_or_limits_are_another_job(other: dict[str, object]) -> None:
    engine = Drifting()
    results = make(engine)
    await results.run(JOB)
    assert not (await results.run(replace(JOB, **other))).reused
    assert engine.runs.total() == 2


async def test_samples_are_always_run() -> None:
    engine = Drifting()
    results = make(engine)
    for seed in (None, 1, 1):
        assert not (await results.run(replace(JOB, temperature=0.7, seed=seed))).reused
    assert engine.runs.total() == 3


async def test_zero_bytes_run_everything() -> None:
    engine = Drifting(delay_s=0.01)
    results = make(engine, max_bytes=0)
    await asyncio.gather(results.run(JOB), results.run(JOB))
    assert engine.runs.total() == 2


async def test_the_least_recently_used_is_dropped() -> None:
    engine = Drifting()
    results = make(engine, max_bytes=900)  # two results
    jobs = [replace(JOB, token_ids=[i]) for i in range(3)]
    for job in (jobs[0], jobs[1], jobs[0], jobs[2]):
        await results.run(job)
    assert [(await results.run(job)).reused for job in (jobs[0], jobs[2], jobs[1])] == [True, True, False]


async def test_a_caller_that_hangs_up_takes_nobodys_result_along() -> None:
    engine = Drifting(delay_s=0.02)
    results = make(engine)
    callers = [asyncio.create_task(results.run(JOB)) for _ in range(4)]
    await asyncio.sleep(0.005)
    callers[0].cancel()  # which runs it
    callers[2].cancel()
    done = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, False, True, False]
    assert only(done[1]) == only(done[3])  # type: ignore[arg-type]
    assert engine.running == 0


async def test_all_gone_is_cancelled_in_the_engine() -> None:
    engine = Drifting(delay_s=60)
    results = make(engine)
    callers = [asyncio.create_task(results.run(JOB)) for _ in range(3)]
    await asyncio.sleep(0.005)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert engine.running == 0


async def test_a_failure_reaches_all_who_share_it_and_is_not_kept() -> None:
    engine = Drifting(delay_s=0.01)
    results = make(engine)
    engine.fails = True
    done = await asyncio.gather(*(results.run(JOB) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in done] == [EngineFailed] * 3
    engine.fails = False
    assert not (await results.run(JOB)).reused
    assert engine.runs.total() == 2


async def test_four_copies_in_one_request_have_one_reward(start_app: StartApp) -> None:
    async with start_app(engine=Drifting(), greedy_results_mib=1) as app:
        body = {"prompt": "Q", "responses": ["A"] * 4, "critique": {"max_tokens": 16}}
        answers = [(await app.score(body)).json() for _ in range(2)]
    assert len({result["score"] for answer in answers for result in answer["results"]}) == 1
    assert [result["usage"]["cached"] for result in answers[0]["results"]] == [False, True, True, True]
    assert [answer["usage"]["cached"] for answer in answers] == [False, True]


async def test_it_can_be_switched_off(start_app: StartApp) -> None:
    async with start_app(engine=Drifting(), greedy_results_mib=0) as app:
        answer = (await app.score(prompt="Q", responses=["A", "A"])).json()
    assert len({result["score"] for result in answer["results"]}) == 2


async def test_every_route_says_that_a_critique_was_cut(start_app: StartApp) -> None:
    async with start_app(engine=Drifting()) as app:
        assert await warnings_of(app, "") == [["critique_cut"]] * 6
        assert await warnings_of(app, "?critique=false") == [[]] * 6


async def warnings_of(app: Running, query: str) -> list[list[str]]:
    async def post(path: str, body: object) -> dict[str, object]:
        answer = await app.client.post(path + (query if path != "/score" else ""), json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    text = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"
    rewards = await post("/get_reward", {"query": [text]})
    assert rewards["extra_logs"]["critique_cut"] == [float(not query)]
    gym = {
        "responses_create_params": {"input": "Q"},
        "response": {"output": [{"role": "assistant", "content": "A"}]},
    }
    return [
        (await post("/score", {"prompt": "Q", "responses": ["A"], "critique": not query}))["results"][0]["warnings"],
        rewards["warnings"][0],
        (await post("/v1/score/evaluation", {"messages": [text]}))["warnings"][0],
        (await post("/classify", {"input": text}))["data"][0]["warnings"],
        (await post("/slime", {"prompt": "Q", "response": "A"}))["warnings"],
        (await post("/verify", gym))["reward_warnings"],
    ]
