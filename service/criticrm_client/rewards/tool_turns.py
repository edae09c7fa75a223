"""Calls of tools in a message's own field, as text of its content: the critic reads nothing else.

A call is written as `/verify` writes one, `{"name", "arguments"}` in JSON, after whatever the message says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def calls_in_content(message: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The message without `tool_calls`; each call is a line of its content.

    Args:
        where: the message's place, for errors.

    Raises:
        ValueError: a call without a function's name and arguments, or beside a content that is not text.
    """
    calls = message.get("tool_calls")
    if calls is None:
        return message
    if isinstance(calls, str | Mapping) or not isinstance(calls, Iterable):
        raise ValueError(f"{where}.tool_calls is no list")
    lines = [_line(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]
    if not lines:
        return message
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise ValueError(f"{where}.content is not text, beside calls of tools")
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join([content, *lines] if content else lines)}


def _line(call: Any, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or "arguments" not in function:
        raise ValueError(f"{where} is no call of a function with its name and arguments")
    try:
        return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"{where}.arguments: {error}") from error
