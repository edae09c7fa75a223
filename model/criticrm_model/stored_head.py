"""The LM head in a model's folder, read without the rest of the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, UnsupportedModel

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# How architectures name the LM head, and the input embeddings where the head is tied to them.
HEAD_NAMES = ("lm_head.weight", "embed_out.weight")
_INPUT_NAMES = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")


def stored_row(folder: Path, token_id: int, tied: bool) -> torch.Tensor:
    """As `stored_rows`, of one token: `[d_model]`."""
    return stored_rows(folder, [token_id], tied)[0]


def stored_rows(folder: Path, token_ids: Sequence[int], tied: bool) -> torch.Tensor:
    """Rows of the LM head as stored, `[tokens, d_model]` float32, without reading the rest of the weights.

    Raises:
        CheckpointError, UnsupportedModel
    """
    with _stored_head(folder, tied) as head:
        rows = head.get_shape()[0]
        if max(token_ids) >= rows:
            raise CheckpointError(f"{folder}: the LM head has {rows} rows, the reward token is {max(token_ids)}")
        return torch.stack([head[token_id : token_id + 1][0].float() for token_id in token_ids])


def stored_matrix(folder: Path, tied: bool) -> torch.Tensor:
    """The LM head as stored, `[vocab, d_model]`. Raises CheckpointError, UnsupportedModel."""
    with _stored_head(folder, tied) as head:
        matrix: torch.Tensor = head[:]
        return matrix


@contextmanager
def _stored_head(folder: Path, tied: bool) -> Iterator[Any]:
    """The LM head, or the input embeddings that it is tied to, as a slice of their file."""
    try:
        index = folder / _INDEX
        if index.is_file():
            files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            with safe_open(folder / _SINGLE, framework="pt") as weights:
                files = dict.fromkeys(weights.keys(), _SINGLE)
        names = _INPUT_NAMES if tied else HEAD_NAMES
        name = next((key for key in files if key.endswith(names)), None)
        if name is None:
            raise UnsupportedModel(
                f"{folder} stores no LM head (a weight ending in one of {', '.join(names)}); was it quantised?"
            )
        with safe_open(folder / files[name], framework="pt") as weights:
            yield weights.get_slice(name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the weights can't be read: {error}") from error


def row_sha256(row: torch.Tensor) -> str:
    """The digest of a row, `[d_model]`, as float32 little-endian bytes."""
    return hashlib.sha256(row.float().contiguous().numpy().astype("<f4").tobytes()).hexdigest()
