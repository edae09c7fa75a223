"""Before a server is ready its engine gave rewards; afterwards its death is seen, whatever else goes wrong."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from conftest import StartApp
from criticrm_model import CriticRMError, NonFiniteReward
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.engines.base import Engine, Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.errors import EngineFailed
from criticrm_server.settings import Settings
from criticrm_server.warm_up import warm_up


class Broken(FakeEngine):
    """Its health can't be checked a few times; then it is dead."""

    def __init__(self, failures: int) -> None:
        super().__init__(2)
        self.failures = failures

    async def check_health(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        self.die()
        await super().check_health()


async def test_the_watch_outlives_checks_that_fail(start_app: StartApp, caplog: pytest.LogCaptureFixture) -> None:
    async with start_app() as app:
        watched = replace(app.service, engine=Broken(failures=5), engine_died=asyncio.Event())
        async with asyncio.timeout(30):
            await watched.watch_engine(every_s=0)
    assert watched.engine_died.is_set()
    assert [r.levelname for r in caplog.records if "engine" in r.message] == ["ERROR", "CRITICAL"]


class Recorded(FakeEngine):
    def __init__(self, reward: float = 1.0, delay_s: float = 0.0) -> None:
        super().__init__(2, delay_s)
        self.jobs: list[Job] = []
        self.closed = False
        self.reward = reward

    async def run(self, job: Job) -> Output:
        self.jobs.append(job)
        output = await super().run(job)
        return replace(output, completions=[replace(c, score=self.reward) for c in output.completions])

    async def close(self) -> None:
        self.closed = True


def make_app(engine: Engine, checkpoint: Checkpoint, **settings: Any) -> Any:
    return create_app(Settings(engine="fake", **settings), checkpoint, engine)


async def test_a_greedy_and_a_seeded_critique_come_before_ready(opened_checkpoint: Checkpoint) -> None:
    engine = Recorded()
    app = make_app(engine, opened_checkpoint)
    async with app.router.lifespan_context(app):
        assert [(job.temperature, job.seed) for job in engine.jobs] == [(0.0, None), (0.7, 0)]
        assert all(job.max_tokens > 1 for job in engine.jobs)
    assert engine.closed


@pytest.mark.parametrize("reward", [math.nan, math.inf])
async def test_a_reward_that_is_not_finite_keeps_it_from_starting(opened_checkpoint: Checkpoint, reward: float) -> None:
    engine = Recorded(reward)
    app = make_app(engine, opened_checkpoint)
    with pytest.raises(NonFiniteReward):
        async with app.router.lifespan_context(app):
            pass
    assert engine.closed


async def test_an_engine_that_never_answers_keeps_it_from_starting(opened_checkpoint: Checkpoint) -> None:
    app = make_app(Recorded(delay_s=60), opened_checkpoint, deadline_s=0.05)
    with pytest.raises(CriticRMError, match=r"within 0\.05 s"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_failure_is_passed_on(opened_checkpoint: Checkpoint) -> None:
    engine = Recorded()

    async def fails(job: Job) -> Output:
        raise EngineFailed(f"{job.n}")

    engine.run = fails  # type: ignore[method-assign]
    with pytest.raises(EngineFailed):
        await warm_up(engine, opened_checkpoint, 1.0)
