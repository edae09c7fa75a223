"""The report's part on preference pairs: what each method gets right, and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from criticrm_model.pages import figure

from ..evaluation.arms import ABOUT_PAIRS

Floats = npt.NDArray[np.float64]
Results = Mapping[str, Mapping[str, Any]]
Tables = Mapping[str, Mapping[str, Any]]

_REWARDS = {"direct_score": "o-", "greedy critique": "s--"}  # drawn for every model; their margins are logits
_MEAN = "mean of "


def pair_parts(results: Results, tables: Tables) -> list[str]:
    """HTML.

    Args:
        results: the `evaluation.json` of each evaluation, by its name.
        tables: its margins, by column.
    """
    rewards = {name: table for name, table in tables.items() if "direct_score" in table}
    parts: list[str] = []
    sampled = {name: r for name, r in results.items() if _sample_counts(r)}
    if sampled:
        parts += [
            "<h2>Several critiques</h2>",
            figure(lambda axes: _against_m(axes, sampled), "Accuracy of the mean over m sampled critiques."),
        ]
    sizes = _by_data_size(results)
    if sizes:
        parts += [
            "<h2>Data</h2>",
            figure(lambda axes: _against_data(axes, sizes), "Accuracy against the pairs that were learned from."),
        ]
    if rewards:
        parts += [
            "<h2>Are margins probabilities?</h2>",
            figure(
                lambda axes: _reliability(axes, rewards),
                "Bradley-Terry reads a margin as the probability that the chosen response is better: "
                "predicted against observed, in ten bins of equal size. On the diagonal the two agree.",
            ),
            "<h2>Margins</h2>",
            figure(
                lambda axes: _distributions(axes, rewards),
                "Direct score: chosen minus rejected. Right of zero is right.",
            ),
        ]
    parts += [
        "<h2>Length</h2>",
        figure(
            lambda axes: _length(axes, tables),
            "Accuracy by how much longer the chosen response is. A model that falls to the left prefers long ones.",
        ),
    ]
    return parts


def _sample_counts(result: Mapping[str, Any]) -> list[int]:
    methods = result["accuracy"]["overall"]
    return sorted(int(method.removeprefix(_MEAN)) for method in methods if method.startswith(_MEAN))


def _against_m(axes: Axes, results: Results) -> None:
    for color, (name, result) in enumerate(results.items()):
        overall, ms = result["accuracy"]["overall"], _sample_counts(result)
        _line(axes, ms, [overall[f"{_MEAN}{m}"] for m in ms], color, "o-", name)
        if "direct_score" in overall:
            axes.axhline(
                overall["direct_score"]["value"], color=f"C{color}", linestyle=":", label=f"{name}: direct score"
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("critiques")
    axes.set_ylabel("pair accuracy")
    axes.legend()


def _by_data_size(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Evaluations named SERIES@ANYTHING, by their series, in the order of their pairs; series of one are no line."""
    series = defaultdict(list)
    for name, result in results.items():
        if "@" in name and "trained_on_pairs" in result:  # a judge has not learned from pairs
            series[name.rpartition("@")[0]].append(result)
    ordered = {name: sorted(found, key=lambda r: r["trained_on_pairs"]) for name, found in series.items()}
    return {name: found for name, found in ordered.items() if len(found) > 1}


def _against_data(axes: Axes, sizes: Mapping[str, list[Mapping[str, Any]]]) -> None:
    for color, (name, found) in enumerate(sizes.items()):
        pairs = [result["trained_on_pairs"] for result in found]
        for method, style in _REWARDS.items():
            if all(method in result["accuracy"]["overall"] for result in found):
                points = [result["accuracy"]["overall"][method] for result in found]
                _line(axes, pairs, points, color, style, f"{name}: {method}")
    axes.set_xlabel("training pairs")
    axes.set_ylabel("pair accuracy")
    axes.legend()


def _line(axes: Axes, x: list[int], points: list[Mapping[str, float]], color: int, style: str, label: str) -> None:
    axes.plot(x, [a["value"] for a in points], style, color=f"C{color}", label=label)
    axes.fill_between(x, [a["low"] for a in points], [a["high"] for a in points], color=f"C{color}", alpha=0.15)


def _margins(table: Mapping[str, Any], method: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The margins that there are, and where."""
    margin = np.asarray(table[method], dtype=np.float64)
    present = ~np.isnan(margin)
    return margin[present], present


def _reliability(axes: Axes, tables: Tables) -> None:
    for color, method, style, label, table in _series(tables):
        margin, _ = _margins(table, method)
        # A pair has no first response: each is looked at from the side that the model prefers.
        confidence = 1 / (1 + np.exp(-np.abs(margin)))
        bins = np.array_split(np.argsort(confidence), 10)
        x = [confidence[b].mean() for b in bins if len(b)]
        y = [_share_right(margin[b]) for b in bins if len(b)]
        axes.plot(x, y, style, color=f"C{color}", label=label)
    axes.plot([0.5, 1], [0.5, 1], color="lightgrey", zorder=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed")
    axes.legend()


def _distributions(axes: Axes, tables: Tables) -> None:
    margins = {name: _margins(table, "direct_score")[0] for name, table in tables.items()}
    everything = np.concatenate(list(margins.values()))
    low, high = (float(np.quantile(everything, share)) for share in (0.005, 0.995))
    if low == high:  # a model that gives every pair the same margin
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 41).tolist()
    for color, (name, margin) in enumerate(margins.items()):
        axes.hist(margin, edges, histtype="step", density=True, color=f"C{color}", label=name)
    axes.axvline(0, color="lightgrey", zorder=0)
    axes.set_xlabel("margin, in reward units")
    axes.legend()


def _length(axes: Axes, tables: Tables) -> None:
    for color, method, style, label, table in _series(tables):
        margin, present = _margins(table, method)
        longer = np.asarray(table["characters_longer"], dtype=np.float64)[present]
        bins = [b for b in np.array_split(np.argsort(longer), 6) if len(b)]
        shares = [_share_right(margin[b]) for b in bins]
        axes.plot(range(len(bins)), shares, style, color=f"C{color}", label=label)
        axes.set_xticks(range(len(bins)), [f"{longer[b].min():.0f} to {longer[b].max():.0f}" for b in bins])
    axes.axhline(0.5, color="lightgrey", zorder=0)
    axes.set_xlabel("characters that the chosen response is longer by")
    axes.set_ylabel("pair accuracy")
    axes.legend()


def _series(tables: Tables) -> Iterator[tuple[int, str, str, str, Mapping[str, Any]]]:
    """Color, method, style, label and table: of every model its rewards, of a judge its mean over all critiques."""
    for color, (name, table) in enumerate(tables.items()):
        methods = [method for method in table if method not in ABOUT_PAIRS]
        for method in [method for method in _REWARDS if method in table] or methods[-1:]:
            yield color, method, _REWARDS.get(method, "^:"), f"{name}: {method}", table


def _share_right(margin: Floats) -> float:
    """A tie is half right."""
    return float(((margin > 0) + 0.5 * (margin == 0)).mean())
