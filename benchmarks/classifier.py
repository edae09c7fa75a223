"""The rival's second copy of the weights: the same backbone and reward vector, as a sequence classifier."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from criticrm_model.checkpoint import Checkpoint


def save_classifier(checkpoint: Checkpoint, folder: Path) -> Path:
    """`...ForSequenceClassification` with the reward row as its one-label head, for vLLM's pooling runner."""
    if folder.is_dir():
        return folder
    folder.mkdir()
    weights = {}
    for file in checkpoint.folder.glob("*.safetensors"):
        weights |= load_file(file)
    # The LM head, or the embedding it is tied to: [vocabulary, d_model].
    head = weights.pop("lm_head.weight", weights["model.embed_tokens.weight"])
    weights["score.weight"] = head[checkpoint.manifest.reward_token_id][None].clone()  # [1, d_model]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    (architecture,) = config["architectures"]
    config |= {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "num_labels": 1,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    checkpoint.tokenizer.save_pretrained(folder)
    return folder


def stored_weights(folder: Path) -> int:
    """How many numbers the weights of a model are; a tied one is stored once.

    Counted in the files: vLLM's CPU build repacks matrices into buffers that are no parameters.
    """
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count
