"""Rows of a training file that an evaluation file holds too: the same question, nearly the same, or a long passage.

The passages are n-grams of words, 13 as in GPT-3 (Brown et al., arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from .conversations import as_messages
from .near_duplicates import Components, Hashes, is_among, near_duplicates, ngram_hashes, normalized_words
from .rows import read_row
from .sources import DataError, as_object, parsed, source_name
from .splits import question_group

Reason = Literal["same question", "nearly the same question", "passage"]
_PROMPTS = ("prompt", "question", "problem", "instruction", "query")  # as evaluation files name it


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of any file with prompts.

    Attributes:
        values: as the file has it.
        question: see `splits.question_group`.
    """

    source: str
    number: int
    values: dict[str, Any]
    question: str


@dataclass(frozen=True, slots=True)
class Contamination:
    """Why a row must go.

    Attributes:
        shared: the question that both have, the evaluation row's question, or the words of the passage.
    """

    row: SourceRow
    reason: Reason
    evaluation: SourceRow
    shared: str


def read_rows(source: Path | str, name: str | None = None) -> list[SourceRow]:
    """Rows of preference pairs, questions or a published benchmark.

    Args:
        name: of the source, for reports; its own, if not given.

    Raises:
        DataError: there is no such source, it is broken or empty, or a row has no prompt.
    """
    name = name or source_name(source)
    found = [SourceRow(name, number, row, question) for number, (row, question) in parsed(source, _with_question)]
    if not found:
        raise DataError(f"{source} holds no rows")
    return found


def find_contamination(
    rows: Sequence[SourceRow],
    evaluation: Sequence[SourceRow],
    *,
    near: bool = True,
    ngram: int = 13,
    common: int = 10,
) -> list[Contamination]:
    """The contaminated of `rows`, in their order, each with the first reason that holds.

    Args:
        near: also look for nearly the same questions: those that `near_duplicates` connects with one of `evaluation`.
        ngram: also look for this many words in a row, in any text of a row; 0 leaves it out.
        common: n-grams in rows of more than so many different questions of `rows` are wording of templates and
            refusals, and do not count.
    """
    same = _by_question(evaluation)
    alike = _nearly_the_same(rows, evaluation) if near else {}
    passages = _passages(rows, evaluation, ngram, common) if ngram else {}
    found = []
    for i, row in enumerate(rows):
        if row.question in same:
            found.append(Contamination(row, "same question", same[row.question], row.question))
        elif row.question in alike:
            other = alike[row.question]
            found.append(Contamination(row, "nearly the same question", other, other.question))
        elif i in passages:
            found.append(Contamination(row, "passage", *passages[i]))
    return found


def _with_question(_: int, row: Any) -> tuple[dict[str, Any], str]:
    row = as_object(row)
    field = next((field for field in _PROMPTS if row.get(field)), None)
    if field is not None:
        return row, question_group(as_messages(row[field], field))
    if "chosen" not in row or "rejected" not in row:
        raise ValueError(f"no prompt: none of the fields {', '.join(_PROMPTS)}, and no chosen and rejected")
    return row, question_group(read_row(row).prompt)


def _by_question(rows: Sequence[SourceRow]) -> dict[str, SourceRow]:
    return {row.question: row for row in reversed(rows)}  # the first of each


def _nearly_the_same(rows: Sequence[SourceRow], evaluation: Sequence[SourceRow]) -> Mapping[str, SourceRow]:
    """For each question of `rows`, the first evaluation row that it is connected with."""
    known = _by_question(evaluation)
    texts = sorted({row.question for row in rows} | known.keys())
    components = Components(len(texts))
    for i, j in near_duplicates(texts, label="near-duplicates"):
        components.join(i, j)
    held = {components.find(i): known[text] for i, text in reversed(list(enumerate(texts))) if text in known}
    return {text: held[components.find(i)] for i, text in enumerate(texts) if components.find(i) in held}


def _passages(
    rows: Sequence[SourceRow], evaluation: Sequence[SourceRow], n: int, common: int
) -> dict[int, tuple[SourceRow, str]]:
    """For each row's number, the evaluation row with the first n words in a row that both have, and these words."""
    known: dict[str, int] = {}
    held = [_row_ngrams(row, n, known) for row in tqdm(evaluation, desc="evaluation", unit="row")]
    values, first = np.unique(np.concatenate([*held, np.empty(0, np.uint64)]), return_index=True)
    ends = np.cumsum([len(found) for found in held])
    hits: dict[int, Hashes] = {}
    questions: dict[int, set[str]] = defaultdict(set)
    for i, row in enumerate(tqdm(rows, desc="training", unit="row")):
        found = _row_ngrams(row, n, known)
        shared = found[is_among(found, values)]
        if len(shared):
            hits[i] = shared
            for value in np.unique(shared).tolist():
                if len(questions[value]) <= common:
                    questions[value].add(row.question)
    passages = {}
    for i, shared in hits.items():
        rare = next((value for value in shared.tolist() if len(questions[value]) <= common), None)
        if rare is not None:
            place = first[np.searchsorted(values, np.uint64(rare))]
            owner = evaluation[int(np.searchsorted(ends, place, side="right"))]
            passages[i] = (owner, _find_words(rows[i], n, rare))
    return passages


def _row_ngrams(row: SourceRow, n: int, known: dict[str, int]) -> Hashes:
    """The n-grams of each text of a row, one after the other."""
    texts = [normalized_words(text) for text in _texts(row.values)]
    return np.concatenate([np.empty(0, np.uint64), *(ngram_hashes(w, n, known) for w in texts if len(w) >= n)])


def _find_words(row: SourceRow, n: int, value: int) -> str:
    for text in _texts(row.values):
        words = normalized_words(text)
        if len(words) >= n:
            places = np.flatnonzero(ngram_hashes(words, n) == np.uint64(value))
            if len(places):
                return " ".join(words[places[0] : places[0] + n])
    raise AssertionError("the n-gram is of this row")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
