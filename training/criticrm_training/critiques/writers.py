"""Who writes critiques or answers: what they are asked, what they give, and how one is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from criticrm_model import CriticRMError, Manifest, RewardTokens
from criticrm_model.manifest import is_reward_token
from criticrm_model.prompt import Message

from .scores import ScoreBy


class WriterError(CriticRMError):
    """The model that should write can't be used."""


@dataclass(frozen=True, slots=True)
class WritingTask:
    """One response to be critiqued `n` times.

    Attributes:
        seed: of its own, so that its drafts are independent of its neighbours.
        prefix: text that every draft begins with; the model goes on from there.
        label: whose it is, for errors: "pair 'a1', chosen".
    """

    prompt: tuple[Message, ...]
    response: str
    instruction: str
    seed: int
    prefix: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a policy is to answer; a `seed` of its own makes its answers independent of their neighbours.

    `label` says whose it is, for errors.
    """

    messages: tuple[Message, ...]
    seed: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model wrote.

    Attributes:
        text: the task's prefix, and what the model wrote after it.
        finish_reason: "stop" where the model ended it.
        tokens: that the model wrote, its end included; the prefix is not counted. None: an endpoint doesn't say.
        score: the critic's score of the whole text; None where none was requested.
        truncated: the conversation or the response was cut to the writer's length; None: an endpoint doesn't say, and
            a conversation is never cut.
    """

    text: str
    finish_reason: str
    tokens: int | None
    score: float | None = None
    truncated: bool | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `max_tokens` of each draft, its end included; `score_by` as in `records`."""

    n: int
    temperature: float
    max_tokens: int
    score_by: ScoreBy = "written"


@dataclass(frozen=True, slots=True)
class Request:
    """What a writer is to write, and how its drafts are sampled."""

    asked: WritingTask | Conversation
    sampling: Sampling


class Critic(Protocol):
    """Writes critiques."""

    name: str

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
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


@runtime_checkable
class Streaming(Protocol):
    """Begins the next group of requests while the last drafts of one are written: an engine is never half empty."""

    def stream(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
        """The drafts of each group, in order. Raises WriterError."""
        ...


def drafts_in_order(critic: Critic, groups: Iterable[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
    """The drafts of each request of each group, in order; groups overlap where the critic can stream them."""
    if isinstance(critic, Streaming):
        return critic.stream(groups)
    return (write_group(critic, group) for group in groups)


def write_group(critic: Any, group: Sequence[Request]) -> list[list[Draft]]:
    """The drafts of each request, in order. Where conversations are among them, the critic is a policy as well."""
    found: dict[int, list[Draft]] = {}
    for kind, sampling in dict.fromkeys((type(request.asked), request.sampling) for request in group):
        places = [i for i, r in enumerate(group) if (type(r.asked), r.sampling) == (kind, sampling)]
        write = critic.write if kind is WritingTask else critic.answer
        found |= zip(places, write([group[i].asked for i in places], sampling), strict=True)
    return [found[i] for i in range(len(group))]


def reward_tokens(vocabulary: Mapping[str, int], folder: str) -> RewardTokens | None:
    """The reward tokens of the model in a folder or of a hub name, which are never written; None if it has none.

    Raises:
        CheckpointError: there are several, and no manifest says what they weigh.
    """
    ids = [token_id for token, token_id in vocabulary.items() if is_reward_token(token)]
    if len(ids) > 1:
        return Manifest.load(Path(folder)).reward_tokens
    return RewardTokens((ids[0],)) if ids else None
