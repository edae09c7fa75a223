"""`criticrm report`: one page of tables and plots from finished evaluations and training runs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .best_of_n_plot import best_of_n_plot
from .evaluation import probes as bias
from .evaluation.best_of_n import RESULTS as BEST_OF_N
from .evaluation.evaluate import MARGINS, RESULTS
from .figures import figure as _figure
from .probe_plots import probe_parts
from .sources import DataError

Floats = npt.NDArray[np.float64]
_BASELINE = "longer wins"
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
        evaluations: finished `criticrm evaluate` folders, by the name of their model.
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
            _figure(
                lambda axes: _accuracy(axes, results), "Overall, by model and method.", height=1 + 0.3 * _rows(results)
            ),
            *(_table(name, result) for name, result in results.items()),
            *_several_critiques(results),
            "<h2>Are margins probabilities?</h2>",
            _figure(
                lambda axes: _reliability(axes, tables),
                "Bradley-Terry reads a margin as the probability that the chosen response is better: "
                "predicted against found, in ten bins of equal size. On the diagonal the two agree.",
            ),
            "<h2>Margins</h2>",
            _figure(
                lambda axes: _distributions(axes, tables),
                "Direct score: chosen minus rejected. Right of zero is right.",
            ),
            "<h2>Length</h2>",
            _figure(
                lambda axes: _length(axes, tables),
                "Accuracy by how much longer the chosen response is. A model that falls to the left prefers long ones.",
            ),
            "<h2>Critiques</h2>",
            _quality(results),
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
    out.write_text(page, encoding="utf-8")


def _accuracy(axes: Axes, results: Mapping[str, Any]) -> None:
    labels, place = [], 0
    for color, (name, result) in enumerate(results.items()):
        for method, a in result["accuracy"]["overall"].items():
            if method == _BASELINE and color:
                continue  # the same for all on the same pairs
            error = [[a["value"] - a["low"]], [a["high"] - a["value"]]]
            shade = "grey" if method == _BASELINE else f"C{color}"
            axes.errorbar(a["value"], place, xerr=error, fmt="o", capsize=3, color=shade)
            labels.append(method if method == _BASELINE else f"{name}: {method}")
            place += 1
    axes.axvline(0.5, color="lightgrey", zorder=0)
    axes.set_yticks(range(place), labels)
    axes.invert_yaxis()
    axes.set_xlabel("pair accuracy")


def _against_m(axes: Axes, results: Mapping[str, Any]) -> None:
    for color, (name, result) in enumerate(results.items()):
        overall = result["accuracy"]["overall"]
        ms = sorted(int(method.removeprefix("mean of ")) for method in overall if method.startswith("mean of "))
        points = [overall[f"mean of {m}"] for m in ms]
        axes.plot(ms, [a["value"] for a in points], "o-", color=f"C{color}", label=name)
        axes.fill_between(ms, [a["low"] for a in points], [a["high"] for a in points], color=f"C{color}", alpha=0.15)
        axes.axhline(overall["direct_score"]["value"], color=f"C{color}", linestyle=":", label=f"{name}: direct score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("critiques")
    axes.set_ylabel("pair accuracy")
    axes.legend()


def _several_critiques(results: Mapping[str, Any]) -> list[str]:
    sampled = {n: r for n, r in results.items() if any(m.startswith("mean of ") for m in r["accuracy"]["overall"])}
    if not sampled:
        return []
    figure = _figure(lambda axes: _against_m(axes, sampled), "Accuracy of the mean over m sampled critiques.")
    return ["<h2>Several critiques</h2>", figure]


def _reliability(axes: Axes, tables: Mapping[str, Any]) -> None:
    for color, (name, table) in enumerate(tables.items()):
        for method, style in (("direct_score", "o-"), ("greedy critique", "s--")):
            margin = np.asarray(table[method])
            # A pair has no first response: each is looked at from the side that the model prefers.
            confidence = 1 / (1 + np.exp(-np.abs(margin)))
            bins = np.array_split(np.argsort(confidence), 10)
            x = [confidence[b].mean() for b in bins if len(b)]
            y = [(margin[b] > 0).mean() for b in bins if len(b)]
            axes.plot(x, y, style, color=f"C{color}", label=f"{name}: {method}")
    axes.plot([0.5, 1], [0.5, 1], color="lightgrey", zorder=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("found")
    axes.legend()


def _distributions(axes: Axes, tables: Mapping[str, Any]) -> None:
    everything = np.concatenate([np.asarray(table["direct_score"]) for table in tables.values()])
    low, high = (float(np.quantile(everything, share)) for share in (0.005, 0.995))
    edges = np.linspace(low, high, 41).tolist()
    for color, (name, table) in enumerate(tables.items()):
        axes.hist(table["direct_score"], edges, histtype="step", density=True, color=f"C{color}", label=name)
    axes.axvline(0, color="lightgrey", zorder=0)
    axes.set_xlabel("margin, in reward units")
    axes.legend()


def _length(axes: Axes, tables: Mapping[str, Any]) -> None:
    for color, (name, table) in enumerate(tables.items()):
        longer = np.asarray(table["characters_longer"], dtype=np.float64)
        for method, style in (("direct_score", "o-"), ("greedy critique", "s--")):
            right: Floats = (np.asarray(table[method]) > 0).astype(np.float64)
            bins = [b for b in np.array_split(np.argsort(longer), 6) if len(b)]
            axes.plot(
                range(len(bins)), [right[b].mean() for b in bins], style, color=f"C{color}", label=f"{name}: {method}"
            )
            axes.set_xticks(range(len(bins)), [f"{longer[b].min():.0f} to {longer[b].max():.0f}" for b in bins])
    axes.axhline(0.5, color="lightgrey", zorder=0)
    axes.set_xlabel("characters that the chosen response is longer by")
    axes.set_ylabel("pair accuracy")
    axes.legend()


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
        f"<tr><td>{html.escape(category)}</td><td>{row['direct_score']['n']}</td>"
        + "".join(
            f"<td>{row[c]['value']:.3f} <span class=interval>{row[c]['low']:.3f} to {row[c]['high']:.3f}</span></td>"
            for c in columns
        )
        + "</tr>"
        for category, row in result["accuracy"].items()
    )
    return f"<h3>{html.escape(name)}</h3><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _quality(results: Mapping[str, Any]) -> str:
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
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rows(results: Mapping[str, Any]) -> int:
    return sum(len(result["accuracy"]["overall"]) for result in results.values())


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist: is its folder one of a finished run?")
    return json.loads(path.read_text(encoding="utf-8"))
