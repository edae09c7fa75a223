"""What a manifest says of a reward that was trained here."""

from __future__ import annotations

from pathlib import Path

import torch

from criticrm_model import Calibration, Moments, RewardCard, TrainingData

from .base import base_name
from .data import file_sha256
from .features import PairFeatures


def reward_card(
    reward: torch.Tensor,
    states: PairFeatures,
    *,
    base: str,
    instruction: str,
    max_critique_tokens: int,
    data: Path,
    pairs: int,
    reference_set: str,
) -> RewardCard:
    """The card of a reward vector, calibrated on the pairs of `states` that got critiques.

    Args:
        reward: `[d_model]`.
        pairs: how many of `data` the reward was fitted on.
        reference_set: which pairs those of `states` are, in words.
    """
    n = len(states.critiqued)
    return RewardCard(
        critique_instruction=instruction,
        max_critique_tokens=max_critique_tokens,
        base_model=base_name(base),
        training_data=(TrainingData(name=data.name, pairs=pairs, sha256=file_sha256(data)),),
        calibration=Calibration(
            reference_set=reference_set,
            n=2 * n,
            direct_score=_moments(states.direct[:n] @ reward),
            score=_moments(states.critiqued @ reward),
        ),
    )


def _moments(scores: torch.Tensor) -> Moments:
    return Moments(mean=scores.mean().item(), std=scores.std().item())
