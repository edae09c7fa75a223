"""What every route that scores does: count, admit, render, run, within the deadline and while its caller is there."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request

from criticrm_client.error_body import ErrorBody
from criticrm_client.schemas import Result

from ..admission import Permit
from ..disconnect import while_connected
from ..schemas import ScoreMany, ScoreOne
from ..scorer import Plan
from ..state import Service
from ..timing import record_inference_time, record_queue_time
from ..tracing import span

# For the document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        401: "The API key is missing or not accepted.",
        413: "The body is too large.",
        415: "The body is not declared as JSON.",
        422: "The request is invalid or too long: `details` names each field and its limit.",
        500: "The reward is not finite, or an unexpected error occurred.",
        503: "Overloaded, draining, or the engine died. `Retry-After` has the seconds to wait before a retry.",
        504: "The request took longer than the server's deadline.",
    }.items()
}

MODEL_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        404: "`model` is not the served model's name.",
        409: "`model_version` is not that of the served checkpoint. Nothing was scored.",
    }.items()
}


async def admit(request: Request, body: ScoreOne | ScoreMany) -> Permit:
    """A place for the request's sequences.

    Before anything is rendered: what is refused costs nothing, what waits holds no token ids.

    Raises:
        ModelNotFound, ModelVersionMismatch, LimitExceeded, NotCalibrated, Overloaded, Draining
    """
    service: Service = request.app.state.service
    sequences = service.scorer.sequences(body)
    began = time.perf_counter()
    try:
        with span("admission"):
            return await service.admission.admit(sequences, request.scope["api_key"])
    finally:
        waited = time.perf_counter() - began
        service.metrics.admission_seconds.observe(waited)
        record_queue_time(request.scope, waited)


async def plan_within_deadline(request: Request, body: ScoreOne | ScoreMany) -> tuple[Plan, Permit]:
    """The request, admitted and rendered; the permit is the caller's to release.

    Raises:
        What `admit` and `Scorer.plan` raise; DeadlineExceeded, Draining.
    """
    service: Service = request.app.state.service
    async with service.deadlines.until(request.scope["deadline"]):
        permit = await admit(request, body)
        try:
            return await service.scorer.plan(body, request.scope["request_id"]), permit
        except BaseException:
            permit.release()
            raise


async def score_all(request: Request, body: ScoreOne | ScoreMany, *, partial: bool = True) -> list[Result]:
    """All results, in the request's order; the scope's `model_version` is that of the checkpoint that gave them.

    Args:
        partial: as of `Plan`.

    Raises:
        Whatever keeps the request from being scored; `ClientDisconnect` if nobody waits for it any more.
    """
    service: Service = request.app.state.service

    async def work() -> list[Result]:
        async with service.deadlines.until(request.scope["deadline"]):
            with await admit(request, body) as permit:
                began = time.perf_counter()
                scorer = service.scorer
                plan = await scorer.plan(body, request.scope["request_id"], partial=partial)
                request.scope["model_version"] = plan.model_version
                try:
                    return await scorer.score(plan, permit)
                finally:
                    record_inference_time(request.scope, time.perf_counter() - began)

    return await while_connected(request, work())
