"""What is sent and what comes back. Held equal to the server's OpenAPI document by a test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from typing_extensions import TypedDict  # pydantic's own dependency; it takes no other before Python 3.12

if TYPE_CHECKING:
    from .errors import APIError

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not Unicode: a lone surrogate at position {error.start}") from error
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_unicode)]  # what JSON can carry


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: Text


Prompt: TypeAlias = str | Sequence[Message]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class CritiqueOptions(_Sent):
    """How critiques are written; what is None is the server's to decide.

    Attributes:
        n: critiques a response; the score is their mean.
        max_tokens: longest critique; the checkpoint's own limit unless given.
        temperature: 0 is greedy. Unless given: 0 for one critique, 0.7 for several.
        seed: repeats the samples of a request that runs alone.
        include: return the critiques, not only their rewards.
    """

    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    include: bool = True


class Item(_Sent):
    """One prompt, text or a conversation, and the responses to it. `id` comes back with each result."""

    prompt: Annotated[
        Annotated[Text, Field(min_length=1), Tag("<text>")]
        | Annotated[tuple[Message, ...], Field(min_length=1), Tag("<messages>")],
        Discriminator(lambda value: "<text>" if isinstance(value, str) else "<messages>"),
    ]
    responses: tuple[Text, ...] = Field(min_length=1)
    id: str | None = Field(None, max_length=256)


ItemLike: TypeAlias = Item | Mapping[str, Any] | tuple[Prompt, Sequence[str]]


class Options(TypedDict, total=False):
    """Of one request.

    critique: True writes one greedy critique a response; False scores before any: faster, less informed.
    on_overflow: a prompt that is too long is an error, or is cut and said to be ("truncated").
    normalize: standardise scores with the checkpoint's own mean and deviation.
    """

    critique: bool | CritiqueOptions | Mapping[str, Any]
    on_overflow: Literal["error", "truncate"]
    normalize: bool


class _Received(BaseModel):
    """Frozen. Fields that a newer server adds are ignored."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), defer_build=True)


class Critique(_Received):
    """One critique and the reward after it. `tokens` counts the end-of-turn token."""

    text: str
    score: float = Field(allow_inf_nan=False)
    finish_reason: Literal["stop", "length"]
    tokens: int


class Usage(_Received):
    """Tokens. `cached_tokens` of the prompt's were found in the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    critique_tokens: int = 0


class ErrorInfo(_Received):
    """Why there is no reward. `details`: one mapping a fault, with `field`, `limit` and `actual` where they apply."""

    code: str
    message: str
    request_id: str
    details: list[dict[str, Any]]


class ErrorBody(_Received):
    error: ErrorInfo


class Result(_Received):
    """Of one response.

    Attributes:
        index: of the response in its item.
        score: mean over the critiques; without critiques, `direct_score`. None where `status` is "error".
        direct_score: the reward before any critique.
        score_std: sample deviation over the critiques, where there are several.
        warnings: "empty_response" where there was nothing to judge.
    """

    id: str | None
    index: int
    status: Literal["ok", "truncated", "error"]
    score: float | None = Field(allow_inf_nan=False)
    direct_score: float | None = Field(allow_inf_nan=False)
    score_std: float | None = Field(allow_inf_nan=False)
    critiques: list[Critique]
    warnings: list[str]
    error: ErrorInfo | None
    usage: Usage

    @property
    def reward(self) -> float:
        """The score, which is there. Raises ResultError where it is not."""
        if self.score is None:
            from .errors import ResultError

            raise ResultError(self.error or ErrorInfo(code="missing", message="no score", request_id="", details=[]))
        return self.score


class ScoreResponse(_Received):
    """The answer to one request; `results` in the request's order."""

    id: str
    model: str
    model_version: str
    usage: Usage
    results: list[Result]

    @property
    def rewards(self) -> list[float]:
        """Of all responses. Raises ResultError if one has none."""
        return [result.reward for result in self.results]


class ItemScores(BaseModel):
    """What became of one item of `score_many`: its results, or the error that kept it from having any."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    item: Item
    results: list[Result]
    model_version: str | None
    error: Any = Field(None, description="An APIError, or None.")

    @property
    def rewards(self) -> list[float]:
        """One a response. Raises the item's error, or ResultError if a response has no reward."""
        if self.error is not None:
            raise self.error
        return [result.reward for result in self.results]

    @property
    def failure(self) -> APIError | None:
        """Why not all rewards are there: the item's error, or that of its first response without one."""
        from .errors import APIError

        try:
            _ = self.rewards
        except APIError as error:
            return error
        return None


class Comparison(BaseModel):
    """Two responses to one prompt."""

    model_config = ConfigDict(frozen=True)

    first: Result
    second: Result

    @property
    def margin(self) -> float:
        """Reward of the first minus that of the second."""
        return self.first.reward - self.second.reward

    @property
    def probability(self) -> float:
        """That the first is the better one, by the Bradley-Terry model that rewards are trained with."""
        return 0.5 * (1 + math.tanh(self.margin / 2))  # the logistic function, for any margin

    @property
    def preferred(self) -> int | None:
        """0 for the first, 1 for the second; None for a tie."""
        return None if self.margin == 0 else int(self.margin < 0)


class BestOf(BaseModel):
    """The response with the highest reward. `results` are of all, in their order."""

    model_config = ConfigDict(frozen=True)

    index: int
    response: str
    results: list[Result]

    @property
    def result(self) -> Result:
        return self.results[self.index]


class ModelInfo(_Received):
    """The checkpoint that is served, and the server's limits. `manifest` as its critic_rm.json has it."""

    model: str
    model_version: str
    manifest: dict[str, Any]
    max_model_len: int
    limits: dict[str, int | float]
