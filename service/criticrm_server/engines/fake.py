"""An engine without a model: rewards are made up from the token ids, for tests and for timing the app alone."""

from __future__ import annotations

import asyncio
import zlib
from array import array

from criticrm_model import Completion

from ..errors import EngineDead
from .base import Job, Output, Timings


class FakeEngine:
    """Deterministic in the job; `delay_s` a job. `die` is what a killed engine looks like."""

    def __init__(self, stop_token_id: int, delay_s: float = 0.0) -> None:
        self.stop_token_id = stop_token_id
        self.delay_s = delay_s
        self.running = 0
        self._death = asyncio.Event()

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
        direct = zlib.crc32(array("q", job.token_ids)) / 2**31 - 1
        completions = []
        for k in range(job.n):
            text = job.token_ids[-(job.max_tokens - 1) :] if job.max_tokens > 1 else []
            shift = 0.25 * (k + 1) if text else 0.0
            completions.append(Completion([*text, self.stop_token_id], "stop", direct, direct + shift))
        return Output(completions, timings=Timings(0.0, 0.0, self.delay_s))

    async def check_health(self) -> None:
        if self._death.is_set():
            raise EngineDead("the fake engine was killed")

    async def close(self) -> None: ...

    def die(self) -> None:
        self._death.set()
