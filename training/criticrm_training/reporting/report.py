"""`criticrm report`: one page of tables and plots from finished evaluations and training runs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from criticrm_model.pages import figure, write_page

from ..data.sources import DataError
from ..evaluation import probes as bias
from ..evaluation.arms import read_arm
from ..evaluation.policies.best_of_n import RESULTS as BEST_OF_N
from .accuracy_bars import accuracy_bars
from .arm_tables import accuracy_table, critique_parts, difference_parts, pool_runs
from .best_of_n_plot import best_of_n_plot
from .frontier_plot import frontier_parts
from .pair_browser import browser_parts, shown_arms
from .pair_plots import pair_parts
from .probe_plots import probe_parts
from .training import training_parts

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
    found = {arm.name: pool_runs(arm, evaluations[arm.name]) for arm in arms}
    results = {name: result for name, (result, _) in found.items()}
    choices = {name: _read_json(folder / BEST_OF_N) for name, folder in best_of_n.items()}
    places = {arm.name: place for place, arm in enumerate(shown_arms(arms, evaluations))}
    parts = ["<h1>Critic-RM: what it is worth</h1>"]
    if results:
        parts += [
            "<h2>Pair accuracy</h2>",
            "<p>Share of held-out pairs whose chosen response scores higher, with 95 % intervals over questions, and "
            "over training runs where an arm has several.</p>",
            accuracy_bars(results, places),
            *pair_parts(results, {name: table for name, (_, table) in found.items()}),
            *difference_parts(arms),
            "<h2>By category</h2>",
            *(
                accuracy_table(name, result, len(evaluations[name]), places.get(name))
                for name, result in results.items()
            ),
            *critique_parts(results),
            *frontier_parts(results),
            *browser_parts(arms, evaluations),
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
    write_page(out, "Critic-RM", parts)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist: is its folder one of a finished run?")
    return json.loads(path.read_text(encoding="utf-8"))
