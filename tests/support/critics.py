"""A run of `CriticTrainer` on little: its rows and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from criticrm_training import CriticConfig
from support.tiny import INSTRUCTION

ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"Why {i}?",
        "chosen": f"right {i}",
        "rejected": f"wrong {i}",
        "chosen_critiques": ["It is good."],
        "rejected_critiques": [],
        "chosen_reward_critiques": ["Good.", {"text": "It is", "finish_reason": "length"}],
        "rejected_reward_critiques": ["Bad.", "It is bad."],
        "margin": 0.5 * (i % 2),
        "agreement": 0.9,
    }
    for i in range(24)
]


def settings(out: Path, **changes: Any) -> CriticConfig:
    fields: dict[str, Any] = {
        "instruction": INSTRUCTION,
        "max_critique_tokens": 12,
        "max_model_len": 256,
        "calibration_pairs": 4,
        "schedule": "constant",
        "max_steps": 3,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return CriticConfig(str(out), **(fields | changes))
