"""Who writes critiques or answers: what they are asked, what they give, and how one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from criticrm_model import CriticRMError
from criticrm_model.prompt import Message
from criticrm_model.reward import Dtype

from ..children import exit_on_sigterm
from ..endpoint import Endpoint
from .records import ScoreBy


class WriterError(CriticRMError):
    """The model that should write can't be used."""


@dataclass(frozen=True, slots=True)
class Task:
    """One response to be critiqued `n` times.

    Attributes:
        seed: of its own, so that its drafts are independent of its neighbours.
        prefix: text that every draft begins with; the model goes on from there.
    """

    prompt: tuple[Message, ...]
    response: str
    instruction: str
    seed: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a policy is to answer; a `seed` of its own makes its answers independent of their neighbours."""

    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model wrote. `tokens` counts its end; `score` is what the critic gives it, where it was asked to."""

    text: str
    finish_reason: str
    tokens: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `max_tokens` of each draft, its end included; `score_by` as in `records`."""

    n: int
    temperature: float
    max_tokens: int
    score_by: ScoreBy = "written"


class Critic(Protocol):
    """Writes critiques."""

    name: str

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        """`n` drafts for each task, in order. Raises WriterError."""
        ...


class Policy(Protocol):
    """Answers conversations. Both kinds of critic do."""

    name: str

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        """`n` drafts for each conversation, in order. Raises WriterError."""
        ...

    def close(self) -> None:
        """Give back what it holds: an engine's memory and its processes."""
        ...


class Writer(Critic, Policy, Protocol):
    """Does both."""


def open_writer(
    model: str, *, endpoint: str | None, key: str | None, concurrency: int, max_model_len: int, dtype: Dtype = "auto"
) -> Writer:
    """`model` at an endpoint, if one is given, or in this process, which must be a command's. Raises as they do."""
    from .endpoint_writer import EndpointWriter  # these import this module
    from .vllm_writer import VLLMWriter

    if endpoint:
        return EndpointWriter(Endpoint(endpoint, key=key, concurrency=concurrency), model)
    exit_on_sigterm()
    return VLLMWriter(model, max_model_len=max_model_len, dtype=dtype)
