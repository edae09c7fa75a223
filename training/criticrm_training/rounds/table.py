"""What a round was worth: what was kept and why, and what its critic does on the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..critiques.critique_task import Tasks
from ..critiques.filter import Filtered
from ..critiques.records import SIDES, Critique, by_response
from ..data.pairs import PreferencePair
from ..evaluation.reasoning import BESIDE_WRONG, COPIED, VERDICT, reasoning_report
from ..stats import pair_accuracy
from ..tables import as_columns

REWARD = "pairs in which the reward after a greedy critique prefers the chosen reply"
_COLUMNS = {
    "reward": REWARD,
    "verdict": VERDICT,
    "own right beside wrong": BESIDE_WRONG,
    "copied": COPIED,
}


def measure(
    critiques: Sequence[Critique], pairs: Sequence[PreferencePair], tasks: Tasks, *, by_reward: bool
) -> dict[str, Any]:
    """Measures of one greedy critique for each response: shares with intervals by name, tokens, how many ended.

    Args:
        tasks: that the critiques were asked for with.
        by_reward: the critiques' scores are rewards; else their critic has none.
    """
    written = {(c.pair_id, c.side): c for c in critiques}
    known = [pair for pair in pairs if all((pair.id, side) in written for side in SIDES)]
    both = [written[pair.id, side] for pair in known for side in SIDES]
    rules = tasks.rules(pair.category for pair in known)
    found: dict[str, Any] = dict(reasoning_report(known, [c.text for c in both], rules))
    scores = [c.score for c in both]
    if by_reward and None not in scores:
        margins = [float(a or 0) - float(b or 0) for a, b in zip(scores[0::2], scores[1::2], strict=True)]
        found[REWARD] = asdict(pair_accuracy(margins, [pair.group for pair in known]))
    tokens = [c.tokens for c in both if c.tokens is not None]
    return found | {
        "tokens": sum(tokens) / max(1, len(tokens)),
        "ended": sum(c.finish_reason == "stop" for c in both) / max(1, len(both)),
    }


def shares(sampled: Sequence[Critique], kept: Sequence[Critique], filtered: Filtered) -> dict[str, Any]:
    """How many critiques were sampled and kept, of how many pairs, and why the filter dropped the others."""
    after = by_response(kept)
    both = {pair_id for pair_id, _ in after if all((pair_id, side) in after for side in SIDES)}
    n = sum(map(len, after.values()))
    return {
        "sampled": len(sampled),
        "kept": n,
        "share": n / max(1, len(sampled)),
        "pairs": len({pair_id for pair_id, _ in after}),
        "pairs with both sides": len(both),
        "dropped": {why: count for why, count in filtered.critiques.most_common() if why != "kept" and count},
    }


def as_lines(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table, a line a round, and below it why critiques were dropped."""
    rows = [("round", "kept", *_COLUMNS, "tokens", "ended")]
    for row in rounds:
        measured, kept = row["measured"], row.get("kept")
        rows.append(
            (
                str(row["round"]) if row["round"] else "base",
                f"{kept['share']:.0%} of {kept['sampled']}" if kept else "-",
                *(_share(measured.get(name)) for name in _COLUMNS.values()),
                f"{measured['tokens']:.0f}",
                f"{measured['ended']:.0%}",
            )
        )
    return as_columns(rows) + [_dropped(row) for row in rounds if row.get("kept", {}).get("dropped")]


def _dropped(row: Mapping[str, Any]) -> str:
    kept = row["kept"]
    reasons = (f"{why} {count / kept['sampled']:.0%}" for why, count in kept["dropped"].items())
    return f"round {row['round']} dropped: {', '.join(reasons)}"


def _share(a: Mapping[str, float] | None) -> str:
    return "-" if a is None else f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]"
