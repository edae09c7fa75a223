"""Results of greedy jobs, each computed once: identical jobs in flight share one run, later ones take the kept result.

In bfloat16 the rewards of a job depend on what shares its batch (docs/reproducibility.md), so a second run of a greedy
job can give another critique and another reward. A job that samples is always run.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from dataclasses import replace
from hashlib import sha256

from criticrm_model import Completion

from .engines.base import Engine, Job, Output

# What CPython takes for an entry besides its token ids: key, tuple, two floats, place in the dict.
_ENTRY_BYTES = 400
_REWARD_BYTES = 112  # of each of several: a tuple and two floats

# Token ids as bytes, the reason the critique ended, the reward before and after it, and those of several: nothing that
# the garbage collector has to visit.
_Kept = tuple[bytes, str, float, float, tuple[tuple[float, float], ...]]


class GreedyResults:
    """Runs jobs on an engine, greedy ones at most once at a time and not again while their result is kept.

    Args:
        version: of the checkpoint, part of each result's key.
        max_bytes: memory for results, the least recently used are dropped; 0 runs every job.
    """

    def __init__(self, engine: Engine, version: str, max_bytes: int) -> None:
        self._engine = engine
        self._version = version.encode()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._running: dict[bytes, asyncio.Future[Output]] = {}

    async def run(self, job: Job) -> Output:
        """The job's output, `reused` if it was not computed for this call.

        Raises:
            What `Engine.run` raises; jobs that share a run share its error. If the caller that runs it is cancelled,
            another one runs it.
        """
        if job.temperature > 0 or job.trace or job.watch or not self._max_bytes:
            return await self._engine.run(job)
        key = self._key(job)
        while True:
            if key in self._kept:
                self._kept.move_to_end(key)
                return _restore(self._kept[key], len(job.token_ids))
            running = self._running.get(key)
            if running is None:
                return await self._run(key, job)
            await asyncio.wait([running])  # unlike `await running`, a caller that is cancelled leaves it alone
            if not running.cancelled():
                return replace(running.result(), cached_tokens=len(job.token_ids), timings=None, reused=True)

    async def _run(self, key: bytes, job: Job) -> Output:
        self._running[key] = result = asyncio.get_running_loop().create_future()
        try:
            output = await self._engine.run(job)
        except Exception as error:
            result.set_exception(error)
            result.exception()  # marks it as seen: nobody else may be waiting
            raise
        else:
            result.set_result(output)
            self._keep(key, output.completions[0])
            return output
        finally:
            result.cancel()  # of no effect unless this caller was cancelled
            del self._running[key]

    def _key(self, job: Job) -> bytes:
        options = f" {job.n} {job.max_tokens} {job.settle} {job.ban} ".encode()  # a seed changes no greedy critique
        return sha256(self._version + options + array("q", job.token_ids).tobytes()).digest()

    def _keep(self, key: bytes, completion: Completion) -> None:
        token_ids = array("i", completion.token_ids).tobytes()
        c = completion
        self._kept[key] = kept = (token_ids, c.finish_reason, c.direct_score, c.score, c.rewards)
        self._bytes += _size(kept)
        while self._bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)


def _size(kept: _Kept) -> int:
    return len(kept[0]) + _ENTRY_BYTES + _REWARD_BYTES * len(kept[4])


def _restore(kept: _Kept, prompt_tokens: int) -> Output:
    token_ids, *known = kept
    completion = Completion(array("i", token_ids).tolist(), *known)  # type: ignore[arg-type]  # as kept
    return Output([completion], cached_tokens=prompt_tokens, reused=True)
