"""The alternative with a second copy of the weights: the same backbone as a sequence classifier."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from criticrm_model.checkpoint import Checkpoint

_BYTES = 2  # bfloat16, as served


def save_classifier(checkpoint: Checkpoint, folder: Path) -> Path:
    """`LlamaForSequenceClassification` with the reward row as its one-label head, for vLLM's pooling runner."""
    if folder.is_dir():
        return folder
    folder.mkdir()
    weights = load_file(checkpoint.folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["score.weight"] = embedding[checkpoint.manifest.reward_token_id][None].clone()  # [1, d_model]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint.folder / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "id2label": {"0": "reward"}}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint.tokenizer.save_pretrained(folder)
    return folder


def weight_bytes(folder: Path) -> int:
    """Of the parameters an engine loads, in the precision they are served in."""
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - not a mapping
    total = 0
    for shape in shapes:
        size = _BYTES
        for length in shape:
            size *= length
        total += size
    return total
