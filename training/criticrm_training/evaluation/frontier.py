"""What critiques cost and gain where only close responses get one: accuracy against tokens, over margins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from criticrm_model import Calibration, Selection

from ..data.sources import DataError
from ..stats import Floats, difference, mean, outcomes
from ..tables import as_columns

LOST = 0.005  # of pair accuracy, at most, for a margin that is recommended
_POINTS = 21


def frontier(rows: Sequence[Mapping[str, Any]], calibration: Calibration | None, groups: Sequence[str]) -> list[Any]:
    """For margins from none to all: what `critique: {"when": "close"}` gives on these pairs, computed from all scores.

    Args:
        rows: of `score_items`, two a pair, with greedy critiques.
        calibration: of the critic's manifest.
        groups: the questions of the pairs.

    Returns:
        Of each margin `margin`, `critiqued` (share of the responses), `tokens` (share of the critiques' tokens),
        `accuracy` and `lost` (`Estimate`s as JSON; the loss is against critiques for all), and `agreement`: the share
        of pairs that are ranked as with critiques for all.

    Raises:
        DataError: the checkpoint has no calibration, so the two scores have no common scale.
    """
    if calibration is None:
        raise DataError("--frontier: this checkpoint has no calibration, so its two scores have no common scale")
    direct, after, tokens = (_of_pairs(rows, name) for name in ("direct_score", "greedy_score", "critique_tokens"))
    before = _margins(np.vectorize(calibration.scale(0))(direct))
    full = outcomes(_margins(after))
    found = []
    for margin in _margins_to_try(np.abs(before)):
        close = np.abs(before) <= margin
        chosen = np.where(close, _margins(after), before)  # both of a pair are critiqued, or neither
        right = outcomes(chosen)
        found.append(
            {
                "margin": margin,
                "critiqued": float(close.mean()),
                "tokens": float(tokens[close].sum() / tokens.sum()),
                "accuracy": asdict(mean(right, groups)),
                "lost": asdict(difference(full, right, groups)),
                "agreement": float((right == full).mean()),
            }
        )
    return found


def recommend(found: Sequence[Mapping[str, Any]], chosen_on: str) -> Selection:
    """The margin with the fewest tokens that loses no more than `LOST` of accuracy.

    Args:
        found: of `frontier`, on pairs that nothing is reported of afterwards.
        chosen_on: these pairs, by name.
    """
    enough = [point for point in found if point["lost"]["value"] <= LOST]
    best = min(enough, key=lambda point: (point["tokens"], point["margin"]))
    return Selection(margin=max(best["margin"], 1e-6), rank="best", chosen_on=chosen_on)


def describe_frontier(found: Sequence[Mapping[str, Any]]) -> str:
    """A table."""
    rows = [("margin", "critiqued", "tokens", "accuracy", "lost", "same order")]
    for point in found:
        lost = point["lost"]
        rows.append(
            (
                f"{point['margin']:.3f}",
                f"{point['critiqued']:.1%}",
                f"{point['tokens']:.1%}",
                f"{point['accuracy']['value']:.3f}",
                f"{lost['value']:+.3f} [{lost['low']:+.3f}, {lost['high']:+.3f}]",
                f"{point['agreement']:.1%}",
            )
        )
    return "\n".join(as_columns(rows))


def _of_pairs(rows: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """`[pairs, 2]`."""
    found: Floats = np.array([row[name] for row in rows], dtype=np.float64).reshape(-1, 2)
    return found


def _margins(scores: Floats) -> Floats:
    found: Floats = scores[:, 0] - scores[:, 1]
    return found


def _margins_to_try(distances: Floats) -> list[float]:
    """Quantiles of the distances that there are, rounded up: each of them is close at its own margin."""
    found = np.quantile(distances, np.linspace(0, 1, _POINTS))
    return sorted({math.ceil(value * 1000 + 1e-9) / 1000 for value in [0.0, *found.tolist()]})
