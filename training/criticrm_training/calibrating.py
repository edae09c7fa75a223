"""Mean, deviation and scale of a reward before critiques and after them, on labelled pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from criticrm_model import Calibration, CriticRMError, Moments, Scale

from .stats import Floats

_PRIOR = 4.0  # standard deviation of the slope's normal prior, in log-odds a standard deviation of the reward
_SMALLEST, _LARGEST = 1e-6, 1e6  # of what a manifest may hold (`calibration.Factor`)
_LEAST = 0.05  # of a reward that says nothing: all its responses are close to each other


class CalibrationError(CriticRMError):
    """A reward has no moments that scores could be standardised by."""


def calibrate(direct: Floats, after: Mapping[int, Floats], reference_set: str) -> Calibration:
    """The calibration of one reward.

    Args:
        direct: scores before critiques, `[pairs, 2]` float64, of the chosen and of the rejected response.
        after: the same after critiques, by the number that each is the mean of; with 1, or of a scalar model empty.
        reference_set: which pairs they are, in words.

    Raises:
        CalibrationError: a score is the same for all of them.
    """
    before = _moments(direct, "before the critique", reference_set)
    return Calibration(
        reference_set=reference_set,
        n=direct.size,
        direct_score=before,
        score=_moments(after[1], "after the critique", reference_set) if after else before,
        scales={0: fit_scale(direct), **{n: fit_scale(scores) for n, scores in after.items()}},
    )


def _moments(scores: Floats, position: str, reference_set: str) -> Moments:
    mean, std = float(scores.mean()), float(scores.std(ddof=1)) if scores.size > 1 else math.nan
    if not _SMALLEST <= std <= _LARGEST:  # NaN is neither
        raise CalibrationError(
            f"the reward {position} has mean {mean:g} and standard deviation {std:g} over {reference_set}: "
            "it does not distinguish responses. Was it trained (reward_weight_times_rate in the log), and is its rate "
            "not too high?"
        )
    return Moments(mean=mean, std=std)


def fit_scale(scores: Floats) -> Scale:
    """Fit a Bradley-Terry scale to labelled pairs, with a normal prior: pairs that are all right have no finite slope.

    Args:
        scores: `[pairs, 2]` float64, of the chosen and of the rejected response.

    Raises:
        CalibrationError: they are all the same.
    """
    std, mean = float(scores.std()), float(scores.mean())
    if not std >= _SMALLEST:  # NaN neither
        raise CalibrationError(f"the scores have no scale: their standard deviation is {std:g}")
    margins = (scores[:, 0] - scores[:, 1]) / std

    def gradient(slope: float) -> float:
        """The gradient of the log posterior, which is concave: it falls as the slope grows."""
        return float((margins / (1 + np.exp(np.clip(slope * margins, -500, 500)))).sum() - slope / _PRIOR**2)

    low, high = _LEAST, 100.0
    if gradient(low) <= 0:
        slope = low
    else:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if gradient(middle) > 0 else (low, middle)
        slope = (low + high) / 2
    slope = min(max(slope / std, _SMALLEST), _LARGEST)
    return Scale(slope=slope, offset=-slope * mean)
