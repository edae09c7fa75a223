"""`POST /v1/embeddings`, for verl's reward loop with the engine `sglang`.

It sends one conversation a request, in the reward model's chat template, and reads `data[-1].embedding[-1]`
(verl/experimental/reward_loop/reward_loop.py, `compute_score_disrm`). OpenAI's SDK asks for base64 unless it is asked
for numbers (openai/resources/embeddings.py).
"""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ...state import Service
from ..work import ERRORS
from .common import DropInRoute, Foreign, QueryOptions, score_of, score_pairs
from .inputs import TextsOrTokenIds, pairs_of_input
from .usage import TokenUsage, usage_of

router = APIRouter(route_class=DropInRoute)


class EmbeddingsRequest(Foreign):
    input: TextsOrTokenIds
    model: Any = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Literal[1] | None = Field(None, description="A reward has one.")


class Embedding(BaseModel):
    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str = Field(
        description="One number: the reward. With base64, its four bytes as float32, little-endian."
    )
    warnings: list[str] = Field(description="As in `/score`; OpenAI's API has no such field.")


class EmbeddingsResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: TokenUsage


@router.post("/v1/embeddings", responses=ERRORS, summary="Rewards as embeddings (verl with SGLang)")
async def embeddings(
    request: Request, body: EmbeddingsRequest, options: Annotated[QueryOptions, Query()]
) -> EmbeddingsResponse:
    """Score the last assistant's turn of each conversation. Each embedding is one number, the reward."""
    service: Service = request.app.state.service
    results = await score_pairs(request, pairs_of_input(request, body.input, "input"), options)
    encode = _encode_base64 if body.encoding_format == "base64" else _encode_list
    return EmbeddingsResponse(
        model=service.model_name,
        data=[
            Embedding(index=i, embedding=encode(score_of(result)), warnings=result.warnings)
            for i, result in enumerate(results)
        ],
        usage=usage_of(results),
    )


def _encode_list(score: float) -> list[float] | str:
    return [score]


def _encode_base64(score: float) -> list[float] | str:
    return base64.b64encode(struct.pack("<f", score)).decode()
