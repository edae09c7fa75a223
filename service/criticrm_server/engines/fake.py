"""An engine without a model: rewards are made up from the token ids, for tests and for timing the app alone."""

from __future__ import annotations

import asyncio
import zlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from criticrm_model import RewardTokens

from ..errors import EngineDead
from .base import Facts, Job, Output, Timings
from .watching import watch_at_the_end

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from criticrm_model.checkpoint import Checkpoint


class FakeEngine:
    """Deterministic in the job; `delay_s` a job. `die` is what a killed engine looks like."""

    def __init__(
        self,
        stop_token_id: int,
        delay_s: float = 0.0,
        max_model_len: int = 4096,
        tokens: RewardTokens | None = None,
    ) -> None:
        self.stop_token_id = stop_token_id
        self.delay_s = delay_s
        self.running = 0
        self.facts = Facts()
        self.max_model_len = max_model_len
        self.tokens = tokens or RewardTokens((0,))
        self._death = asyncio.Event()

    async def start(self) -> None: ...

    async def run(self, job: Job) -> Output:
        await self.check_health()
        self.running += 1
        try:
            if self.delay_s:
                async with asyncio.timeout(self.delay_s):
                    await self._death.wait()
                await self.check_health()
        except TimeoutError:
            pass  # the delay is over
        finally:
            self.running -= 1
        direct = self._logits(job.token_ids)
        completions = []
        for k in range(job.n):
            text = made_up_critique(job.token_ids, job.max_tokens, k)
            after = self._logits([*job.token_ids, *text]) if text else direct
            steps = range(len(text) + 1) if job.trace or job.settle else ()
            trace = [self._logits([*job.token_ids, *text[:i]]) for i in steps]
            written = [*text, self.stop_token_id]
            completions.append(self.tokens.completion(written, "stop", direct, after, trace, job.settle))
        output = Output(completions, timings=Timings(0.0, 0.0, self.delay_s))
        await watch_at_the_end(job, output)
        return output

    def _logits(self, token_ids: list[int]) -> list[float]:
        first = made_up_reward(token_ids)
        return [first, *(made_up_reward([*token_ids, k]) for k in range(1, len(self.tokens.ids)))]

    async def check_health(self) -> None:
        if self._death.is_set():
            raise EngineDead("the fake engine was killed")

    async def reload(self, checkpoint: Checkpoint) -> None:
        """Rewards are made up as before."""

    async def sleep(self) -> None: ...

    async def wake(self) -> None: ...

    async def close(self) -> None: ...

    def collectors(self) -> Sequence[Collector]:
        return ()

    def die(self) -> None:
        self._death.set()


def made_up_reward(token_ids: list[int]) -> float:
    """Between -1 and 1, of the position after these tokens."""
    return zlib.crc32(array("q", token_ids)) / 2**31 - 1


def made_up_critique(token_ids: list[int], max_tokens: int, k: int) -> list[int]:
    """The end of the prompt, rotated by k, so that critiques differ."""
    text = token_ids[-(max_tokens - 1) :] if max_tokens > 1 else []
    return [*text[k:], *text[:k]]
