"""Rewards as probabilities."""

from __future__ import annotations

import math


def sigmoid(x: float) -> float:
    """The logistic function.

    Of a difference of two rewards it is the probability that the first is better (Bradley and Terry, 1952).
    """
    return 0.5 * (1 + math.tanh(x / 2))  # exp(-x) overflows
