"""What the arms are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_training.answers import equal, stated_answer
from criticrm_training.critiques.records import SIDES, Critique, by_response
from criticrm_training.critiques.verdict import own_answer
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.stats import pair_accuracy


def with_answers(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Those whose reference and responses state an answer, which critiques by rule are made from."""
    return [p for p in pairs if all(map(stated_answer, (p.reference or "", p.chosen, p.rejected)))]


def sides_of(pairs: Sequence[PreferencePair]) -> list[tuple[PreferencePair, Any]]:
    return [(pair, side) for pair in pairs for side in SIDES]


def margins(scores: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(scores[0::2], scores[1::2], strict=True)]


def vars_of(a: Any) -> dict[str, float]:
    return {"value": a.value, "low": a.low, "high": a.high, "n": a.n}


def accuracy(pairs: Sequence[PreferencePair], scores: Sequence[float]) -> dict[str, float]:
    return vars_of(pair_accuracy(margins(scores), [pair.group for pair in pairs]))


def right_ones(pairs: Sequence[PreferencePair], critiques: Sequence[Critique], most: int) -> list[Critique]:
    """Those whose own answer is the chosen response's and not the rejected one's, whose verdict says so, that ended."""
    groups = by_response(critiques)
    kept: list[Critique] = []
    for pair in pairs:
        right, wrong = stated_answer(pair.chosen), stated_answer(pair.rejected)
        for side in SIDES:
            agreeing = [
                c
                for c in groups.get((pair.id, side), [])
                if c.finish_reason == "stop"
                and c.verdict == (side == "chosen")
                and (own := own_answer(c.text))
                and equal(right, own)
                and not equal(wrong, own)
            ]
            kept += agreeing[:most]
    return kept


def verdict_accuracy(pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> dict[str, float]:
    """Of a verdict (right 1, wrong 0, unreadable 1/2) a response: a tie counts half."""
    groups = by_response(critiques)
    known = [pair for pair in pairs if all((pair.id, side) in groups for side in SIDES)]
    scores = [
        sum({True: 1.0, False: 0.0, None: 0.5}[c.verdict] for c in groups[pair.id, side]) / len(groups[pair.id, side])
        for pair, side in sides_of(known)
    ]
    return accuracy(known, scores)


def described(pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> dict[str, Any]:
    groups = by_response(critiques)
    own: dict[str, list[bool]] = {side: [] for side in SIDES}
    copied = []
    for pair, side in sides_of(pairs):
        answer = own_answer(groups[pair.id, side][0].text)
        own[side].append(bool(answer) and equal(stated_answer(pair.chosen), answer))
        if side == "rejected":
            copied.append(bool(answer) and equal(stated_answer(pair.rejected), answer))
    n = len(pairs)
    return {
        "verdicts": verdict_accuracy(pairs, critiques),
        "own answer right beside a right reply": sum(own["chosen"]) / n,
        "own answer right beside a wrong reply": sum(own["rejected"]) / n,
        "copied the wrong reply": sum(copied) / n,
        "verdict unreadable": sum(c.verdict is None for c in critiques) / len(critiques),
        "ended": sum(c.finish_reason == "stop" for c in critiques) / len(critiques),
        "tokens": sum(c.tokens for c in critiques) / len(critiques),
    }
