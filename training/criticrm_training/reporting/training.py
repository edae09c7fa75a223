"""The report's part on training: whether the arms were trained alike, and the curves of their logs."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from criticrm_model.pages import figure

from ..data.sources import DataError
from .arm_tables import table

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
HISTORY = "history.json"
_MOST_DIFFERENCE = 0.05  # of the sums of reward weight times learning rate, in arms that count as matched
_WEIGHT = "reward_weight_times_rate"

# Curves: title, and keys of the trainer's log with their words.
_PLOTS: Mapping[str, Mapping[str, str]] = {
    "Losses while training, in nats.": {
        "critique_loss": "critique",
        "reward_loss": "reward",
        "eval_loss": "reward, validation",
    },
    "Accuracy on the validation pairs.": {"eval_accuracy": "after the critique", "eval_direct_accuracy": "before it"},
    "Norm of the gradient, before it is clipped.": {"grad_norm_head": "head", "grad_norm_body": "body"},
    "Mean margin of the training pairs, in reward units.": {"margin_mean": "margin"},
}


def training_parts(runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """HTML, from `criticrm train` folders by the name of their arm; nothing without any.

    Raises:
        DataError: a folder holds no training run.
    """
    if not runs:
        return []
    single = {f"{name}#{i + 1}" if len(f) > 1 else name: p for name, f in runs.items() for i, p in enumerate(f)}
    histories = {name: _history(folder) for name, folder in single.items()}
    summaries = {name: read_summary(folder) for name, folder in single.items()}
    rows = [
        [name, *(_cell(summary, key) for key in ("scalar", "steps", "pairs", "tokens", _WEIGHT))]
        for name, summary in summaries.items()
    ]
    parts = [
        "<h2>Training</h2>",
        table(["run", "scalar", "optimizer steps", "pairs", "tokens", "sum of reward weight x rate"], rows),
    ]
    for line in mismatches(summaries):
        logger.warning("%s", line)
        parts.append(f"<p class=notice>{html.escape(line)}</p>")
    for title, keys in _PLOTS.items():
        if any(key in log for history in histories.values() for log in history for key in keys):
            parts.append(figure(lambda axes, keys=keys: _curves(axes, histories, keys), title))  # type: ignore[misc]
    return parts


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What `criticrm train` says of a run that ended; None where it left nothing."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def mismatches(summaries: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """A line for each run that was not trained like the baseline: the first scalar run, or else the first run.

    Matched are runs of the same pairs and optimizer steps, whose sums over the steps of reward weight times learning
    rate, which is how much the reward was trained, are within 5 % of each other. A run without a summary can't be
    judged.
    """
    unknown = [name for name, summary in summaries.items() if not summary]
    lines = [f"{name}: no {SUMMARY}, so whether it is matched is unknown" for name in unknown]
    known = {name: summary for name, summary in summaries.items() if summary}
    baseline = next((name for name, summary in known.items() if summary["scalar"]), next(iter(known), None))
    if baseline is None:
        return lines
    theirs = known.pop(baseline)
    whose = "the scalar's" if theirs["scalar"] else f"{baseline}'s"
    for name, ours in known.items():
        for key, what in (("pairs", "pairs"), ("steps", "optimizer steps")):
            if ours[key] != theirs[key]:
                lines.append(f"{name}: not matched: {ours[key]} {what}, {whose} are {theirs[key]}")
        if abs(ours[_WEIGHT] - theirs[_WEIGHT]) > _MOST_DIFFERENCE * abs(theirs[_WEIGHT]):
            ratio = f"{ours[_WEIGHT] / theirs[_WEIGHT]:.3f} of {whose}" if theirs[_WEIGHT] else f"{whose} is 0"
            lines.append(f"{name}: not matched: {ratio} (sum over the steps of reward weight x learning rate)")
    return lines


def _cell(summary: Mapping[str, Any] | None, key: str) -> str:
    if summary is None:
        return "-"
    value = summary[key]
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:.6g}"


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / HISTORY
    if not path.is_file():
        raise DataError(f"{path} does not exist: is its folder one of a finished run?")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _curves(axes: Axes, histories: Mapping[str, Sequence[Mapping[str, Any]]], keys: Mapping[str, str]) -> None:
    for name, history in histories.items():
        for key, words in keys.items():
            points = [(log["step"], log[key]) for log in history if key in log]
            if points:
                axes.plot(*zip(*points, strict=True), label=f"{name}: {words}")
    axes.set_xlabel("optimizer step")
    axes.legend()
