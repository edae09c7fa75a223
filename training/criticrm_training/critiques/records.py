"""What a critique is while it is made: one row of the Parquet parts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ..parts import read_parts

SideName = Literal["chosen", "rejected"]
SIDES: tuple[SideName, SideName] = ("chosen", "rejected")
LEAST_SCORE, GREATEST_SCORE = 1, 10
GREATEST_EXPECTED = 9  # one digit: the expected score is read from one token
# How a critique is scored: by the number it ends in, as in the paper; by the number that the critic expects to write
# there, which every critique has and which ties less often; of a Critic-RM, by its reward; or 1 and 0 by its verdict.
ScoreBy = Literal["written", "expected", "reward", "verdict"]

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("side", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("score", pa.float64()),  # null: it wrote none that can be read
        ("finish_reason", pa.string()),
        ("tokens", pa.int32()),
        ("verdict", pa.bool_()),  # null: none can be read
    ]
)

# The last one counts: models talk about scores before they give one.
_SCORE = re.compile(r"\bscore\b(?: is)?\W{0,4}(\d{1,3})(?:\s*/\s*10|\s+out of\s+10)?\b(?!\s*/|\.\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Critique:
    """One critique of one response.

    Attributes:
        text: without its score line, so that no number leaks into the reward.
        score: 1 to 10, or a reward; None where the critique gives none that can be read, never a default.
        tokens: as written, score line and end included.
        verdict: whether it calls its response right, by its task's rule; None where it doesn't say, or has no rule.
    """

    pair_id: str
    side: SideName
    sample: int
    text: str
    score: float | None
    finish_reason: str
    tokens: int
    verdict: bool | None = None

    def row(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in SCHEMA.names}


def read_critiques(folder: Path) -> list[Critique]:
    """Of a finished `sample`, `filter` or `refine`. Raises PartsError."""
    return [Critique(**row) for row in read_parts(folder)]


def by_response(critiques: Iterable[Critique]) -> dict[tuple[str, SideName], list[Critique]]:
    """Grouped by pair and side, in order."""
    groups: dict[tuple[str, SideName], list[Critique]] = {}
    for critique in critiques:
        groups.setdefault((critique.pair_id, critique.side), []).append(critique)
    return groups


def score_request(score_by: ScoreBy) -> str:
    """What is added to the critique instruction. What is scored by its reward or verdict is asked for as in service."""
    if score_by in ("reward", "verdict"):
        return ""
    greatest = greatest_score(score_by)
    return f" End with a line that reads 'Score: ' and an integer from {LEAST_SCORE} (bad) to {greatest} (excellent)."


def greatest_score(score_by: ScoreBy) -> int:
    """Of the scores that are asked for. An expected score is read at one token, which is a digit."""
    return GREATEST_SCORE if score_by == "written" else GREATEST_EXPECTED


def split_score(text: str) -> tuple[str, int | None]:
    """A critique without its score line, and the score.

    >>> split_score("It is wrong: 7 is odd.\\nScore: 3")
    ('It is wrong: 7 is odd.', 3)
    >>> split_score("A fine answer. Score: 9/10")
    ('A fine answer.', 9)
    >>> split_score("Score: 12")
    ('', None)
    >>> split_score("I would not score it.")
    ('I would not score it.', None)
    """
    matches = list(_SCORE.finditer(text))
    if not matches:
        return text.strip(), None
    last = matches[-1]
    value = int(last[1])
    # Everything from the score on is the score line, and what a rambling model adds after it.
    kept = _SCORE.sub("", text[: last.start()]).strip(" \n\t*#-(")
    return kept, value if LEAST_SCORE <= value <= GREATEST_SCORE else None
