"""`criticrm report`: one page of tables and plots from finished evaluations and training runs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from matplotlib.axes import Axes

from criticrm_model.files import write_text

from ..data.sources import DataError
from ..evaluation import probes as bias
from ..evaluation.policies.best_of_n import RESULTS as BEST_OF_N
from ..evaluation.results import MARGINS, RESULTS
from .best_of_n_plot import best_of_n_plot
from .figures import figure as _figure
from .pair_plots import BASELINE, pair_parts
from .probe_plots import probe_parts

_LOSSES = {"critique_loss": "critique", "reward_loss": "reward", "eval_loss": "reward, validation"}
_ACCURACIES = {"eval_accuracy": "after the critique", "eval_direct_accuracy": "before it"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead { border-bottom: 2px solid #1c2330; }
tbody tr:nth-child(odd) { background: #f3f5f8; } .interval { color: #6a7486; font-size: .85em; }
img { max-width: 100%; } figcaption { color: #4a5466; } h2 { margin-top: 2.5rem; }
"""


def write_report(
    out: Path,
    evaluations: Mapping[str, Path],
    runs: Mapping[str, Path],
    best_of_n: Mapping[str, Path],
    probes: Mapping[str, Path],
) -> None:
    """Write one HTML file that holds its pictures.

    Args:
        evaluations: finished `criticrm evaluate` and `criticrm judge` folders, by the name of their model; those
            that are named SERIES@ANYTHING are drawn as one line against the pairs that they learned from.
        runs: `criticrm train` folders, by name.
        best_of_n: finished `criticrm best-of-n` folders, by name.
        probes: finished `criticrm probe` folders, by the name of their model.

    Raises:
        DataError: a folder holds no such thing.
    """
    results = {name: _read_json(folder / RESULTS) for name, folder in evaluations.items()}
    tables = {name: pq.read_table(folder / MARGINS).to_pydict() for name, folder in evaluations.items()}
    histories = {name: _read_json(folder / "history.json") for name, folder in runs.items()}
    choices = {name: _read_json(folder / BEST_OF_N) for name, folder in best_of_n.items()}
    parts = ["<h1>Critic-RM: what it is worth</h1>"]
    if results:
        parts += [
            "<h2>Pair accuracy</h2>",
            "<p>Share of held-out pairs whose chosen response scores higher, with 95 % intervals over questions.</p>",
            *pair_parts(results, tables),
            "<h2>By category</h2>",
            *(_table(name, result) for name, result in results.items()),
            *_quality({name: result for name, result in results.items() if "quality" in result}),
        ]
    if choices:
        parts.append("<h2>Best of n</h2>")
    for name, result in choices.items():
        caption = (
            f"{html.escape(name)}: accuracy of one answer of k, over {result['questions']} questions; with the 95 % "
            "interval of the rewards' choices. The oracle knows which answers are right."
        )
        parts.append(_figure(partial(best_of_n_plot, result=result), caption))
    parts += probe_parts({name: _read_json(folder / bias.RESULTS) for name, folder in probes.items()})
    if histories:
        parts += [
            "<h2>Training</h2>",
            _figure(lambda axes: _curves(axes, histories, _LOSSES), "Losses while training, in nats."),
            _figure(lambda axes: _curves(axes, histories, _ACCURACIES), "Accuracy on the validation pairs."),
        ]
    page = f"<!doctype html><meta charset=utf-8><title>Critic-RM</title><style>{_STYLE}</style>{''.join(parts)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def _curves(axes: Axes, histories: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Args: `keys`, of the trainer's log, with their words."""
    for name, history in histories.items():
        for key, words in keys.items():
            points = [(log["step"], log[key]) for log in history if key in log]
            if points:
                axes.plot(*zip(*points, strict=True), label=f"{name}: {words}")
    axes.set_xlabel("optimizer step")
    axes.legend()


def _table(name: str, result: Mapping[str, Any]) -> str:
    columns = list(result["accuracy"]["overall"])
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ["pairs", *columns])
    body = "".join(
        f"<tr><td>{html.escape(category)}</td><td>{row[BASELINE]['n']}</td>"
        + "".join(_cell(row.get(column)) for column in columns)
        + "</tr>"
        for category, row in result["accuracy"].items()
    )
    return f"<h3>{html.escape(name)}</h3><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(a: Mapping[str, float] | None) -> str:
    if a is None:  # a method that has none of this category
        return "<td>-</td>"
    return f"<td>{a['value']:.3f} <span class=interval>{a['low']:.3f} to {a['high']:.3f}</span></td>"


def _quality(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return []
    titles = {
        "ended": "end by themselves",
        "repeats": "repeated word sequences",
        "names": "name something of the response",
        "distinct": "different from all others",
    }
    head = "".join(f"<th>{title}</th>" for title in titles.values())
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{r['quality'][k]:.1%}</td>" for k in titles) + "</tr>"
        for name, r in results.items()
    )
    return ["<h2>Critiques</h2>", f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"]


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist: is its folder one of a finished run?")
    return json.loads(path.read_text(encoding="utf-8"))
