"""Conversations as rows hold them: text, text in turns, messages. What can't be carried over is refused, not lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from criticrm_model.prompt import Message, Role

TURN = re.compile(r"\r?\n\r?\n(Human|User|Assistant): ?")
_BEGINS = re.compile(r"\s*(Human|User|Assistant): ?")
_ANSWERS = re.compile(r"\r?\n\r?\nAssistant:")
_OPENED = re.compile(r"\n\s*Assistant:\s*\Z")
# How prompts end that some model's chat template has rendered already: they would be rendered a second time.
_RENDERED = re.compile(
    r"(?:<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model|\[/INST\]"
    r"|<\|assistant\|>|<\uff5cAssistant\uff5c>|###? ?(?:Response|Assistant) ?:|(?:^|\s)ASSISTANT:|\n\s*assistant:)\s*\Z"
)
_SPEAKERS: Mapping[str, Role] = {"Human": "user", "User": "user", "Assistant": "assistant"}
_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
}
# What a message may say beside its content, by the names that OpenAI, DeepSeek and others give it.
_SAID_ELSEWHERE = (
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "audio",
    "images",
)


def as_messages(value: Any, field: str) -> tuple[Message, ...]:
    r"""A prompt: text is the user's; text in turns, and messages, are what they say.

    A last assistant's turn that is only opened (`\n\nAssistant:` at the end of a text, or a message without
    content) is left out: the template opens the response's turn.

    Raises:
        ValueError: naming the field.
    """
    turns = as_turns(value, field)
    while turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns = turns[:-1]
    if not any(turn["content"].strip() for turn in turns):
        raise ValueError(f"no prompt: the field {field} says nothing")
    return turns


def as_question(value: Any, field: str) -> tuple[Message, ...]:
    """A prompt whose responses are turns of their own.

    Raises:
        ValueError: naming the field; also where the prompt ends in words of the assistant.
    """
    prompt = as_messages(value, field)
    if prompt[-1]["role"] == "assistant":
        raise ValueError(
            f"{field}: its last message is the assistant's, and so are the responses; where they go on from it, leave "
            "it out and put it at the beginning of each response, else end with what they answer"
        )
    return prompt


def require_plain(prompt: str, field: str) -> None:
    """Raises ValueError: the text ends as a chat template ends it, which would be one turn's words then."""
    if marker := _RENDERED.search(prompt):
        raise ValueError(
            f"{field}: it ends by opening the assistant's turn, with {marker[0].strip()!r}, which is the template's "
            "to do: give the conversation as messages, or the user's words alone"
        )


def as_response(value: Any, field: str) -> tuple[tuple[Message, ...] | None, str]:
    """The turns before the response, and its text. The turns are None where the response is text, not a message.

    Raises:
        ValueError: naming the field.
    """
    if isinstance(value, str) and not in_turns(value):
        return None, value
    turns = as_turns(value, field)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{field}: the last message is the {turns[-1]['role']}'s, not the assistant's")
    return turns[:-1], turns[-1]["content"]


def as_turns(value: Any, field: str) -> tuple[Message, ...]:
    """At least one turn. Raises ValueError, naming the field."""
    if isinstance(value, str) and value:
        return _text_turns(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field}: neither text nor a list of messages")
    return tuple(_message(turn, f"{field}[{i}]") for i, turn in enumerate(value))


def in_turns(text: str) -> bool:
    """As hh-rlhf writes conversations; the first marker may have lost its empty line to a strip."""
    return bool(TURN.match(text) or (_BEGINS.match(text) and _ANSWERS.search(text)))


def _text_turns(text: str) -> tuple[Message, ...]:
    if not in_turns(text) and not _OPENED.search(text):
        return (Message(role="user", content=text),)
    opened = _OPENED.search(text)
    if opened:  # whatever white space there is around the marker
        text = text[: opened.start()] + "\n\nAssistant: "
    if in_turns(text):
        text = "\n\n" + text.lstrip()
    first, *parts = TURN.split(text)
    turns = [
        Message(role=_SPEAKERS[speaker], content=content)
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return (Message(role="user", content=first), *turns) if first.strip() else tuple(turns)


def _message(turn: Any, field: str) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"{field}: a message needs a role and a content that is text")
    for name in _SAID_ELSEWHERE:
        if turn.get(name):
            raise ValueError(f"{field}.{name} would be lost: put what it says into the content, or leave the row out")
    if "role" not in turn and "from" in turn:  # ShareGPT
        if turn["from"] not in _SHAREGPT:
            raise ValueError(f"{field}.from: {turn['from']!r} is none of {', '.join(_SHAREGPT)}")
        return Message(role=_SHAREGPT[turn["from"]], content=_content(turn.get("value"), f"{field}.value"))
    content = _content(turn.get("content"), field)
    if turn.get("role") not in _ROLES:
        raise ValueError(f"{field}.role: {turn.get('role')!r} is none of {', '.join(_ROLES)}")
    return Message(role=cast("Role", turn["role"]), content=content)


def _content(value: Any, field: str) -> str:
    """Text, or OpenAI's list of parts: the texts of these, a line each."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError(f"{field}: a message needs a role and a content that is text")
    texts = []
    for i, part in enumerate(value):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"{field}.content[{i}]: a part of the type {kind!r} would be lost; only text is read")
        texts.append(text)
    return "\n".join(texts)
