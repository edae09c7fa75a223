"""Preference pairs in every format they come in, with every fault named by its row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

from criticrm_model.prompt import Message

from .sources import DataError, parsed

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt with a preferred and a dispreferred response.

    Attributes:
        group: equal for pairs of one question (its last user turn, case and white space folded): what a split
            must keep together.
        reference: a correct solution of the prompt.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    category: str
    group: str
    reference: str | None = None


def read_pairs(source: Path | str) -> list[PreferencePair]:
    """Preference pairs of a file or a dataset (`sources.rows`), in the formats that TRL's reward trainer takes.

    - `prompt`, `chosen`, `rejected`; or `chosen` and `rejected` alone, which then begin with the prompt;
    - each of them text, or messages; `chosen` and `rejected` may be the response alone or the whole conversation;
    - text in turns (`\\n\\nHuman: ...\\n\\nAssistant: ...`, as hh-rlhf has it) is read as messages.

    `id` (the row's number unless given) and `category` are optional. Exact duplicates are dropped.

    Raises:
        DataError: the source is missing, empty or broken, a row is malformed, or two different rows share an id.
    """
    pairs: dict[tuple[Any, ...], PreferencePair] = {}
    seen: dict[str, tuple[int, tuple[Any, ...]]] = {}  # by id: row and content
    for number, pair in parsed(source, lambda number, row: _pair(row, default_id=str(number))):
        key = (*((m["role"], m["content"]) for m in pair.prompt), pair.chosen, pair.rejected)
        first, content = seen.setdefault(pair.id, (number, key))
        if content != key:
            raise DataError(f"{source}, row {number}: the id {pair.id!r} is that of row {first}, which is another pair")
        pairs.setdefault(key, pair)
    if not pairs:
        raise DataError(f"{source} holds no preference pairs")
    return list(pairs.values())


class _Grouped(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...


_G = TypeVar("_G", bound=_Grouped)


def in_question_order(items: Iterable[_G]) -> list[_G]:
    """By the hash of their question: the first n are a random sample, and the same one in a run that resumes."""
    return sorted(items, key=lambda item: (hashlib.sha256(item.group.encode()).hexdigest(), item.id))


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


def pairs_sha256(pairs: Sequence[PreferencePair]) -> str:
    """Of what the pairs say, of their ids and of their order: all that a run depends on that writes about them."""
    said = [[p.id, p.prompt, p.chosen, p.rejected] for p in pairs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def content_sha256(pairs: Iterable[PreferencePair]) -> str:
    """Of what the pairs say, in any order and from any kind of file."""
    digests = sorted(hashlib.sha256(json.dumps([p.prompt, p.chosen, p.rejected]).encode()).hexdigest() for p in pairs)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def as_messages(value: Any, field: str) -> tuple[Message, ...]:
    """Text is the user's; text in turns and messages are what they say. Raises ValueError, naming the field."""
    if isinstance(value, str) and _TURN.match(value):
        _, *parts = _TURN.split(value)
        value = [{"role": _SPEAKERS[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]
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


def question_group(prompt: Sequence[Message]) -> str:
    """Equal for prompts that ask the same: the last user turn, case and white space folded."""
    question = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), prompt[-1]["content"])
    return " ".join(question.lower().split())


def _pair(row: dict[str, Any], default_id: str) -> PreferencePair:
    chosen_turns, chosen = _response(row["chosen"], "chosen")
    rejected_turns, rejected = _response(row["rejected"], "rejected")
    given = row.get("prompt")
    if not given and not chosen_turns and not rejected_turns:
        given, chosen, rejected = _common_prefix(chosen, rejected)
    if given:
        prompt = as_messages(given, "prompt")
        for field, turns in (("chosen", chosen_turns), ("rejected", rejected_turns)):
            if turns and turns != prompt:
                raise ValueError(f"{field}: the messages before the response are not those of prompt")
    elif chosen_turns and chosen_turns == rejected_turns:
        prompt = chosen_turns
    else:
        raise ValueError("no prompt, and chosen and rejected do not begin with the same turns")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text")
    # Parquet gives None where a row lacks a field that others have.
    row_id, category = row.get("id"), row.get("category")
    return PreferencePair(
        id=default_id if row_id is None else str(row_id),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        category="all" if category is None else str(category),
        group=question_group(prompt),
        reference=row.get("reference"),
    )


def _response(value: Any, field: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the response, if any, and its text."""
    if isinstance(value, str) and not _TURN.match(value):
        return (), value
    turns = as_messages(value, field)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{field}: the last message is the {turns[-1]['role']}'s, not the assistant's")
    return turns[:-1], turns[-1]["content"]


def _common_prefix(chosen: str, rejected: str) -> tuple[str, str, str]:
    """What two texts begin with, up to the last space, and the rest of each."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    common = chosen[: sum(1 for _ in same)]
    end = max(common.rfind(" "), common.rfind("\n")) + 1
    return common[:end].strip(), chosen[end:], rejected[end:]
