"""What a critique of a solution works out by itself: its own final answer, and its verdict, read by a rule.

A critic that sees a wrong solution tends to copy its answer; how often it does is measured where a pair has a
`reference`, beside how often its own answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..answers import equal, final_answer
from ..data.pairs import PreferencePair
from ..stats import mean

RIGHT_IN_SIGHT = "own answer right, a right reply in sight"
WRONG_IN_SIGHT = "own answer right, a wrong reply in sight"
COPIED = "own answer is the wrong reply's"
VERDICT = "verdict prefers the chosen response"
NO_OWN_ANSWER = "no answer of its own"
NO_VERDICT = "no verdict"


def reasoning_report(pairs: Sequence[PreferencePair], critiques: Sequence[str]) -> dict[str, Any]:
    """Shares with their intervals (`Estimate`s), of the pairs that have a reference; empty where none has.

    A critique without an answer of its own, or without a verdict, is not right. A pair is a tie where both verdicts
    are the same, or one is missing.

    Args:
        critiques: one a response, the chosen one's before the rejected one's: `[2 * pairs]`.
    """
    from ..critiques.verdict import own_answer, verdict

    found: dict[str, list[tuple[float, str]]] = {}

    def count(name: str, value: float, pair: PreferencePair) -> None:
        found.setdefault(name, []).append((value, pair.group))

    for number, pair in enumerate(pairs):
        reference = final_answer(pair.reference) if pair.reference else []
        if not reference:
            continue
        verdicts = []
        for response, critique in zip((pair.chosen, pair.rejected), critiques[2 * number :], strict=False):
            replied, own = final_answer(response), own_answer(critique)
            answer = final_answer(own) if own else []
            right = bool(answer) and equal(reference, answer)
            if replied and equal(reference, replied):
                count(RIGHT_IN_SIGHT, right, pair)
            else:
                count(WRONG_IN_SIGHT, right, pair)
                count(COPIED, bool(replied and answer) and equal(replied, answer), pair)
            count(NO_OWN_ANSWER, not answer, pair)
            verdicts.append(verdict(critique, response))
            count(NO_VERDICT, verdicts[-1] is None, pair)
        chosen, rejected = verdicts
        tie = chosen is None or rejected is None or chosen == rejected
        count(VERDICT, 0.5 if tie else float(bool(chosen)), pair)
    return {name: asdict(mean(*zip(*values, strict=True))) for name, values in found.items()}


def describe_reasoning(report: Mapping[str, Any]) -> list[str]:
    """`reasoning_report` as lines of a table."""
    return [f"{name}: {a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}] of {a['n']}" for name, a in report.items()]
