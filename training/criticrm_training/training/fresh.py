"""Critiques that the model writes while it is trained, for the choice of the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from ..critiques.records import SIDES
from .collator import CritiqueTokens, Example

_TOKENS_PER_BATCH = 16_384  # padded prompts and critiques: bounds memory whatever the lengths


@torch.no_grad()
def write_critiques(
    lm: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_token_ids: Sequence[int],
    max_tokens: int,
    suppress_token_ids: Sequence[int] = (),
) -> list[list[int]]:
    """A greedy critique after each rendered prompt, with the token that ends it, if it ended.

    Args:
        lm: a causal LM, perhaps under adapters, in evaluation mode.
        max_tokens: at most so many tokens a critique, its end included.
        suppress_token_ids: that are no words: the reward token, where the base is a Critic-RM.
    """
    written: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    base = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
    # A base's own may hold a repetition penalty, which the service doesn't apply.
    before, base.generation_config = base.generation_config, GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stop_token_ids),
        pad_token_id=stop_token_ids[0],
        suppress_tokens=list(suppress_token_ids) or None,
    )
    try:
        while order:
            size = max(1, _TOKENS_PER_BATCH // (len(prompts[order[0]]) + max_tokens))
            batch, order = order[:size], order[size:]
            drafts = _write([prompts[i] for i in batch], base, settings)
            for i, tokens in zip(batch, drafts, strict=True):
                end = next((k for k, token in enumerate(tokens) if token in stop_token_ids), len(tokens) - 1)
                written[i] = tokens[: end + 1]
    finally:
        base.generation_config = before
    return written


def _write(prompts: list[Sequence[int]], lm: Any, settings: GenerationConfig) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = settings.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=lm.device)  # [batch, width]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=lm.device)
    tokens: list[list[int]] = lm.generate(ids, attention_mask=mask, generation_config=settings)[:, width:].tolist()
    return tokens


def with_critiques(examples: list[Example], written: Sequence[list[int]]) -> list[Example]:
    """The examples with these critiques, whose rewards are read; those for which there are none have none.

    Args:
        written: token ids, of the first examples' chosen and rejected responses in turn.
    """
    fresh = iter(written)
    for example in examples:
        for name in SIDES:
            tokens = next(fresh, None)
            critiques = [] if tokens is None else [CritiqueTokens(token_ids=tokens, learn=False, reward=True)]
            example[name]["critiques"] = critiques
    return examples
