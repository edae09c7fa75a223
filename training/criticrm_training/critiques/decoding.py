"""Batched decoding by plain transformers: one KV cache, each sequence with a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from criticrm_model.reward import RewardTokens, finite_reward

# Finished sequences leave the batch once this share of it has ended: selecting the others copies the cache.
_ENDED_SHARE = 0.25
_GROUPED = "criticrm_grouped"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One sequence that a model wrote.

    Attributes:
        token_ids: `[length]`, the stop token included where it was written.
        stopped: it ended by itself, not at the limit.
        reward: raw logit of the reward token at the position that predicts the last written token
            (criticrm_model.reward); None for a model without that token.
    """

    token_ids: list[int]
    stopped: bool
    reward: float | None


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Let `model` attend as `_grouped_attention` does, if its attention is sdpa: it decodes faster."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(_GROUPED, _grouped_attention)
        AttentionMaskInterface.register(_GROUPED, sdpa_mask)
        model.set_attn_implementation(_GROUPED)


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention that reads keys and values once for all query heads that share them, where there is one new token.

    transformers' sdpa copies them for each query head as soon as there is a mask, which left padding needs: six times
    the memory traffic of a Qwen2.5-1.5B, at the step that is bound by it.

    Args:
        query: `[batch, heads, new, d_head]`. key, value: `[batch, key_value_heads, seq, d_head]`.
        attention_mask: `[batch, 1, new, seq]` of booleans, or None.

    Returns: `[batch, new, heads, d_head]`.
    """
    batch, heads, new, d_head = query.shape
    shared = key.shape[1]
    if new > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    grouped = query.reshape(batch, shared, heads // shared, d_head)
    scores = (grouped @ key.transpose(2, 3)) * (d_head**-0.5 if scaling is None else scaling)  # [b, kv, group, seq]
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, :, :, : key.shape[2]], torch.finfo(scores.dtype).min)
    attended = scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
    return attended.reshape(batch, 1, heads, d_head), None


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    n: int,
    temperature: float,
    max_tokens: int,
    stop_token_ids: Sequence[int],
    rewards: RewardTokens | None,
) -> list[list[Decoded]]:
    """`n` continuations of each prompt, all in one batch; the prompts are computed once.

    A token is drawn by inverting the cumulative distribution at a uniform number of the sequence's own seed, so a
    draw does not depend on the sequences beside it but through rounding.

    Args:
        prompts: `[batch]` token ids of any length; padded on the left here.
        seeds: `[batch]`.
        temperature: 0 is greedy.
        rewards: never written; their logits are read before they are banned.

    Raises:
        NonFiniteReward
    """
    device = model.device
    width = max(map(len, prompts))
    pad = stop_token_ids[0]
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)  # [batch, width]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids, mask, mask.cumsum(1) - 1, cache)  # [batch, vocab]
    if n > 1:
        cache.batch_repeat_interleave(n)
        logits, mask = logits.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)

    rows = len(prompts) * n
    uniforms = torch.from_numpy(_uniforms(seeds, n, max_tokens)).to(device) if temperature else None  # [rows, steps]
    stops = torch.tensor(list(stop_token_ids), device=device)
    written = torch.full((rows, max_tokens), pad, dtype=torch.int32, device=device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    scores = torch.zeros(rows, dtype=torch.float32, device=device)
    weights = torch.tensor(rewards.weights if rewards else (), device=device)
    stopped = torch.zeros(rows, dtype=torch.bool, device=device)
    alive = torch.arange(rows, device=device)  # places of the batch's sequences
    lens = mask.sum(1)  # positions of the next token

    for step in range(max_tokens):
        active = ~stopped[alive]
        if rewards is not None:
            raw = logits[:, list(rewards.ids)].float() @ weights
            scores[alive] = torch.where(active, raw, scores[alive])
            logits[:, list(rewards.ids)] = -torch.inf
        tokens = logits.argmax(-1) if uniforms is None else _draw(logits, temperature, uniforms[alive, step])
        written[alive, step] = torch.where(active, tokens.int(), written[alive, step])
        lengths[alive] += active
        stopped[alive] |= torch.isin(tokens, stops) & active
        if step + 1 == max_tokens:
            break
        if step % 8 == 7:  # asking how many have ended makes a GPU wait
            keep = (~stopped[alive]).nonzero().flatten()
            if not len(keep):
                break
            if len(keep) <= (1 - _ENDED_SHARE) * len(alive):
                cache.batch_select_indices(keep)
                alive, tokens, mask, lens = alive[keep], tokens[keep], mask[keep], lens[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _forward(model, tokens[:, None], mask, lens[:, None], cache)
        lens = lens + 1
    return _decoded(written.tolist(), lengths.tolist(), stopped.tolist(), scores.tolist(), n, rewards is not None)


def _forward(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Logits of the last position, `[batch, vocab]`."""
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


def _draw(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row, `[rows]`, at `uniforms`, `[rows]` in [0, 1)."""
    # In place and in float32: with large batches this is the largest tensor there is.
    probabilities = logits.float().div_(temperature).softmax(-1)
    cumulative = probabilities.cumsum_(-1)  # [rows, vocab]
    targets = uniforms[:, None] * cumulative[:, -1:]  # rounding leaves the sum a little beside 1
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _uniforms(seeds: Sequence[int], n: int, steps: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """`[batch * n, steps]` float32 in [0, 1): of each seed its own rows."""
    return np.concatenate([np.random.default_rng(seed).random((n, steps), dtype=np.float32) for seed in seeds])


def _decoded(
    written: list[list[int]],
    lengths: list[int],
    stopped: list[bool],
    scores: list[float],
    n: int,
    scored: bool,
) -> list[list[Decoded]]:
    sequences = [
        Decoded(ids[:length], end, finite_reward(score) if scored else None)
        for ids, length, end, score in zip(written, lengths, stopped, scores, strict=True)
    ]
    return [sequences[start : start + n] for start in range(0, len(sequences), n)]
