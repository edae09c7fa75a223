"""A run of `criticrm train` on little: its pairs, their critiques, its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from criticrm_training.critiques.records import SCHEMA, SIDES, Critique
from criticrm_training.parts import write_in_parts
from criticrm_training.training.train_config import TrainConfig
from support.tiny import INSTRUCTION

TOPICS = ["sky", "sea", "light", "water"]


def write_data(folder: Path) -> Path:
    """Separable: a chosen response says "right", a rejected one "wrong"; so do the critiques."""
    ids = [f"{topic}-{i}" for i in range(12) for topic in TOPICS]
    rows = [{"id": id, "prompt": f"Why {id}?", "chosen": "right " + id, "rejected": "wrong " + id} for id in ids]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    critiques = [
        Critique(id, side, 0, f"The reply is {'good' if side == 'chosen' else 'bad'}.", 5, "stop", 7).row()
        for id in ids
        for side in SIDES
    ]
    write_in_parts(folder / "critiques", {}, [[0]], lambda _: critiques, SCHEMA, "made")
    return folder


def write_config(path: Path, base: Path, data: Path, **changes: Any) -> TrainConfig:
    trainer = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "eval_steps": 5,
        "save_steps": 5,
        "logging_steps": 5,
        "report_to": [],
        "disable_tqdm": True,
    }
    fields = {
        "base": str(base),
        "data": str(data / "pairs.jsonl"),
        "critiques": str(data / "critiques"),
        "validation_critiques": str(data / "critiques"),
        "validation_share": 0.25,
        "instruction": INSTRUCTION,
        "max_critique_tokens": 12,
        "max_model_len": 256,
        "calibration_pairs": 6,
        "objective": {"schedule": "constant", "weight": 0.3},
        "trainer": trainer | changes.pop("trainer", {}),
    }
    path.write_text(yaml.safe_dump(fields | changes))
    return TrainConfig.read(path)
