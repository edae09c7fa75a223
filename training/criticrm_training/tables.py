"""Accuracies by category, beside the baselines that a reader should compare them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from .data.pairs import PreferencePair
from .stats import pair_accuracy


def accuracy_report(
    pairs: Sequence[PreferencePair], margins: Mapping[str, torch.Tensor], critiques_ended: float | None
) -> dict[str, Any]:
    """Pair accuracy overall and by category, of the longer response and of each reward.

    Args:
        margins: by name, chosen minus rejected, `[n]`; fewer than `pairs` where only the first ones were scored,
            NaN where one was not.
        critiques_ended: share of critiques that ended by themselves; None where there were none.
    """
    longer = torch.tensor([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    margins = {"longer wins": longer, **margins}
    accuracy: dict[str, dict[str, Any]] = {}
    for category in ["overall", *sorted({p.category for p in pairs})]:
        accuracy[category] = {}
        for name, margin in margins.items():
            members = [
                i
                for i, p in enumerate(pairs[: len(margin)])
                if category in ("overall", p.category) and not margin[i].isnan()
            ]
            if members:
                groups = [pairs[i].group for i in members]
                accuracy[category][name] = asdict(pair_accuracy(margin[members].tolist(), groups))
    return {"accuracy": accuracy, "critiques_ended": critiques_ended}


PAIR_ACCURACY = "pair accuracy [95 % interval, bootstrap over questions] of n pairs"


def as_table(report: dict[str, Any], title: str = PAIR_ACCURACY) -> str:
    """The report as text, a table a data set."""
    lines = []
    for name, part in report.items():
        columns = list(part["accuracy"]["overall"])
        lines += ["", f"{name}: {title}"]
        lines.append(f"{'category':<24}" + "".join(f"{column:<28}" for column in columns))
        for category, row in part["accuracy"].items():
            cells = (f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}] {a['n']}" for a in map(row.get, columns) if a)
            lines.append(f"{category:<24}" + "".join(f"{cell:<28}" for cell in cells).rstrip())
        if part["critiques_ended"] is not None:
            lines.append(f"critiques that end by themselves: {part['critiques_ended']:.2f}")
    return "\n".join(lines)


def as_rows(rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns, as text."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
