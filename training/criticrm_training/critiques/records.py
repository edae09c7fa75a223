"""What a critique is while it is made: one row of the Parquet parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from criticrm_model.prompt import Renderer

from ..parts import read_parts

SideName = Literal["chosen", "rejected"]
SIDES: tuple[SideName, SideName] = ("chosen", "rejected")

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
        ("truncated", pa.bool_()),  # null: not known
    ]
)


@dataclass(frozen=True, slots=True)
class Critique:
    """One critique of one response.

    Attributes:
        text: without its score line, so that no number leaks into the reward.
        score: 1 to 10, or a reward; None where the critique gives none that can be read, never a default.
        tokens: as written, score line and end included; None where the writer doesn't say.
        verdict: whether it calls its response right, by its task's rule; None where it doesn't say, or has no rule.
        truncated: its writer saw the conversation or the response cut to its own length; None where it doesn't say.
    """

    pair_id: str
    side: SideName
    sample: int
    text: str
    score: float | None
    finish_reason: str
    tokens: int | None
    verdict: bool | None = None
    truncated: bool | None = None

    def row(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in SCHEMA.names}


def read_critiques(folder: Path) -> list[Critique]:
    """The critiques of a finished `sample`, `filter` or `refine`. Raises PartsError."""
    return [Critique(**row) for row in read_parts(folder)]


def critique_tokens(renderer: Renderer, critique: Critique, limit: int | None = None) -> list[int]:
    """Token ids, `[critique_len]`, of a critique as its writer emitted it, at most `limit`.

    One that ended by itself has the end-of-turn token; one that was cut at its limit does not. The reward is read at
    the position that predicts the last of these tokens, as the service reads it.
    """
    tokens = renderer.tokenize_critique(critique.text)
    ended = critique.finish_reason == "stop" or len(tokens) == 1  # nothing but the end
    return (tokens if ended else tokens[:-1])[:limit]


def by_response(critiques: Iterable[Critique]) -> dict[tuple[str, SideName], list[Critique]]:
    """Grouped by pair and side, in order."""
    groups: dict[tuple[str, SideName], list[Critique]] = {}
    for critique in critiques:
        groups.setdefault((critique.pair_id, critique.side), []).append(critique)
    return groups
