"""Means over questions with their 95 % intervals: accuracies, differences of two arms, section scores, correlations.

One method throughout, the Bayesian bootstrap (Rubin 1981): each resample gives every question a random weight instead
of drawing it or not. Unlike in the classical bootstrap no subset is ever without an item, a question that is in several
subsets has one weight in all of them, and weights of questions and of training runs can be multiplied (Owen and Eckles
2012, bootstrapping of crossed factors).

What is the same in every question can't be resampled: 20 right answers of 20 are not an accuracy of exactly 1. There
the interval is Wilson's (1927), with the number of questions as its n. Where only some of the means that make up an
estimate are of that kind, their Wilson widths are added in quadrature (MOVER: Zou and Donner 2008).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)

_RESAMPLES = 10_000
_WEIGHTS_AT_ONCE = 2_000_000  # 8 bytes each, and as many again while they are multiplied
_Z = 1.959963984540054  # two-sided 95 % of the normal distribution
_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """`value` and its 95 % interval `low`..`high`, of `n` items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One mean of those that make up an estimate.

    Attributes:
        values: `[runs, items]` float64, NaN where an item is not of this cell; runs are of one arm, such as training
            runs that differ in their seed.
        weight: of the mean in the sum.
        bounds: the least and the greatest value that an item can have; None where there are none.
    """

    values: Floats
    weight: float = 1.0
    bounds: Bounds | None = SHARE


def outcomes(margins: Any) -> Floats:
    """1 where the chosen response scores higher, 0 where the rejected one does, 0.5 for a tie, NaN for no margin.

    Args:
        margins: chosen minus rejected, any shape.
    """
    margin = np.asarray(margins, dtype=np.float64)
    right: Floats = np.where(np.isnan(margin), np.nan, (margin > 0) + 0.5 * (margin == 0))
    return right


def pair_accuracy(margins: Any, groups: Sequence[str]) -> Estimate:
    """Share of `margins` (chosen minus rejected, `[n]`) that are right; a tie is half right."""
    return mean(outcomes(margins), groups)


def mean(values: Any, groups: Sequence[str], bounds: Bounds | None = SHARE) -> Estimate:
    """The mean of `values`, `[items]` or `[runs, items]`; with runs, the interval covers these too.

    Args:
        groups: `[items]`; items of one group (a question) keep together.
        bounds: the least and the greatest value that an item can have; None where there are none. Then a mean of
            equal values has an interval without width.

    Raises:
        ValueError: there are no values, or one is NaN.
    """
    return weighted_sum([Cell(_complete(values), bounds=bounds)], groups)


def difference(ours: Any, theirs: Any, groups: Sequence[str]) -> Estimate:
    """How much greater the mean of `ours` is than that of `theirs`, shares of the same items in the same order.

    Args:
        ours, theirs: `[items]` or `[runs, items]`; the arms may have different numbers of runs.
        groups: `[items]`.

    Raises:
        ValueError: there are no values, one is NaN, or the arms have different items.
    """
    return weighted_sum([Cell(_complete(ours)), Cell(_complete(theirs), weight=-1.0)], groups)


def weighted_sum(cells: Sequence[Cell], groups: Sequence[str], seed: int = 0) -> Estimate:
    """The sum of the cells' weighted means, over resampled groups and, of cells with several runs, resampled runs.

    Few runs spread less in a bootstrap than they should, by (k - 1) / (k + 1) in variance; their weights are spread
    that much wider. That is right for the variance, and still narrow for two or three runs, as a normal interval is.

    Args:
        cells: of the same items.
        groups: `[items]`, the same for all cells.

    Raises:
        ValueError: a cell has no item, or another number of items than `groups`.
    """
    for cell in cells:
        if cell.values.ndim != 2 or cell.values.shape[1] != len(groups):
            raise ValueError(f"values of shape {cell.values.shape} for {len(groups)} items")
        if np.isnan(cell.values).any(axis=0).all():
            raise ValueError("a mean of no items")
        if cell.bounds and not cell.bounds[0] <= np.nanmin(cell.values) <= np.nanmax(cell.values) <= cell.bounds[1]:
            raise ValueError(f"values outside {cell.bounds[0]:g} to {cell.bounds[1]:g}")
    present = np.stack([~np.isnan(cell.values).any(axis=0) for cell in cells])
    used = present.any(axis=0)
    names, member = np.unique(np.asarray(groups)[used], return_inverse=True)
    sums: list[Floats] = []
    sizes: list[Floats] = []
    extra = np.zeros(2)
    least = greatest = 0.0
    for cell, there in zip(cells, present, strict=True):
        size = np.bincount(member[there[used]], minlength=len(names)).astype(np.float64)
        of_runs = [np.bincount(member[there[used]], run[there], len(names)) for run in cell.values]
        total = np.stack(of_runs, axis=1, dtype=np.float64)  # [groups, runs]
        sums.append(total)
        sizes.append(size)
        if cell.bounds:
            ends = sorted(cell.weight * bound for bound in cell.bounds)
            least, greatest = least + ends[0], greatest + ends[1]
            of_groups = total[size > 0].mean(axis=1) / size[size > 0]
            if np.ptp(of_groups) < _SAME:
                extra += np.square(_bound_unseen(cell.weight * of_groups[0], (ends[0], ends[1]), len(of_groups)))
    value = sum(c.weight * float(t.mean(axis=1).sum() / s.sum()) for c, t, s in zip(cells, sums, sizes, strict=True))
    low, high = _quantiles(cells, sums, sizes, seed)
    low, high = value - np.hypot(value - low, np.sqrt(extra[0])), value + np.hypot(high - value, np.sqrt(extra[1]))
    if all(cell.bounds for cell in cells) and high - low < _SAME:
        below, above = _bound_unseen(value, (least, greatest), len(names))
        low, high = value - below, value + above
    if all(cell.bounds for cell in cells):  # runs' weights may be negative, and sums of weights have rounding errors
        value, low, high = (min(max(number, least), greatest) for number in (value, low, high))
    return Estimate(value, float(low), float(high), int(used.sum()))


def rank_correlation(x: Any, y: Any, groups: Sequence[str]) -> Estimate | None:
    """Spearman's correlation of `x` and `y`, `[n]`; equal values share their mean rank.

    The ranks are those of the whole sample in every resample. None where `x` or `y` is constant: there is none.

    Raises:
        ValueError: a value is NaN, which has no rank.
    """
    if np.isnan(np.asarray([x, y], dtype=np.float64)).any():
        raise ValueError("a rank of NaN")
    a, b = _ranks(x), _ranks(y)
    if not a.any() or not b.any():
        return None
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), 6))
    np.add.at(sums, member, np.stack([np.ones(len(a)), a, b, a * a, b * b, a * b], axis=1))

    def correlation(sums: Floats) -> Floats:
        n, sum_a, sum_b, sum_aa, sum_bb, sum_ab = np.moveaxis(sums, -1, 0)
        spread: Floats = np.sqrt((n * sum_aa - sum_a**2) * (n * sum_bb - sum_b**2))
        found: Floats = (n * sum_ab - sum_a * sum_b) / spread
        return found

    value = float(correlation(sums.sum(axis=0)))
    resampled = np.concatenate([correlation(weights @ sums) for weights in _resamples(len(names), 0)])
    low, high = (float(end) for end in np.quantile(resampled, [0.025, 0.975]))
    if high - low < 1e-9:
        below, above = _bound_unseen(value, (-1.0, 1.0), len(names))
        low, high = value - below, value + above
    return Estimate(value, low, high, len(a))


def _complete(values: Any) -> Floats:
    found = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not found.size or np.isnan(found).any():
        raise ValueError("a mean of no values, or of one that is NaN")
    return found


def _bound_unseen(value: float, bounds: Bounds, n: int) -> tuple[float, float]:
    """How far a mean may lie below and above a `value` that all n groups have.

    At most a share of z² / (n + z²) of what was not seen is different (Wilson's upper end for 0 of n), and may be
    anything within the bounds. At a bound this is Wilson's interval.
    """
    share = _Z**2 / (n + _Z**2)
    return share * (value - bounds[0]), share * (bounds[1] - value)


def _quantiles(cells: Sequence[Cell], sums: list[Floats], sizes: list[Floats], seed: int) -> tuple[float, float]:
    """Quantiles of the summed weighted means over resamples; a cell's `sums`: `[groups, runs]`, `sizes`: `[groups]`."""
    of_runs = [_run_weights(total.shape[1], seed + 1 + i) for i, total in enumerate(sums)]  # [resamples, runs]
    columns, start, found = np.column_stack([*sums, *sizes]), 0, []
    for weights in _resamples(len(columns), seed):
        resampled, place = weights @ columns, 0  # [resamples, runs and cells]
        totals = np.zeros(len(weights))
        for i, (cell, runs) in enumerate(zip(cells, of_runs, strict=True)):
            k = runs.shape[1]
            total = (resampled[:, place : place + k] * runs[start : start + len(weights)]).sum(axis=1)
            totals += cell.weight * total / resampled[:, len(columns[0]) - len(cells) + i]
            place += k
        found.append(totals)
        start += len(weights)
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def _resamples(groups: int, seed: int) -> Iterator[Floats]:
    """Random weights, `[resamples, groups]`, some resamples at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, _WEIGHTS_AT_ONCE // groups)
    for start in range(0, _RESAMPLES, rows):
        yield rng.standard_exponential((min(rows, _RESAMPLES - start), groups))


def _run_weights(k: int, seed: int) -> Floats:
    """`[resamples, k]`, that sum to one."""
    if k == 1:
        return np.ones((_RESAMPLES, 1))
    weights = np.random.default_rng(seed).dirichlet(np.ones(k), _RESAMPLES)
    spread: Floats = 1 / k + (weights - 1 / k) * np.sqrt((k + 1) / (k - 1))
    return spread


def _ranks(values: Any) -> Floats:
    """Mean ranks about their centre, from -0.5 to 0.5; all 0 where the values are constant."""
    _, place, count = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count + 1) / 2
    ranks: Floats = (mean_rank[place] - (len(place) - 1) / 2) / len(place)
    return ranks
