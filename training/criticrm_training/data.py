"""Preference pairs from a file, with every fault named by its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criticrm_model import CriticRMError
from criticrm_model.prompt import Message


class DataError(CriticRMError):
    """A preference file can't be read; the message names file, row and field."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt with a preferred and a dispreferred response.

    Attributes:
        group: equal for pairs of one question (its last user turn, case and white space folded): what a split
            must keep together.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    category: str
    group: str


def read_pairs(path: Path) -> list[PreferencePair]:
    """Read `.jsonl` or `.parquet` rows with `prompt` (text or messages), `chosen` and `rejected`.

    `chosen` and `rejected` are text, or messages: the response alone, or the prompt again with the response last
    (then `prompt` may be left out). `id` (the row's number unless given) and `category` are optional. Exact
    duplicates are dropped.

    Raises:
        DataError: the file is missing, empty or broken, a row is malformed, or two different rows share an id.
    """
    pairs: dict[tuple[Any, ...], PreferencePair] = {}
    seen: dict[str, tuple[int, tuple[Any, ...]]] = {}  # by id: row and content
    for number, row in _rows(path):
        try:
            pair = _pair(row, default_id=str(number))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}, row {number}: {reason}") from error
        key = (*((m["role"], m["content"]) for m in pair.prompt), pair.chosen, pair.rejected)
        first, content = seen.setdefault(pair.id, (number, key))
        if content != key:
            raise DataError(f"{path}, row {number}: the id {pair.id!r} is that of row {first}, which is another pair")
        pairs.setdefault(key, pair)
    if not pairs:
        raise DataError(f"{path} holds no preference pairs")
    return list(pairs.values())


def in_question_order(pairs: Iterable[PreferencePair]) -> list[PreferencePair]:
    """By the hash of their question: the first n are a random sample, and the same one in a run that resumes."""
    return sorted(pairs, key=lambda pair: (hashlib.sha256(pair.group.encode()).hexdigest(), pair.id))


def split_by_prompt(
    pairs: Iterable[PreferencePair], validation_share: float, seed: int = 0
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """`(training, validation)`: no question is in both. A pair's side depends on its question and the seed alone."""
    training: list[PreferencePair] = []
    validation: list[PreferencePair] = []
    for pair in pairs:
        digest = hashlib.sha256(f"{seed}\0{pair.group}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (validation if share < validation_share else training).append(pair)
    return training, validation


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Each row with its number from 1, which in a text file is its line's."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        number = 0
        try:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no parquet that can be read beyond row {number} ({error})") from error
    elif path.suffix in {".jsonl", ".json"}:
        with path.open("rb") as file:  # decoded line by line: a text file would not say which one is bad
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield number, json.loads(line.decode())
                    except ValueError as error:
                        raise DataError(f"{path}, row {number}: not JSON in UTF-8 ({error})") from error
    else:
        raise DataError(f"{path}: preference files are .jsonl or .parquet")


def _pair(row: dict[str, Any], default_id: str) -> PreferencePair:
    chosen_turns, chosen = _response(row["chosen"], "chosen")
    rejected_turns, rejected = _response(row["rejected"], "rejected")
    if row.get("prompt"):
        prompt = _messages(row["prompt"], "prompt")
        for field, turns in (("chosen", chosen_turns), ("rejected", rejected_turns)):
            if turns and turns != prompt:
                raise ValueError(f"{field}: the messages before the response are not those of prompt")
    elif chosen_turns and chosen_turns == rejected_turns:
        prompt = chosen_turns
    else:
        raise ValueError("no prompt, and chosen and rejected do not begin with the same turns")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text")
    question = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), prompt[-1]["content"])
    # Parquet gives None where a row lacks a field that others have.
    row_id, category = row.get("id"), row.get("category")
    return PreferencePair(
        id=default_id if row_id is None else str(row_id),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        category="all" if category is None else str(category),
        group=" ".join(question.lower().split()),
    )


def _response(value: Any, field: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the response, if any, and its text."""
    if isinstance(value, str):
        return (), value
    turns = _messages(value, field)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{field}: the last message is the {turns[-1]['role']}'s, not the assistant's")
    return turns[:-1], turns[-1]["content"]


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    if isinstance(value, str) and value:
        return (Message(role="user", content=value),)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field}: neither text nor a list of messages")
    messages = []
    for i, turn in enumerate(value):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise ValueError(f"{field}[{i}]: a message needs a role and a content that is text")
        if turn.get("role") not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"{field}[{i}].role: {turn.get('role')!r} is none of system, user, assistant, tool")
        messages.append(Message(role=turn["role"], content=turn["content"]))
    return tuple(messages)
