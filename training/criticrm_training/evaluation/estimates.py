"""Intervals of numbers that are made of means over items: section scores, correlations, shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..stats import Accuracy

Floats = npt.NDArray[np.float64]
_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 2_000_000  # weights of groups, 8 bytes each


def estimate(
    columns: Floats, groups: Sequence[str], statistic: Callable[[Floats], Floats], n: int | None = None, seed: int = 0
) -> Accuracy:
    """`statistic` of the sums of `columns`, and its 95 % interval over resampled groups.

    Groups are weighted at random instead of drawn (Bayesian bootstrap, Rubin 1981): no subset is ever without an item,
    and a prompt that is in several subsets has one weight in all of them.

    Args:
        columns: `[rows, c]`.
        groups: of the rows; rows of one group keep together.
        statistic: of sums `[..., c]`, to numbers `[...]`.
        n: what the estimate says it is of; the rows unless given.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, member, columns)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(names))
    found = []
    for start in range(0, _RESAMPLES, rows):
        weights = rng.standard_exponential((min(rows, _RESAMPLES - start), len(names)))  # [resamples, groups]
        found.append(statistic(weights @ sums))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Accuracy(float(statistic(sums.sum(axis=0))), float(low), float(high), len(columns) if n is None else n)


def mean(values: Sequence[float] | Floats, groups: Sequence[str]) -> Accuracy:
    """The mean of `values`, `[n]`."""
    columns = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return estimate(columns, groups, lambda sums: sums[..., 0] / sums[..., 1])


def rank_correlation(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, groups: Sequence[str]
) -> Accuracy | None:
    """Spearman's correlation of `x` and `y`, `[n]`; equal values share their mean rank.

    The ranks are those of the whole sample in every resample. None where `x` or `y` is constant: there is none.
    """
    a, b = _ranks(x), _ranks(y)
    if not a.any() or not b.any():
        return None
    columns = np.stack([np.ones(len(a)), a, b, a * a, b * b, a * b], axis=1)

    def correlation(sums: Floats) -> Floats:
        n, sum_a, sum_b, sum_aa, sum_bb, sum_ab = np.moveaxis(sums, -1, 0)
        spread: Floats = np.sqrt((n * sum_aa - sum_a**2) * (n * sum_bb - sum_b**2))
        found: Floats = (n * sum_ab - sum_a * sum_b) / spread
        return found

    return estimate(columns, groups, correlation)


def _ranks(values: Sequence[float] | Floats) -> Floats:
    """Mean ranks about their centre, from -0.5 to 0.5; all 0 where the values are constant."""
    _, place, count = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count + 1) / 2
    ranks: Floats = (mean_rank[place] - (len(place) - 1) / 2) / len(place)
    return ranks
