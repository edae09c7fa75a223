"""The report's tables of arms: accuracy by category, differences between arms, and what their critiques are like."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..evaluation.arms import MARGINS, Arm, compare, read_results
from ..tables import LONGER
from .pair_browser import link

EvaluationResult = Mapping[str, Any]
_STATISTICS = {
    "ended": "end by themselves",
    "repeats": "repeated word sequences",
    "names": "name something of the response",
    "distinct": "different from all others",
}


def pool_runs(arm: Arm, folders: Sequence[Path]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The report of an arm's first run, with the accuracies of all its runs, and the margins of all of them."""
    report = read_results(folders[0])
    tables = [pq.read_table(folder / MARGINS).to_pydict() for folder in folders]
    if len(folders) > 1:
        of_pairs: list[str] = tables[0]["category"]
        for category, row in report["accuracy"].items():
            members = [i for i, c in enumerate(of_pairs) if category in ("overall", c)]
            found = {method: arm.accuracy(method, members) for method in arm.outcomes}
            report["accuracy"][category] = {LONGER: row[LONGER]} | {m: a for m, a in found.items() if a}
    columns = [column for column in tables[0] if all(column in table for table in tables)]
    return report, {column: [value for table in tables for value in table[column]] for column in columns}


def accuracy_table(name: str, result: EvaluationResult, runs: int, place: int | None) -> str:
    """HTML: a row a category, a column a method; numbers are links to their pairs, where `place` says whose."""
    columns = list(result["accuracy"]["overall"])

    def cell(category: str, column: str, a: Mapping[str, float] | None) -> str:
        if a is None or place is None or column == LONGER:
            return _interval(a)
        filters = {} if category == "overall" else {"category": category}
        return _Markup(f'<a href="{link(place, column, **filters)}">{_interval(a)}</a>')

    rows = [
        [category, str(row[LONGER]["n"]), *(cell(category, column, row.get(column)) for column in columns)]
        for category, row in result["accuracy"].items()
    ]
    title = name if runs == 1 else f"{name} ({runs} runs)"
    return f"<h3>{html.escape(title)}</h3>{table(['', 'pairs', *columns], rows)}"


def difference_parts(arms: Sequence[Arm]) -> list[str]:
    """HTML: each arm against the first, like with like; nothing for one arm."""
    if len(arms) < 2:
        return []
    first, rows, others = arms[0], [], []
    for arm in arms[1:]:
        if arm.pairs != first.pairs:
            others.append(arm.name)
            continue
        for c in compare(arm, first):
            mine, theirs = f"{arm.name}: {c['ours']}", f"{first.name}: {c['theirs']}"
            accuracies = [f"{c['our_accuracy']:.3f}", f"{c['their_accuracy']:.3f}"]
            rows.append([f"{mine} against {theirs}", *accuracies, _interval(c, sign="+"), str(c["n"])])
    parts = ["<h2>Differences</h2>"]
    if rows:
        parts.append(table(["", "accuracy", "of the other", "difference", "pairs"], rows))
    if others:
        names = html.escape(", ".join(others))
        parts.append(f"<p>Evaluated on other pairs than {html.escape(first.name)}, not compared: {names}.</p>")
    return parts


def critique_parts(results: Mapping[str, EvaluationResult]) -> list[str]:
    """HTML: statistics of the greedy critiques, what they work out where there is a reference, and what was cut."""
    parts = []
    if with_critiques := {name: r["quality"] for name, r in results.items() if "quality" in r}:
        rows = [[name, *(f"{q[key]:.1%}" for key in _STATISTICS)] for name, q in with_critiques.items()]
        parts += ["<h2>Critiques</h2>", table(["", *_STATISTICS.values()], rows)]
    if reasoning := {name: r["reasoning"] for name, r in results.items() if "reasoning" in r}:
        measures = list(dict.fromkeys(measure for found in reasoning.values() for measure in found))
        rows = [[measure, *(_interval(found.get(measure)) for found in reasoning.values())] for measure in measures]
        parts += ["<h3>Their own answers and verdicts, of pairs with a reference</h3>", table(["", *reasoning], rows)]
    cut = {name: r["truncated"] for name, r in results.items() if r.get("truncated", {}).get("responses")}
    parts += [
        f"<p>{html.escape(name)}: {found['responses']} of {found['of']} responses ({found['share']:.1%}) were scored "
        "with their prompt or text cut to the model's length.</p>"
        for name, found in cut.items()
    ]
    return parts


def table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """HTML; cells are text, but for intervals that `_interval` made."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


class _Markup(str):
    """HTML that is none of a reader's text."""


def _text(cell: str) -> str:
    return cell if isinstance(cell, _Markup) else html.escape(cell)


def _interval(a: Mapping[str, float] | None, sign: str = "") -> str:
    if a is None:  # a method that has none of this category
        return "-"
    value, low, high = (format(a[key], f"{sign}.3f") for key in ("value", "low", "high"))
    return _Markup(f"{value} <span class=interval>{low} to {high}</span>")
