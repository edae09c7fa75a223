"""`criticrm judge`: a language model as the judge, by the scores in its critiques; what a Critic-RM must beat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..critiques.records import SIDES, Critique, by_response, read_critiques
from ..data.pairs import PreferencePair
from ..data.sources import DataError
from .outcomes import Preferences, mean_of
from .pair_texts import about_sides
from .results import Against, write_results
from .subsets import win_rate
from .teacher_forced import keeps_by_label, written_about

logger = logging.getLogger(__name__)


def judge(pairs: Sequence[PreferencePair], critiques: Path, out: Path, against: Against) -> dict[str, Any]:
    """Judge each response by the mean score of its critiques, report, and write `out/evaluation.json`.

    A pair is a tie where a response has no score that can be read; how many are is part of the report.

    Args:
        pairs: those without critiques are left out, and counted.
        critiques: a finished `critiques sample` by the judge.

    Raises:
        DataError: no pair has critiques, these are what a filter kept, or another evaluation holds other pairs.
        PartsError: `critiques` has not ended.
    """
    if keeps_by_label(critiques):
        raise DataError(
            f"{critiques} holds critiques that were kept where they agree with the labels: a judge is measured on all "
            "that it wrote, a `critiques sample`"
        )
    groups = by_response(read_critiques(critiques))
    members = [pair for pair in pairs if all((pair.id, side) in groups for side in SIDES)]
    if not members:
        raise DataError(f"{critiques} has critiques of none of these {len(pairs)} pairs: is it of other data?")
    sides = [[[c.score for c in groups[pair.id, side]] for side in SIDES] for pair in members]
    n = max(len(scores) for both in sides for scores in both)
    margins = np.array([_margin(chosen, rejected) for chosen, rejected in sides])
    found, unreadable = {}, {}
    for m in sorted({1, n}):
        rates = np.array([win_rate(chosen, rejected, m) for chosen, rejected in sides])  # [pairs, 2]
        found[mean_of(m)] = Preferences(margins, rates[:, 0])
        unreadable[mean_of(m)] = float(rates[:, 1].mean())
    everything: list[Critique] = [c for pair in members for side in SIDES for c in groups[pair.id, side]]
    left_out = len(pairs) - len(members)
    lines = [
        f"{method}: in {share:.1%} of pairs a response has no score that can be read (a tie)"
        for method, share in unreadable.items()
    ]
    if not written_about(critiques, pairs):
        lines.append(f"{critiques} was sampled of other pairs than these, and is matched with them by id alone")
    if left_out:
        lines.append(f"{left_out} of {len(pairs)} pairs have no critiques and are left out")
    return write_results(
        out,
        critiques.name,
        members,
        found,
        critiques_ended=sum(c.finish_reason == "stop" for c in everything) / len(everything),
        headline=mean_of(n),
        against=against,
        more={"unreadable_pairs": unreadable, "pairs_without_critiques": left_out},
        lines=lines,
        written=about_sides([[_about(groups[pair.id, side]) for side in SIDES] for pair in members]),
    )


def _margin(chosen: Sequence[float | None], rejected: Sequence[float | None]) -> float:
    """The margin of the mean scores; 0 if a side has no readable score."""
    sides = [[score for score in side if score is not None] for side in (chosen, rejected)]
    return mean(sides[0]) - mean(sides[1]) if all(sides) else 0.0


def _about(critiques: Sequence[Critique]) -> dict[str, Any]:
    """What a reader wants to see of one response: the mean of its readable scores, and its first critique."""
    scores = [critique.score for critique in critiques if critique.score is not None]
    return {"score": mean(scores) if scores else None, "critique": critiques[0].text}
