"""Health, metrics, and what model is served."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from criticrm_model import Manifest

from ..http import GuardedRoute
from ..schemas import ErrorBody
from ..state import Service

open_router = APIRouter()
model_router = APIRouter(route_class=GuardedRoute)


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ModelInfo(BaseModel):
    """The checkpoint and the server's limits on it."""

    model: str
    model_version: str
    manifest: Manifest
    max_model_len: int
    limits: dict[str, int | float]


@open_router.get("/health/live", summary="The process answers")
async def live() -> Health:
    return Health()


@open_router.get(
    "/health/ready",
    responses={503: {"model": ErrorBody, "description": "Draining, the engine died, or a gateway has no server."}},
    summary="The engine answers, and new work is taken",
)
async def ready(request: Request) -> Health:
    service: Service = request.app.state.service
    await service.check_ready()
    return Health()


@open_router.get("/metrics", response_class=Response, summary="Prometheus metrics, vLLM's own included")
async def metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@model_router.get(
    "/v1/model",
    responses={401: {"model": ErrorBody, "description": "No key, or a wrong one."}},
    summary="The manifest and the limits",
)
async def model(request: Request) -> ModelInfo:
    service: Service = request.app.state.service
    settings = service.settings
    names = (
        "max_items",
        "max_responses",
        "max_critiques",
        "max_critique_tokens",
        "max_sequences",
        "max_body_bytes",
        "deadline_s",
    )
    return ModelInfo(
        model=service.model_name,
        model_version=service.checkpoint.manifest.version,
        manifest=service.checkpoint.manifest,
        max_model_len=service.max_model_len,
        limits={name: getattr(settings, name) for name in names},
    )
