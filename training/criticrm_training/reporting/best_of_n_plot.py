"""The report's plot of accuracy against the number of answers that one is chosen from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from ..evaluation.policies.best_of_n import MAJORITY, ORACLE, RANDOM

_STYLES = {ORACLE: "k:", MAJORITY: "k--", RANDOM: "k-"}


def best_of_n_plot(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw one `best_of_n.json`: what the rewards choose, with intervals, between random choice and a perfect one."""
    rewards = [method for method in result["accuracy"] if method not in _STYLES]
    for method, row in result["accuracy"].items():
        ks = [int(k) for k in row]
        points = list(row.values())
        values = [a["value"] for a in points]
        if method not in _STYLES:
            color = f"C{rewards.index(method)}"
            axes.plot(ks, values, "o-", color=color, label=method)
            axes.fill_between(ks, [a["low"] for a in points], [a["high"] for a in points], color=color, alpha=0.15)
        else:
            axes.plot(ks, values, _STYLES[method], linewidth=1, label=method)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("answers to choose from (k)")
    axes.set_ylabel("accuracy of the choice")
    axes.legend()
