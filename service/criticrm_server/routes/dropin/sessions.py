"""`POST /seed_session` and `POST /close_session`, which NeMo-Gym's agents call before and after `/verify`.

Gym's agents, and prime-rl's and verifiers' through them, begin each rollout by it and stop at anything but 200
(responses_api_agents/simple_agent/app.py, `run`). This service keeps nothing of a session, so both only confirm the
session's id, where newer versions send one (nemo_gym/base_resources_server.py, `ResourcesSeedSessionResponse`).
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ..work import ERRORS
from .common import DropInRoute, Foreign


class SessionRoute(DropInRoute):
    query_options = False


router = APIRouter(route_class=SessionRoute)


class SessionRequest(Foreign):
    """The row of the data set, or the session's id."""

    resources_session_id: str | None = Field(None, min_length=1, max_length=4096)

    def confirm(self) -> Response:
        """The session's id, where the request has one. Gym's models take no other field, so null is left out."""
        session = SessionResponse(resources_session_id=self.resources_session_id)
        return Response(session.model_dump_json(exclude_none=True), media_type="application/json")


class SessionResponse(BaseModel):
    resources_session_id: str | None = Field(None, description="As in the request; left out where it has none.")


@router.post("/seed_session", response_model=SessionResponse, responses=ERRORS, summary="NeMo-Gym, before a rollout")
async def seed_session(request: Request, body: SessionRequest) -> Response:  # noqa: ARG001
    """Confirm a session, of which nothing is kept."""
    return body.confirm()


@router.post("/close_session", response_model=SessionResponse, responses=ERRORS, summary="NeMo-Gym, after a rollout")
async def close_session(request: Request, body: SessionRequest) -> Response:  # noqa: ARG001
    """Confirm the end of a session, of which nothing is kept."""
    return body.confirm()
