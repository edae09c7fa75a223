"""What a request asks the critic to judge by, as the text of its instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticrm_client.schemas import Item
from criticrm_model.instruction import InstructionSlots

from .errors import LimitExceeded

if TYPE_CHECKING:
    from criticrm_model.manifest import Manifest
    from criticrm_model.prompt import Renderer


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the critic is asked.

    Attributes:
        text: None for the checkpoint's own.
        warnings: of each result.
    """

    text: str | None = None
    warnings: tuple[str, ...] = ()


class Criteria:
    """Instructions of one checkpoint.

    Args:
        max_tokens: of a criterion, and of a reference.
    """

    def __init__(self, renderer: Renderer, manifest: Manifest, max_tokens: int) -> None:
        self._count = renderer.count_tokens
        self._instruction = manifest.critique_instruction or ""
        self._slots = manifest.slots or InstructionSlots()
        self._max_tokens = max_tokens

    def characters(self, item: Item) -> int:
        """How many are tokenised for `instructions`."""
        return sum(map(len, _criteria(item).values())) + len(item.reference or "")

    def instructions(self, item: Item) -> list[Instruction]:
        """One for each criterion, or the only one. Raises LimitExceeded."""
        criteria = _criteria(item)
        texts = criteria if item.reference is None else {**criteria, "reference": item.reference}
        for field, text in texts.items():
            if (tokens := self._count(text, self._max_tokens)) > self._max_tokens:
                raise LimitExceeded(field, tokens, self._max_tokens, "tokens")
        sent = {"criteria": bool(criteria), "reference": item.reference is not None}
        warnings = tuple(f"{name}_untrained" for name in sent if sent[name] and name not in self._slots.trained)
        return [
            Instruction(self._slots.fill(self._instruction, one, item.reference), warnings)
            for one in (criteria.values() or [None])
        ]


def _criteria(item: Item) -> dict[str, str]:
    """By the field that holds each."""
    if isinstance(item.criteria, str):
        return {"criteria": item.criteria}
    return {f"criteria[{k}]": one.text for k, one in enumerate(item.criteria_list or ())}
