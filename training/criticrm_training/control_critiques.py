"""Critiques made by rule, whose worth is known beforehand."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle

from .answers import answer_text, equal, final_answer, stated_answer
from .critiques.records import SIDES, Critique, SideName
from .critiques.verdict import VerdictRule
from .data.pairs import PreferencePair
from .data.sources import DataError

logger = logging.getLogger(__name__)

Rules = Mapping[str, VerdictRule]  # by category of the pairs


def oracle_critiques(pairs: Sequence[PreferencePair], rules: Rules) -> list[Critique]:
    """What a critic that knows the reference would write; of both responses.

    Raises:
        DataError: a pair has no reference, an answer can't be read, or the reference contradicts the label.
    """
    found = []
    for pair in pairs:
        if fault := _find_fault(pair):
            raise DataError(f"pair {pair.id!r}: {fault}")
        right = final_answer(pair.reference or "")
        for side in SIDES:
            reply = stated_answer(pair.response(side))
            text = f"The answer is {answer_text(right)}.\n{rules[pair.category].line(right, reply)}"
            found.append(_critique(pair.id, side, 0, text, equal(right, reply)))
    return found


def _find_fault(pair: PreferencePair) -> str:
    """Why no controls can be made from the pair; empty if they can."""
    if pair.reference is None:
        return "no `reference`, which the controls are made from"
    right = final_answer(pair.reference)
    if not right:
        return "`reference` holds no answer that can be read"
    for side in SIDES:
        reply = stated_answer(pair.response(side))
        if not reply:
            return f"the {side} response states no answer"
        if equal(right, reply) != (side == "chosen"):
            return f"by its reference the {side} response is {'wrong' if side == 'chosen' else 'right'}"
    return ""


def usable_pairs(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The pairs that controls can be made from; the others are counted in the log.

    Raises:
        DataError: a pair has no reference, or none is left.
    """
    faults = {pair.id: fault for pair in pairs if (fault := _find_fault(pair))}
    without = next((pair for pair in pairs if pair.reference is None), None)
    if without is not None or len(faults) == len(pairs):
        first = pairs[0] if without is None else without
        raise DataError(f"pair {first.id!r}: {faults[first.id]}")
    for fault, n in Counter(faults.values()).items():
        logger.warning("%d of %d pairs are left out: %s", n, len(pairs), fault)
    return [pair for pair in pairs if pair.id not in faults]


def shuffled(pairs: Sequence[PreferencePair], critiques: Sequence[Critique], seed: int = 0) -> list[Critique]:
    """The same texts handed out anew, one a response of the pairs, so that a verdict tells nothing of its response."""
    draw = random.Random(seed)
    texts = {}
    for verdict in (True, False):
        those = [c.text for c in critiques if c.verdict == verdict]
        texts[verdict] = cycle(draw.sample(those, len(those)))
    return [
        _critique(pair_id, side, 0, next(texts[verdict]), verdict)
        for (pair_id, side), verdict in uninformed_verdicts(pairs).items()
    ]


def blind_critiques(pairs: Sequence[PreferencePair], rules: Rules) -> list[Critique]:
    """Two critiques of each response by a critic that knows nothing: as often right as wrong."""
    return [
        _critique(pair.id, side, i, rules[pair.category].right if verdict else rules[pair.category].wrong, verdict)
        for pair in pairs
        for side in SIDES
        for i, verdict in enumerate((True, False))
    ]


def uninformed_verdicts(pairs: Sequence[PreferencePair]) -> dict[tuple[str, SideName], bool]:
    """One a response, as often right as wrong, and as often of the chosen response as of the rejected one.

    Of each four pairs they call both responses right, both wrong, the chosen one alone right, and the rejected one
    alone. A coin would, on average.
    """
    return {(pair.id, side): bool(i >> j & 1) for i, pair in enumerate(pairs) for j, side in enumerate(SIDES)}


def kept_by_label(critiques: Sequence[Critique]) -> list[Critique]:
    return [c for c in critiques if c.verdict == (c.side == "chosen")]


def _critique(pair_id: str, side: SideName, sample: int, text: str, verdict: bool | None) -> Critique:
    return Critique(pair_id, side, sample, text, None, "stop", 0, verdict)


def empty_critiques(pairs: Sequence[PreferencePair]) -> list[Critique]:
    """After an empty critique the reward is the one before any."""
    return [_critique(pair.id, side, 0, "", None) for pair in pairs for side in SIDES]
