"""The base model that a Critic-RM is made from."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from criticrm_model import CheckpointError
from criticrm_model.default import BASE_NAME, load_default_base
from criticrm_model.manifest import DEFAULT_NAME


def load_base(
    name: str, dtype: torch.dtype, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`default` (SmolLM2-135M-Instruct from its package), a folder, or a hub name.

    Args:
        device: the GPU if there is one, unless given.

    Raises:
        CheckpointError: there is no such model, or it can't be read.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == DEFAULT_NAME:
        model, tokenizer = load_default_base(dtype)
        torch.nn.Module.to(model, torch.device(device))
        return model, tokenizer
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map=device)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # what follows is advice for people who call transformers
        raise CheckpointError(
            f"the base {name} can't be loaded: give a folder or a hub name (owner/name) of an instruction-tuned "
            f"causal LM, or 'default'. {reason}"
        ) from error


def base_name(name: str) -> str:
    """As a manifest names it."""
    return BASE_NAME if name == DEFAULT_NAME else name
