"""InternLM2 as Llama: the same computation under other names, its queries, keys and values in one matrix.

InternLM2 is no model of transformers itself; as Llama it needs no code of its own, there and in vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig

from ..errors import UnsupportedModel
from .weights import StoredWeights

_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "model.tok_embeddings": "model.embed_tokens",
    "output": "lm_head",
}
_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Raises UnsupportedModel: its positions are scaled in a way that Llama's are not."""
    if config.get("rope_scaling"):
        raise UnsupportedModel(f"internlm2 with rope_scaling {config['rope_scaling']} is not what Llama computes")
    same = {name: config[name] for name in _SAME if name in config}
    rope = {"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10000.0))}
    return LlamaConfig(
        **same,
        rope_parameters=rope,
        attention_bias=bool(config.get("bias")),
        dtype=config.get("dtype") or config.get("torch_dtype"),
    )


def llama_weights(weights: StoredWeights, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """All but the reward's head, under Llama's names."""
    converted: dict[str, torch.Tensor] = {}
    for name in weights.names:
        stem, _, end = name.rpartition(".")
        if ".attention.wqkv" in name:
            layer = stem.removesuffix("attention.wqkv")
            for part, tensor in zip("qkv", split_qkv(weights.read(name), config), strict=True):
                converted[f"{layer}self_attn.{part}_proj.{end}"] = tensor
        elif not name.startswith("v_head."):
            for old, new in _NAMES.items():
                if stem == old or stem.endswith(f".{old}"):
                    stem = stem.removesuffix(old) + new
                    break
            converted[f"{stem}.{end}"] = weights.read(name)
    return converted


def split_qkv(packed: torch.Tensor, config: LlamaConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of `wqkv`, whose rows are grouped by key-value head: its queries, its key, its value.

    Args:
        packed: `[(heads + 2 * kv_heads) * head_size, ...]`.
    """
    head_size = config.hidden_size // config.num_attention_heads
    kv_heads = config.num_key_value_heads
    grouped = packed.unflatten(0, (kv_heads, -1, head_size))  # [kv_heads, queries + 2, head_size, ...]
    parts = (grouped[:, :-2], grouped[:, -2:-1], grouped[:, -1:])
    queries, keys, values = (part.flatten(0, 2).contiguous() for part in parts)
    return queries, keys, values
