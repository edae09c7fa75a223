"""Responses that report errors: one handler for each root of exceptions, all with the same body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from criticrm_client.error_body import ErrorBody, ErrorInfo
from criticrm_client.fields import field_name
from criticrm_model import CriticRMError

from .errors import InvalidField

logger = logging.getLogger(__name__)

INVALID_REQUEST = InvalidField.code
INVALID_JSON = "invalid_json"
INTERNAL = CriticRMError.code
_MAX_FAULTS = 20  # in `details`
_LIMITS = ("max_length", "min_length", "ge", "gt", "le", "lt", "pattern", "expected")  # pydantic's names


def _respond(
    request: Request, status: int, code: str, message: str, details: list[dict[str, Any]], **headers: str
) -> JSONResponse:
    request.scope["error_code"] = code  # read by the request log and the metrics
    info = ErrorInfo(code=code, message=message, request_id=request.scope.get("request_id", ""), details=details)
    body = ErrorBody(error=info).model_dump() | dict(request.scope.get("error_fields", {}))
    return JSONResponse(body, status, headers=headers)


async def handle_critic_rm_error(request: Request, error: Exception) -> JSONResponse:
    """The error's own status, code and details; 500 for a class that callers must not see."""
    assert isinstance(error, CriticRMError)
    if error.code == INTERNAL:  # of a class that no caller should receive
        return await handle_unknown(request, error)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="criticrm"'
    return _respond(request, error.status, error.code, str(error), error.details, **headers)


async def handle_invalid(request: Request, error: Exception) -> JSONResponse:
    """422 with one entry a fault, of the first ones: field, message, and the limit where there is one."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    faults = [_fault(fault) for fault in found[:_MAX_FAULTS]]
    code = INVALID_JSON if found[0]["type"] == "json_invalid" else INVALID_REQUEST
    message = "; ".join(f"{f['field']}: {f['message']}" for f in faults[:3])
    if len(found) > 3:
        message += f"; and {len(found) - 3} more"
    return _respond(request, 422, code, message, faults)


async def handle_http(request: Request, error: Exception) -> JSONResponse:
    """Routing errors: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, INVALID_REQUEST)
    return _respond(request, error.status_code, code, str(error.detail), [], **dict(error.headers or {}))


async def handle_unknown(request: Request, error: Exception) -> JSONResponse:
    """500 with a constant message; the log has the traceback, under the request id."""
    logger.error("unexpected error", exc_info=error, extra={"request_id": request.scope.get("request_id")})
    return _respond(request, 500, INTERNAL, "internal error; search the server's log for the request id", [])


async def handle_disconnect(_: Request, __: Exception) -> Response:
    """The caller hung up: nobody reads this, but the request log shows why."""
    return Response(status_code=499)


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
    CriticRMError: handle_critic_rm_error,
    RequestValidationError: handle_invalid,
    HTTPException: handle_http,
    ClientDisconnect: handle_disconnect,
}
