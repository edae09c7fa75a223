"""Pair accuracy with its interval: the share of pairs whose chosen response scores higher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 2_000_000  # counts of groups, 8 bytes each, and as many again while they are multiplied


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`value` and its 95 % interval `low`..`high`, shares of `n` pairs."""

    value: float
    low: float
    high: float
    n: int


def pair_accuracy(margins: Sequence[float], groups: Sequence[str], seed: int = 0) -> Accuracy:
    """Accuracy of `margins` (chosen minus rejected, `[n]`; a tie counts half), bootstrapped over groups.

    Pairs of one question are not independent, so whole questions are resampled (percentile bootstrap).
    """
    margin = np.asarray(margins, dtype=np.float64)
    correct = (margin > 0) + 0.5 * (margin == 0)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(member, weights=correct)
    sizes = np.bincount(member)
    rng = np.random.default_rng(seed)
    equal = np.full(len(names), 1 / len(names))
    rows = max(1, _DRAWS_AT_ONCE // len(names))
    shares = []
    for start in range(0, _RESAMPLES, rows):
        drawn = rng.multinomial(len(names), equal, size=min(rows, _RESAMPLES - start))  # [rows, groups]
        shares.append((drawn @ sums) / (drawn @ sizes))
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return Accuracy(float(correct.mean()), float(low), float(high), len(margin))
