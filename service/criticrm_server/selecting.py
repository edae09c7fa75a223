"""Which rendered responses get a critique, by what was read before any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from criticrm_model.selection import Rule, select

from .engines.base import Job, Output
from .rendering import RenderedResponse


def as_direct(job: Job) -> Job:
    """The job that reads the reward before any critique; its prompt stays in the prefix cache for the critique's."""
    return Job(job.token_ids, n=1, max_tokens=1, temperature=0.0, seed=None, group=job.group, ban=None)


def close_responses(
    responses: Sequence[RenderedResponse],
    prompts: Sequence[int],
    rule: Rule,
    calibrated: Callable[[RenderedResponse, Sequence[Output]], float],
) -> set[int]:
    """Places among `responses` of those that are to be critiqued.

    Args:
        responses: with what was read of them, `RenderedResponse.read`; none of one that failed.
        prompts: responses of each item, in order.
        calibrated: the direct score on the calibrated scale.
    """
    begins = [0, *accumulate(prompts)]
    each = [responses[begin:end] for begin, end in pairwise(begins)]
    scores = [[calibrated(one, one.read) if one.read else None for one in several] for several in each]
    costs = [max(sum(job.n * job.max_tokens for job in one.jobs) for one in several) for several in each]
    return {begins[prompt] + response for prompt, response in select(scores, costs, rule)}
