"""ASGI middleware around every request: its id, its metrics, its line in the log."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .admission import Admission
from .error_handlers import handle_unknown
from .logs import printable
from .metrics import Metrics
from .timing import timing_headers
from .tracing import current_request_id, record_failure, record_response, request_span, route_path, trace_id

logger = logging.getLogger("criticrm.access")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_QUIET = ("/health/", "/metrics")  # probes, every few seconds


class RequestContext:
    """ASGI middleware: request id in and out, metrics, one log line a request, no keep-alive before a stop."""

    def __init__(self, app: ASGIApp, metrics: Metrics, admission: Admission) -> None:
        self._app = app
        self._metrics = metrics
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _complete_path(scope)
        scope["request_id"] = request_id = _choose_request_id(scope)
        current_request_id.set(request_id)  # of this request's task and those that it starts
        began = time.perf_counter()
        status = 499  # nginx's status for a caller that disconnected before the response
        response_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, response_started
            if message["type"] == "http.response.start":
                response_started, status = True, message["status"]
                own = (b"x-request-id", request_id.encode("latin-1"))
                message["headers"] = [*message["headers"], own, *timing_headers(scope)]
                if self._admission.not_ready:  # else the caller reuses a connection that is about to close
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with request_span(scope) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                response = await handle_unknown(Request(scope), error)
                if response_started:
                    record_failure("internal")
                    raise  # part of the response is sent: the server closes the connection
                await response(scope, receive, send_with_id)
            finally:
                self._record(scope, span, status, time.perf_counter() - began)

    def _record(self, scope: Scope, span: Any, status: int, seconds: float) -> None:
        """The request's metrics, span and line in the log."""
        route = getattr(scope.get("route"), "path", "unmatched")
        request_id, code = scope["request_id"], scope.get("error_code")
        self._metrics.observe_request(route, status, seconds)
        if code:
            self._metrics.errors.labels(code).inc()
        record_response(span, scope["method"], route, status, code, request_id)
        if route_path(scope).startswith(_QUIET) and status < 500:
            return
        extra = {"request_id": request_id, "status": status, "seconds": round(seconds, 4)}
        if scope.get("client"):
            extra["client"] = scope["client"][0]
        if code:
            extra["code"] = code
        logger.info(
            "%s %s %d", scope["method"], printable(route_path(scope)), status, extra={**extra, **trace_id(span)}
        )


def _complete_path(scope: Scope) -> None:
    """ASGI's path includes the root path, which a proxy may have taken off."""
    root = scope.get("root_path", "")
    if not scope["path"].startswith(f"{root}/"):
        scope["path"] = root + scope["path"]


def _choose_request_id(scope: Scope) -> str:
    """The caller's `X-Request-ID`, if it is a sensible one, else a new one."""
    sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)
