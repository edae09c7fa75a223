"""A fitted reward on its own: the vector in `reward.safetensors`, what is known of it in `reward.json`."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import CheckpointError
from .files import whole, write_text
from .manifest import RewardCard

VECTOR_FILE = "reward.safetensors"
CARD_FILE = "reward.json"


def save_reward_vector(reward: torch.Tensor, card: RewardCard, folder: Path) -> None:
    """Write a reward vector, `[d_model]` float32, and its card."""
    with whole(folder / VECTOR_FILE) as unfinished:
        save_file({"reward": reward.contiguous()}, unfinished)
    write_text(folder / CARD_FILE, card.model_dump_json(indent=2) + "\n")


def load_reward_vector(folder: Path) -> tuple[torch.Tensor, RewardCard]:
    """Read what `save_reward_vector` wrote.

    Raises:
        CheckpointError: a file is missing or malformed.
    """
    try:
        reward = load_file(folder / VECTOR_FILE)["reward"]
        card = RewardCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except (OSError, KeyError, SafetensorError, ValidationError) as error:
        raise CheckpointError(f"{folder} holds no fitted reward: {error}") from error
    return reward, card
