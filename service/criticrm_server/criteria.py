"""What a request asks the critic to judge by, as the text of its instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticrm_client.schemas import Item

from .errors import LimitExceeded

if TYPE_CHECKING:
    from criticrm_model.prompt import Renderer


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the critic judges by.

    Attributes:
        warnings: of each result.
    """

    criteria: str | None = None
    reference: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        return [text for text in (self.criteria, self.reference) if text is not None]


OWN = Instruction()  # the checkpoint's


class Criteria:
    """Instructions of one checkpoint.

    Args:
        max_tokens: of a criterion, and of a reference.
    """

    def __init__(self, renderer: Renderer, max_tokens: int) -> None:
        self._count = renderer.count_tokens
        self._trained = renderer.slots.trained
        self._max_tokens = max_tokens

    def characters(self, item: Item) -> int:
        """How many are tokenised for `instructions`."""
        return sum(map(len, _criteria(item).values())) + len(item.reference or "")

    def instructions(self, item: Item, where: str) -> list[Instruction]:
        """One for each criterion, or the only one.

        Args:
            where: the item's place in the request, as errors name it.

        Raises:
            LimitExceeded
        """
        criteria = _criteria(item)
        texts = criteria if item.reference is None else {**criteria, "reference": item.reference}
        for field, text in texts.items():
            if (tokens := self._count(text, self._max_tokens)) > self._max_tokens:
                raise LimitExceeded(f"{where}{field}", tokens, self._max_tokens, "tokens")
        sent = {"criteria": bool(criteria), "reference": item.reference is not None}
        warnings = tuple(f"{name}_untrained" for name in sent if sent[name] and name not in self._trained)
        return [Instruction(one, item.reference, warnings) for one in (criteria.values() or [None])]


def _criteria(item: Item) -> dict[str, str]:
    """The criteria's texts, by the field that holds each."""
    if isinstance(item.criteria, str):
        return {"criteria": item.criteria}
    return {f"criteria[{k}]": one.text for k, one in enumerate(item.criteria_list or ())}
