"""`POST /v1/score/evaluation`, for LLaMA-Factory's `reward_model_type: api`.

As LLaMA-Factory's trainer sends it (src/llamafactory/train/ppo/ppo_utils.py, `get_rewards_from_server`): a batch of
decoded conversations, special tokens kept, prompt and response in one text.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from criticrm_client.schemas import FailFastList

from ...state import Service
from ..work import ERRORS
from .common import DropInRoute, Foreign, QueryOptions, check_texts, pair_of_text, score_of, score_pairs

router = APIRouter(route_class=DropInRoute)


class EvaluationRequest(Foreign):
    messages: FailFastList[str]
    model: Any = None


class EvaluationResponse(BaseModel):
    id: str
    object: Literal["score.evaluation"] = "score.evaluation"
    model: str
    scores: list[float]
    warnings: list[list[str]] = Field(description="Warnings of each conversation, as in `/score`.")


@router.post("/v1/score/evaluation", responses=ERRORS, summary="LLaMA-Factory")
async def score_evaluation(
    request: Request, body: EvaluationRequest, options: Annotated[QueryOptions, Query()]
) -> EvaluationResponse:
    """Score the last assistant's turn of each conversation.

    A text without known markers is scored whole, as a response to an empty message.
    """
    service: Service = request.app.state.service
    check_texts(request, "messages", body.messages)
    pairs = (pair_of_text(text, f"messages[{i}]") for i, text in enumerate(body.messages))
    results = await score_pairs(request, pairs, options)
    return EvaluationResponse(
        id=request.scope["request_id"],
        model=service.model_name,
        scores=[score_of(result) for result in results],
        warnings=[result.warnings for result in results],
    )
