"""The report's plot of accuracy against the tokens of critiques."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from criticrm_model.pages import figure

from ..evaluation.frontier import cheapest, whole_critiques


def frontier_parts(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """HTML. Args: results: the `evaluation.json` of each evaluation, by its name; those with a `frontier` are drawn."""
    found = {name: result["frontier"] for name, result in results.items() if "frontier" in result}
    if not found:
        return []
    caption = (
        "Accuracy where only responses that are close before their critiques get one, against the share of the tokens "
        "that critiques for all take. Left: no critiques; right: all. The star is the cheapest setting that loses at "
        "most half a point, several critiques and ended ones included."
    )
    return ["<h2>Critiques where they matter</h2>", figure(lambda axes: _draw(axes, found), caption)]


def _draw(axes: Axes, found: Mapping[str, list[Mapping[str, Any]]]) -> None:
    for color, (name, settings) in enumerate(found.items()):
        points, best = whole_critiques(settings), cheapest(settings)
        axes.plot(best["tokens"], best["accuracy"]["value"], "*", color=f"C{color}", markersize=14)
        x = [point["tokens"] for point in points]
        accuracy = [point["accuracy"] for point in points]
        axes.plot(x, [a["value"] for a in accuracy], "o-", color=f"C{color}", label=name)
        axes.fill_between(x, [a["low"] for a in accuracy], [a["high"] for a in accuracy], color=f"C{color}", alpha=0.15)
    axes.set_xlabel("share of the critiques' tokens")
    axes.set_ylabel("accuracy")
    axes.legend()
