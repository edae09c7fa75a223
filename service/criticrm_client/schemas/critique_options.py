"""How critiques are written."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .base import Request

# Bounds of a seed on every engine: numpy's and torch's generators both take it, and n child seeds fit beside it.
MAX_SEED = 2**32 - 1


class WritingOptions(Request):
    """How critiques are written."""

    n: int = Field(1, ge=1, description="Critiques of each response; the score is the mean over them.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest critique, in tokens. Default: the server's --critique-tokens, or the checkpoint's limit.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="Sampling temperature; 0 is greedy. Default: 0 for one critique, 0.7 for several.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Seed of the sampling. In bfloat16 other requests in the batch can still change the samples.",
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


class Settled(Request):
    """When a critique is ended."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    settled: float = Field(
        ge=0, allow_inf_nan=False, description="Largest difference between rewards in the range, in reward units."
    )
    tokens: int = Field(8, ge=1, le=512, alias="for", description="Tokens over which it must stay within `settled`.")


class CritiqueOptions(WritingOptions):
    """How critiques are written, and what is returned of them."""

    trace: bool = Field(False, description="Return the reward at every token of each critique.")
    when: Literal["always", "close"] = Field(
        "always",
        description="'close': critiques only for responses whose calibrated direct score is within `margin` of "
        "another's; the others keep their direct score. A response alone is compared with 0, the reference set's mean.",
    )
    margin: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="For 'close', on the calibrated scale: 1 is a preference with probability 0.73. Default: the "
        "checkpoint's.",
    )
    rank: Literal["best", "all"] | None = Field(
        None,
        description="For 'close': 'best' compares with the best response to the prompt (best-of-n), 'all' with any "
        "other (rankings). Default: the checkpoint's, or 'best'.",
    )
    max_total_tokens: int | None = Field(
        None,
        ge=1,
        description="For 'close': most tokens of all critiques of the request, each counted as its limit; spent on the "
        "closest responses first.",
    )
    stop: Settled | None = Field(
        None,
        description="End a critique once its reward has stayed within `settled` for `for` tokens; the score is read at "
        "its last token.",
    )

    @model_validator(mode="after")
    def _trace_has_a_place(self) -> Self:
        if self.trace and not self.include:
            raise PydanticCustomError("trace", "trace is a part of the critiques: leave include out")
        return self

    @model_validator(mode="after")
    def _close_has_its_options(self) -> Self:
        if self.when == "always" and any(v is not None for v in (self.margin, self.rank, self.max_total_tokens)):
            raise PydanticCustomError("close", "margin, rank and max_total_tokens need when: 'close'")
        return self
