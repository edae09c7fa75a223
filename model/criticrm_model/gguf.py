"""Base models that come as a GGUF file: dequantised into an ordinary transformers model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from .errors import CheckpointError


def load_gguf(
    path: Path, dtype: torch.dtype = torch.float32, *, tied: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in a GGUF file, dequantised, and its tokenizer.

    The tokenizer is read from the file, unless a folder beside it holds one (`tokenizer.json`), which takes half a
    minute less.

    Args:
        tied: the published model has one matrix for embeddings and LM head, of which the file holds two quantisations:
            the LM head's, which is the finer one, is used for both.

    Raises:
        CheckpointError: the file is missing or can't be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        if path.with_name("tokenizer.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(path.parent)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            # Without dequantize=True the model stays quantised and can't be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no GGUF file that transformers can read: {error}") from error
    if tied:
        model.config.tie_word_embeddings = True
        model.get_input_embeddings().weight = model.get_output_embeddings().weight
    return model, tokenizer
