"""The answers to each question, scored by the service: before a critique, and after a greedy one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...endpoint import Endpoint, EndpointError
from ...parts import in_chunks, read_parts, write_in_parts
from .questions import Question

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the question; a list has an element for each answer
        ("direct_scores", pa.list_(pa.float64())),
        ("scores", pa.list_(pa.float64())),  # after the critique
        ("critiques", pa.list_(pa.string())),
        ("ended", pa.list_(pa.bool_())),  # the critiques, by themselves
        ("truncated", pa.list_(pa.bool_())),
    ]
)
_QUESTIONS_PER_PART = 16

Answered = tuple[Question, Mapping[str, Any]]


def score_answers(
    questions: Sequence[Question],
    answers: Sequence[Mapping[str, Any]],
    service: Endpoint,
    *,
    out: Path,
    run: dict[str, Any],
) -> list[dict[str, Any]]:
    """The rows of `SCHEMA`, one a question, in order; in parts under `out`. A question is one request.

    Args:
        answers: `responses` to each question, as `policy.answer` gives them.
        run: what identifies the Critic-RM and the answers.

    Raises:
        EndpointError, PartsError
    """

    def work(chunk: Sequence[Answered]) -> list[dict[str, Any]]:
        given = service.post_all("/score", [_body(*answered) for answered in chunk])
        return [_row(question, body["results"]) for (question, _), body in zip(chunk, given, strict=True)]

    asked = list(zip(questions, answers, strict=True))
    write_in_parts(out, run, in_chunks(asked, _QUESTIONS_PER_PART), work, SCHEMA, "score")
    return read_parts(out)


def _body(question: Question, row: Mapping[str, Any]) -> dict[str, Any]:
    responses = row["responses"]
    return {"prompt": list(question.prompt), "responses": responses, "critique": True, "on_overflow": "truncate"}


def _row(question: Question, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    for result in results:
        if result["error"]:
            raise EndpointError(f"question {question.id}, answer {result['index']}: {result['error']['message']}")
    critiques = [result["critiques"][0] for result in results]
    return {
        "id": question.id,
        "direct_scores": [result["direct_score"] for result in results],
        "scores": [result["score"] for result in results],
        "critiques": [critique["text"] for critique in critiques],
        "ended": [critique["finish_reason"] == "stop" for critique in critiques],
        "truncated": [result["status"] == "truncated" for result in results],
    }
