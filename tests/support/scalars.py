"""Tiny scalar reward models as they are published, made with transformers' own classes, and conversations for them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from criticrm_model.prompt import Message
from support.tiny import fill, make_tokenizer

CLASSES: dict[str, tuple[type[Any], type[Any], str]] = {
    "llama": (LlamaConfig, LlamaForSequenceClassification, "llama3"),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification, "chatml"),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification, "chatml"),
    "mistral": (MistralConfig, MistralForSequenceClassification, "mistral"),
    "gemma3": (Gemma3TextConfig, Gemma3TextForSequenceClassification, "gemma"),
}
_WORDS = [
    "the",
    "sky",
    "is",
    "blue",
    "because",
    "air",
    "scatters",
    "light",
    "",
    "more\nthan",
    "what",
    "(remains)",
    " 7",
]


def sizes(vocab_size: int, *, tied: bool) -> dict[str, Any]:
    """Of a decoder that real vLLM runs on a CPU (head size 32)."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def make_classifier(
    folder: Path,
    kind: str = "llama",
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    shard: str = "5GB",
    labels: int = 1,
    pad_token_id: int | None = 2,
) -> Path:
    """`...ForSequenceClassification` with its tokenizer."""
    config_class, model_class, style = CLASSES[kind]
    tokenizer = make_tokenizer(style)
    config = config_class(**sizes(len(tokenizer), tied=tied) | {"pad_token_id": pad_token_id, "num_labels": labels})
    model = model_class(config)
    fill(model)
    return save(model.to(dtype), tokenizer, folder, shard)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, shard: str = "5GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def edit_weights(folder: Path, drop: tuple[str, ...] = (), **added: torch.Tensor) -> None:
    """Of a model in one file; `__` in a name stands for a dot."""
    file = folder / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(drop or ("\0",))}
    save_file(weights | {k.replace("__", "."): v for k, v in added.items()}, file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_with_head(folder: Path, head: str, *, bias: float | None = None, kept_lm_head: bool = True) -> Path:
    """A Llama whose reward is another linear head than `score`."""
    tokenizer = make_tokenizer("llama3")
    model = LlamaForCausalLM(LlamaConfig(**sizes(len(tokenizer), tied=False)))
    fill(model)
    save(model, tokenizer, folder)
    edit_weights(folder, () if kept_lm_head else ("lm_head.",), **{f"{head}__weight".replace(".", "__"): _row()})
    if bias is not None:
        edit_weights(folder, **{f"{head}__bias".replace(".", "__"): torch.tensor([bias])})
    return folder


def make_internlm2(folder: Path, *, bias: bool = False) -> Path:
    """InternLM2's layout and names, and its reward at an appended token."""
    tokenizer = make_tokenizer("chatml")
    size, inner, heads, kv_heads, head_size = 64, 128, 4, 2, 16
    draw = torch.Generator().manual_seed(3)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.15

    weights = {"model.tok_embeddings.weight": matrix(len(tokenizer), size) * 4, "v_head.weight": _row()}
    weights["model.norm.weight"] = 1 + matrix(size)
    for i in range(2):
        layer = f"model.layers.{i}"
        weights |= {
            f"{layer}.attention.wqkv.weight": matrix((heads + 2 * kv_heads) * head_size, size),
            f"{layer}.attention.wo.weight": matrix(size, size),
            f"{layer}.feed_forward.w1.weight": matrix(inner, size),
            f"{layer}.feed_forward.w3.weight": matrix(inner, size),
            f"{layer}.feed_forward.w2.weight": matrix(size, inner),
            f"{layer}.attention_norm.weight": 1 + matrix(size),
            f"{layer}.ffn_norm.weight": 1 + matrix(size),
        }
        if bias:
            weights[f"{layer}.attention.wqkv.bias"] = matrix((heads + 2 * kv_heads) * head_size)
            weights[f"{layer}.attention.wo.bias"] = matrix(size)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["InternLM2ForRewardModel"],
        "model_type": "internlm2",
        "bias": bias,
        "vocab_size": len(tokenizer),
        "hidden_size": size,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "reward_token_id": 7,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _row() -> torch.Tensor:
    return torch.cos(torch.arange(64) * 0.7).float()[None]  # [1, d_model]


def conversations(count: int = 64) -> list[tuple[list[Message], str]]:
    """Of one to three questions, each with its response; words that begin and end with white space among them."""
    draw = random.Random(5)

    def text() -> str:
        return " ".join(draw.choices(_WORDS, k=draw.randint(3, 20))) or "why"

    made = []
    for i in range(count):
        roles = ("user", "assistant") * (i % 3) + ("user",)
        made.append(([Message(role=role, content=text()) for role in roles], text()))  # type: ignore[arg-type]
    return made
