"""`POST /lmdeploy/pooling`, for POLAR's and xtuner's client with `server_type="lmdeploy"`.

The request is that of vLLM's `/pooling` and the response is not: `data[i].data` is the number itself
(lmdeploy/serve/openai/api_server.py, `pooling`; xtuner/utils/rm_utils.py, `lmdeploy_request_reward`). The client's
`server_address` may hold a path, so the two have URLs of their own.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ...state import Service
from ..work import ERRORS
from .common import DropInRoute, Foreign, QueryOptions, score_of, score_pairs
from .inputs import TextsOrTokenIds, pairs_of_input
from .usage import TokenUsage, usage_of

router = APIRouter(route_class=DropInRoute)


class LMDeployRequest(Foreign):
    input: TextsOrTokenIds
    model: Any = None


class LMDeployReward(BaseModel):
    index: int
    object: Literal["pooling"] = "pooling"
    data: float = Field(description="The reward.")
    warnings: list[str] = Field(description="As in `/score`; lmdeploy has no such field.")


class LMDeployResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time, in seconds.")
    model: str
    data: list[LMDeployReward]
    usage: TokenUsage


@router.post("/lmdeploy/pooling", responses=ERRORS, summary="lmdeploy's pooling API")
async def lmdeploy_pooling(
    request: Request, body: LMDeployRequest, options: Annotated[QueryOptions, Query()]
) -> LMDeployResponse:
    """Score the last assistant's turn of each conversation."""
    service: Service = request.app.state.service
    results = await score_pairs(request, pairs_of_input(request, body.input, "input"), options)
    return LMDeployResponse(
        id=request.scope["request_id"],
        created=int(time.time()),
        model=service.model_name,
        data=[
            LMDeployReward(index=i, data=score_of(result), warnings=result.warnings) for i, result in enumerate(results)
        ],
        usage=usage_of(results),
    )
