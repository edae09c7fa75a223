"""Pair accuracy with its interval: the share of pairs whose chosen response scores higher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 2_000_000  # counts of groups, 8 bytes each, and as many again while they are multiplied


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`value` and its 95 % interval `low`..`high`, shares of `n` pairs (or a difference of two such shares)."""

    value: float
    low: float
    high: float
    n: int


def pair_accuracy(margins: Sequence[float], groups: Sequence[str], seed: int = 0) -> Accuracy:
    """Accuracy of `margins` (chosen minus rejected, `[n]`; a tie counts half), bootstrapped over groups.

    Pairs of one question are not independent, so whole questions are resampled (percentile bootstrap).
    """
    return mean_accuracy(_correct(margins), groups, seed)


def mean_accuracy(values: Sequence[float] | npt.NDArray[np.float64], groups: Sequence[str], seed: int = 0) -> Accuracy:
    """The mean of `values` (`[n]`, each an expected accuracy, or a difference of two), bootstrapped over groups."""
    shares = np.asarray(values, dtype=np.float64)
    low, high = _interval(shares, groups, seed)
    return Accuracy(float(shares.mean()), low, high, len(shares))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], groups: Sequence[str], seed: int = 0) -> Accuracy:
    """How much more accurate `ours` are than `theirs`, with the interval of that difference on the same pairs.

    Args:
        ours, theirs: margins of the same pairs in the same order, `[n]`.
    """
    return mean_accuracy(_correct(ours) - _correct(theirs), groups, seed)


def _correct(margins: Sequence[float]) -> npt.NDArray[np.float64]:
    margin = np.asarray(margins, dtype=np.float64)
    right: npt.NDArray[np.float64] = (margin > 0) + 0.5 * (margin == 0)
    return right


def _interval(values: npt.NDArray[np.float64], groups: Sequence[str], seed: int) -> tuple[float, float]:
    """Of the mean of `values`, `[n]`, 95 %, over resampled groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(member, weights=values)
    sizes = np.bincount(member)
    rng = np.random.default_rng(seed)
    equal = np.full(len(names), 1 / len(names))
    rows = max(1, _DRAWS_AT_ONCE // len(names))
    means = []
    for start in range(0, _RESAMPLES, rows):
        drawn = rng.multinomial(len(names), equal, size=min(rows, _RESAMPLES - start))  # [rows, groups]
        means.append((drawn @ sums) / (drawn @ sizes))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
