"""What frameworks hand over, as a prompt and a response of the service. What has no place there is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..arguments import lost_field
from ..chat_markers import split_response, strip_end
from ..schemas import Item
from ..score_many import as_item
from . import environment
from .tool_turns import calls_in_content


class Sample(NamedTuple):
    """Texts, or messages in any sequence (Parquet gives arrays): `{"role", "content"}`, content a text or text parts.

    templated: texts are in the policy's chat template, special tokens kept.
    calls_as_text: `tool_calls` of messages become text of their contents; else they are an error.
    row: of the data set, in which the criteria and the reference are (`environment.judged_by`).
    """

    prompt: Any
    completion: Any
    templated: bool = False
    calls_as_text: bool = False
    row: Mapping[str, Any] = MappingProxyType({})


def rows(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Rows of columns. What is no list with a value for each sample is left out: a logger, a trainer's state."""
    lists = {
        name: values
        for name, values in columns.items()
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
    }
    return [{name: values[i] for name, values in lists.items()} for i in range(count)]


def item_of(sample: Sample) -> Item:
    """The item with one response. The completion's last message is scored; those before it belong to the conversation.

    Raises:
        ValueError: a message that is no text, or does not end with the assistant's turn; says where.
    """
    prompt, completion, templated, calls, row = sample
    judged_by = environment.judged_by(row)
    if isinstance(prompt, str) and isinstance(completion, str):
        conversation, response = split_response(prompt, completion) if templated else (prompt, completion)
        return as_item({"prompt": conversation, "responses": [response], **judged_by})
    turns = [_turn("user", prompt)] if isinstance(prompt, str) else _turns(prompt, "prompt", calls)
    if isinstance(completion, str):
        response = strip_end(completion) if templated else completion
    else:
        *before, last = _turns(completion, "completion", calls)
        if last["role"] != "assistant":
            raise ValueError(f"completion ends with a turn of the {last['role']}, not the assistant's")
        turns, response = [*turns, *before], last["content"]
    if turns[-1]["role"] == "assistant":  # what the policy was made to begin with
        response = turns.pop()["content"] + response
    return as_item({"prompt": turns, "responses": [response], **judged_by})


def _turns(messages: Any, name: str, calls_as_text: bool) -> list[dict[str, str]]:
    if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
        raise ValueError(f"{name} is neither a text nor a list of messages: {type(messages).__name__}")
    turns = [_message(message, f"{name}[{index}]", calls_as_text) for index, message in enumerate(messages)]
    if not turns:
        raise ValueError(f"{name} is empty")
    return turns


def _message(message: Any, where: str, calls_as_text: bool) -> dict[str, str]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"{where} is no message with a role")
    if calls_as_text:
        message = calls_in_content(message, where)
    if lost := lost_field(message):
        raise ValueError(f"{where}.{lost} would be lost: put what it says into the content")
    return _turn(message["role"], _text(message.get("content"), f"{where}.content"))


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": "system" if role == "developer" else role, "content": content}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = [] if isinstance(content, Mapping) or not isinstance(content, Iterable) else list(content)
    if not parts or not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"{where} is not text, and the critic reads nothing else")
    return "".join(part["text"] for part in parts)
