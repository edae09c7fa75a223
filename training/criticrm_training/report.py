"""Accuracies by category, beside the baselines that a reader should compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from .accuracy import pair_accuracy
from .data import PreferencePair
from .features import PairFeatures


def accuracy_report(
    pairs: Sequence[PreferencePair],
    features: PairFeatures,
    reward: torch.Tensor,
    scalar: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Pair accuracy overall and by category: of the longer response, of the scalar baseline, of both scores.

    Args:
        features: of `pairs`, with critiques.
        reward: `[d_model]`.
        scalar: `[d_model]`, fitted on the same pairs without critiques.
    """
    margins = {"longer wins": torch.tensor([float(len(p.chosen) - len(p.rejected)) for p in pairs])}
    if scalar is not None:
        margins["scalar baseline"] = _margin(features.direct, scalar)
    margins["direct_score"] = _margin(features.direct, reward)
    margins["score"] = _margin(features.critiqued, reward)  # of the first pairs, those with critiques
    accuracy: dict[str, dict[str, Any]] = {}
    for category in ["overall", *sorted({p.category for p in pairs})]:
        accuracy[category] = {}
        for name, margin in margins.items():
            members = [i for i, p in enumerate(pairs[: len(margin)]) if category in ("overall", p.category)]
            if members:
                groups = [pairs[i].group for i in members]
                accuracy[category][name] = asdict(pair_accuracy(margin[members].tolist(), groups))
    return {"accuracy": accuracy, "critiques_ended": features.ended}


def as_table(report: dict[str, Any]) -> str:
    """The report as text, a table a data set."""
    lines = []
    for name, part in report.items():
        columns = list(part["accuracy"]["overall"])
        lines += ["", f"{name}: pair accuracy [95 % interval, bootstrap over questions] of n pairs"]
        lines.append(f"{'category':<24}" + "".join(f"{column:<28}" for column in columns))
        for category, row in part["accuracy"].items():
            cells = (f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}] {a['n']}" for a in map(row.get, columns) if a)
            lines.append(f"{category:<24}" + "".join(f"{cell:<28}" for cell in cells).rstrip())
        lines.append(f"critiques that end by themselves: {part['critiques_ended']:.2f}")
    return "\n".join(lines)


def _margin(states: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[n]`."""
    rewards = states @ reward  # [n, 2]
    return rewards[:, 0] - rewards[:, 1]
