"""Which pairs belong to one question, and splits that keep them together."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from criticrm_model.prompt import Message

from .near_duplicates import Components, near_duplicates
from .sources import DataError

_MANY = 20_000  # texts whose comparison takes long enough for a progress bar


class _Grouped(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...


_G = TypeVar("_G", bound=_Grouped)


def question_group(prompt: Sequence[Message]) -> str:
    """Equal for conversations that begin with the same question.

    The question is the first user turn, with Unicode forms (NFKC), case and white space folded. Later turns answer what
    came before, so a conversation and its continuation belong together.
    """
    question = next((m["content"] for m in prompt if m["role"] == "user"), prompt[0]["content"])
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def merged_groups(groups: Iterable[str]) -> Mapping[str, str]:
    """For each group the name of the connected component of near-duplicates that it is in.

    The name is the component's least member, so it depends on which groups there are and not on their order.
    """
    texts = sorted(set(groups))
    components = Components(len(texts))
    for i, j in near_duplicates(texts, label="near-duplicates" if len(texts) > _MANY else None):
        components.join(i, j)
    return {text: texts[components.find(i)] for i, text in enumerate(texts)}


def in_question_order(items: Iterable[_G]) -> list[_G]:
    """Sort by the hash of the question: the first n are a random sample, and the same one in a run that resumes."""
    return sorted(items, key=lambda item: (hashlib.sha256(item.group.encode()).hexdigest(), item.id))


def split_by_prompt(items: Iterable[_G], validation_share: float, seed: int = 0) -> tuple[list[_G], list[_G]]:
    """`(training, validation)`: no question is in both, and neither is empty.

    An item's side depends on its question and the seed alone; only where one side would be empty does the question
    whose hash comes nearest change sides.

    Raises:
        DataError: all items are of one question.
    """
    items = list(items)
    shares = {item.group: _share(item.group, seed) for item in items}
    if len(shares) < 2:
        raise DataError(
            f"a validation split needs two questions; these {len(items)} pairs are of {len(shares)}. Pairs whose "
            "conversations begin with the same, or nearly the same, user turn are of one question"
        )
    validation = {group for group, share in shares.items() if share < validation_share}
    in_order = sorted(shares, key=lambda group: (shares[group], group))
    validation = (validation or {in_order[0]}) - ({in_order[-1]} if len(validation) == len(shares) else set())
    return (
        [item for item in items if item.group not in validation],
        [item for item in items if item.group in validation],
    )


def _share(group: str, seed: int) -> float:
    """Evenly spread from 0 to 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64
