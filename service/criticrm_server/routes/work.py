"""What every route that scores does: count, admit, render, run, within the deadline and while its caller is there."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request

from ..admission import Permit
from ..http import while_connected
from ..schemas import ErrorBody, Result, ScoreMany, ScoreOne
from ..state import Service
from ..tracing import span

# For the document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        401: "No key, or a wrong one.",
        413: "The body is too large.",
        415: "The body is not declared as JSON.",
        422: "Invalid, or too long: `details` names each field and its limit.",
        500: "The model gave no finite reward, or something unexpected.",
        503: "Overloaded, draining, or the engine died; `Retry-After` says when to come back.",
        504: "The server's deadline passed.",
    }.items()
}


async def admit(service: Service, body: ScoreOne | ScoreMany) -> Permit:
    """A place for the request's sequences.

    Before anything is rendered: what is refused costs nothing, what waits holds no token ids.

    Raises:
        LimitExceeded, NotCalibrated, Overloaded, Draining
    """
    sequences = service.scorer.sequences(body)
    began = time.perf_counter()
    with span("admission"):
        permit = await service.admission.admit(sequences)
    service.metrics.admission_seconds.observe(time.perf_counter() - began)
    return permit


async def score_all(request: Request, body: ScoreOne | ScoreMany, *, partial: bool = True) -> list[Result]:
    """All results, in the request's order.

    Args:
        partial: as of `Plan`.

    Raises:
        Whatever keeps the request from being scored; `ClientDisconnect` if nobody waits for it any more.
    """
    service: Service = request.app.state.service

    async def work() -> list[Result]:
        async with service.deadlines.until(request.scope["deadline"]):
            with await admit(service, body):
                plan = await service.scorer.plan(body, request.scope["request_id"], partial=partial)
                return await service.scorer.score(plan)

    return await while_connected(request, work())
