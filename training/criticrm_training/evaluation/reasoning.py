"""What a critique of a solution works out by itself: its own final answer, and its verdict, read by a rule.

A critic that sees a wrong solution tends to copy its answer; how often it does is measured where a pair has a
`reference`, beside how often its own answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..answers import equal, final_answer, stated_answer
from ..critiques.verdict import VerdictRule, own_answer, verdict
from ..data.pairs import PreferencePair
from ..stats import mean

OWN_ANSWER = "critiques that give an answer of their own"
BESIDE_RIGHT = "own answer right beside a right reply"
BESIDE_WRONG = "own answer right beside a wrong reply"
COPIED = "own answer that of a wrong reply"
READABLE = "verdicts that can be read"
VERDICT = "pairs in which the verdict prefers the chosen reply"


def reasoning_report(
    pairs: Sequence[PreferencePair], critiques: Sequence[str], rules: Mapping[str, VerdictRule | None]
) -> dict[str, Any]:
    """Shares with their intervals (`Estimate`s as JSON), over the pairs that have a reference and a rule.

    Empty where none has.

    Of critiques: whether a reply is right is read from it and the reference, whatever the label; a critique without an
    answer of its own is not right. Of pairs: one is half right where both verdicts are the same or one can't be read.

    Args:
        critiques: one a response, the chosen one's before the rejected one's, `[2 * pairs]`.
        rules: of each category of the pairs, how its critiques are read (`Tasks.rules`); None: they give no verdict.
    """
    found: dict[str, list[tuple[float, str]]] = {
        name: [] for name in (OWN_ANSWER, BESIDE_RIGHT, BESIDE_WRONG, COPIED, READABLE, VERDICT)
    }
    for pair, both in zip(pairs, zip(critiques[0::2], critiques[1::2], strict=True), strict=True):
        rule, reference = rules[pair.category], final_answer(pair.reference or "")
        if rule is None or not reference:
            continue
        verdicts = []
        for response, critique in zip((pair.chosen, pair.rejected), both, strict=True):
            reply, own = stated_answer(response), own_answer(critique, rule)
            found[OWN_ANSWER].append((bool(own), pair.group))
            right = bool(own) and equal(reference, own)
            if reply and equal(reference, reply):
                found[BESIDE_RIGHT].append((right, pair.group))
            elif reply:
                found[BESIDE_WRONG].append((right, pair.group))
                found[COPIED].append((bool(own) and equal(reply, own), pair.group))
            verdicts.append(verdict(critique, response, rule))
            found[READABLE].append((verdicts[-1] is not None, pair.group))
        chosen, rejected = verdicts
        tie = chosen is None or rejected is None or chosen == rejected
        found[VERDICT].append((0.5 if tie else float(bool(chosen)), pair.group))
    return {name: asdict(mean(*zip(*values, strict=True))) for name, values in found.items() if values}


def describe_reasoning(report: Mapping[str, Any]) -> list[str]:
    """`reasoning_report` as lines of a table."""
    return [f"{name}: {a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}] of {a['n']}" for name, a in report.items()]
