"""A score depends on its item alone: not on what else is in the batch, the order, or the prefix cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Run, Runs

pytestmark = pytest.mark.integration

TOLERANCE = 1e-4


@pytest.mark.parametrize("way", ["batched", "shuffled", "cached"])
def test_greedy_scores_are_those_of_the_item_alone(runs: Runs, way: str) -> None:
    differences = []
    for alone, other in zip(runs.alone, getattr(runs, way), strict=True):
        assert other.job == alone.job
        assert other.completions[0].token_ids == alone.completions[0].token_ids
        differences += _differences(other, alone)
    assert max(map(abs, differences)) <= TOLERANCE
    assert abs(sum(differences) / len(differences)) <= TOLERANCE / 10


def test_the_cache_was_used_and_was_not(runs: Runs) -> None:
    assert len(runs.alone) == 32
    assert all(run.cached_tokens == 0 for run in runs.alone)
    assert sum(run.cached_tokens > 0 for run in runs.cached) >= 16


def _differences(run: Run, other: Run) -> list[float]:
    a, b = run.completions[0], other.completions[0]
    return [a.direct_score - b.direct_score, a.score - b.score]
