"""`criticrm_client.chat_markers`, with the server's messages: the client takes templates off by the same table."""

from __future__ import annotations

from criticrm_client import chat_markers
from criticrm_client.chat_markers import TEMPLATES, find_template, strip_end

from .schemas import ChatMessage

__all__ = ["TEMPLATES", "find_template", "split_response", "split_turns", "strip_end"]


def split_turns(text: str) -> list[ChatMessage]:
    """See `criticrm_client.chat_markers.split_turns`."""
    return [ChatMessage(**turn) for turn in chat_markers.split_turns(text)]


def split_response(prompt: str, generated: str) -> tuple[list[ChatMessage], str]:
    """See `criticrm_client.chat_markers.split_response`."""
    turns, response = chat_markers.split_response(prompt, generated)
    return [ChatMessage(**turn) for turn in turns], response
