"""Other weights in place, sleep and waking: for RLHF loops that share a GPU with the reward model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from criticrm_client.error_body import ErrorBody

from .. import weights
from ..checks import Check
from ..state import Service
from .guarded import GuardedRoute


class AdministrationRoute(GuardedRoute):
    """Asks for the administration key, which the keys of callers are not."""

    administration = True


router = APIRouter(prefix="/admin", route_class=AdministrationRoute)

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        401: "The administration key is wrong, or the server has none.",
        409: "These weights can't be used; the old ones are still served.",
        422: "The checkpoint does not exist, or is invalid.",
        501: "The engine or the platform does not support this; the message has the reason.",
        503: "Requests in flight take too long, or another change is in progress.",
    }.items()
}


class ReloadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    checkpoint: str = Field(min_length=1, max_length=4096, description="A folder or a hub name, on the server.")


class Changed(BaseModel):
    """What the server serves now."""

    model_version: str
    sleeping: bool
    self_check: list[Check]


def _changed(service: Service) -> Changed:
    return Changed(
        model_version=service.model_version, sleeping=service.admission.sleeping, self_check=service.self_check
    )


@router.post("/reload", responses=_ERRORS, summary="Serve other weights of the same architecture")
async def reload(request: Request, body: ReloadRequest) -> Changed:
    """Replace the weights in place.

    Requests in flight finish with the old weights; new requests wait for the new ones. The prefix cache and cached
    results are dropped, the self-check is run, and `model_version` changes.
    """
    service: Service = request.app.state.service
    await weights.reload(service, body.checkpoint)
    return _changed(service)


@router.post("/sleep", responses=_ERRORS, summary="Free the GPU's memory")
async def sleep(request: Request) -> Changed:
    """Requests in flight finish first; new ones get 503 until `/admin/wake`."""
    service: Service = request.app.state.service
    await weights.sleep(service)
    return _changed(service)


@router.post("/wake", responses=_ERRORS, summary="Load the weights into the GPU's memory again")
async def wake(request: Request) -> Changed:
    """The self-check is run before requests are accepted."""
    service: Service = request.app.state.service
    await weights.wake(service)
    return _changed(service)
