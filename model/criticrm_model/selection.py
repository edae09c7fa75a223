"""Which responses get a critique, by their rewards before any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rule:
    """When a response is close to another.

    Attributes:
        margin: the largest difference of calibrated direct scores that is close, itself included.
        rank: "best": close to the best response to the prompt, which is close where another is; "all": close to any.
        budget: tokens of all critiques, spent on the closest first; None is no bound.
    """

    margin: float
    rank: Literal["best", "all"] = "best"
    budget: int | None = None


def select(prompts: Sequence[Sequence[float | None]], costs: Sequence[int], rule: Rule) -> set[tuple[int, int]]:
    """Prompt and response of those that are to be critiqued.

    What it depends on are the scores alone: neither the batch nor the order in which they were read. Equally close
    responses are taken in the request's order.

    Args:
        prompts: calibrated direct scores, `[prompts][responses]`; None for a response that has none and stays out.
        costs: tokens of the critiques of one response, `[prompts]`.
    """
    close = [
        (distance, prompt, response)
        for prompt, scores in enumerate(prompts)
        for response, distance in enumerate(distances(scores, rule.rank))
        if distance is not None and distance <= rule.margin
    ]
    chosen: set[tuple[int, int]] = set()
    left = math.inf if rule.budget is None else rule.budget
    for _, prompt, response in sorted(close):
        left -= costs[prompt]
        if left < 0:  # a cheaper one that is less close does not come before it
            break
        chosen.add((prompt, response))
    return chosen


def distances(scores: Sequence[float | None], rank: Literal["best", "all"]) -> list[float | None]:
    """The distance of each response to the ones it competes with; if it is alone, to 0, the reference set's mean.

    Args:
        scores: calibrated direct scores, `[responses]`; None for a response that has none.
    """
    known = sorted(score for score in scores if score is not None)
    if len(known) == 1:
        return [None if score is None else abs(score) for score in scores]
    if rank == "best":
        # The best one is as close as the next one is to it.
        return [None if s is None else known[-1] - s if s < known[-1] else known[-1] - known[-2] for s in scores]
    return [None if s is None else _to_nearest(known, s) for s in scores]


def _to_nearest(known: Sequence[float], score: float) -> float:
    """Args: known: sorted, `score` among them."""
    place = known.index(score)
    neighbours = [*known[max(place - 1, 0) : place], *known[place + 1 : place + 2]]
    return min(abs(score - other) for other in neighbours)
