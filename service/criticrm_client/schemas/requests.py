"""What `/score` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
    with_config,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic's own dependency; it takes no other before Python 3.12

T = TypeVar("T")

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
# Every list of a request: one fault is reported, or a megabyte of faults would take seconds to report.
FailFastList = Annotated[list[T], Field(fail_fast=True, strict=False)]

# Bounds of a seed on every engine: numpy's and torch's generators both take it, and n child seeds fit beside it.
MAX_SEED = 2**32 - 1


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not Unicode: a lone surrogate at position {error.start}") from error
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_unicode)]  # what JSON can carry


def report_one_unknown_field(value: Any, known: Iterable[str], title: str) -> Any:
    """Return `value`, unless it is a mapping with more fields than there are.

    Of these the first unknown one is reported alone.
    """
    if isinstance(value, dict) and len(value) > len(known := list(known)):
        unknown = next(name for name in value if name not in known)
        fault = InitErrorDetails(type="extra_forbidden", loc=(unknown,), input=None)
        raise ValidationError.from_exception_data(title, [fault])
    return value


@with_config(ConfigDict(extra="forbid", strict=True))
class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: Text


class Request(BaseModel):
    """Strict: `"1"` is no number and `1` no flag. Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _one_of_many_unknown_fields(cls, value: Any) -> Any:
        return report_one_unknown_field(value, cls.model_fields, cls.__name__)


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


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _message(value: Any) -> Any:
    return report_one_unknown_field(value, Message.__annotations__, Message.__name__)


PromptField = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")]
    | Annotated[FailFastList[Annotated[Message, BeforeValidator(_message)]], Field(min_length=1), Tag("<list>")],
    Discriminator(lambda value: "<list>" if _is_list(value) else "<str>"),
    Field(description="Text (one user turn), or the conversation so far."),
]
ResponsesField = Annotated[
    FailFastList[Text],
    Field(min_length=1, description="The responses to score, each alone. An empty one is scored and flagged."),
]


class SuppliedCritique(Request):
    """A critique that is there already."""

    text: Annotated[Text, Field(min_length=1)]
    finish_reason: Literal["stop", "length"] = Field(
        "stop", description="'length': it was cut at its limit, so the reward is read at its last token, not its end."
    )


_OneCritique = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")] | Annotated[SuppliedCritique, Tag("<critique>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<critique>"),
]
_Critiques = Annotated[FailFastList[_OneCritique], Field(min_length=1)]
CritiquesField = Annotated[
    FailFastList[_Critiques] | None,
    Field(
        description="Critiques that are there already, a list for each response: the reward is read after each of "
        "them, and none is written. A critique is a text, or has `text` and `finish_reason` as in a result. Beside "
        "them `critique` may only say `include`."
    ),
]


class Criterion(Request):
    """One of several criteria."""

    text: Annotated[Text, Field(min_length=1)]
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="In the weighted mean that the score is.")


_OneOfSeveral = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")] | Annotated[Criterion, Tag("<criterion>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<criterion>"),
]
CriteriaField = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")]
    | Annotated[FailFastList[_OneOfSeveral], Field(min_length=1), Tag("<list>")],
    Discriminator(lambda value: "<list>" if _is_list(value) else "<str>"),
]


class Scorable(Request):
    """One prompt and the responses to it."""

    prompt: PromptField
    responses: ResponsesField
    critiques: CritiquesField = None
    criteria: CriteriaField | None = Field(
        None,
        description="What to judge the responses by: a rubric. A list has one critique and one reward for each "
        "criterion, and the score is their weighted mean. The critic reads it behind its instruction.",
    )
    reference: Annotated[Text, Field(min_length=1)] | None = Field(
        None, description="A correct answer, which the critic reads behind its instruction."
    )

    @field_validator("critiques")
    @classmethod
    def _of_each_response(
        cls, value: list[list[str | SuppliedCritique]] | None, info: ValidationInfo
    ) -> list[list[str | SuppliedCritique]] | None:
        responses = info.data.get("responses")  # None where these are at fault themselves
        if value is not None and responses is not None and len(value) != len(responses):
            raise PydanticCustomError(
                "a_list_for_each",
                "{lists} lists of critiques for {responses} responses: send one list for each response",
                {"lists": len(value), "responses": len(responses)},
            )
        return value

    @field_validator("criteria")
    @classmethod
    def _of_critiques_one(cls, value: str | list[str | Criterion] | None, info: ValidationInfo) -> Any:
        if isinstance(value, list) and info.data.get("critiques") is not None:
            raise PydanticCustomError("one_criterion", "beside `critiques`, which are there already, it is a text")
        return value

    @property
    def criteria_list(self) -> list[Criterion] | None:
        """Of a list of criteria, else None."""
        if not isinstance(self.criteria, list):
            return None
        return [Criterion(text=one) if isinstance(one, str) else one for one in self.criteria]


class Item(Scorable):
    """As `Scorable`, one of several."""

    id: Text | None = Field(None, max_length=256, description="Returned with each result.")


CritiqueField = Annotated[
    Annotated[bool, Tag("<bool>")]
    | Annotated[Literal["auto"], Tag("<auto>")]
    | Annotated[CritiqueOptions, Tag("<options>")],
    Discriminator(lambda v: "<bool>" if isinstance(v, bool) else "<auto>" if isinstance(v, str) else "<options>"),
]


class ScoreOptions(Request):
    """Of one request."""

    critique: CritiqueField | None = Field(
        None,
        description="false: no critique is written, and the score is the direct score; faster, less accurate. 'auto': "
        "critiques where they matter, by the checkpoint's own setting. Default: true, or false for a model that writes "
        "no critiques (an imported scalar).",
    )
    on_overflow: Literal["error", "truncate"] = Field(
        "error",
        description="What happens to a prompt that is too long. 'error': it is an error. 'truncate': the oldest part "
        "of the conversation is cut, then the middle of its last user turn, then the end of the response; the "
        "status is 'truncated'.",
    )
    normalize: bool = Field(
        False, description="Standardise scores with the mean and the standard deviation in the checkpoint's manifest."
    )
