"""Health, metrics, and what model is served."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from criticrm_client.error_body import ErrorBody
from criticrm_client.schemas import ServedModel
from criticrm_model import Manifest

from ..checks import Check
from ..state import Service
from .guarded import GuardedRoute

open_router = APIRouter()
model_router = APIRouter(route_class=GuardedRoute)


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ModelInfo(ServedModel[Manifest, Check]):
    """The checkpoint and the server's limits on it."""


@open_router.head("/health/live", include_in_schema=False)
@open_router.get("/health/live", summary="The process answers")
async def live() -> Health:
    return Health()


@open_router.head("/health/ready", include_in_schema=False)
@open_router.get(
    "/health/ready",
    responses={
        503: {"model": ErrorBody, "description": "Draining, the engine died, or a gateway has no healthy server."}
    },
    summary="The engine is healthy, and new requests are accepted",
)
async def ready(request: Request) -> Health:
    service: Service = request.app.state.service
    await service.check_ready()
    return Health()


@open_router.head("/metrics", include_in_schema=False)
@open_router.get("/metrics", response_class=Response, summary="Prometheus metrics, vLLM's own included")
async def metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@model_router.head("/v1/model", include_in_schema=False)
@model_router.get(
    "/v1/model",
    responses={401: {"model": ErrorBody, "description": "The API key is missing or not accepted."}},
    summary="The manifest and the limits",
)
async def model(request: Request) -> ModelInfo:
    service: Service = request.app.state.service
    settings = service.settings
    names = (
        "max_items",
        "max_responses",
        "max_messages",
        "max_critiques",
        "max_critique_tokens",
        "max_sequences",
        "max_body_bytes",
        "deadline_s",
    )
    return ModelInfo(
        model=service.model_name,
        model_version=service.model_version,
        revision=service.checkpoint.revision,
        manifest=service.checkpoint.manifest,
        max_model_len=service.max_model_len,
        limits={name: getattr(settings, name) for name in names},
        engine=service.engine.facts.described,
        self_check=service.self_check,
    )
