"""Tokens of a request, as OpenAI's APIs count them."""

from __future__ import annotations

from pydantic import BaseModel

from criticrm_client.schemas import Result

from ...results import total_usage


class TokenUsage(BaseModel):
    """`completion_tokens` are the critiques'."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(results: list[Result]) -> TokenUsage:
    """The tokens of all results together."""
    usage = total_usage(results)
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.critique_tokens,
        total_tokens=usage.prompt_tokens + usage.critique_tokens,
    )
