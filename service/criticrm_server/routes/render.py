"""`POST /v1/render`: the token ids that `/score` would send to the engine."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, Field

from criticrm_client.error_body import ErrorInfo

from ..disconnect import while_connected
from ..errors import InvalidField, LimitExceeded, error_info
from ..rendering import RenderedResponse
from ..schemas import ScoreRequest
from ..scorer import Plan
from ..state import Service
from .guarded import GuardedRoute
from .work import ERRORS, MODEL_ERRORS, admit

MAX_TOKEN_IDS = 1_000_000  # in an answer; writing so many as JSON holds up other requests for some 50 ms

router = APIRouter(route_class=GuardedRoute)


class RenderResult(BaseModel):
    """One response's prompt for the critic. The same keys always; on an error there are no token ids."""

    id: str | None
    index: int = Field(description="Index of the response in its item.")
    status: Literal["ok", "truncated", "error"]
    prompt_token_ids: list[int] | None
    prompt_tokens: int = Field(description="Number of token ids; 0 on an error.")
    max_critique_tokens: int = Field(
        description="Longest critique that `/score` would write, in tokens; 0 with `critique: false`."
    )
    warnings: list[str] = Field(description="As in `/score`; 'critique_cut' is not known before a critique.")
    error: ErrorInfo | None


class RenderResponse(BaseModel):
    id: str = Field(description="The request's id, also in the X-Request-ID header.")
    model: str
    model_version: str
    prompt_tokens: int = Field(description="Sum over all results.")
    results: list[RenderResult]


@router.post("/v1/render", responses={**ERRORS, **MODEL_ERRORS}, summary="The token ids that /score would send")
async def render(request: Request, body: Annotated[ScoreRequest, Body()]) -> RenderResponse:
    """Return the token ids that `/score` would send to the engine for each response, without scoring.

    The limits and the queue of `/score` apply, and at most a million token ids are returned.
    """
    service: Service = request.app.state.service
    if any(isinstance(item.criteria, list) for item in body.items):
        raise InvalidField("criteria", "here it is a text: each criterion of a list has a prompt of its own")

    async def work() -> Plan:
        async with service.deadlines.until(request.scope["deadline"]):
            with await admit(request, body):
                return await service.scorer.plan(body, request.scope["request_id"])

    plan = await while_connected(request, work())
    prompt_tokens = sum(len(job.token_ids) for response in plan.responses for job in response.jobs)
    limit = max(MAX_TOKEN_IDS, service.max_model_len)
    if prompt_tokens > limit:
        raise LimitExceeded("body", prompt_tokens, limit, "token ids in the answer")
    return RenderResponse(
        id=plan.request_id,
        model=service.model_name,
        model_version=plan.model_version,
        prompt_tokens=prompt_tokens,
        results=[_result(plan, response) for response in plan.responses],
    )


def _result(plan: Plan, response: RenderedResponse) -> RenderResult:
    job = response.jobs[0] if response.jobs else None
    error = None if response.error is None else error_info(response.error, plan.request_id)
    return RenderResult(
        id=response.item_id,
        index=response.index,
        status="error" if job is None else "truncated" if response.truncated else "ok",
        prompt_token_ids=None if job is None else job.token_ids,
        prompt_tokens=0 if job is None else len(job.token_ids),
        max_critique_tokens=0 if job is None or plan.critique is None else job.max_tokens,
        warnings=response.warnings,
        error=error,
    )
