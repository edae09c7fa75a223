"""The service on Ray Serve: replicas that Ray starts, feeds, watches and replaces (docs/ray.md, docs/adr/0010).

    serve run criticrm_server.ray_serve:app model=default

Each replica is the whole service: the app that `criticrm serve` runs, with its engine, limits and metrics.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

import ray
from prometheus_client import REGISTRY
from pydantic import ValidationError
from pydantic_settings import SettingsError
from ray import serve
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from criticrm_client.fields import field_name
from criticrm_model import CriticRMError

from .logs import configure_logging
from .ray_metrics import hand_over
from .setting_sources import origin_of, unknown_variables
from .settings import Settings
from .tracing import require_packages

if TYPE_CHECKING:
    from fastapi import FastAPI

_LISTENING = ("host", "port", "uds", "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "trusted_proxies")


def app(arguments: dict[str, Any]) -> serve.Application:
    """What `serve run` and a Serve configuration name.

    Args:
        arguments: of `criticrm serve`, with underscores; what is not given is read from `CRITICRM_` variables, by
            this function and again by each replica. Replicas, autoscaling and actors are set where Ray has them, in
            the configuration's `deployments`.

    Raises:
        CriticRMError: all that is wrong with them.
    """
    return deployment(arguments).bind()


def deployment(arguments: Mapping[str, Any]) -> serve.Deployment:
    """The deployment `CriticRM`, with what follows from the settings. Raises CriticRMError."""
    given = dict(arguments)
    settings = _settings(given)

    def build() -> FastAPI:  # in the replica
        return _build(given)

    class CriticRM:
        async def check_health(self) -> None:
            """Raises EngineDead: at the third time in a row Ray replaces the replica."""
            await self.app.state.service.engine.check_health()  # type: ignore[attr-defined] # the ingress's

    made = serve.deployment(
        name="CriticRM",
        # The replica has a queue and a limit of its own, and its 503 says why. Ray must neither refuse before it does
        # nor keep the request that would be refused: more than it ever takes in, and room for probes.
        max_ongoing_requests=settings.max_sequences + settings.max_waiting + 100,
        health_check_period_s=2,
        # The replica is asked to stop when it is out of every proxy's sight, and has what it accepted to finish.
        graceful_shutdown_timeout_s=settings.drain_timeout_s + 10,
        logging_config={"enable_access_log": False},  # the app writes a line a request itself
        ray_actor_options={"num_cpus": 1, "num_gpus": _gpus(settings)},
    )
    found: serve.Deployment = made(serve.ingress(build)(CriticRM))
    return found


def _build(arguments: dict[str, Any]) -> FastAPI:
    """The app of one replica; half a minute and more until its engine is up, which its start waits for."""
    from .app import create_app
    from .engines.factory import create_engine, open_checkpoint, require_engine

    settings = _settings(arguments)
    configure_logging(settings.log_level, settings.log_format)
    require_engine(settings.engine)
    require_packages()
    if (needs := _gpus(settings)) > (has := len(ray.get_gpu_ids())):
        # Ray hides no GPU from a replica that asked for none, and two replicas would take the same one.
        raise CriticRMError(
            f"a replica needs {needs} GPUs and has {has}: ray_actor_options in the configuration replace those "
            f"that are made here, so say num_gpus: {needs} there"
        )
    checkpoint = open_checkpoint(settings)
    app = create_app(settings, checkpoint, create_engine(checkpoint, settings))
    app.add_middleware(_WithoutRequestId)
    app.router.lifespan_context = _with_metrics(app.router.lifespan_context)
    return app


def _with_metrics(lifespan: Lifespan[FastAPI]) -> Lifespan[FastAPI]:
    from .serve import exempt_from_collection

    @asynccontextmanager
    async def handing_over(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            exempt_from_collection()
            task = asyncio.create_task(hand_over([app.state.service.metrics.registry, REGISTRY]))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    return handing_over


class _WithoutRequestId:
    """ASGI middleware: takes our `X-Request-ID` off the answer, for Ray puts the same one on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without)


def _settings(arguments: Mapping[str, Any]) -> Settings:
    """Raises CriticRMError.

    Where Ray's proxies listen is the cluster's to say and can't be seen from here, so they are taken to be public:
    without keys, `allow_unauthenticated` must be said.
    """
    if mine := [name for name in _LISTENING if name in arguments]:
        raise CriticRMError(f"{', '.join(mine)}: where Ray listens is set by http_options of Serve's configuration")
    faults = unknown_variables(Settings, os.environ)
    try:
        # To have keys required; nothing is bound.
        settings = Settings(**{**arguments, "host": "0.0.0.0", "uds": None})  # noqa: S104
    except SettingsError as error:
        raise CriticRMError(str(error)) from error
    except ValidationError as error:
        faults += [_describe(fault["loc"], fault["msg"], arguments) for fault in error.errors()]
        summary = "invalid arguments (Ray's proxies may listen anywhere, so the host counts as 0.0.0.0)"
        raise CriticRMError("\n  ".join([summary, *faults])) from error
    if faults:
        raise CriticRMError("\n  ".join(["invalid variables", *faults]))
    if settings.engine == "remote":
        raise CriticRMError("engine remote holds no model, so Ray has nothing to place: run gateways side by side")
    return settings


def _describe(location: tuple[str | int, ...], message: str, arguments: Mapping[str, Any]) -> str:
    """A fault with the argument or the variable that it came from."""
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    if location[0] in arguments:
        return f"{field_name(location)}: {message}"
    return f"{origin_of(location, Settings, (), os.environ, arguments.get('config'))}: {message}"


def _gpus(settings: Settings) -> int:
    """The number of GPUs of one replica, none if vLLM is a CPU build: the head node that runs this may have no GPU."""
    try:
        distribution("vllm")
    except PackageNotFoundError:
        return 0
    if settings.engine != "vllm":
        return 0
    return settings.tensor_parallel_size * settings.pipeline_parallel_size * settings.data_parallel_size
