"""What is scored: one prompt and its responses, the correct ones first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from criticrm_model.instruction import InstructionSlots
from criticrm_model.prompt import Message

from ..data.judged_by import judged_by
from ..data.pairs import PreferencePair


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One prompt and k responses.

    Attributes:
        responses: `correct` good ones, then the others.
        subset: of the data set, as it calls it.
        group: equal for items that an interval must keep together.
        criteria, reference: sent with the prompt.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    correct: int
    subset: str
    group: str
    criteria: str | None = None
    reference: str | None = None


def as_item(pair: PreferencePair, slots: InstructionSlots | None = None) -> EvaluationItem:
    """A preference pair is an item with k = 2. Args: slots: of the critic that scores it."""
    responses = (pair.chosen, pair.rejected)
    read = judged_by(pair, slots or InstructionSlots())
    return EvaluationItem(pair.id, pair.prompt, responses, 1, pair.category, pair.group, *read)


def draw_items(items: Iterable[EvaluationItem], limit: int) -> list[EvaluationItem]:
    """Whole groups, in the order of their hash, until there are `limit` items (0: all): the same ones every time."""
    found: list[EvaluationItem] = []
    for item in sorted(items, key=lambda item: (hashlib.sha256(item.group.encode()).hexdigest(), item.id)):
        if limit and len(found) >= limit and item.group != found[-1].group:
            break
        found.append(item)
    return found


def items_sha256(items: Sequence[EvaluationItem]) -> str:
    """The digest of the items' texts, in their order."""
    said = [
        [item.prompt, item.responses, item.correct, item.subset, item.group]
        + [text for text in (item.criteria, item.reference) if text is not None]
        for item in items
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
