"""`POST /pooling` in vLLM's shape, for POLAR's and xtuner's client with `server_type="vllm"`.

As vLLM has it for a reward model (vllm/entrypoints/pooling/pooling/protocol.py): `data[i].data[-1][0]` is the reward
after the last token (xtuner/utils/rm_utils.py, `vllm_request_reward`).
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from criticrm_client.probability import sigmoid

from ...state import Service
from ..work import ERRORS
from .common import DropInRoute, Foreign, QueryOptions, score_of, score_pairs
from .inputs import TextsOrTokenIds, pairs_of_input
from .usage import TokenUsage, usage_of

router = APIRouter(route_class=DropInRoute)


class PoolingRequest(Foreign):
    input: TextsOrTokenIds
    model: Any = None
    encoding_format: Literal["float"] = Field("float", description="Numbers are sent as JSON only.")
    use_activation: bool | None = Field(None, description="true: the reward's sigmoid. Else the reward itself.")
    activation: bool | None = Field(None, description="The name of `use_activation` before vLLM 0.11.2.")


class Pooled(BaseModel):
    index: int
    object: Literal["pooling"] = "pooling"
    data: list[list[float]] = Field(description="One list of one number: the reward.")
    warnings: list[str] = Field(description="As in `/score`; vLLM has no such field.")


class PoolingResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time, in seconds.")
    model: str
    data: list[Pooled]
    usage: TokenUsage


@router.post("/pooling", responses=ERRORS, summary="vLLM's pooling API")
async def pooling(request: Request, body: PoolingRequest, options: Annotated[QueryOptions, Query()]) -> PoolingResponse:
    """Score the last assistant's turn of each conversation."""
    service: Service = request.app.state.service
    results = await score_pairs(request, pairs_of_input(request, body.input, "input"), options)
    requested = body.activation if body.use_activation is None else body.use_activation
    scores = [sigmoid(score_of(result)) if requested else score_of(result) for result in results]
    return PoolingResponse(
        id=request.scope["request_id"],
        created=int(time.time()),
        model=service.model_name,
        data=[Pooled(index=i, data=[[score]], warnings=results[i].warnings) for i, score in enumerate(scores)],
        usage=usage_of(results),
    )
