"""Folds of questions: a critic that was trained without a fold scores its pairs without having seen them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .sources import DataError


class _Grouped(Protocol):
    @property
    def group(self) -> str: ...


_G = TypeVar("_G", bound=_Grouped)


@dataclass(frozen=True, slots=True)
class Fold:
    """One of `n` parts of the questions, by number from 0.

    A question is in the same fold whatever other questions there are, and all its pairs with it; folds are drawn
    independently of the validation split and of the order that `--limit` takes the first of.

    Raises:
        DataError: there are not so many folds.
    """

    number: int
    n: int

    def __post_init__(self) -> None:
        if self.n < 2 or not 0 <= self.number < self.n:
            raise DataError(f"no fold {self.number} of {self.n}: folds are numbered from 0, and there are at least 2")

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Parse "K/N". Raises DataError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise DataError(f"no fold {text!r}: give its number from 0 and how many there are, such as 0/2")
        return cls(int(match[1]), int(match[2]))

    def holds(self, item: _Grouped) -> bool:
        return fold_of(item.group, self.n) == self.number

    def inside(self, items: Iterable[_G]) -> list[_G]:
        """The pairs of this fold, in order. Raises DataError: there are none."""
        return self._require_some([item for item in items if self.holds(item)], "in")

    def outside(self, items: Iterable[_G]) -> list[_G]:
        """The pairs of the other folds, in order. Raises DataError: there are none."""
        return self._require_some([item for item in items if not self.holds(item)], "outside")

    def _require_some(self, found: list[_G], where: str) -> list[_G]:
        if not found:
            raise DataError(f"no pair is {where} fold {self.number}/{self.n}: there are too few questions")
        return found


def fold_of(group: str, n: int) -> int:
    """The number of a question's fold among `n`, by the hash of its group."""
    digest = hashlib.sha256(f"fold\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % n
