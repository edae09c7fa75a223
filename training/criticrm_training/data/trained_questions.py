"""Which questions a checkpoint was trained on: its scores of its own training pairs agree with them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from criticrm_model import CriticRMError
from criticrm_model.files import write_json

logger = logging.getLogger(__name__)

FILE_NAME = "trained_questions.json"


class InSampleError(CriticRMError):
    """Pairs are to be scored by a critic that was trained on them."""


class _Grouped(Protocol):
    @property
    def group(self) -> str: ...


def write_trained_questions(checkpoint: Path, pairs: Iterable[_Grouped]) -> None:
    """Write digests of the questions that a checkpoint was trained on, not their texts, into its folder."""
    write_json(checkpoint / FILE_NAME, {"questions": sorted({_digest(pair.group) for pair in pairs})})


def read_trained_questions(checkpoint: Path) -> frozenset[str] | None:
    """Digests of questions; None where the folder doesn't say."""
    path = checkpoint / FILE_NAME
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["questions"]) if path.is_file() else None


def trained_pairs(model: str, pairs: Sequence[_Grouped]) -> int | None:
    """How many of the pairs ask a question that the checkpoint in the folder `model` was trained on.

    None where that isn't known.
    """
    questions = read_trained_questions(Path(model))
    return None if questions is None else sum(_digest(pair.group) in questions for pair in pairs)


def refuse_in_sample(seen: int | None, n: int, *, by_reward: bool) -> None:
    """Warn where the critic was trained on `seen` of the `n` pairs.

    Raises:
        InSampleError: they are to be scored by its reward.
    """
    if not seen:
        return
    about = f"{seen} of {n} pairs ask a question that this critic was trained on"
    if by_reward:
        raise InSampleError(
            f"{about}: its reward has learnt their labels. Sample a fold that it was trained without (--fold), or give "
            "--in-sample if nothing is filtered by these scores"
        )
    logger.warning("%s: what it says of them is not what it would say of others", about)


def _digest(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()[:16]
