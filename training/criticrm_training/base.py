"""The base model that a Critic-RM is made from."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from criticrm_model import CheckpointError, Manifest
from criticrm_model.default import BASE_NAME, load_default_base
from criticrm_model.gguf import load_gguf
from criticrm_model.manifest import DEFAULT_BASE_NAME, DEFAULT_NAME, MANIFEST_NAME

_DEFAULT = (DEFAULT_NAME, DEFAULT_BASE_NAME)


def load_base(
    name: str, dtype: torch.dtype, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`default` (the embedded checkpoint's base, also `default-base`), a folder, a GGUF file, or a hub name.

    Args:
        device: the GPU if there is one, unless given; "auto" spreads it over all of them.

    Raises:
        CheckpointError: there is no such model, or it can't be read.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = device or best
    if name in _DEFAULT or name.endswith(".gguf"):
        model, tokenizer = load_default_base(dtype) if name in _DEFAULT else load_gguf(Path(name), dtype)
        torch.nn.Module.to(model, torch.device(best if device == "auto" else device))
        return model, tokenizer
    if (Path(name) / MANIFEST_NAME).is_file() and not Manifest.load(Path(name)).lm_head:
        raise CheckpointError(
            f"the base {name} was imported from a classifier without an LM head, so it can't write: import it again "
            "with --lm-head and the language model that it was trained from"
        )
    try:
        # ZeRO-3 splits a model while it is loaded, and takes no device map.
        device_map = None if device == "cpu" else device
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map=device_map)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # what follows is advice for people who call transformers
        raise CheckpointError(
            f"the base {name} can't be loaded: give a folder or a hub name (owner/name) of an instruction-tuned "
            f"causal LM, or 'default'. {reason}"
        ) from error


def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16: a GPU, or a CPU with the instructions.

    Others are several times faster in float32.
    """
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def base_name(name: str) -> str:
    """As a manifest names it. A Critic-RM's folder means nothing elsewhere: its own base goes on to be the base.

    Raises:
        CheckpointError: the manifest there is malformed.
    """
    if (Path(name) / MANIFEST_NAME).is_file():
        return Manifest.load(Path(name)).base_model
    return BASE_NAME if name in _DEFAULT else name
