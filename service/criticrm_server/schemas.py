"""What `/score` takes and returns. No torch, no engine."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

# Bounds of a seed on every engine: numpy's and torch's generators both take it, and n child seeds fit beside it.
MAX_SEED = 2**32 - 1


class _Request(BaseModel):
    """Strict: `"1"` is no number and `1` no flag. Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ChatMessage(_Request):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class CritiqueOptions(_Request):
    """How critiques are written."""

    n: int = Field(1, ge=1, description="Critiques a response; the score is their mean.")
    max_tokens: int | None = Field(
        None, ge=1, description="Longest critique, in tokens; the checkpoint's own limit unless given."
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="0 is greedy. Unless given: 0 for one critique, 0.7 for several.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Repeats the samples of a request that runs alone; in bfloat16 its batch can still change them.",
    )
    include: bool = Field(True, description="Return the critiques, not only their rewards.")

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.n > 1 and self.temperature == 0:
            raise PydanticCustomError(
                "greedy_samples", "n > 1 needs a temperature above 0: greedy critiques are all the same"
            )
        return self

    @property
    def effective_temperature(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 0.7 if self.n > 1 else 0.0  # arXiv 2411.16646 averages rewards over sampled critiques


def _prompt_kind(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<str>"


Prompt = Annotated[
    Annotated[str, Field(min_length=1), Tag("<str>")]
    | Annotated[list[ChatMessage], Field(min_length=1), Tag("<list>")],
    Discriminator(_prompt_kind),
    Field(description="Text (one user turn), or the conversation so far."),
]
Responses = Annotated[
    list[str],
    Field(min_length=1, description="The responses to score, each alone. An empty one is scored and flagged."),
]
Critique = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[CritiqueOptions, Tag("<options>")],
    Discriminator(lambda value: "<bool>" if isinstance(value, bool) else "<options>"),
]


class Item(_Request):
    """One prompt and the responses to it."""

    prompt: Prompt
    responses: Responses
    id: str | None = Field(None, max_length=256, description="Comes back with each result.")


class _Options(_Request):
    critique: Critique = Field(True, description="false scores before any critique: faster, less informed.")
    on_overflow: Literal["error", "truncate"] = Field(
        "error",
        description="For a prompt that is too long: an error, or drop the oldest of the conversation, then the "
        "middle of its last user turn, then the end of the response, and say so in the status.",
    )
    normalize: bool = Field(False, description="Standardise scores with the checkpoint's own mean and deviation.")


class ScoreOne(_Options):
    """One prompt."""

    prompt: Prompt
    responses: Responses

    @cached_property
    def items(self) -> list[Item]:
        return [Item(prompt=self.prompt, responses=self.responses)]


class ScoreMany(_Options):
    """Many prompts."""

    items: list[Item] = Field(min_length=1)


ScoreRequest = Annotated[
    Annotated[ScoreOne, Tag("<one>")] | Annotated[ScoreMany, Tag("<many>")],
    Discriminator(lambda value: "<many>" if isinstance(value, dict) and "items" in value else "<one>"),
]


class CritiqueResult(BaseModel):
    """One critique and the reward after it. `tokens` counts the end-of-turn token."""

    text: str
    score: float
    finish_reason: Literal["stop", "length"]
    tokens: int


class Usage(BaseModel):
    """Tokens. `cached_tokens` of the prompt's were found in the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    critique_tokens: int = 0


class ErrorInfo(BaseModel):
    code: str
    message: str
    request_id: str
    details: list[dict[str, Any]]


class ErrorBody(BaseModel):
    """The body of every answer that is no 200."""

    error: ErrorInfo


class Result(BaseModel):
    """One response's reward. The same keys always; on an error the scores are null, never a default."""

    id: str | None
    index: int = Field(description="Of the response in its item.")
    status: Literal["ok", "truncated", "error"]
    score: float | None = Field(description="Mean over the critiques; without critiques, direct_score.")
    direct_score: float | None = Field(description="The reward before any critique.")
    score_std: float | None = Field(description="Sample deviation over the critiques, where there are several.")
    critiques: list[CritiqueResult]
    warnings: list[str] = Field(description="'empty_response' where there was nothing to judge.")
    error: ErrorInfo | None
    usage: Usage


class ScoreEnvelope(BaseModel):
    """What holds for all results; the last line of an NDJSON stream."""

    id: str = Field(description="The request's id, also in the X-Request-ID header.")
    model: str
    model_version: str
    usage: Usage


class ScoreResponse(ScoreEnvelope):
    results: list[Result]


class StreamEnd(ScoreEnvelope):
    """The last line of an NDJSON stream; one without it was cut short."""

    count: int = Field(description="Results sent before this line.")
    error: ErrorInfo | None = Field(description="Why results are missing, if they are.")
