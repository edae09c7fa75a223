"""The shapes of `/score` and `/v1/model`, which the client and the server share. No torch, no engine."""

from .model_info import ModelInfo, ServedModel
from .requests import (
    MAX_SEED,
    CritiqueOptions,
    FailFastList,
    Item,
    Message,
    PromptField,
    ResponsesField,
    Role,
    Scorable,
    ScoreOptions,
    WritingOptions,
    report_one_unknown_field,
)
from .results import Critique, NamedReward, Result, ScoreEnvelope, ScoreResponse, TokenEvent, Trace, Usage

__all__ = [
    "MAX_SEED",
    "Critique",
    "CritiqueOptions",
    "FailFastList",
    "Item",
    "Message",
    "ModelInfo",
    "NamedReward",
    "PromptField",
    "ResponsesField",
    "Result",
    "Role",
    "Scorable",
    "ScoreEnvelope",
    "ScoreOptions",
    "ScoreResponse",
    "ServedModel",
    "TokenEvent",
    "Trace",
    "Usage",
    "WritingOptions",
    "report_one_unknown_field",
]
