"""`Job.watch` for engines that can't stream."""

from __future__ import annotations

import asyncio

from .base import Job, Output

_TOKENS = 256  # that are shown without a pause


async def watch_at_the_end(job: Job, output: Output) -> None:
    """Call `job.watch` with whole completions, which must have traces, for an engine that can't stream."""
    if job.watch is None:
        return
    for k, completion in enumerate(output.completions):
        for start in range(0, len(completion.token_ids), _TOKENS):
            tokens = slice(start, start + _TOKENS)
            job.watch(k, completion.token_ids[tokens], completion.trace[tokens])
            await asyncio.sleep(0)  # thousands of tokens must not hold up everyone else
