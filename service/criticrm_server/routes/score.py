"""`POST /score`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from criticrm_model import CriticRMError

from .. import tracing
from ..admission import Permit
from ..errors import answer_for
from ..http import GuardedRoute, while_connected
from ..schemas import ErrorInfo, Result, ScoreRequest, ScoreResponse, StreamEnd
from ..scorer import Plan, total_usage
from ..state import Service
from .work import ERRORS, admit, score_all

NDJSON = "application/x-ndjson"
_EXAMPLE = {
    "prompt": "Why is the sky blue?",
    "responses": ["Air scatters blue light more than red light.", "It reflects the sea."],
}

router = APIRouter(route_class=GuardedRoute)


@router.post(
    "/score",
    response_model=ScoreResponse,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}, **ERRORS},
    summary="Critique and score responses",
)
async def score(
    request: Request, body: Annotated[ScoreRequest, Body(openapi_examples={"one prompt": {"value": _EXAMPLE}})]
) -> Response:
    """Write a critique of each response and return the reward after it, and before it (`direct_score`).

    With `Accept: application/x-ndjson` each result is sent as it finishes, and last a line without `score` that
    ends the stream. A response that can't be scored alone (too long, say) is an error in its own result; if
    none can be scored, the request fails.
    """
    service: Service = request.app.state.service
    deadline: float = request.scope["deadline"]

    async def planned() -> tuple[Plan, Permit]:
        async with service.deadlines.until(deadline):
            permit = await admit(service, body)
            try:
                return await service.scorer.plan(body, request.scope["request_id"]), permit
            except BaseException:
                permit.release()
                raise

    if NDJSON not in request.headers.get("accept", ""):
        results = await score_all(request, body)
        envelope = _envelope(service, request.scope["request_id"], results)
        return Response(ScoreResponse(**envelope, results=results).model_dump_json(), media_type="application/json")
    plan, permit = await while_connected(request, planned())
    return _PermittedStream(_lines(service, plan, deadline), permit, deadline)


class _PermittedStream(StreamingResponse):
    """Gives its place in the house back however the stream ends, also when it never began.

    A caller that does not read is cut off soon after the deadline: it would hold its place for ever.
    """

    def __init__(self, lines: AsyncIterator[str], permit: Permit, deadline: float) -> None:
        super().__init__(lines, media_type=NDJSON)
        self._permit = permit
        self._cut_off = deadline + 5  # one that reads gets the deadline's error before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._permit, suppress(TimeoutError):
            async with asyncio.timeout_at(self._cut_off):
                await super().__call__(scope, receive, send)


async def _lines(service: Service, plan: Plan, deadline: float) -> AsyncIterator[str]:
    results: list[Result] = []
    failed: ErrorInfo | None = None
    try:
        async with aclosing(service.scorer.stream(plan)) as stream:
            while True:
                # Around each step and not the loop: a timeout must not be open while this generator is suspended.
                async with service.deadlines.until(deadline):
                    scored = await anext(stream, None)
                if scored is None:
                    break
                results.append(scored.result)
                yield scored.result.model_dump_json() + "\n"
    except CriticRMError as error:
        # The status line is sent already: the stream's last line is what can still tell.
        failed = ErrorInfo(
            code=answer_for(error).code, message=str(error), request_id=plan.request_id, details=error.details
        )
        service.metrics.errors.labels(failed.code).inc()
        tracing.failed(failed.code)
    if failed is None and all(result.status == "error" for result in results):
        failed = results[0].error  # as the whole request would have
    end = StreamEnd(**_envelope(service, plan.request_id, results), count=len(results), error=failed)
    yield end.model_dump_json() + "\n"


def _envelope(service: Service, request_id: str, results: list[Result]) -> dict[str, Any]:
    return {
        "id": request_id,
        "model": service.model_name,
        "model_version": service.checkpoint.manifest.version,
        "usage": total_usage(results),
    }
