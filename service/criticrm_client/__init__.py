"""Client of a Critic-RM service: rewards with critiques, from scripts, training loops and batch jobs.

    from criticrm_client import CriticRM

    with CriticRM("http://127.0.0.1:8000") as client:
        print(client.score("What is 7 times 8?", ["56", "54"]).rewards)

`AsyncCriticRM` has the same methods as coroutines. A reward that could not be had is an exception or a failed
result whose reward can't be read; it is never a number.
"""

from __future__ import annotations

from .arguments import Options
from .async_client import AsyncCriticRM
from .client import CriticRM
from .columns import Columns
from .error_body import ErrorInfo
from .errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    CheckpointChangedError,
    ClientClosedError,
    FileError,
    GatewayTimeoutError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    ResultError,
    ServiceUnavailableError,
    UnsupportedMediaTypeError,
)
from .outcomes import BestOf, Comparison, ItemScores
from .retries import Retries
from .schemas import Critique, CritiqueOptions, Item, Message, ModelInfo, Result, ScoreResponse, Settled, Usage
from .score_file import FileSummary

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncCriticRM",
    "AuthenticationError",
    "BestOf",
    "CheckpointChangedError",
    "ClientClosedError",
    "Columns",
    "Comparison",
    "CriticRM",
    "Critique",
    "CritiqueOptions",
    "ErrorInfo",
    "FileError",
    "FileSummary",
    "GatewayTimeoutError",
    "InternalServerError",
    "InvalidRequestError",
    "Item",
    "ItemScores",
    "Message",
    "ModelInfo",
    "NotFoundError",
    "Options",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "Result",
    "ResultError",
    "Retries",
    "ScoreResponse",
    "ServiceUnavailableError",
    "Settled",
    "UnsupportedMediaTypeError",
    "Usage",
]
