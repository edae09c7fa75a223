"""What `/score` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    with_config,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic's own dependency; it takes no other before Python 3.12

from .base import FailFastList, FinishReason, Request, Text, report_one_unknown_field
from .critique_options import CritiqueOptions

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


@with_config(ConfigDict(extra="forbid", strict=True))
class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: Text


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _message(value: Any) -> Any:
    return report_one_unknown_field(value, Message.__annotations__, Message.__name__)


# Tagged unions: without a discriminator pydantic reports one error for each member. Tags in <...> are left out of the
# names of fields in errors.
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
    finish_reason: FinishReason = Field(
        "stop", description="Other than 'stop': it was cut, so the reward is read at its last token, not its end."
    )


_TextOrCritique = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")] | Annotated[SuppliedCritique, Tag("<critique>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<critique>"),
]
_Critiques = Annotated[FailFastList[_TextOrCritique], Field(min_length=1)]
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
    weight: float = Field(
        1.0, ge=1e-6, le=1e6, allow_inf_nan=False, description="Weight in the weighted mean over criteria."
    )


_TextOrCriterion = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")] | Annotated[Criterion, Tag("<criterion>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<criterion>"),
]
CriteriaField = Annotated[
    Annotated[Text, Field(min_length=1), Tag("<str>")]
    | Annotated[FailFastList[_TextOrCriterion], Field(min_length=1), Tag("<list>")],
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
    def _check_one_list_a_response(
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
    def _check_single_criterion(cls, value: str | list[str | Criterion] | None, info: ValidationInfo) -> Any:
        if isinstance(value, list) and info.data.get("critiques") is not None:
            raise PydanticCustomError("one_criterion", "beside `critiques`, which are there already, it is a text")
        return value

    @property
    def criteria_list(self) -> list[Criterion] | None:
        """The criteria, if they are a list, else None."""
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
    """How the responses of one request are scored."""

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
