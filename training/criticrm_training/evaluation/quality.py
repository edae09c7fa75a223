"""What can be measured of critiques without reading them: whether they end, repeat themselves, and say what of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]{5,}|\d+")  # long words and numbers: what a response is about
_NGRAM = 4


@dataclass(frozen=True, slots=True)
class CritiqueStatistics:
    """Shares of n critiques.

    Attributes:
        ended: by themselves, before the limit.
        repeats: share of a critique's four-word sequences that it had before, averaged.
        names: that name something of their response (`names_something`).
        distinct: different texts among all.
    """

    n: int
    ended: float
    repeats: float
    names: float
    distinct: float

    def __str__(self) -> str:
        return (
            f"critiques: {self.ended:.0%} end by themselves, {self.repeats:.0%} of their word sequences repeat, "
            f"{self.names:.0%} name something of the response, {self.distinct:.0%} are different from all others"
        )


def critique_statistics(
    critiques: Sequence[str], responses: Sequence[str], ended: Sequence[bool], instruction: str
) -> CritiqueStatistics:
    """Statistics of critiques, one of each response."""
    n = len(critiques)
    names = [names_something(c, r, instruction) for c, r in zip(critiques, responses, strict=True)]
    return CritiqueStatistics(
        n=n,
        ended=sum(ended) / n,
        repeats=sum(map(repetition, critiques)) / n,
        names=sum(names) / n,
        distinct=len(set(critiques)) / n,
    )


def names_something(critique: str, response: str, instruction: str) -> bool:
    """Whether a critique takes up a long word, or a number, of its response.

    A long word has five letters or more. What the instruction holds does not count, for critiques like to repeat it.

    >>> names_something("Is 54 right?", "It is 54.", "Review the reply.")
    True
    >>> names_something("The reply is wrong.", "No reply.", "Review the reply.")
    False
    """
    return bool((_words(critique) & _words(response)) - _words(instruction))


def repetition(text: str) -> float:
    """The share of four-word sequences that came before in the same text; 0 for shorter texts.

    >>> repetition("it is not good it is not good it is not good")
    0.5555555555555556
    >>> repetition("it is not good at all")
    0.0
    """
    words = text.lower().split()
    sequences = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
