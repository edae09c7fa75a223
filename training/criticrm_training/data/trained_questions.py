"""Which questions a checkpoint was trained on: its scores of its own training pairs agree with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from criticrm_model import CriticRMError
from criticrm_model.files import write_json

FILE_NAME = "trained_questions.json"


class InSampleError(CriticRMError):
    """Pairs are to be scored by a critic that was trained on them."""


class _Grouped(Protocol):
    @property
    def group(self) -> str: ...


def write_trained_questions(checkpoint: Path, pairs: Iterable[_Grouped]) -> None:
    """Of the pairs that a checkpoint was trained on, in its folder: digests of their questions, not their texts."""
    write_json(checkpoint / FILE_NAME, {"questions": sorted({_digest(pair.group) for pair in pairs})})


def read_trained_questions(checkpoint: Path) -> frozenset[str] | None:
    """Digests of questions; None where the folder doesn't say."""
    path = checkpoint / FILE_NAME
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["questions"]) if path.is_file() else None


def trained_pairs(model: str, pairs: Sequence[_Grouped]) -> int | None:
    """How many of the pairs ask a question that the checkpoint in the folder `model` was trained on; None where that
    isn't known.
    """
    questions = read_trained_questions(Path(model))
    return None if questions is None else sum(_digest(pair.group) in questions for pair in pairs)


def _digest(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()[:16]
