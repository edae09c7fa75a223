"""Finished evaluations of one arm, one of each training run, and how two arms compare on the same pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..data.sources import DataError
from ..stats import Floats, difference, mean

RESULTS = "evaluation.json"
MARGINS = "margins.parquet"
OUTCOMES = "outcomes.parquet"
TEACHER_FORCED = "teacher-forced"  # the method whose rewards are read after critiques of another model
ABOUT_PAIRS = ("pair_id", "group", "category", "characters_longer")  # their columns that are no method


@dataclass(frozen=True, slots=True)
class Arm:
    """What one model, or several training runs of it, made of the same pairs.

    Attributes:
        headline: the method that stands for the arm: of a critic the greedy critique, of a scalar its direct score, of
            a judge the mean over all of its critiques.
        outcomes: by method, `[runs, pairs]`: `outcomes.Preferences.outcomes` of each run; methods that every run has.
        groups: the questions of the pairs.
        pairs: identifies the pairs and their order.
        teachers: identify the critiques of `TEACHER_FORCED` in the runs: a part of what is measured.
    """

    name: str
    headline: str
    outcomes: Mapping[str, Floats]
    groups: Sequence[str]
    pairs: str
    teachers: frozenset[str | None]

    def accuracy(self, method: str, members: Sequence[int]) -> dict[str, Any] | None:
        """The accuracy of one method over those of the `members` (numbers of pairs) that it has; None if it has none.

        An `Estimate` as JSON, whose interval covers questions and, where there are several, runs.
        """
        present = set(np.flatnonzero(~np.isnan(self.outcomes[method]).any(axis=0)).tolist())
        places = [i for i in members if i in present]
        if not places:
            return None
        return asdict(mean(self.outcomes[method][:, places], [self.groups[i] for i in places]))


def read_arm(name: str, folders: Sequence[Path]) -> Arm:
    """One arm from the folders of its evaluations, which differ in the training run.

    Raises:
        DataError: a folder holds no finished evaluation, or another kind or other pairs than the first.
    """
    reports = [read_results(folder) for folder in folders]
    first = reports[0]
    for folder, report in zip(folders, reports, strict=True):
        for what in ("pairs", "headline"):
            if report[what] != first[what]:
                raise DataError(
                    f"{folder} can not be another run of {name!r}: it has another {what} than {folders[0]}; "
                    "give it a name of its own"
                )
    tables = [pq.read_table(folder / OUTCOMES).to_pydict() for folder in folders]
    methods = [m for m in tables[0] if m not in ABOUT_PAIRS and all(m in table for table in tables)]
    outcomes = {method: np.array([table[method] for table in tables], dtype=np.float64) for method in methods}
    return Arm(
        name, first["headline"], outcomes, tables[0]["group"], first["pairs"], frozenset(map(teacher_of, reports))
    )


def teacher_of(report: Mapping[str, Any]) -> str | None:
    """Which critiques an evaluation's teacher-forced rewards are read after, if there are any."""
    found: str | None = report.get("teacher_forced", {}).get("critiques")
    return found


def read_results(folder: Path) -> dict[str, Any]:
    """The report of a finished evaluation. Raises DataError."""
    for name in (RESULTS, OUTCOMES, MARGINS):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} does not exist: is its folder one of a finished evaluation?")
    report: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return report


def compare(ours: Arm, theirs: Arm) -> list[dict[str, Any]]:
    """Like with like: the headline of each, then every method that both have, on the pairs that both have.

    Rewards after another model's critiques are compared only where these are the same.

    Returns:
        Of each comparison `ours` and `theirs` (methods), `our_accuracy` and `their_accuracy` (shares), and their
        difference, an `Estimate` of pairs whose interval covers questions and, where there are several, runs.

    Raises:
        DataError: the arms are of other pairs.
    """
    if ours.pairs != theirs.pairs:
        raise DataError(f"{theirs.name} evaluated other pairs than {ours.name}: give both the same data and limit")
    unlike = {TEACHER_FORCED} if ours.teachers != theirs.teachers else set()
    same = [(method, method) for method in ours.outcomes if method in theirs.outcomes.keys() - unlike]
    found = []
    for mine, other in dict.fromkeys([(ours.headline, theirs.headline), *same]):
        a, b = ours.outcomes[mine], theirs.outcomes[other]
        both = np.flatnonzero(~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0)))
        if len(both):
            gain = difference(a[:, both], b[:, both], [ours.groups[i] for i in both])
            accuracies = {"our_accuracy": float(a[:, both].mean()), "their_accuracy": float(b[:, both].mean())}
            found.append({"ours": mine, "theirs": other, **accuracies, **asdict(gain)})
    return found


def describe(comparison: Mapping[str, Any], ours: str, theirs: str) -> str:
    """One comparison as a line.

    >>> describe({"ours": "greedy critique", "theirs": "direct_score", "our_accuracy": 0.8, "their_accuracy": 0.9,
    ...           "value": -0.1, "low": -0.2, "high": 0.0, "n": 50}, "critic", "scalar")
    'critic (greedy critique) 0.800, scalar (direct_score) 0.900: difference -0.100 [-0.200, +0.000] of 50 pairs'
    """
    c = comparison
    return (
        f"{ours} ({c['ours']}) {c['our_accuracy']:.3f}, {theirs} ({c['theirs']}) {c['their_accuracy']:.3f}: "
        f"difference {c['value']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}] of {c['n']} pairs"
    )
