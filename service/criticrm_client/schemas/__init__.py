"""The shapes of `/score` and `/v1/model`, which the client and the server share. No torch, no engine."""

from .base import FailFastList, report_one_unknown_field
from .critique_options import MAX_SEED, CritiqueOptions, Settled, WritingOptions
from .model_info import ModelInfo, ServedModel
from .requests import (
    Criterion,
    Item,
    Message,
    PromptField,
    ResponsesField,
    Role,
    Scorable,
    ScoreOptions,
    SuppliedCritique,
)
from .results import (
    CompareBy,
    CriterionResult,
    Critique,
    NamedReward,
    Result,
    ScoreEnvelope,
    ScoreResponse,
    TokenEvent,
    Trace,
    Usage,
)

__all__ = [
    "MAX_SEED",
    "CompareBy",
    "Criterion",
    "CriterionResult",
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
    "Settled",
    "SuppliedCritique",
    "TokenEvent",
    "Trace",
    "Usage",
    "WritingOptions",
    "report_one_unknown_field",
]
