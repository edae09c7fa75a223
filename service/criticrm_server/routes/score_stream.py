"""The streams of `POST /score`: a result a line (NDJSON), or an event for each token and each result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from criticrm_client.error_body import ErrorInfo
from criticrm_client.schemas import Result, TokenEvent
from criticrm_model import CriticRMError

from .. import tracing
from ..admission import Permit
from ..disconnect import while_connected
from ..errors import error_info
from ..results import total_usage
from ..schemas import ScoreMany, ScoreOne, StreamEnd
from ..scorer import Plan
from ..state import Service
from .work import plan_within_deadline

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
Part = TokenEvent | Result | StreamEnd


async def stream_response(request: Request, body: ScoreOne | ScoreMany, media_type: str) -> Response:
    """Results as they finish, as NDJSON or server-sent events."""
    plan, permit = await while_connected(request, plan_within_deadline(request, body))
    parts = _stream_parts(request, plan, permit, live=media_type == EVENTS)
    texts = _serialize(parts, _as_event if media_type == EVENTS else _as_line)
    if request.scope["http_version"] == "1.0":  # which has no chunks: all at once
        with permit:
            return Response(await while_connected(request, _join(texts)), media_type=media_type)
    return PermittedStream(texts, permit, request.scope["deadline"], media_type)


class PermittedStream(StreamingResponse):
    """Releases its permit however the stream ends, also when it never began.

    A caller that does not read is disconnected soon after the deadline: it would hold the permit for ever.
    """

    def __init__(self, texts: AsyncIterator[str], permit: Permit, deadline: float, media_type: str) -> None:
        super().__init__(texts, media_type=media_type, headers={"X-Accel-Buffering": "no"})  # nginx sends each part on
        self._permit = permit
        self._cut_off = deadline + 5  # one that reads gets the deadline's error before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._permit, suppress(TimeoutError):
            async with asyncio.timeout_at(self._cut_off):
                await super().__call__(scope, receive, send)


async def _join(texts: AsyncGenerator[str]) -> str:
    async with aclosing(texts):
        return "".join([text async for text in texts])


async def _serialize(parts: AsyncGenerator[Part], as_text: Callable[[Part], str]) -> AsyncGenerator[str]:
    async with aclosing(parts):
        async for part in parts:
            yield as_text(part)


def _as_line(part: Part) -> str:
    return part.model_dump_json() + "\n"


def _as_event(part: Part) -> str:
    """As server-sent events (HTML Living Standard, section 9.2); JSON has no line breaks."""
    name = "token" if isinstance(part, TokenEvent) else "result" if isinstance(part, Result) else "end"
    return f"event: {name}\ndata: {part.model_dump_json()}\n\n"


async def _stream_parts(request: Request, plan: Plan, permit: Permit, *, live: bool) -> AsyncGenerator[Part]:
    """Results as they finish, before each the tokens of its critiques if `live`, and at last the end.

    An error after the first part is in the end, for the status line is sent already.
    """
    service: Service = request.app.state.service
    results: list[Result] = []
    failed: ErrorInfo | None = None
    try:
        scorer = service.scorer
        async with aclosing(scorer.events(plan, permit) if live else scorer.stream(plan, permit)) as stream:
            while True:
                # Around each step and not the loop: a timeout must not be open while this generator is suspended.
                async with service.deadlines.until(request.scope["deadline"]):
                    part = await anext(stream, None)
                if part is None:
                    break
                if isinstance(part, TokenEvent):
                    yield part
                    continue
                results.append(part.result)
                yield part.result
    except CriticRMError as error:
        failed = error_info(error, plan.request_id)
        service.metrics.errors.labels(failed.code).inc()
        tracing.record_failure(failed.code)
    if failed is None and all(result.status == "error" for result in results):
        failed = results[0].error  # as the whole request would have
    yield StreamEnd(**envelope(request, plan.model_version, results), count=len(results), error=failed)


def envelope(request: Request, model_version: str, results: list[Result]) -> dict[str, Any]:
    """What a whole response and the end of a stream have in common."""
    service: Service = request.app.state.service
    return {
        "id": request.scope["request_id"],
        "model": service.model_name,
        "model_version": model_version,
        "usage": total_usage(results),
    }
