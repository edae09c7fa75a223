"""A row of a preference file: its prompt and its two responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from criticrm_model.prompt import Message

from .conversations import TURN, as_messages, as_response, in_turns, require_plain
from .near_duplicates import CJK, normalized_words

# What the writer of the responses saw, and a pair has no place for.
_CONTEXT = (
    "system",
    "system_prompt",
    "history",
    "tools",
    "functions",
    "documents",
    "images",
    "image",
    "videos",
    "audio",
)
_OTHER_PROMPTS = ("question", "instruction", "query", "input", "conversations", "messages")
# Where a text may be cut between two words: after white space, and beside a character that is a word by itself.
_BETWEEN_WORDS = re.compile(rf"(?<=\s)|(?<=[{CJK}\u3000-\u303f\uff00-\uff65])|(?=[{CJK}])")
# Between a prompt and its response in one text; an indentation is the response's.
_SEPARATOR = re.compile(r"\s*\n(?:Assistant: ?)?| ?")
_LEAST_REPEATED_WORDS = 3  # both responses to a shorter prompt ("Hello") may begin with it by chance


@dataclass(frozen=True, slots=True)
class Row:
    """What a row holds, without what names it.

    Attributes:
        repeated_prompt: both responses began with the prompt, which was taken off them.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    repeated_prompt: bool = False


def read_row(row: Any) -> Row:
    r"""The prompt and the responses of a row, in any of these forms.

    - `prompt`, `chosen`, `rejected`; or `chosen` and `rejected` alone, which then begin with the prompt;
    - each of them text, or messages (`role` and `content`, or ShareGPT's `from` and `value`); `chosen` and `rejected`
      may be the response alone or the whole conversation, as messages or as text;
    - text in turns (`\n\nHuman: ...\n\nAssistant: ...`, as hh-rlhf has it) is read as messages;
    - a prompt may end by opening the assistant's turn; with words in it, the responses go on from these.

    Raises:
        KeyError: a field is missing.
        ValueError: naming the field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object with the fields prompt, chosen and rejected, not {type(row).__name__}")
    for field in _CONTEXT:
        if row.get(field):
            raise ValueError(f"{field} would be lost: put what it says into the messages of prompt")
    given = row.get("prompt")
    sides = [_response(row, field) for field in ("chosen", "rejected")]
    turns, (chosen, rejected) = [t for t, _ in sides], [text for _, text in sides]
    repeated = False
    if given in ("", []):
        if not all(turns):
            raise ValueError("no prompt: the field prompt is empty")
        given = None  # the conversations hold it
    if isinstance(given, str):
        require_plain(given, "prompt")
    if given is not None:
        prompt = as_messages(given, "prompt")
        if repeated := _repeat(given, row["chosen"], row["rejected"]):
            chosen, rejected = (row[field][len(given) :] for field in ("chosen", "rejected"))
            turns = [None, None]
        for field, before in zip(("chosen", "rejected"), turns, strict=True):
            if before and not _is_same(before, prompt):
                raise ValueError(f"{field}: the messages before the response are not those of prompt")
        if prompt[-1]["role"] == "assistant" and not all(turns):
            begun = _begun(prompt, turns)
            prompt = prompt[:-1]
            if not (chosen.startswith(begun) and rejected.startswith(begun)):
                chosen, rejected = begun + chosen, begun + rejected
        elif repeated and not given[-1].isspace():
            chosen, rejected = (_SEPARATOR.sub("", text, count=1) for text in (chosen, rejected))
    elif turns == [None, None]:
        words, chosen, rejected = _common_prefix(row, chosen, rejected)
        prompt = as_messages(words, "prompt")
    elif turns[0] and turns[1] and _is_same(turns[0], turns[1]):
        prompt = as_messages([dict(turn) for turn in turns[0]], "prompt")
    else:
        raise ValueError(f"no prompt{_name_misnamed(row)}, and chosen and rejected do not begin with the same turns")
    if not chosen.strip():
        raise ValueError("chosen: it says nothing, so it can't be the better response")
    if chosen.strip() == rejected.strip():
        raise ValueError(
            "chosen and rejected are the same text" + ("" if chosen == rejected else ", but for white space")
        )
    return Row(prompt, chosen, rejected, repeated)


def _response(row: dict[str, Any], field: str) -> tuple[tuple[Message, ...] | None, str]:
    """The turns before a response, None where it is text alone, and its text."""
    value, given = row[field], row.get("prompt")
    turns, text = as_response(value, field)
    if (
        given
        and turns
        and isinstance(value, str)
        and not TURN.match(value)
        and not _is_same(turns, as_messages(given, "prompt"))
    ):
        return None, value  # a reply that is a dialogue itself
    return turns, text


def _is_same(turns: Sequence[Message], prompt: Sequence[Message]) -> bool:
    return [(t["role"], t["content"].strip()) for t in turns] == [(t["role"], t["content"].strip()) for t in prompt]


def _repeat(prompt: Any, chosen: Any, rejected: Any) -> bool:
    """Both responses are texts of the prompt and a response."""
    if not isinstance(prompt, str) or not all(
        isinstance(text, str) and text.startswith(prompt) for text in (chosen, rejected)
    ):
        return False
    if in_turns(prompt):  # as turns they are compared below, unless the response's own turn begins in the prompt
        return bool(as_messages(prompt, "prompt")[-1]["role"] == "assistant") and not any(
            TURN.search(text, len(prompt)) for text in (chosen, rejected)
        )
    ends_a_word = not prompt[-1].isalnum() or all(
        not text[len(prompt) : len(prompt) + 1].isalnum() or _BETWEEN_WORDS.match(text, len(prompt))
        for text in (chosen, rejected)
    )
    return ends_a_word and len(normalized_words(prompt)) >= _LEAST_REPEATED_WORDS


def _begun(prompt: Sequence[Message], turns: Sequence[tuple[Message, ...] | None]) -> str:
    """The words of the response that a prompt ends in."""
    if any(before is not None for before in turns):
        raise ValueError(
            "prompt: its last message is the assistant's, and so are the responses: where they go on from it, put it "
            "at the beginning of both; where it is a turn of its own, give both with the whole conversation"
        )
    if len(prompt) == 1:
        raise ValueError("no prompt: the field prompt holds the assistant's turn alone")
    return prompt[-1]["content"]


def _name_misnamed(row: dict[str, Any]) -> str:
    named = next((field for field in _OTHER_PROMPTS if row.get(field)), None)
    return f" (is {named!r} the prompt? rename it)" if named else ""


def _common_prefix(row: dict[str, Any], chosen: str, rejected: str) -> tuple[str, str, str]:
    """What two texts begin with, up to the last end of a word, and the rest of each."""
    if misnamed := _name_misnamed(row):
        raise ValueError(f"no prompt{misnamed}")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    length = sum(1 for _ in same)
    end = max((m.start() for m in _BETWEEN_WORDS.finditer(chosen, 0, length)), default=0)
    if not chosen[:end].strip():
        raise ValueError("no prompt, and chosen and rejected do not begin with the same text")
    return chosen[:end].strip(), chosen[end:], rejected[end:]
