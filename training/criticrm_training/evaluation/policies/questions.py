"""Questions whose answers can be graded: the rows of a data set that have a correct solution."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criticrm_model.prompt import Message

from ...answers import Answer, equal, final_answer
from ...data.conversations import as_question
from ...data.sources import DataError, as_object, rows
from ...data.splits import in_question_order, question_group
from ..items import EvaluationItem

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its answer.

    Attributes:
        answer: of the reference.
        responses: candidate answers in the data; may be empty.
        group: equal for prompts that end in the same question: what an interval resamples.
    """

    id: str
    prompt: tuple[Message, ...]
    answer: Answer
    responses: tuple[str, ...]
    group: str


def read_questions(source: Path | str, *, limit: int = 0, with_responses: bool = False) -> list[Question]:
    """Every prompt of the rows that have a `reference`, once, in an order drawn by hash.

    A row: `prompt` (text or messages), `reference` (a solution that ends in its answer), optional `id` (the row's
    number unless given) and `responses` (texts). Preference pairs with a reference are such rows.

    Args:
        limit: only so many questions (0: all).
        with_responses: each question must have responses, all the same number.

    Raises:
        DataError: no row has a reference, a row is malformed, its reference has no answer, or rows that share a prompt
            or an id contradict each other.
    """
    found: dict[str, Question] = {}  # by prompt
    ids: dict[str, str] = {}
    skipped, count = 0, None
    for number, row in rows(source):
        try:
            # Parquet gives None where a row lacks a field that others have.
            row = as_object(row)
            if row.get("reference") is None:
                skipped += 1
                continue
            question = _question(row, default_id=str(number))
            if with_responses:
                count = count or len(question.responses)
                if not count or len(question.responses) != count:
                    raise ValueError(f"responses: {len(question.responses)} where each row needs {count or 'some'}")
            prompt = json.dumps(question.prompt)
            first = found.setdefault(prompt, question)
            if not equal(first.answer, question.answer):
                raise ValueError(f"reference: another answer than that of {first.id!r}, which asks the same")
            if first.responses != question.responses:
                raise ValueError(f"responses: others than those of {first.id!r}, which asks the same")
            if ids.setdefault(question.id, prompt) != prompt:
                raise ValueError(f"id: {question.id!r} is that of another question")
        except (KeyError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{source}, row {number}: {reason}") from error
    if not found:
        raise DataError(f"{source}: no row has a field 'reference', a correct solution to grade answers against")
    questions = in_question_order(found.values())[: limit or None]
    logger.info("%d of %d questions (%d rows have no reference)", len(questions), len(found), skipped)
    return questions


def questions_sha256(questions: Sequence[Question]) -> str:
    """The digest of the questions' prompts and references, in this order."""
    content = [[q.id, q.prompt, q.responses, str(q.answer)] for q in questions]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def answered(question: Question, responses: Sequence[str]) -> EvaluationItem:
    """A question with responses to score; which of them are correct is not known yet."""
    return EvaluationItem(question.id, question.prompt, tuple(responses), 0, "", question.group)


def _question(row: dict[str, Any], default_id: str) -> Question:
    prompt = as_question(row["prompt"], "prompt")
    reference, responses, row_id = row["reference"], row.get("responses"), row.get("id")
    if not isinstance(reference, str):
        raise ValueError("reference: no text")
    answer = final_answer(reference)
    if not answer:
        raise ValueError(f"reference: no answer that can be graded in {reference[-60:]!r}")
    if responses is not None and not (isinstance(responses, list) and all(isinstance(r, str) for r in responses)):
        raise ValueError("responses: no list of texts")
    return Question(
        id=default_id if row_id is None else str(row_id),
        prompt=prompt,
        answer=answer,
        responses=tuple(responses or ()),
        group=question_group(prompt),
    )
