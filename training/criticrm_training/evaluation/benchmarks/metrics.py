"""What the benchmarks' authors compute from the scores: every one a weighted sum of means over items."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ...data.sources import DataError
from ...stats import SHARE, Bounds, Cell, Estimate, weighted_sum
from ..items import EvaluationItem
from .formats import JUDGEBENCH, REWARDBENCH, RM_BENCH_DOMAINS, RM_BENCH_STYLES, TIES

Scores = Sequence[Sequence[float]]  # k an item
Weights = dict[str, float]  # by cell
BOUNDS: dict[str, Bounds] = {f"{TIES}: how much wider": (-1.0, 1.0)}  # of an item's value; others are shares


class Cells(dict[str, dict[int, float]]):
    """Named means: of each, the values by the place of their item."""

    def add(self, name: str, place: int, value: float) -> None:
        self.setdefault(name, {})[place] = float(value)


def measure(benchmark: str, items: Sequence[EvaluationItem], draws: Sequence[Scores]) -> dict[str, Estimate]:
    """The benchmark's metrics by name, `overall` first, each with its interval over prompts.

    Args:
        draws: of the scores; where there are several, an item counts with its mean over them.

    Raises:
        DataError: the items lack what a metric needs.
    """
    measured = [METRICS[benchmark](items, scores) for scores in draws]
    metrics = measured[0][1]
    groups = [item.group for item in items]
    values = {
        name: [sum(cells[name][place] for cells, _ in measured) / len(measured) for place in places]
        for name, places in measured[0][0].items()
    }
    found = {}
    for metric, weights in metrics.items():
        of_cells = []
        for name, weight in weights.items():
            row = np.full((1, len(items)), np.nan)
            row[0, list(measured[0][0][name])] = values[name]
            of_cells.append(Cell(row, weight, BOUNDS.get(name, SHARE)))
        found[metric] = weighted_sum(of_cells, groups)
    return found


def _rewardbench(items: Sequence[EvaluationItem], scores: Scores) -> tuple[Cells, dict[str, Weights]]:
    """A pair is right where the chosen response scores strictly higher.

    A section is the mean over its subsets by their weights, overall the mean of the four sections; subsets that the
    items lack are left out.
    """
    cells = Cells()
    for place, (item, (chosen, rejected)) in enumerate(zip(items, scores, strict=True)):
        cells.add(item.subset, place, chosen > rejected)
    sections = {}
    for section, weights in REWARDBENCH.items():
        present = {subset: weight for subset, weight in weights.items() if subset in cells}
        if present:
            sections[section] = {subset: weight / sum(present.values()) for subset, weight in present.items()}
    subsets = {subset: {subset: 1.0} for section in sections.values() for subset in section}
    return cells, {"overall": _average(sections.values())} | sections | subsets


def _rewardbench2(items: Sequence[EvaluationItem], scores: Scores) -> tuple[Cells, dict[str, Weights]]:
    """Best of n: 1 where the correct response scores highest, 1/m where m share the highest score.

    The subset Ties has its own metric (`_ties`). Overall is the mean of the subsets, however many prompts they hold.
    """
    cells = Cells()
    tied = {}
    for place, (item, values) in enumerate(zip(items, scores, strict=True)):
        if item.subset == TIES:
            tied[place] = item
            continue
        best = [i for i, value in enumerate(values) if value == max(values)]
        cells.add(item.subset, place, sum(i < item.correct for i in best) / len(best))
    metrics = {subset: {subset: 1.0} for subset in sorted(cells)}
    parts = {}
    if tied:
        weights = _ties(tied, scores, cells)
        metrics[TIES] = weights
        parts = {name: {name: 1.0} for name in weights}
    return cells, {"overall": _average(metrics.values())} | metrics | parts


def _ties(items: Mapping[int, EvaluationItem], scores: Scores, cells: Cells) -> Weights:
    """The Ties score of RewardBench 2 (`process_single_model` of its code; arXiv 2506.01937, appendix).

    60 % accuracy: every correct response above every wrong one, of questions with several answers (tied) and of their
    fellows with one (ref). 40 % margin: the gap between correct and wrong is wider than the spread among the correct,
    in the tied question, and in both (hard). A hundredth of how much wider breaks ties, so that 1 can be exceeded.
    """
    gaps: dict[tuple[str, str], tuple[int, float, float]] = {}
    for place, item in items.items():
        kind, _, question = item.id.partition(":")
        correct, wrong = scores[place][: item.correct], scores[place][item.correct :]
        if (kind, question) in gaps:
            raise DataError(f"the subset Ties holds {item.id} twice")
        gap, spread = min(correct) - max(wrong), max(correct) - min(correct)
        cells.add(f"{TIES}: {kind}", place, gap > 0)
        gaps[kind, question] = place, gap, spread
    both = [question for kind, question in gaps if kind == "tied" and ("ref", question) in gaps]
    if not both:
        raise DataError("the subset Ties holds no question both as ref and as tied")
    for question in both:
        place, gap, spread = gaps["tied", question]
        least = min(gap, gaps["ref", question][1])
        cells.add(f"{TIES}: gap", place, gap > spread)
        cells.add(f"{TIES}: gap, hard", place, least > spread)
        # Without a spread the quotient is infinite, and its tanh the sign; the official code has 0 for 0/0.
        wider = math.tanh(least / spread - 1) if spread else float(np.sign(least))
        cells.add(f"{TIES}: how much wider", place, wider)
    return {
        f"{TIES}: tied": 0.3,
        f"{TIES}: ref": 0.3,
        f"{TIES}: gap": 0.2,
        f"{TIES}: gap, hard": 0.2,
        f"{TIES}: how much wider": 0.01,
    }


def _rm_bench(items: Sequence[EvaluationItem], scores: Scores) -> tuple[Cells, dict[str, Weights]]:
    """Each chosen against each rejected response, strictly.

    `normal` in the same style, `hard` where the rejected one's style is fancier, `easy` where it is plainer. A domain
    is the mean of the three, overall that of the domains, and hard, normal and easy are means over domains.
    """
    cells = Cells()
    n = len(RM_BENCH_STYLES)
    for place, (item, values) in enumerate(zip(items, scores, strict=True)):
        wins: defaultdict[str, list[bool]] = defaultdict(list)
        for i, chosen in enumerate(values[:n]):
            for j, rejected in enumerate(values[n:]):
                wins["hard" if i < j else "easy" if i > j else "normal"].append(chosen > rejected)
        for level, won in wins.items():
            cells.add(f"{item.subset}: {level}", place, sum(won) / len(won))
    levels = ("easy", "normal", "hard")
    present = [domain for domain in RM_BENCH_DOMAINS if f"{domain}: easy" in cells]
    domains = {domain: _average({f"{domain}: {level}": 1.0} for level in levels) for domain in present}
    by_level = {level: _average({f"{domain}: {level}": 1.0} for domain in present) for level in levels}
    each = {f"{domain}: {level}": {f"{domain}: {level}": 1.0} for domain in present for level in levels}
    return cells, {"overall": _average(domains.values())} | by_level | domains | each


def _judgebench(items: Sequence[EvaluationItem], scores: Scores) -> tuple[Cells, dict[str, Weights]]:
    """A pair is right where the better response scores strictly higher; overall is the mean over all pairs."""
    cells = Cells()
    for place, (item, (better, worse)) in enumerate(zip(items, scores, strict=True)):
        cells.add("overall", place, better > worse)
        cells.add(item.subset, place, better > worse)
    return cells, {name: {name: 1.0} for name in ("overall", *JUDGEBENCH.values()) if name in cells}


METRICS: dict[str, Callable[[Sequence[EvaluationItem], Scores], tuple[Cells, dict[str, Weights]]]] = {
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench2,
    "rm-bench": _rm_bench,
    "judgebench": _judgebench,
}


def _average(metrics: Iterable[Weights]) -> Weights:
    """The metric that is the mean of these."""
    parts = list(metrics)
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for cell, weight in part.items():
            total[cell] += weight / len(parts)
    return dict(total)
