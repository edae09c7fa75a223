"""`POST /score`, also as `/v1/score`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response

from criticrm_client.schemas import ScoreResponse

from ..errors import LimitExceeded
from ..schemas import ScoreMany, ScoreOne, ScoreRequest
from .guarded import GuardedRoute
from .score_stream import EVENTS, NDJSON, envelope, stream_response
from .work import ERRORS, MODEL_ERRORS, score_all

_MAX_EVENT_CRITIQUES = 64  # of one request: token events are for display
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
    accept = request.headers.get("accept", "")
    if EVENTS in accept:
        _check_critiques(request, body)
        return await stream_response(request, body, EVENTS)
    if NDJSON in accept:
        return await stream_response(request, body, NDJSON)
    results = await score_all(request, body)
    shared = envelope(request, request.scope["model_version"], results)
    return Response(ScoreResponse(**shared, results=results).model_dump_json(), media_type="application/json")


def _check_critiques(request: Request, body: ScoreOne | ScoreMany) -> None:
    """Raises LimitExceeded where a stream of token events would have too many critiques."""
    sequences = request.app.state.service.scorer.sequences(body)
    if sequences > _MAX_EVENT_CRITIQUES:
        field = "responses" if isinstance(body, ScoreOne) else "items"
        raise LimitExceeded(field, sequences, _MAX_EVENT_CRITIQUES, "critiques in a stream of events")
