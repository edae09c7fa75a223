"""What the shapes of a request share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

T = TypeVar("T")

# Every list of a request: one fault is reported, or a megabyte of faults would take seconds to report.
FailFastList = Annotated[list[T], Field(fail_fast=True, strict=False)]
FinishReason: TypeAlias = Literal["stop", "length", "settled"]  # of a critique


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


class Request(BaseModel):
    """Strict: `"1"` is no number and `1` no flag. Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _one_of_many_unknown_fields(cls, value: Any) -> Any:
        return report_one_unknown_field(value, cls.model_fields, cls.__name__)
