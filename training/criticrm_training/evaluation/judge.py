"""`criticrm judge`: a language model as the judge, by the scores in its critiques; what a Critic-RM must beat."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ..critiques.records import SIDES, Critique, by_response, read_critiques
from ..data.pairs import PreferencePair
from ..data.sources import DataError
from ..tables import accuracy_report
from .results import write_results

logger = logging.getLogger(__name__)


def judge(pairs: Sequence[PreferencePair], critiques: Path, out: Path, against: Mapping[str, Path]) -> dict[str, Any]:
    """Judge each response by the mean score of its critiques, report, and write `out/evaluation.json`.

    A pair is a tie where a response has no score that can be read; how many are is part of the report.

    Args:
        pairs: those without critiques are left out, and counted.
        critiques: a finished `critiques sample` by the judge.

    Raises:
        DataError: none of the pairs has critiques, or another evaluation holds other pairs.
        PartsError: `critiques` has not ended.
    """
    groups = by_response(read_critiques(critiques))
    members = [pair for pair in pairs if all((pair.id, side) in groups for side in SIDES)]
    if not members:
        raise DataError(f"{critiques} has critiques of none of these {len(pairs)} pairs: is it of other data?")
    n = max(map(len, groups.values()))
    found, unreadable = {}, {}
    for m in sorted({1, n}):
        judged = [[_judgement(groups[pair.id, side][:m]) for side in SIDES] for pair in members]
        unreadable[f"mean of {m}"] = sum(None in scores for scores in judged) / len(judged)
        margins = [0.0 if a is None or b is None else a - b for a, b in judged]
        found[f"mean of {m}"] = torch.tensor(margins, dtype=torch.float64)
    everything = [c for pair in members for side in SIDES for c in groups[pair.id, side]]
    report = accuracy_report(members, found, sum(c.finish_reason == "stop" for c in everything) / len(everything))
    report |= {"unreadable_pairs": unreadable, "pairs_without_critiques": len(pairs) - len(members)}
    write_results(out, critiques.name, members, found, report, headline=f"mean of {n}", against=against)
    for method, share in unreadable.items():
        logger.info("%s: in %.1f %% of pairs a response has no score that can be read (a tie)", method, 100 * share)
    if len(members) < len(pairs):
        logger.info("%d of %d pairs have no critiques and are left out", len(pairs) - len(members), len(pairs))
    return report


def _judgement(critiques: Sequence[Critique]) -> float | None:
    scores = [c.score for c in critiques if c.score is not None]
    return mean(scores) if scores else None
