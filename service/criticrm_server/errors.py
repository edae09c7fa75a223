"""The service's exceptions, and the one table that gives each exception its status and code.

Nothing below the routes knows HTTP: the model and the scorer raise, `EXCEPTION_HANDLERS` answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from criticrm_model import (
    CheckpointError,
    ConversationError,
    CriticRMError,
    NonFiniteReward,
    PromptTooLong,
    UnsupportedModel,
)

from .fields import field_name

logger = logging.getLogger(__name__)


class ServiceError(CriticRMError):
    """Root of what the service itself raises."""


class Overloaded(ServiceError):
    """The house is full and the queue before it too, or waiting took too long."""


class Draining(ServiceError):
    """The server was told to stop and takes no new work."""


class EngineDead(ServiceError):
    """The engine is gone; the process will exit so that a supervisor starts another."""


class NoServer(ServiceError):
    """A gateway, and none of the servers behind it is up; it takes them back when they are."""


class EngineFailed(ServiceError):
    """The engine answered, but not with a finished critique and its rewards."""


class DeadlineExceeded(ServiceError):
    """The request took longer than the server allows."""


class Unauthorized(ServiceError):
    """No key, or a wrong one."""


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON. Browsers send undeclared bodies across sites without asking."""


class BodyTooLarge(ServiceError):
    """The request body exceeds the limit, in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes; send fewer items a request")
        self.limit = limit

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "body", "message": "too large", "limit": self.limit}]


class InvalidField(ServiceError):
    """A field of a request is of the right type, but what it says can't be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": self.field, "message": self.message}]


class LimitExceeded(ServiceError):
    """A field of a well-formed request asks for more than the server allows."""

    def __init__(self, field: str, actual: int, limit: int, what: str) -> None:
        super().__init__(f"{field}: {actual} {what}, the limit is {limit}")
        self.field, self.actual, self.limit = field, actual, limit

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": self.field, "message": str(self), "limit": self.limit, "actual": self.actual}]


class NotCalibrated(ServiceError):
    """`normalize` was asked of a checkpoint whose manifest has no calibration."""

    @property
    def details(self) -> list[dict[str, object]]:
        return [{"field": "normalize", "message": str(self)}]


INVALID_REQUEST = "invalid_request"
INVALID_JSON = "invalid_json"
INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Answer:
    """How an exception is told to a caller. `retry_after_s` is a hint, in seconds."""

    status: int
    code: str
    retry_after_s: int | None = None


# Overload is 503, never 429: verl's client gives up on any 4xx, and so would lose the reward (docs/adr/0003).
TABLE: Mapping[type[CriticRMError], Answer] = {
    Unauthorized: Answer(401, "unauthorized"),
    BodyTooLarge: Answer(413, "body_too_large"),
    UnsupportedMediaType: Answer(415, "unsupported_media_type"),
    InvalidField: Answer(422, INVALID_REQUEST),
    LimitExceeded: Answer(422, "limit_exceeded"),
    PromptTooLong: Answer(422, "prompt_too_long"),
    ConversationError: Answer(422, "unsupported_conversation"),
    NotCalibrated: Answer(422, "not_calibrated"),
    Overloaded: Answer(503, "overloaded", retry_after_s=1),
    Draining: Answer(503, "draining", retry_after_s=2),
    EngineDead: Answer(503, "engine_dead", retry_after_s=30),
    NoServer: Answer(503, "no_engine_server", retry_after_s=2),
    EngineFailed: Answer(503, "engine_failed", retry_after_s=1),
    DeadlineExceeded: Answer(504, "deadline_exceeded"),
    NonFiniteReward: Answer(500, "non_finite_reward"),
    CheckpointError: Answer(500, "bad_checkpoint"),
    UnsupportedModel: Answer(500, "unsupported_model"),
}


def answer_for(error: CriticRMError) -> Answer:
    return TABLE[type(error)]


def error_body(code: str, message: str, request_id: str, details: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The one shape of every error, in a response body or in a result."""
    return {"error": {"code": code, "message": message, "request_id": request_id, "details": details or []}}


def _respond(
    request: Request, status: int, code: str, message: str, details: list[dict[str, Any]], **headers: str
) -> JSONResponse:
    request.scope["error_code"] = code  # read by the request log and the metrics
    body = error_body(code, message, request.scope.get("request_id", ""), details)
    return JSONResponse(body | dict(request.scope.get("error_fields", {})), status, headers=headers)


async def handle_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CriticRMError)
    answer = answer_for(error)
    headers = {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}
    if answer.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="criticrm"'
    return _respond(request, answer.status, answer.code, str(error), error.details, **headers)


async def handle_invalid(request: Request, error: Exception) -> JSONResponse:
    """422 with one entry a fault: field, message, and the limit where there is one."""
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()]
    code = INVALID_JSON if any(f["type"] == "json_invalid" for f in error.errors()) else INVALID_REQUEST
    message = "; ".join(f"{f['field']}: {f['message']}" for f in faults[:3])
    if len(faults) > 3:
        message += f"; and {len(faults) - 3} more"
    return _respond(request, 422, code, message, faults)


async def handle_http(request: Request, error: Exception) -> JSONResponse:
    """Routing errors: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, INVALID_REQUEST)
    return _respond(request, error.status_code, code, str(error.detail), [], **dict(error.headers or {}))


async def handle_unknown(request: Request, error: Exception) -> JSONResponse:
    """500 in fixed words: what went wrong is in the log, under the request id."""
    logger.error("unexpected error", exc_info=error, extra={"request_id": request.scope.get("request_id")})
    return _respond(request, 500, INTERNAL, "internal error; the request id finds it in the server's log", [])


async def handle_disconnect(_: Request, __: Exception) -> Response:
    """The caller hung up: nobody reads this, but the request log shows why."""
    return Response(status_code=499)


_LIMITS = ("max_length", "min_length", "ge", "gt", "le", "lt", "pattern", "expected")


def _fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    context = fault.get("ctx", {})
    if fault["type"] == "json_invalid":
        return {"field": "body", "message": f"not valid JSON: {context['error']}"}
    entry: dict[str, Any] = {"field": field_name(fault["loc"]), "message": fault["msg"]}
    for key in _LIMITS:
        if key in context:
            entry["limit"] = context[key]
    if "actual_length" in context:
        entry["actual"] = context["actual_length"]
    return entry


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    CriticRMError: handle_ours,
    RequestValidationError: handle_invalid,
    HTTPException: handle_http,
    ClientDisconnect: handle_disconnect,
}
