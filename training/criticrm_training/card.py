"""What a manifest says of a reward that was trained here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from criticrm_model import Calibration, Moments, RewardCard, TrainingData

from .base import base_name
from .data.pairs import PreferencePair, content_sha256
from .linear_probe.features import PairFeatures


def reward_card(
    reward: torch.Tensor,
    states: PairFeatures,
    *,
    base: str,
    instruction: str,
    max_critique_tokens: int,
    data: str,
    pairs: Sequence[PreferencePair],
    reference_set: str,
) -> RewardCard:
    """The card of a reward vector, calibrated on the pairs of `states` that got critiques.

    Args:
        reward: `[d_model]`.
        data: the name of the file or dataset that the pairs come from.
        pairs: those that the reward was fitted on.
        reference_set: which pairs those of `states` are, in words.
    """
    n = len(states.critiqued)
    return RewardCard(
        critique_instruction=instruction,
        max_critique_tokens=max_critique_tokens,
        base_model=base_name(base),
        training_data=(TrainingData(name=data, pairs=len(pairs), sha256=content_sha256(pairs)),),
        calibration=Calibration(
            reference_set=reference_set,
            n=2 * n,
            direct_score=_moments(states.direct[:n] @ reward),
            score=_moments(states.critiqued @ reward),
        ),
    )


def _moments(scores: torch.Tensor) -> Moments:
    return Moments(mean=scores.mean().item(), std=scores.std().item())
