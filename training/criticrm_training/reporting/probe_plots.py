"""The report's part on bias: what content-free responses score, and accuracy by length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from criticrm_model.pages import figure

_STYLES = {"direct_score": "o", "greedy critique": "s"}  # by method; others are means over sampled critiques
_MEAN = "^"


def probe_parts(probes: Mapping[str, Any]) -> list[str]:
    """HTML, from the `probe.json` of each model by its name; nothing without any."""
    if not probes:
        return []
    keys = [key for result in probes.values() for key in result["methods"]["direct_score"]["keys"]]
    return [
        "<h2>Bias</h2>",
        figure(
            lambda axes: _keys(axes, probes),
            "Responses without content: how often each scores above the chosen one, with 95 % intervals over "
            "questions. 0 is right.",
            height=1.2 + 0.18 * len(keys) + 0.12 * len(set(keys)),
        ),
        figure(
            lambda axes: _length(axes, probes),
            "Accuracy by how much longer the chosen response is, in buckets of equal size. A model that falls to the "
            "left prefers long ones.",
        ),
    ]


def _keys(axes: Axes, probes: Mapping[str, Any]) -> None:
    rows = list(dict.fromkeys(k for result in probes.values() for k in result["methods"]["direct_score"]["keys"]))
    series = [(name, method) for name, result in probes.items() for method in result["methods"]]
    names = list(probes)
    for i, (name, method) in enumerate(series):
        found = probes[name]["methods"][method]["keys"]
        above = [found[key]["above_chosen"] for key in rows if key in found]
        places = [place + (i + 0.5) / len(series) * 0.7 - 0.35 for place, key in enumerate(rows) if key in found]
        error = [[a["value"] - a["low"] for a in above], [a["high"] - a["value"] for a in above]]
        style, color = _STYLES.get(method, _MEAN), f"C{names.index(name)}"
        shares = [a["value"] for a in above]
        axes.errorbar(shares, places, xerr=error, fmt=style, color=color, label=f"{name}: {method}", capsize=2, ms=4)
    axes.axvline(0, color="lightgrey", zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("share of prompts where it beats the chosen response")
    axes.legend()


def _length(axes: Axes, probes: Mapping[str, Any]) -> None:
    for color, (name, result) in enumerate(probes.items()):
        for method, found in result["methods"].items():
            buckets = found["length"]["buckets"]
            accuracy = [bucket["accuracy"] for bucket in buckets]
            error = [[a["value"] - a["low"] for a in accuracy], [a["high"] - a["value"] for a in accuracy]]
            axes.errorbar(
                range(len(buckets)),
                [a["value"] for a in accuracy],
                yerr=error,
                fmt=f"{_STYLES.get(method, _MEAN)}-",
                color=f"C{color}",
                alpha=1 if method == "direct_score" else 0.6,
                capsize=2,
                label=f"{name}: {method}",
            )
            axes.set_xticks(range(len(buckets)), [f"{b['least']:+} to {b['most']:+}" for b in buckets])
    axes.axhline(0.5, color="lightgrey", zorder=0)
    axes.set_xlabel("characters that the chosen response is longer by")
    axes.set_ylabel("pair accuracy")
    axes.legend()
