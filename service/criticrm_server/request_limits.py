"""How much one request may ask for."""

from __future__ import annotations

from criticrm_client.schemas import CritiqueOptions

from .errors import LimitExceeded
from .schemas import ScoreMany, ScoreOne
from .settings import Settings


def field_prefixes(request: ScoreOne | ScoreMany) -> list[str]:
    """What stands before the name of a field of each item, in errors."""
    return [""] if isinstance(request, ScoreOne) else [f"items[{i}]." for i in range(len(request.items))]


def check_limits(
    request: ScoreOne | ScoreMany, critique: CritiqueOptions | None, limits: Settings, max_model_len: int
) -> None:
    """Compare a request with the server's settings.

    Args:
        critique: how critiques are written; None where there are none.
        max_model_len: the longest prompt with its critique, in tokens.

    Raises:
        LimitExceeded: with the field, its value and the limit.
    """
    if len(request.items) > limits.max_items:
        raise LimitExceeded("items", len(request.items), limits.max_items, "items")
    messages = sum(1 if isinstance(item.prompt, str) else len(item.prompt) for item in request.items)
    if messages > limits.max_messages:
        field = "prompt" if isinstance(request, ScoreOne) else "items"
        raise LimitExceeded(field, messages, limits.max_messages, "messages")
    for item, where in zip(request.items, field_prefixes(request), strict=True):
        if len(item.responses) > limits.max_responses:
            raise LimitExceeded(f"{where}responses", len(item.responses), limits.max_responses, "responses")
        if isinstance(item.criteria, list) and len(item.criteria) > limits.max_criteria:
            raise LimitExceeded(f"{where}criteria", len(item.criteria), limits.max_criteria, "criteria")
        for k, some in enumerate(item.critiques or ()):
            if len(some) > limits.max_critiques:
                raise LimitExceeded(f"{where}critiques[{k}]", len(some), limits.max_critiques, "critiques a response")
        # A message is a token at the least.
        if not isinstance(item.prompt, str) and len(item.prompt) > max_model_len:
            raise LimitExceeded(f"{where}prompt", len(item.prompt), max_model_len, "messages")
    if critique is not None:
        if critique.n > limits.max_critiques:
            raise LimitExceeded("critique.n", critique.n, limits.max_critiques, "critiques a response")
        most = min(limits.max_critique_tokens, max_model_len - 1)
        if (critique.max_tokens or 0) > most:
            raise LimitExceeded("critique.max_tokens", critique.max_tokens or 0, most, "tokens")
