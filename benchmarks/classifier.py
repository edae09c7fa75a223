"""The rival's second copy of the weights: the same backbone and reward vector, as a sequence classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def weight_bytes(model: Any) -> int:
    """Of a loaded `torch.nn.Module`'s parameters; a tied one counts once. Runs in vLLM's worker process."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
