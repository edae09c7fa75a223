"""What wraps every request: its id, the limit on its body, its line in the log, strict JSON, a caller that hangs up."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

import pydantic_core
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .admission import Admission
from .auth import check_key
from .deadlines import Deadlines
from .errors import BodyTooLarge, UnsupportedMediaType, handle_unknown
from .metrics import Metrics
from .settings import Settings
from .tracing import answered, failed, request_span, trace_id

T = TypeVar("T")
logger = logging.getLogger("criticrm.access")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_QUIET = ("/health/", "/metrics")  # probes, every few seconds


class RequestContext:
    """ASGI middleware: request id in and out, metrics, one log line a request, no keep-alive before a stop.

    The id is the caller's `X-Request-ID` if it sent a sensible one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, admission: Admission) -> None:
        self._app = app
        self._metrics = metrics
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = request_id
        began = time.perf_counter()
        status = 499  # nginx's word for a caller that hung up before an answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
                if self._admission.leaving:  # or the next request would meet the connection's end
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with request_span(scope) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                response = await handle_unknown(Request(scope), error)
                if status != 499:
                    failed("internal")
                    raise  # half an answer is out; the server cuts the connection
                await response(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(route, str(status)).inc()
                self._metrics.request_seconds.labels(route).observe(seconds)
                code = scope.get("error_code")
                if code:
                    self._metrics.errors.labels(code).inc()
                answered(span, scope["method"], route, status, code, request_id)
                if not scope["path"].startswith(_QUIET) or status >= 500:
                    logger.info(
                        "%s %s %d",
                        scope["method"],
                        scope["path"],
                        status,
                        extra={
                            "request_id": request_id,
                            "status": status,
                            "seconds": round(seconds, 4),
                            **({"code": code} if code else {}),
                            **trace_id(span),
                        },
                    )


class GuardedRoute(APIRoute):
    """Checks the key before the body is read, its size and the deadline while it is read, and takes strict JSON only.

    FastAPI reads the body before any dependency runs, and turns what goes wrong there into a bare 400.

    Attributes:
        basic_auth: a key may also come as the password of HTTP Basic.
        error_fields: what the body of every error has besides `error`.
    """

    basic_auth: ClassVar[bool] = False
    error_fields: ClassVar[Mapping[str, str]] = {}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            settings: Settings = request.app.state.settings
            deadlines: Deadlines = request.app.state.deadlines
            request.scope["deadline"] = deadline = deadlines.start()
            request.scope["error_fields"] = self.error_fields
            check_key(request.headers.get("authorization", ""), settings.api_keys, basic=self.basic_auth)
            strict = _StrictRequest(request.scope, request.receive)
            if request.method == "POST":
                media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if media_type != "application/json":
                    raise UnsupportedMediaType(
                        f"send the body with 'Content-Type: application/json', not {media_type or 'none'!r}"
                    )
                async with deadlines.until(deadline):
                    await strict.read(settings.max_body_bytes)
            return await handler(strict)

        return guarded


class _StrictRequest(Request):
    async def read(self, limit: int) -> None:
        """Read the body. Raises BodyTooLarge, without reading what a header already declares too large."""
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:  # "²" is a digit to Python, and no number
            raise BodyTooLarge(limit)
        chunks: list[bytes] = []
        received = 0
        async for chunk in self.stream():
            received += len(chunk)
            if received > limit:
                raise BodyTooLarge(limit)
            chunks.append(chunk)
        self._body = b"".join(chunks)  # where starlette keeps a body that was read

    async def json(self) -> Any:
        """Strict: `json.loads` takes NaN, broken UTF-8 and lone surrogates, each of which would surface as a 500."""
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the caller hangs up.

    In the caller's own task: in another, a result that comes in the moment of a cancellation would be lost, and
    with it the place in the house that it holds.

    Raises:
        ClientDisconnect: nobody is left to answer.
    """

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            watching = asyncio.create_task(hung_up())
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError as error:
        if scope.expired():
            raise ClientDisconnect from error
        raise
