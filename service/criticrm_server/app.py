"""The FastAPI app: its life, its routes, its error handlers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBasic, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.types import Lifespan

from criticrm_model import CriticRMError

from .admission import Admission
from .api_keys import ApiKeys
from .body import HeldBytes
from .checks import Check
from .deadlines import Deadlines
from .engines.base import Engine
from .error_handlers import EXCEPTION_HANDLERS
from .metrics import Metrics
from .middleware import RequestContext
from .openapi import complete_document, operation_id
from .routes import administration, dropin, models, operations, playground, render, score
from .routes.guarded import GuardedRoute
from .scorer import Scorer
from .self_check import check_engine
from .settings import Settings
from .state import Service
from .tracing import exporting
from .warm_up import warm_up

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


class _Basic(HTTPBasic):
    """For the document: FastAPI's own would refuse passwords that are not ASCII."""

    async def __call__(self, _: Request) -> None:
        return None


def create_app(settings: Settings, checkpoint: Checkpoint, engine: Engine, *, run_warm_up: bool = True) -> FastAPI:
    """The app for one checkpoint.

    Args:
        engine: started when the app starts, closed when it ends.
        run_warm_up: the engine writes its first critiques before the app starts, which fails if they have no rewards.
    """
    admission = Admission(settings.max_sequences, settings.max_waiting, settings.queue_timeout_s)
    deadlines = Deadlines(settings.deadline_s)
    metrics = Metrics(admission)
    api_keys = ApiKeys(settings.api_keys, settings.api_keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(exporting())
            stack.push_async_callback(engine.close)  # also where the start fails
            try:
                checks = await _start(engine, checkpoint, settings, run_warm_up)
                scorer = Scorer(checkpoint, engine, settings, metrics)
            except CriticRMError as error:
                app.state.startup_error = error
                raise
            metrics.show_self_check(checks)
            for collector in engine.collectors():
                metrics.registry.register(collector)
            service = Service(settings, checkpoint, engine, admission, deadlines, metrics, scorer, api_keys, checks)
            app.state.service = service
            stack.push_async_callback(_cancel, asyncio.create_task(service.watch_engine()))
            yield

    app = _build(settings, lifespan)
    complete_document(app)
    app.state.settings = settings
    app.state.startup_error = None  # why it did not start, where that is one of our exceptions
    app.state.api_keys = api_keys
    app.state.deadlines = deadlines
    app.state.held_bytes = HeldBytes(settings.max_held_bytes)
    app.add_middleware(RequestContext, metrics=metrics, admission=admission)
    if settings.cors_origins:  # outside of what responds with errors, which pages want to read too
        _allow_origins(app, settings.cors_origins)
    _include_routes(app, settings)
    return app


def _build(settings: Settings, lifespan: Lifespan[FastAPI]) -> FastAPI:
    # The documentation pages without a CDN: operators' networks are often closed.
    build: Callable[..., FastAPI] = FastAPIOffline if settings.docs else partial(FastAPI, openapi_url=None)
    return build(
        title="Critic-RM",
        version=version("critic-rm"),
        summary="A reward model that writes a critique, then a scalar reward.",
        lifespan=lifespan,
        root_path=settings.root_path,
        redirect_slashes=False,  # a redirect would go to whatever host the caller named, before its key is checked
        exception_handlers=EXCEPTION_HANDLERS,
        generate_unique_id_function=operation_id,
    )


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Inference-Time", "X-Queue-Time", "X-Request-ID"],
    )


def _include_routes(app: FastAPI, settings: Settings) -> None:
    guarded = [Security(HTTPBearer(auto_error=False))]  # for the document; GuardedRoute does the checking
    app.include_router(score.router, dependencies=guarded, tags=["score"])
    app.include_router(render.router, dependencies=guarded, tags=["score"])
    app.include_router(
        dropin.router, dependencies=[*guarded, Security(_Basic(scheme_name="HTTPBasic"))], tags=["drop-in"]
    )
    app.include_router(administration.router, dependencies=guarded, tags=["administration"])
    app.include_router(operations.model_router, dependencies=guarded, tags=["model"])
    app.include_router(models.router, dependencies=guarded, tags=["model"])
    app.include_router(operations.open_router, tags=["operations"])
    if settings.playground:
        app.include_router(playground.router)
    # Routes are tried one after the other, and FastAPI has put those of its documents first.
    app.router.routes.sort(key=lambda route: not isinstance(route, GuardedRoute))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _start(engine: Engine, checkpoint: Checkpoint, settings: Settings, run_warm_up: bool) -> list[Check]:
    """Start, check and warm up the engine; returns the self-check's results. Raises CriticRMError."""
    began = time.monotonic()
    what = "its servers, and what they serve" if settings.engine == "remote" else "weights, memory, warm-up"
    logger.info("3/4 starting the engine %s (%s)", settings.engine, what)
    await engine.start()
    logger.info("    engine up in %.0f s", time.monotonic() - began)
    checks = await check_engine(engine, checkpoint, settings)
    if run_warm_up and not checks:
        await warm_up(engine, checkpoint, settings.deadline_s)
    return checks
