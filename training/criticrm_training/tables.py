"""Accuracies by category, beside the baselines that a reader should compare them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .data.pairs import PreferencePair
from .stats import Floats, mean, outcomes

PAIR_ACCURACY = "pair accuracy [95 % interval, bootstrap over questions] of n pairs"
LONGER = "longer wins"
OVERALL = "overall"  # of all pairs; a category of this name has no row of its own


def accuracy_report(
    pairs: Sequence[PreferencePair], margins: Mapping[str, Any], critiques_ended: float | None
) -> dict[str, Any]:
    """Pair accuracy overall and by category, of the longer response and of each method.

    Args:
        margins: by method, chosen minus rejected, `[n]`; fewer than `pairs` where only the first ones were scored, NaN
            where one was not.
        critiques_ended: share of critiques that ended by themselves; None where there were none.
    """
    return preference_report(pairs, {name: outcomes(margin) for name, margin in margins.items()}, critiques_ended)


def preference_report(
    pairs: Sequence[PreferencePair], preferences: Mapping[str, Floats], critiques_ended: float | None
) -> dict[str, Any]:
    """As `accuracy_report`, from how often each method prefers the chosen response of a pair.

    1, 0, 0.5 for a tie, or an expectation of that.
    """
    longer = outcomes([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    preferences = {LONGER: longer, **preferences}
    accuracy: dict[str, dict[str, Any]] = {}
    for category in [OVERALL, *sorted({p.category for p in pairs} - {OVERALL})]:
        accuracy[category] = {}
        for name, found in preferences.items():
            members = [
                i
                for i, p in enumerate(pairs[: len(found)])
                if category in (OVERALL, p.category) and not np.isnan(found[i])
            ]
            if members:
                accuracy[category][name] = asdict(mean(found[members], [pairs[i].group for i in members]))
    return {"accuracy": accuracy, "critiques_ended": critiques_ended}


def as_table(report: Mapping[str, Any], title: str = PAIR_ACCURACY) -> str:
    """The report as text, a table a data set."""
    lines = []
    for name, part in report.items():
        columns = list(part["accuracy"]["overall"])
        lines += ["", f"{name}: {title}"]
        lines.append(f"{'category':<24}" + "".join(f"{column:<28}" for column in columns).rstrip())
        for category, row in part["accuracy"].items():
            cells = (as_cell(row[column]) if column in row else "-" for column in columns)
            lines.append(f"{category:<24}" + "".join(f"{cell:<28}" for cell in cells).rstrip())
        if part["critiques_ended"] is not None:
            lines.append(f"critiques that end by themselves: {part['critiques_ended']:.2f}")
    return "\n".join(lines)


def as_cell(estimate: Mapping[str, Any]) -> str:
    """Value, interval and number of items."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] {estimate['n']}"


def as_rows(rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns, as text."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def as_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
