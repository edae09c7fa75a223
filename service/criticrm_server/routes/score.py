"""`POST /score`, also as `/v1/score`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from criticrm_client.error_body import ErrorInfo
from criticrm_client.schemas import Result, ScoreResponse
from criticrm_model import CriticRMError

from .. import tracing
from ..admission import Permit
from ..disconnect import while_connected
from ..errors import error_info
from ..results import total_usage
from ..schemas import ScoreMany, ScoreOne, ScoreRequest, StreamEnd
from ..scorer import Plan
from ..state import Service
from .guarded import GuardedRoute
from .work import ERRORS, MODEL_ERRORS, plan_within_deadline, score_all

NDJSON = "application/x-ndjson"
_EXAMPLE = {
    "prompt": "Why is the sky blue?",
    "responses": ["Air scatters blue light more than red light.", "It reflects the sea."],
}

router = APIRouter(route_class=GuardedRoute)


_DOCUMENTED: dict[str, Any] = {
    "response_model": ScoreResponse,
    "responses": {200: {"content": {NDJSON: {}}}, **ERRORS, **MODEL_ERRORS},  # `openapi` adds the line's schema
}


@router.post("/v1/score", name="score_v1", summary="The same as /score", **_DOCUMENTED)
@router.post("/score", summary="Critique and score responses", **_DOCUMENTED)
async def score(
    request: Request, body: Annotated[ScoreRequest, Body(openapi_examples={"one prompt": {"value": _EXAMPLE}})]
) -> Response:
    """Write a critique of each response and return the reward after it, and before it (`direct_score`).

    With `Accept: application/x-ndjson` each result is sent as soon as it is finished, and a line without `score`
    ends the stream. A response that can't be scored alone (too long, say) is an error in its own result; if
    none can be scored, the request fails.
    """
    if NDJSON in request.headers.get("accept", ""):
        return await _stream(request, body)
    results = await score_all(request, body)
    envelope = _envelope(request, request.scope["model_version"], results)
    return Response(ScoreResponse(**envelope, results=results).model_dump_json(), media_type="application/json")


async def _stream(request: Request, body: ScoreOne | ScoreMany) -> Response:
    plan, permit = await while_connected(request, plan_within_deadline(request, body))
    lines = _lines(request, plan, permit)
    if request.scope["http_version"] == "1.0":  # which has no chunks: all lines at once
        with permit:
            return Response(await while_connected(request, _joined(lines)), media_type=NDJSON)
    return _PermittedStream(lines, permit, request.scope["deadline"])


class _PermittedStream(StreamingResponse):
    """Gives its place back however the stream ends, also when it never began.

    A caller that does not read is cut off soon after the deadline: it would hold its place for ever.
    """

    def __init__(self, lines: AsyncIterator[str], permit: Permit, deadline: float) -> None:
        super().__init__(lines, media_type=NDJSON, headers={"X-Accel-Buffering": "no"})  # nginx sends each line on
        self._permit = permit
        self._cut_off = deadline + 5  # one that reads gets the deadline's error before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._permit, suppress(TimeoutError):
            async with asyncio.timeout_at(self._cut_off):
                await super().__call__(scope, receive, send)


async def _joined(lines: AsyncGenerator[str]) -> str:
    async with aclosing(lines):
        return "".join([line async for line in lines])


async def _lines(request: Request, plan: Plan, permit: Permit) -> AsyncGenerator[str]:
    service: Service = request.app.state.service
    results: list[Result] = []
    failed: ErrorInfo | None = None
    try:
        async with aclosing(service.scorer.stream(plan, permit)) as stream:
            while True:
                # Around each step and not the loop: a timeout must not be open while this generator is suspended.
                async with service.deadlines.until(request.scope["deadline"]):
                    scored = await anext(stream, None)
                if scored is None:
                    break
                results.append(scored.result)
                yield scored.result.model_dump_json() + "\n"
    except CriticRMError as error:
        # The status line is sent already: the stream's last line is what can still tell.
        failed = error_info(error, plan.request_id)
        service.metrics.errors.labels(failed.code).inc()
        tracing.failed(failed.code)
    if failed is None and all(result.status == "error" for result in results):
        failed = results[0].error  # as the whole request would have
    end = StreamEnd(**_envelope(request, plan.model_version, results), count=len(results), error=failed)
    yield end.model_dump_json() + "\n"


def _envelope(request: Request, model_version: str, results: list[Result]) -> dict[str, Any]:
    service: Service = request.app.state.service
    return {
        "id": request.scope["request_id"],
        "model": service.model_name,
        "model_version": model_version,
        "usage": total_usage(results),
    }
