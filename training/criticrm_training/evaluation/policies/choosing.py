"""One of k answers is kept: how often it is right, expected over the k-subsets of the n that were sampled.

n answers hold many draws of k, so each estimate here is the mean over all of them: unbiased, and of less variance than
that of one draw (for pass@k: Chen et al., arXiv 2107.03374, equation 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import comb

import numpy as np

from ..subsets import subsets


def powers(n: int) -> list[int]:
    """1, 2, 4, .. up to n, and n.

    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n})


def best_of_k(rewards: Sequence[float], right: Sequence[bool], k: int) -> float:
    """That the answer with the highest reward among k is right; among equals, one at random.

    With the n answers in falling order, the one at rank i (from 0) is the best of `C(n-1-i, k-1)` of the `C(n, k)`
    subsets.

    Args:
        rewards, right: of the answers, `[n]`.

    >>> best_of_k([3.0, 1.0, 2.0], [True, False, False], 2)  # in two of the three pairs
    0.6666666666666666
    """
    n = len(rewards)
    order = sorted(range(n), key=lambda i: -rewards[i])
    rank, expected = 0, 0.0
    for _, group in groupby(order, key=lambda i: rewards[i]):
        equals = [right[i] for i in group]
        subsets = sum(comb(n - 1 - rank - i, k - 1) for i in range(len(equals)))
        expected += subsets * sum(equals) / len(equals)
        rank += len(equals)
    return expected / comb(n, k)


def any_of_k(right: Sequence[bool], k: int) -> float:
    """pass@k: that one of k is right, what a perfect choice would reach.

    >>> any_of_k([True, False, False, False], 2)
    0.5
    """
    n = len(right)
    return 1 - comb(n - sum(right), k) / comb(n, k)


def majority_of_k(votes: Sequence[int], right: Sequence[bool], k: int, seed: int = 0) -> float:
    """That the most frequent answer among k is right (self-consistency, arXiv 2203.11171); among equals, one at random.

    Over all subsets, or 20 000 drawn ones where there are more.

    Args:
        votes: of each answer, `[n]`: equal for equal answers, -1 for none, which is no vote.
        right: of the answers, `[n]`.

    >>> majority_of_k([4, 4, 7], [True, True, False], 3)
    1.0
    """
    chosen = subsets(len(votes), k, seed)
    members = np.zeros((len(chosen), len(votes)), dtype=np.int64)  # [subsets, n], 0 or 1
    np.put_along_axis(members, chosen, 1, axis=1)
    names = sorted(set(votes) - {-1})
    if not names:
        return 0.0
    counts = members @ np.array(
        [[vote == name for name in names] for vote in votes], dtype=np.int64
    )  # [subsets, names]
    most = counts.max(axis=1, keepdims=True)
    winners = (counts == most) & (most > 0)
    is_right = np.array([right[votes.index(name)] for name in names])
    shares = (winners & is_right).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)
    return float(shares.mean())
