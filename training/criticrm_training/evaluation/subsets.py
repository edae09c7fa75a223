"""Means over m of the n critiques that were sampled: expectations over all subsets of m, not the first m.

n samples hold many draws of m. The mean over all of them is unbiased, and varies less than that of one draw: a
U-statistic (Hoeffding 1948).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from ..stats import Floats

_MOST_SUBSETS = 20_000  # above this, subsets are drawn
_DRAWS = 64  # at least, of samples for many responses at once


@lru_cache(maxsize=64)
def subsets(n: int, k: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Places of the members of each k-subset of n, `[subsets, k]` in rising order: all, or 20,000 drawn ones."""
    if comb(n, k) <= _MOST_SUBSETS:
        chosen = np.array(list(combinations(range(n), k)), dtype=np.int64).reshape(comb(n, k), k)
    else:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permuted(np.tile(np.arange(n), (_MOST_SUBSETS, 1)), axis=1)[:, :k], axis=1)
    chosen.flags.writeable = False
    return chosen


def win_rate(chosen: Sequence[float | None], rejected: Sequence[float | None], m: int) -> tuple[float, float]:
    """How often the mean of m scores of the chosen response is above that of m of the rejected one.

    Over every m of the one side's scores against every m of the other's; a tie counts half.

    Args:
        chosen, rejected: the scores of each side; None for one that can't be read, which leaves the mean to the others.
        m: a side that has fewer scores counts with all of them.

    Returns:
        The rate, and the share of comparisons in which a side has no score at all: these are ties.

    >>> win_rate([3.0, 1.0], [2.0, 2.0], 1)
    (0.5, 0.0)
    >>> win_rate([3.0, 1.0], [2.0, 0.0], 2)
    (1.0, 0.0)
    >>> win_rate([3.0, None], [2.0, None], 1)
    (0.625, 0.75)
    """
    a, b = _means(chosen, m), _means(rejected, m)
    found_a, found_b = a[~np.isnan(a)], np.sort(b[~np.isnan(b)])
    compared = len(found_a) * len(found_b) / (len(a) * len(b))
    if not compared:
        return 0.5, 1.0
    below, upto = np.searchsorted(found_b, found_a, "left"), np.searchsorted(found_b, found_a, "right")
    rate = float((below + upto).mean()) / (2 * len(found_b))
    return compared * rate + (1 - compared) / 2, 1 - compared


def drawn_means(samples: Floats, m: int, seed: int = 0) -> Iterator[Floats]:
    """Means over m of the samples of every response, `[responses]` each: one where all are taken, else some 64 draws.

    For measures of many responses at once, whose every combination of subsets would be too many. Each response's draws
    are its own.

    Args:
        samples: `[responses, n]`.
    """
    n = samples.shape[1]
    if m == n:
        yield samples.mean(axis=1)
        return
    places = subsets(n, m, seed)
    for drawn in _draws(len(places), len(samples), np.random.default_rng(seed)):
        yield np.take_along_axis(samples, places[drawn], axis=1).mean(axis=1)


def _draws(subsets: int, responses: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which subset each response has in each draw, `[draws, responses]`; of few subsets all equally often."""
    if subsets > _DRAWS:
        return rng.integers(subsets, size=(_DRAWS, responses))
    each = np.tile(np.arange(subsets)[:, None], (1, responses))
    return np.concatenate([rng.permuted(each, axis=0) for _ in range(0, _DRAWS, subsets)])


def _means(scores: Sequence[float | None], m: int) -> Floats:
    """The mean of every m of the scores, NaN if none is readable. Sorted, so that equal subsets have equal sums."""
    values = np.sort(np.array([np.nan if score is None else score for score in scores], dtype=np.float64))
    members = values[subsets(len(values), min(m, len(values)))]
    readable = ~np.isnan(members)
    count = readable.sum(axis=1)
    totals: Floats = np.where(readable, members, 0.0).sum(axis=1)
    return np.where(count, totals / np.maximum(count, 1), np.nan)
