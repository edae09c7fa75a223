"""What `/score` returns."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from ..error_body import ErrorInfo, Received
from ..errors import ResultError
from .base import FinishReason

CompareBy: TypeAlias = Literal["score", "calibrated_score"]


class Trace(Received):
    """The reward before each token of a critique.

    The token `i` is `text[offsets[i]:offsets[i + 1]]`; the last token has the rest of the
    text, an end-of-turn token none.
    """

    offsets: list[int] = Field(description="Where in the text each token begins, in characters.")
    scores: list[float] = Field(
        description="The reward before each token, in reward units: the first is `direct_score`, the last `score`."
    )


class Critique(Received):
    """One critique and the reward after it. `tokens` counts the end-of-turn token."""

    text: str
    score: float = Field(allow_inf_nan=False)
    finish_reason: FinishReason = Field(
        description="Ended by the model (`stop`), at the token limit (`length`), or because its reward had settled."
    )
    tokens: int
    criterion: int | None = Field(None, description="Index of its criterion, where the request has a list of them.")
    trace: Trace | None = Field(None, description="The reward at each token, if `trace` was requested.")


class NamedReward(Received):
    """One of several rewards, in reward units: `normalize` does not change it."""

    score: float = Field(allow_inf_nan=False, description="Mean over the critiques; without critiques, direct_score.")
    direct_score: float = Field(allow_inf_nan=False, description="The reward before any critique.")


class CriterionResult(Received):
    """The reward by one of several criteria."""

    criterion: str
    weight: float
    score: float = Field(allow_inf_nan=False, description="Mean over its critiques; without critiques, direct_score.")
    direct_score: float = Field(allow_inf_nan=False, description="The reward before any critique.")
    score_std: float | None = Field(
        allow_inf_nan=False, description="Sample standard deviation over its critiques; null with fewer than two."
    )


class Usage(Received):
    """Tokens. `cached_tokens` is the part of `prompt_tokens` that was read from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    critique_tokens: int = 0
    cached: bool = Field(
        False, description="The result was reused from an identical greedy request; in a sum, all results were."
    )


class Result(Received):
    """One response's reward. The same keys always; on an error the scores are null, never a default."""

    id: str | None
    index: int = Field(description="Index of the response in its item.")
    status: Literal["ok", "truncated", "error"]
    score: float | None = Field(
        allow_inf_nan=False, description="Mean over the critiques; without critiques, direct_score."
    )
    direct_score: float | None = Field(allow_inf_nan=False, description="The reward before any critique.")
    score_std: float | None = Field(
        allow_inf_nan=False,
        description="Sample standard deviation over the critiques; null with fewer than two. With several criteria, "
        "that of their weighted mean.",
    )
    calibrated_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="The score on one scale, with or without critiques: 0 is the reference set's mean, a difference of "
        "1 a preference with probability 0.73. Where the manifest has no `scales`, it is in "
        "standard deviations of each position, which says nothing of how reliable either is. null without a "
        "calibration.",
    )
    critiqued: bool = Field(False, description="The score is read after critiques; false where it is the direct score.")
    compare_by: CompareBy = Field(
        "score",
        description="Which of the two compares responses: 'calibrated_score' where critiques were requested for close "
        "responses only, for scores with and without a critique are not on one scale.",
    )
    rewards: dict[str, NamedReward] | None = Field(
        None,
        description="By name, of a model with several rewards, whose weighted sum the score is; null for a model with "
        "one.",
    )
    criteria: list[CriterionResult] | None = Field(
        None, description="By criterion, where the request has a list of them, whose weighted mean the score is."
    )
    critiques: list[Critique]
    warnings: list[str] = Field(
        description="'empty_response': the response is empty or white space. 'critique_cut': a critique reached its "
        "limit, so its reward is that of an unfinished one. 'control_tokens': the prompt or the response contains what "
        "looks like control tokens of a chat template; it was read as text. 'criteria_untrained', "
        "'reference_untrained': the checkpoint was trained without them, so they may change little, or mislead it."
    )
    error: ErrorInfo | None
    usage: Usage

    @property
    def reward(self) -> float:
        """What compares responses (`compare_by`), which is there. Raises ResultError where it is not."""
        if self.score is None or self.status == "error":
            raise ResultError(self.error or ErrorInfo(code="missing", message="no score", request_id="", details=[]))
        return self.score if self.compare_by == "score" else _present(self.calibrated_score)


def _present(calibrated: float | None) -> float:
    if calibrated is None:  # no server of ours answers so
        raise ResultError(ErrorInfo(code="missing", message="no calibrated score", request_id="", details=[]))
    return calibrated


class TokenEvent(Received):
    """A token of a critique that is being written, in a stream of events."""

    id: str | None
    index: int = Field(description="Index of the response in its item.")
    critique: int = Field(description="Which of the response's critiques it is of, from 0.")
    text: str = Field(
        description="What it adds to the critique; empty for one that ends within a character, as at a cut."
    )
    score: float | None = Field(
        allow_inf_nan=False, description="The reward before it, in reward units; null where that is not finite."
    )


class ScoreEnvelope(Received):
    """What holds for all results; the last line of an NDJSON stream."""

    id: str = Field(description="The request's id, also in the X-Request-ID header.")
    model: str
    model_version: str
    usage: Usage


class ScoreResponse(ScoreEnvelope):
    """The response to one request, with `results` in the request's order."""

    results: list[Result]

    @property
    def rewards(self) -> list[float]:
        """The rewards of all responses. Raises ResultError if one has none."""
        return [result.reward for result in self.results]
