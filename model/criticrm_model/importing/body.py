"""The body of a reward model as a causal LM, with an LM head that a reward row can be put into."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..errors import CheckpointError, UnsupportedModel
from ..stored_head import HEAD_NAMES, stored_matrix
from .internlm2 import llama_config, llama_weights
from .recognise import OriginalHead, is_gate
from .weights import StoredWeights

# Buffers that older versions of transformers stored.
_COMPUTED = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")
_OASST = {"gpt_neox_reward_model": "gpt_neox"}


@dataclass(frozen=True, slots=True)
class Body:
    """A causal LM.

    Attributes:
        lm_head: whether it can generate text: it has an LM head, its own or another checkpoint's.
    """

    model: PreTrainedModel
    lm_head: bool


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises CheckpointError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the config can't be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}: config.json holds no settings")
    return config


def load_body(
    folder: Path, head: OriginalHead, weights: StoredWeights, *, dtype: Any = "auto", lm_head_from: Path | None = None
) -> Body:
    """Load it on the CPU.

    A classifier without an LM head gets its input embeddings as one, which take no more memory: the reward row is all
    that is read of it.

    Args:
        lm_head_from: folder of the model whose LM head it gets instead.

    Raises:
        UnsupportedModel: transformers has no causal LM of this architecture, or weights are left over.
        CheckpointError
    """
    settings = read_config(folder)
    converted = settings.get("model_type") == "internlm2"
    config = llama_config(settings) if converted else _config(folder, settings)
    text = config.get_text_config()
    names = {_renamed(name, config) for name in weights.names}
    tied = bool(text.tie_word_embeddings)
    own_head = tied or any(name.endswith(HEAD_NAMES) or name == "output.weight" for name in names)
    if not own_head:
        text.tie_word_embeddings = config.tie_word_embeddings = lm_head_from is None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"transformers has no causal LM of the architecture {config.model_type}")
    given = set(weights.names)
    if converted:
        tensors: dict[str, torch.Tensor] | None = llama_weights(weights, config)  # type: ignore[arg-type]  # it is Llama's
    elif names != given:
        tensors = {_renamed(name, config): weights.read(name) for name in given}
    else:
        tensors = None
    model = _load(folder, config, tensors, head, dtype, lacks_head=not own_head and lm_head_from is not None)
    if not own_head and lm_head_from is not None:
        _give_head(model, lm_head_from)
    return Body(model, own_head or lm_head_from is not None)


def _config(folder: Path, settings: dict[str, Any]) -> PretrainedConfig:
    kind = _OASST.get(str(settings.get("model_type")))
    try:
        if kind is None:
            config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            return config
        return AutoConfig.for_model(kind, **{k: v for k, v in settings.items() if k not in ("model_type", "pooling")})
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedModel(
            f"transformers has no model of the type {settings.get('model_type')}: {reason}"
        ) from error


def _renamed(name: str, config: PretrainedConfig) -> str:
    """A weight's name in transformers: without the prefixes of wrappers (TRL, Starling)."""
    name = name.removeprefix("module.").removeprefix("pretrained_model.")
    if name.startswith(("model.model.", "model.lm_head.")):
        return name.removeprefix("model.")
    if name.startswith("transformer.") and config.model_type in ("llama", "mistral", "qwen2", "qwen3"):
        return name.replace("transformer.", "model.", 1)
    return name


def _load(
    folder: Path,
    config: PretrainedConfig,
    tensors: dict[str, torch.Tensor] | None,
    head: OriginalHead,
    dtype: Any,
    *,
    lacks_head: bool,
) -> PreTrainedModel:
    try:
        if tensors is not None and dtype == "auto":
            dtype = Counter(tensor.dtype for tensor in tensors.values()).most_common(1)[0][0]
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model, info = kind.from_pretrained(
            None if tensors is not None else folder,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder} can't be loaded as a causal LM: {reason}") from error
    known = {_renamed(name, config) for name in (head.weight, head.bias) if name}
    if head.objectives:
        known |= set(filter(is_gate, info["unexpected_keys"]))
    extra = [n for n in info["unexpected_keys"] if n not in known and not n.endswith(_COMPUTED)]
    missing = [n for n in info["missing_keys"] if not (lacks_head and n.endswith(HEAD_NAMES))]
    if extra or missing:
        what = f"has weights that are no part of it ({extra[0]})" if extra else f"lacks {missing[0]}"
        raise UnsupportedModel(
            f"as a {type(model).__name__} it {what}: its reward may depend on more than a causal decoder and one row"
        )
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def _give_head(model: PreTrainedModel, source: Path) -> None:
    """The LM head of another model, whose vocabulary may be a few padding rows smaller or larger."""
    rows = stored_matrix(source, bool(AutoConfig.from_pretrained(source).get_text_config().tie_word_embeddings))
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    if rows.shape[1] != head.in_features:
        raise CheckpointError(
            f"{source}: its LM head is for {rows.shape[1]} dimensions, the reward model has {head.in_features}"
        )
    count = min(len(rows), head.out_features)
    head.weight.zero_()
    head.weight[:count] = rows[:count].to(head.weight.dtype)
