"""The FastAPI app: its life, its routes, its error handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Security
from fastapi.security import HTTPBasic, HTTPBearer
from fastapi_offline import FastAPIOffline

from .admission import Admission
from .deadlines import Deadlines
from .engines.base import Engine
from .engines.remote import RemoteEngine
from .errors import EXCEPTION_HANDLERS
from .http import RequestContext
from .metrics import Metrics
from .routes import dropin, operations, score
from .scorer import Scorer
from .settings import Settings
from .state import Service
from .tracing import exporting

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

StartEngine = Callable[["Checkpoint", Settings], tuple[Engine, int]]


class _Basic(HTTPBasic):
    """For the document: FastAPI's own would refuse passwords that are not ASCII."""

    async def __call__(self, _: Request) -> None:
        return None


def create_app(settings: Settings, checkpoint: Checkpoint, start_engine: StartEngine) -> FastAPI:
    """The app for one checkpoint.

    Args:
        start_engine: returns a running engine and the longest sequence it takes, in tokens; called when the app
            starts, inside its event loop.
    """
    admission = Admission(settings.max_sequences, settings.max_waiting, settings.queue_timeout_s)
    deadlines = Deadlines(settings.deadline_s)
    metrics = Metrics(admission)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with exporting():
            async with running(app):
                yield

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        engine, max_model_len = start_engine(checkpoint, settings)
        scorer = Scorer(checkpoint, engine, settings, metrics, max_model_len)
        if isinstance(engine, RemoteEngine):
            metrics.registry.register(engine)
        service = Service(settings, checkpoint, engine, admission, deadlines, metrics, scorer, max_model_len)
        app.state.service = service
        watching = asyncio.create_task(service.watch_engine())
        try:
            yield
        finally:
            watching.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await watching
            finally:
                await engine.close()

    # The documentation pages without a CDN: operators' networks are often closed.
    app = FastAPIOffline(
        title="Critic-RM",
        version=version("critic-rm"),
        summary="A reward model that writes a critique, then a scalar reward.",
        lifespan=lifespan,
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.state.settings = settings
    app.state.deadlines = deadlines
    app.add_middleware(RequestContext, metrics=metrics, admission=admission)
    guarded = [Security(HTTPBearer(auto_error=False))]  # for the document; GuardedRoute does the checking
    app.include_router(score.router, dependencies=guarded, tags=["score"])
    app.include_router(
        dropin.router, dependencies=[*guarded, Security(_Basic(scheme_name="HTTPBasic"))], tags=["drop-in"]
    )
    app.include_router(operations.model_router, dependencies=guarded, tags=["model"])
    app.include_router(operations.open_router, tags=["operations"])
    return app
