"""`GET /v1/models`: the served model, as OpenAI's API lists models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from criticrm_client.error_body import ErrorBody

from ..state import Service
from .guarded import GuardedRoute

router = APIRouter(route_class=GuardedRoute)


class ModelCard(BaseModel):
    """The served model. `max_model_len` is as in vLLM's list, `model_version` is this service's own."""

    id: str = Field(description="The name that a request may have in `model`.")
    object: Literal["model"] = "model"
    created: int = Field(description="When the server started: Unix time, in seconds.")
    owned_by: Literal["critic-rm"] = "critic-rm"
    max_model_len: int = Field(description="The longest prompt with its critique, in tokens.")
    model_version: str = Field(description="Version of the checkpoint; changes with its weights.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard] = Field(description="One.")


@router.head("/v1/models", include_in_schema=False)
@router.get(
    "/v1/models",
    responses={401: {"model": ErrorBody, "description": "The API key is missing or not accepted."}},
    summary="The served model, as OpenAI's API lists models",
)
async def list_models(request: Request) -> ModelList:
    """`/v1/model` has the manifest, the limits and the engine."""
    service: Service = request.app.state.service
    card = ModelCard(
        id=service.model_name,
        created=service.started_at,
        max_model_len=service.max_model_len,
        model_version=service.model_version,
    )
    return ModelList(data=[card])
