"""`POST /score`, also as `/v1/score`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from criticrm_client.error_body import ErrorInfo
from criticrm_client.schemas import Result, ScoreResponse, TokenEvent
from criticrm_model import CriticRMError

from .. import tracing
from ..admission import Permit
from ..disconnect import while_connected
from ..errors import LimitExceeded, error_info
from ..results import total_usage
from ..schemas import ScoreMany, ScoreOne, ScoreRequest, StreamEnd
from ..scorer import Plan
from ..state import Service
from .guarded import GuardedRoute
from .work import ERRORS, MODEL_ERRORS, plan_within_deadline, score_all

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
Part = TokenEvent | Result | StreamEnd
_WATCHED = 64  # critiques of one request
_EXAMPLE = {
    "prompt": "Why is the sky blue?",
    "responses": ["Air scatters blue light more than red light.", "It reflects the sea."],
}

router = APIRouter(route_class=GuardedRoute)


_DOCUMENTED: dict[str, Any] = {
    "response_model": ScoreResponse,
    "responses": {200: {"content": {NDJSON: {}, EVENTS: {}}}, **ERRORS, **MODEL_ERRORS},  # `openapi` adds their schemas
}


@router.post("/v1/score", name="score_v1", summary="The same as /score", **_DOCUMENTED)
@router.post("/score", summary="Critique and score responses", **_DOCUMENTED)
async def score(
    request: Request, body: Annotated[ScoreRequest, Body(openapi_examples={"one prompt": {"value": _EXAMPLE}})]
) -> Response:
    """Write a critique of each response and return the reward after it, and before it (`direct_score`).

    With `Accept: application/x-ndjson` each result is sent as soon as it is finished, and a line without `score`
    ends the stream. With `Accept: text/event-stream` there is an event for each token of a critique as it is written
    (`token`), for each result (`result`), and for the end (`end`).
    A response that can't be scored alone (too long, say) is an error in its own result; if none can be scored, the
    request fails.
    """
    wanted = request.headers.get("accept", "")
    if EVENTS in wanted:
        _check_watchable(request, body)
        return await _stream(request, body, EVENTS)
    if NDJSON in wanted:
        return await _stream(request, body, NDJSON)
    results = await score_all(request, body)
    envelope = _envelope(request, request.scope["model_version"], results)
    return Response(ScoreResponse(**envelope, results=results).model_dump_json(), media_type="application/json")


def _check_watchable(request: Request, body: ScoreOne | ScoreMany) -> None:
    """Raises LimitExceeded: an event a token is for eyes, which follow few critiques."""
    sequences = request.app.state.service.scorer.sequences(body)
    if sequences > _WATCHED:
        field = "responses" if isinstance(body, ScoreOne) else "items"
        raise LimitExceeded(field, sequences, _WATCHED, "critiques in a stream of events")


async def _stream(request: Request, body: ScoreOne | ScoreMany, media_type: str) -> Response:
    plan, permit = await while_connected(request, plan_within_deadline(request, body))
    parts = _parts(request, plan, permit, live=media_type == EVENTS)
    texts = _texts(parts, _as_event if media_type == EVENTS else _as_line)
    if request.scope["http_version"] == "1.0":  # which has no chunks: all at once
        with permit:
            return Response(await while_connected(request, _joined(texts)), media_type=media_type)
    return _PermittedStream(texts, permit, request.scope["deadline"], media_type)


class _PermittedStream(StreamingResponse):
    """Gives its place back however the stream ends, also when it never began.

    A caller that does not read is cut off soon after the deadline: it would hold its place for ever.
    """

    def __init__(self, texts: AsyncIterator[str], permit: Permit, deadline: float, media_type: str) -> None:
        super().__init__(texts, media_type=media_type, headers={"X-Accel-Buffering": "no"})  # nginx sends each part on
        self._permit = permit
        self._cut_off = deadline + 5  # one that reads gets the deadline's error before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._permit, suppress(TimeoutError):
            async with asyncio.timeout_at(self._cut_off):
                await super().__call__(scope, receive, send)


async def _joined(texts: AsyncGenerator[str]) -> str:
    async with aclosing(texts):
        return "".join([text async for text in texts])


async def _texts(parts: AsyncGenerator[Part], as_text: Callable[[Part], str]) -> AsyncGenerator[str]:
    async with aclosing(parts):
        async for part in parts:
            yield as_text(part)


def _as_line(part: Part) -> str:
    return part.model_dump_json() + "\n"


def _as_event(part: Part) -> str:
    """As server-sent events (HTML Living Standard, section 9.2); JSON has no line breaks."""
    name = "token" if isinstance(part, TokenEvent) else "result" if isinstance(part, Result) else "end"
    return f"event: {name}\ndata: {part.model_dump_json()}\n\n"


async def _parts(request: Request, plan: Plan, permit: Permit, *, live: bool) -> AsyncGenerator[Part]:
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
        tracing.failed(failed.code)
    if failed is None and all(result.status == "error" for result in results):
        failed = results[0].error  # as the whole request would have
    yield StreamEnd(**_envelope(request, plan.model_version, results), count=len(results), error=failed)


def _envelope(request: Request, model_version: str, results: list[Result]) -> dict[str, Any]:
    service: Service = request.app.state.service
    return {
        "id": request.scope["request_id"],
        "model": service.model_name,
        "model_version": model_version,
        "usage": total_usage(results),
    }
