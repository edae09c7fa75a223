"""Where the reward is read: the one definition that training, evaluation and serving share.

The reward is the raw logit of the reward token (docs/adr/0001). With `prompt` and `completion` the token ids of
a rendered prompt and of the critique written after it (its end-of-turn token included, if it was emitted):

- `direct_score`: the logit at the position that predicts the first token of the completion;
- `score`: the logit at the position that predicts the last emitted token of the completion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import NonFiniteReward

FinishReason = Literal["stop", "length"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def reward_positions(prompt_len: int, completion_len: int) -> tuple[int, int]:
    """Indexes into the logits of `prompt + completion`: before any critique, and after it.

    Raises:
        ValueError: an empty prompt or completion has no reward.
    """
    if prompt_len < 1 or completion_len < 1:
        raise ValueError(f"prompt and completion need at least one token, got {prompt_len} and {completion_len}")
    return prompt_len - 1, prompt_len + completion_len - 2


def finite_reward(value: float) -> float:
    """`value`, or NonFiniteReward."""
    if not math.isfinite(value):
        raise NonFiniteReward(f"the reward logit is {value}")
    return value


@dataclass(frozen=True, slots=True)
class Completion:
    """One critique and the rewards around it.

    Attributes:
        token_ids: `[completion_len]`, the end-of-turn token included when `finish_reason` is "stop".
        direct_score: reward logit before the critique.
        score: reward logit after it.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    direct_score: float
    score: float
