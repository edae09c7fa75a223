"""What a Critic-RM is: checkpoint, manifest, rendering, the reward position. No HTTP, no engine, no training.

This namespace is light: exceptions, manifest and the reward's definition. What needs torch is imported from its
module: `checkpoint`, `default`, `prompt`, `reference`.
"""

from .calibration import Calibration, Moments, Scale
from .errors import (
    CheckpointError,
    ConversationError,
    CriticRMError,
    NonFiniteReward,
    PromptTooLong,
    UnsupportedModel,
)
from .manifest import REWARD_TOKEN, Manifest, Readout, Reward, RewardCard, Selection, TrainingData
from .reward import Completion, Dtype, FinishReason, RewardTokens, Settle, finite_reward, reward_positions

__all__ = [
    "REWARD_TOKEN",
    "Calibration",
    "CheckpointError",
    "Completion",
    "ConversationError",
    "CriticRMError",
    "Dtype",
    "FinishReason",
    "Manifest",
    "Moments",
    "NonFiniteReward",
    "PromptTooLong",
    "Readout",
    "Reward",
    "RewardCard",
    "RewardTokens",
    "Scale",
    "Selection",
    "Settle",
    "TrainingData",
    "UnsupportedModel",
    "finite_reward",
    "reward_positions",
]
