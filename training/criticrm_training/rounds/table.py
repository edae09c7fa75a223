"""What a round was worth: what was kept and why, and what its critic does on the validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers import equal, stated_answer
from ..critiques.critique_task import Tasks
from ..critiques.records import SIDES, Critique, by_response, read_critiques
from ..critiques.verdict import own_answer
from ..data.pairs import PreferencePair
from ..stats import Accuracy, pair_accuracy


@dataclass(frozen=True, slots=True)
class Measured:
    """The greedy critiques of validation pairs by one critic.

    Attributes:
        reward: pair accuracy of the reward after the critique; None for a critic without a reward.
        verdict: pair accuracy of the verdicts read by rule; None where no task has a rule.
        own_right: share of own answers that are the reference's, beside a wrong reply; None without references.
        copied: share of own answers that are the wrong reply's.
        tokens: of a critique, on average.
        ended: share of critiques that ended by themselves.
    """

    reward: Accuracy | None
    verdict: Accuracy | None
    own_right: float | None
    copied: float | None
    tokens: float
    ended: float


def measure(folder: Path, pairs: Sequence[PreferencePair], tasks: Tasks, *, by_reward: bool) -> Measured:
    """Of a finished greedy `critiques sample` of `pairs`. Raises PartsError."""
    critiques = {(c.pair_id, c.side): c for c in read_critiques(folder)}
    known = [pair for pair in pairs if all((pair.id, side) in critiques for side in SIDES)]
    couples = [(pair, critiques[pair.id, "chosen"], critiques[pair.id, "rejected"]) for pair in known]
    groups = [pair.group for pair in known]
    reward = verdict = None
    if by_reward and couples:
        reward = pair_accuracy([float(a.score or 0) - float(b.score or 0) for _, a, b in couples], groups)
    ruled = [(p, a, b) for p, a, b in couples if tasks.of(p.category).verdict]
    if ruled:
        # An unreadable verdict says neither right nor wrong: half.
        worth = {True: 1.0, None: 0.5, False: 0.0}
        margins = [worth[a.verdict] - worth[b.verdict] for _, a, b in ruled]
        verdict = pair_accuracy(margins, [pair.group for pair, *_ in ruled])
    own = [_own(pair, b, tasks) for pair, _, b in ruled if stated_answer(pair.reference or "")]
    written = list(critiques.values())
    return Measured(
        reward,
        verdict,
        sum(right for right, _ in own) / len(own) if own else None,
        sum(copied for _, copied in own) / len(own) if own else None,
        sum(c.tokens for c in written) / max(1, len(written)),
        sum(c.finish_reason == "stop" for c in written) / max(1, len(written)),
    )


def _own(pair: PreferencePair, critique: Critique, tasks: Tasks) -> tuple[bool, bool]:
    """Whether the own answer is the reference's, and whether it is the rejected reply's."""
    rule = tasks.of(pair.category).verdict
    answer = own_answer(critique.text, rule) if rule else []
    if not answer:
        return False, False
    return equal(stated_answer(pair.reference or ""), answer), equal(stated_answer(pair.rejected), answer)


def shares(sampled: Sequence[Path], kept: Path) -> dict[str, Any]:
    """How many critiques were sampled and kept, and of how many pairs on both sides."""
    before = [c for folder in sampled for c in read_critiques(folder)]
    after = read_critiques(kept)
    sides = by_response(after)
    both = {pair_id for pair_id, _ in sides if all((pair_id, side) in sides for side in SIDES)}
    return {
        "critiques sampled": len(before),
        "critiques kept": len(after),
        "share kept": len(after) / max(1, len(before)),
        "pairs with a critique kept": len({c.pair_id for c in after}),
        "of these on both sides": len(both),
    }


def as_lines(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """The table, a line a round."""
    head = ("round", "kept", "reward", "verdict", "own right beside wrong", "copied", "tokens", "ended")
    rows = [head]
    for row in rounds:
        measured: Measured = row["measured"]
        kept = row.get("kept")
        rows.append(
            (
                str(row["round"]) if row["round"] else "base",
                f"{kept['share kept']:.0%} of {kept['critiques sampled']}" if kept else "-",
                _accuracy(measured.reward),
                _accuracy(measured.verdict),
                _share(measured.own_right),
                _share(measured.copied),
                f"{measured.tokens:.0f}",
                f"{measured.ended:.0%}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _accuracy(a: Accuracy | None) -> str:
    return "-" if a is None else f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
