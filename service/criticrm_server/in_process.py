"""The service without a server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from criticrm_client import AsyncCriticRM
from criticrm_model import CriticRMError

from .app import create_app
from .engines.factory import create_engine, require_engine
from .setting_sources import unknown_variables
from .settings import Settings


@asynccontextmanager
async def app_in_process(model: str) -> AsyncIterator[AsyncCriticRM]:
    """A client of the same app, and so of the same scores and errors, called in memory.

    The engine's settings are those of `criticrm serve`, by variable.
    """
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    if faults := unknown_variables(Settings, os.environ):
        raise CriticRMError("\n  ".join(["invalid variables", *faults]))
    settings = Settings(model=model, host="127.0.0.1", api_keys=[], api_keys_file=None)
    require_engine(settings.engine)
    checkpoint = Checkpoint.open(
        resolve(settings.model, settings.revision), trust_remote_code=settings.trust_remote_code
    )
    app = create_app(settings, checkpoint, create_engine(checkpoint, settings))
    async with (
        app.router.lifespan_context(app),
        AsyncCriticRM(
            "http://in-process", key="", transport=httpx.ASGITransport(app, raise_app_exceptions=False)
        ) as client,
    ):
        yield client
