"""The JSON of a request and of its answer."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from .arguments import Options
from .errors import APIResponseError
from .fields import field_name

M = TypeVar("M", bound=BaseModel)


def request_body(fields: dict[str, Any], options: Options, model_version: str | None) -> bytes:
    """What /score takes.

    Args:
        fields: a prompt and its responses, or items.
        model_version: the precondition; None sends none.
    """
    body: dict[str, Any] = {**fields, **options}
    critique = options.get("critique", True)
    if isinstance(critique, BaseModel):
        body["critique"] = critique.model_dump(exclude_unset=True)  # beside others, a default may be refused
    if model_version is not None:
        body["model_version"] = model_version
    return to_json(body, inf_nan_mode="strings")  # a constant would be no JSON: the service names the field then


def parse_answer(kind: type[M], answer: httpx.Response, request_id: str) -> M:
    """Raises APIResponseError: it is no `kind`."""
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as invalid:
        fault = invalid.errors()[0]
        where = field_name(fault["loc"])
        raise APIResponseError(
            f"{answer.url} gave no {kind.__name__}: {where}: {fault['msg']:.200}; is it a Critic-RM service?",
            request_id,
            answer,
        ) from invalid
