"""What a Critic-RM is: checkpoint, manifest, rendering, the reward position. No HTTP, no engine, no training."""

from .checkpoint import Checkpoint, assemble
from .default import build_default, resolve
from .errors import (
    CheckpointError,
    ConversationError,
    CriticRMError,
    NonFiniteReward,
    PromptTooLong,
    UnsupportedModel,
)
from .manifest import REWARD_TOKEN, Calibration, Manifest, Moments, TrainingData
from .prompt import Message, OpenConversation, Rendered, Renderer
from .reward import Completion, HiddenStates, ReferenceModel, finite_reward, reward_positions

__all__ = [
    "REWARD_TOKEN",
    "Calibration",
    "Checkpoint",
    "CheckpointError",
    "Completion",
    "ConversationError",
    "CriticRMError",
    "HiddenStates",
    "Manifest",
    "Message",
    "Moments",
    "NonFiniteReward",
    "OpenConversation",
    "PromptTooLong",
    "ReferenceModel",
    "Rendered",
    "Renderer",
    "TrainingData",
    "UnsupportedModel",
    "assemble",
    "build_default",
    "finite_reward",
    "resolve",
    "reward_positions",
]
