"""Several critiques in one row behind one prompt: the mask that keeps them apart, and which models take it."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from .collator import PROMPT

_TAKES_A_MASK = ("sdpa", "eager")


def block_mask(segments: torch.Tensor, additive: torch.dtype | None = None) -> torch.Tensor:
    """Each token sees what is before it of the prompt and of its own critique.

    Args:
        segments: `[rows, seq]`, of a batch of `PairCollator`.
        additive: None gives booleans (sdpa); a dtype 0 where a token sees and the dtype's lowest number elsewhere
            (eager).

    Returns: `[rows, 1, seq, seq]`, by query and key. Padding sees the prompt, so that nothing divides by zero.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    seen = (causal & ((key == PROMPT) | (key == query)))[:, None]
    if additive is None:
        return seen
    return torch.zeros(seen.shape, dtype=additive, device=seen.device).masked_fill_(~seen, torch.finfo(additive).min)


def why_not_packed(lm: Any) -> str | None:
    """Why critiques can't share their prompt's row in this model; None where they can.

    Args:
        lm: a causal LM of transformers, without adapters.
    """
    config = lm.config.get_text_config()
    attention = config._attn_implementation
    if attention not in _TAKES_A_MASK:
        return f"the attention {attention} takes no mask ({' and '.join(_TAKES_A_MASK)} do)"
    if lm._is_stateful or "position_ids" not in inspect.signature(lm.get_decoder().forward).parameters:
        return f"{config.model_type} is no transformer that accepts position ids"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds or (window and not getattr(config, "layer_types", None)):
        return f"{config.model_type} has layers of limited attention ({', '.join(sorted(kinds)) or 'sliding window'})"
    return None
