"""How long a critique may be where a request does not say."""

from __future__ import annotations

from criticrm_model import CriticRMError, Manifest

from .settings import Settings


def critique_limit(settings: Settings, manifest: Manifest, max_model_len: int) -> int:
    """Tokens of the longest critique unless a request says otherwise.

    Args:
        max_model_len: the longest prompt with its critique, in tokens.

    Raises:
        CriticRMError: a critique leaves no room for a prompt.
    """
    limit = min(settings.critique_tokens or manifest.max_critique_tokens, settings.max_critique_tokens)
    if limit >= max_model_len:
        raise CriticRMError(
            f"critiques of {limit} tokens leave no room for a prompt in max_model_len {max_model_len}: "
            "lower critique_tokens"
        )
    return limit
