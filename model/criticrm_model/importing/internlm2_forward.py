"""InternLM2's own forward pass, slow and simple, from its description (arXiv 2403.17297).

Its import is compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .weights import StoredWeights


@torch.inference_mode()
def internlm2_hidden(
    token_ids: torch.Tensor, weights: StoredWeights, config: Mapping[str, Any], dtype: torch.dtype
) -> torch.Tensor:
    """The last position's hidden state after the final norm, `[d_model]`.

    Args:
        token_ids: `[seq]`.
    """

    def tensor(name: str) -> torch.Tensor:
        return weights.read(name).to(dtype)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x32 = x.float()
        scaled = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + config["rms_norm_eps"])
        return tensor(f"{name}.weight") * scaled.to(dtype)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        bias = tensor(f"{name}.bias") if f"{name}.bias" in weights.names else None
        return F.linear(x, tensor(f"{name}.weight"), bias)

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_size = config["hidden_size"] // heads
    turn = _rotation(len(token_ids), head_size, float(config.get("rope_theta", 10000.0)), dtype)
    x = tensor("model.tok_embeddings.weight")[token_ids]  # [seq, d_model]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        packed = linear(norm(x, f"{layer}.attention_norm"), f"{layer}.attention.wqkv")
        packed = packed.view(len(x), kv_heads, heads // kv_heads + 2, head_size)
        q = packed[:, :, :-2].reshape(len(x), heads, head_size)
        k, v = packed[:, :, -2], packed[:, :, -1]  # [seq, kv_heads, head_size]
        q, k = _rotate(q, turn), _rotate(k, turn)
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=heads != kv_heads,
        )[0]  # [heads, seq, head_size]
        x = x + linear(attended.transpose(0, 1).reshape(len(x), -1), f"{layer}.attention.wo")
        h = norm(x, f"{layer}.ffn_norm")
        gate = F.silu(linear(h, f"{layer}.feed_forward.w1")) * linear(h, f"{layer}.feed_forward.w3")
        x = x + linear(gate, f"{layer}.feed_forward.w2")
    return norm(x[-1], "model.norm")


def _rotation(length: int, size: int, theta: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary positions, each `[seq, 1, head_size]`."""
    inverse = theta ** -(torch.arange(0, size, 2).float() / size)
    angles = torch.arange(length).float()[:, None] * inverse
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]
