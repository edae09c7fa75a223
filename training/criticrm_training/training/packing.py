"""Rows that share what is the same: a pair's prompt, and a response's critiques behind it.

Also the mask that keeps them apart, and which models take it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any

import torch

SHARED, PADDING = 0, -1  # segments; a row's responses are 1, 2, and so are a response's critiques
_TAKES_A_MASK = ("sdpa", "eager")


class Row:
    """One row of a batch while it is laid out; three lists of one length.

    Attributes:
        token_ids: in the order in which they are put.
        positions: of each token in the text that it is of.
        segments: `(response, critique)` of each token; SHARED where it belongs to all of them.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[tuple[int, int]] = []

    def put(self, token_ids: Sequence[int], position: int, response: int = SHARED, critique: int = SHARED) -> range:
        """Appends tokens that begin at `position` of their text; returns where they are in the row."""
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.positions += range(position, position + len(token_ids))
        self.segments += [(response, critique)] * len(token_ids)
        return range(start, len(self.token_ids))


def shared_length(chosen: Sequence[int], rejected: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike; one less than the shorter one has, at most."""
    most = min(len(chosen), len(rejected)) - 1
    return sum(1 for _ in takewhile(bool, map(eq, chosen[:most], rejected)))


def is_worth_sharing(shared: int, chosen: int, rejected: int, d_model: int) -> bool:
    """Whether one row of a pair costs less than two.

    It saves the layers' matrix products of the shared tokens, about 24 d_model^2 operations a token and layer, and adds
    attention between the two responses, which the mask then drops, about 4 d_model operations a pair of tokens.

    Args:
        shared: tokens that both sides begin with.
        chosen, rejected: tokens of each side behind these, critiques included.
    """
    return shared * (shared + 6 * d_model) > 2 * chosen * rejected


def block_mask(segments: torch.Tensor, additive: torch.dtype | None = None) -> torch.Tensor:
    """Each token sees what is before it of its own critique, of its own response, and of what its row shares.

    Args:
        segments: `[rows, seq, 2]`, of a batch of `PairCollator`.
        additive: None gives booleans (sdpa); a dtype 0 where a token sees and the dtype's lowest number elsewhere
            (eager).

    Returns: `[rows, 1, seq, seq]`, by query and key. Padding sees what is shared, so that nothing divides by zero.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    seen = (causal & ((key == SHARED) | (key == query)).all(-1))[:, None]
    if additive is None:
        return seen
    return torch.zeros(seen.shape, dtype=additive, device=seen.device).masked_fill_(~seen, torch.finfo(additive).min)


def why_not_packed(lm: Any) -> str | None:
    """Why responses and critiques can't share a row in this model; None where they can.

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
