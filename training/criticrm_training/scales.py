"""The slope that makes differences of a reward log-odds of preference."""

from __future__ import annotations

import numpy as np

from criticrm_model import Scale

from .stats import Floats

_PRIOR = 4.0  # standard deviation of the slope's normal prior, in log-odds a standard deviation of the reward
_LEAST = 0.05  # of a reward that says nothing: all its responses are close to each other


def fit_scale(scores: Floats) -> Scale:
    """By Bradley-Terry on labelled pairs, with a normal prior around 0: pairs that are all right have no finite slope.

    Args:
        scores: `[pairs, 2]` float64, of the chosen and of the rejected response; their standard deviation is not 0.
    """
    std, mean = float(scores.std()), float(scores.mean())
    margins = (scores[:, 0] - scores[:, 1]) / std

    def gradient(slope: float) -> float:
        """Of the log posterior, which is concave: it falls as the slope grows."""
        return float((margins / (1 + np.exp(np.clip(slope * margins, -500, 500)))).sum() - slope / _PRIOR**2)

    low, high = _LEAST, 100.0
    if gradient(low) <= 0:
        slope = low
    else:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if gradient(middle) > 0 else (low, middle)
        slope = (low + high) / 2
    slope /= std
    return Scale(slope=slope, offset=-slope * mean)
