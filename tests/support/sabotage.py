"""Engines that read rewards wrongly, each in one way that vLLM had or could have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from criticrm_model import Completion
from criticrm_server.engines.base import Job, Output

Run = Callable[[Job], Awaitable[Output]]


def _changed(output: Output, change: Callable[[Completion], Completion]) -> Output:
    return replace(output, completions=[change(c) for c in output.completions])


def shifted_by_the_ban(run: Run) -> Run:
    async def sabotaged(job: Job) -> Output:
        output, ban = await run(job), job.ban or 0.0
        return _changed(output, lambda c: replace(c, direct_score=c.direct_score + ban, score=c.score + ban))

    return sabotaged


def processed(run: Run) -> Run:
    """Divided by the temperature, and normalised as log-probabilities are."""

    async def sabotaged(job: Job) -> Output:
        scale = job.temperature or 1.0
        output = await run(job)
        return _changed(
            output, lambda c: replace(c, direct_score=c.direct_score / scale - 6.0, score=c.score / scale - 6.0)
        )

    return sabotaged


def of_the_step_before(run: Run) -> Run:
    async def sabotaged(job: Job) -> Output:
        output = await run(job)
        completions = []
        for c in output.completions:
            if len(c.token_ids) > 1:
                prefix = [*job.token_ids, *c.token_ids[:-2]]
                before = await run(replace(job, token_ids=prefix, n=1, max_tokens=1))
                c = replace(c, score=before.completions[0].direct_score)
            completions.append(c)
        return replace(output, completions=completions)

    return sabotaged


def of_another_sample(run: Run) -> Run:
    async def sabotaged(job: Job) -> Output:
        output = await run(job)
        scores = [c.score for c in output.completions]
        mixed = [*scores[1:], scores[0]]
        completions = [replace(c, score=score) for c, score in zip(output.completions, mixed, strict=True)]
        return replace(output, completions=completions)

    return sabotaged


def of_a_neighbour_in_the_cache(run: Run) -> Run:
    """What was seen before is answered with what was seen just before it."""
    seen: list[tuple[list[int], float]] = []

    async def sabotaged(job: Job) -> Output:
        at = next((i for i, (ids, _) in enumerate(seen) if ids == job.token_ids), None)
        output = await run(job)
        if at is None:
            seen.append((job.token_ids, output.completions[0].direct_score))
            return output
        return _changed(output, lambda c: replace(c, direct_score=seen[at - 1][1]))

    return sabotaged


def mixed_in_a_batch(run: Run) -> Run:
    """Requests that are in work at the same time change each other."""
    working = 0

    async def sabotaged(job: Job) -> Output:
        nonlocal working
        working += 1
        mates = working - 1
        try:
            output = await run(job)
        finally:
            working -= 1
        return _changed(output, lambda c: replace(c, direct_score=c.direct_score + mates))

    return sabotaged


SABOTAGES: dict[str, tuple[Callable[[Run], Run], str]] = {  # and the check that names it
    "shifted by the ban": (shifted_by_the_ban, "ban"),
    "processed": (processed, "references"),
    "of the step before": (of_the_step_before, "decode"),
    "of another sample": (of_another_sample, "samples"),
    "of a neighbour in the cache": (of_a_neighbour_in_the_cache, "cached"),
    "mixed in a batch": (mixed_in_a_batch, "together"),
}

MODES = ("processed_logits", "raw_logprobs")  # wrong values of vLLM's own logprobs_mode
