"""`criticrm report`: one page of tables and plots from finished evaluations and training runs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from criticrm_model.files import write_text

from ..data.sources import DataError
from ..evaluation import probes as bias
from ..evaluation.arms import read_arm
from ..evaluation.policies.best_of_n import RESULTS as BEST_OF_N
from .arm_tables import accuracy_table, critique_parts, difference_parts, pooled
from .best_of_n_plot import best_of_n_plot
from .figures import figure
from .pair_plots import pair_parts
from .probe_plots import probe_parts
from .training import training_parts

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead { border-bottom: 2px solid #1c2330; }
tbody tr:nth-child(odd) { background: #f3f5f8; } .interval { color: #6a7486; font-size: .85em; }
img { max-width: 100%; } figcaption { color: #4a5466; } h2 { margin-top: 2.5rem; }
.notice { border-left: 4px solid #b3261e; padding-left: .8rem; }
"""
Folders = Mapping[str, Sequence[Path]]


def write_report(
    out: Path, evaluations: Folders, runs: Folders, best_of_n: Mapping[str, Path], probes: Mapping[str, Path]
) -> None:
    """Write one HTML file that holds its pictures.

    Args:
        evaluations: finished `criticrm evaluate` and `criticrm judge` folders by the name of their arm, one of each of
            its training runs; arms that are named SERIES@ANYTHING are drawn as one line against the pairs that they
            learned from.
        runs: `criticrm train` folders, by the name of their arm.
        best_of_n: finished `criticrm best-of-n` folders, by name.
        probes: finished `criticrm probe` folders, by the name of their model.

    Raises:
        DataError: a folder holds no such thing, or folders of one arm hold different things.
    """
    arms = [read_arm(name, folders) for name, folders in evaluations.items()]
    found = {arm.name: pooled(arm, evaluations[arm.name]) for arm in arms}
    results = {name: result for name, (result, _) in found.items()}
    choices = {name: _read_json(folder / BEST_OF_N) for name, folder in best_of_n.items()}
    parts = ["<h1>Critic-RM: what it is worth</h1>"]
    if results:
        parts += [
            "<h2>Pair accuracy</h2>",
            "<p>Share of held-out pairs whose chosen response scores higher, with 95 % intervals over questions, and "
            "over training runs where an arm has several.</p>",
            *pair_parts(results, {name: table for name, (_, table) in found.items()}),
            *difference_parts(arms),
            "<h2>By category</h2>",
            *(accuracy_table(name, result, len(evaluations[name])) for name, result in results.items()),
            *critique_parts(results),
        ]
    if choices:
        parts.append("<h2>Best of n</h2>")
    for name, result in choices.items():
        caption = (
            f"{html.escape(name)}: accuracy of one answer of k, over {result['questions']} questions; with the 95 % "
            "interval of the rewards' choices. The oracle knows which answers are right."
        )
        parts.append(figure(partial(best_of_n_plot, result=result), caption))
    parts += probe_parts({name: _read_json(folder / bias.RESULTS) for name, folder in probes.items()})
    parts += training_parts(runs)
    page = f"<!doctype html><meta charset=utf-8><title>Critic-RM</title><style>{_STYLE}</style>{''.join(parts)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist: is its folder one of a finished run?")
    return json.loads(path.read_text(encoding="utf-8"))
