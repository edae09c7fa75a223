"""The conversations that `criticrm verify` scores: of a file, or the embedded set."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from criticrm_model import CriticRMError


def read_conversations(path: Path | None, limit: int) -> list[tuple[Any, str]]:
    """`(messages, response)` of the first `limit` rows, from a file or the embedded set.

    Raises:
        CriticRMError: the file holds none, or a row has no prompt or response.
    """
    source = path or files("criticrm_server") / "conversations.jsonl"
    found: list[tuple[Any, str]] = []
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CriticRMError(f"{source} can't be read: {error.strerror}") from error
    for number, line in enumerate(lines[:limit], start=1):
        try:
            row = json.loads(line)
            prompt = row["prompt"]
            response = row["responses"][0] if "responses" in row else row["chosen"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CriticRMError(f"{source}, row {number}: no prompt with a response ({error})") from error
        found.append(([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, response))
    if not found:
        raise CriticRMError(f"{source} holds no conversations")
    return found
