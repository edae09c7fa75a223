"""From settings to a listening server, one stage after the other, each with a line."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from .app import create_app
from .checks import SelfCheckFailed
from .engines.factory import create_engine, open_checkpoint, require_engine
from .logs import configure_logging
from .settings import Settings
from .sockets import bind, stop_listening, unix_socket, url_of
from .state import Service
from .tracing import require_packages

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

ENGINE_DEATH_EXIT_CODE = 3
_HANDSHAKE_S = 2.0  # of TLS, for callers that connect while the server stops
_ON_THEIR_WAY_S = 0.5  # requests over connections that are there when the server stops listening


def serve(settings: Settings) -> int:
    """Serve until a signal or the engine's death, and return the exit code."""
    configure_logging(settings.log_level, settings.log_format)
    require_engine(settings.engine)
    require_packages()
    settings.check_certificate()
    # First: a port in use should not cost half a minute.
    with unix_socket(settings.uds) if settings.uds else bind(settings.host, settings.port) as listener:
        code = _serve_on(listener, settings)
    if code < 0:  # here, where a unix socket is removed already: the signal may end the process at once
        signal.raise_signal(-code)
    return code


def _serve_on(listener: socket.socket, settings: Settings) -> int:
    """The exit code, or the negative number of the signal that stopped the start."""
    checkpoint = open_checkpoint(settings)
    app = create_app(settings, checkpoint, create_engine(checkpoint, settings))
    if settings.api_keys_file:
        # Until the event loop listens to it, which reads the file then: the default would end the process.
        signal.signal(signal.SIGHUP, lambda *_: None)
    server = _Server(_config(app, settings), lambda: getattr(app.state, "service", None))
    logging.getLogger("uvicorn.error").addFilter(partial(_is_not_of_the_start, app, server))
    try:
        server.run(sockets=[listener])
    except SystemExit:  # uvicorn's, with the code 3 of an engine's death
        error = app.state.startup_error
        if error is not None and not isinstance(error, SelfCheckFailed):  # which is logged, as a table
            raise error from None
        return 1  # the reason is logged
    except asyncio.CancelledError:
        assert server.start_stopped_by is not None
        return -server.start_stopped_by
    if not server.started:
        return 1
    return ENGINE_DEATH_EXIT_CODE if server.engine_died else 0


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    password = settings.ssl_keyfile_password
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=5,
        forwarded_allow_ips=None if settings.trusted_proxies is None else list(settings.trusted_proxies),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_keyfile_password=password.get_secret_value() if password else None,
    )


def _is_not_of_the_start(app: FastAPI, server: _Server, record: logging.LogRecord) -> bool:
    """Starlette has uvicorn log a traceback of every start that fails; ours are reported without one."""
    expected = app.state.startup_error is not None or server.start_stopped_by is not None
    return not (expected and record.getMessage().startswith("Traceback"))


class _Server(uvicorn.Server):
    """uvicorn, which drains before it closes, and closes when the engine dies."""

    def __init__(self, config: uvicorn.Config, service: Callable[[], Service | None]) -> None:
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self.start_stopped_by: int | None = None
        self.engine_died = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._starting = asyncio.get_running_loop(), asyncio.current_task()
        await super().startup(sockets=sockets)
        service = self._service()
        if self.started and service is not None and sockets:
            exempt_from_collection()
            if service.settings.api_keys_file:
                self._loop.add_signal_handler(signal.SIGHUP, service.api_keys.reload)
                service.api_keys.reload()
            self._watching = asyncio.create_task(self._exit_on_engine_death(service))
            url = url_of(sockets[0], "https" if self.config.ssl else "http")
            logger.info("4/4 ready: POST %s/score%s", url, _further(service.settings))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """While the server starts, a signal stops that. Later the first one drains, the second one stops at once."""
        if self._starting is not None and not self.started:
            self.start_stopped_by = sig
            self._loop.call_soon_threadsafe(self._starting.cancel)
            return
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
            logger.info("SIGTERM: not ready any more; new requests are accepted for %g s", settings.drain_delay_s)
            service.admission.mark_not_ready()
            await asyncio.sleep(settings.drain_delay_s)
        logger.info(
            "%s: draining %d sequences in flight, for at most %g s",
            signal.Signals(sig).name,
            service.admission.admitted,
            settings.drain_timeout_s,
        )
        service.admission.drain()
        if not await service.admission.empty(settings.drain_timeout_s):
            logger.warning("drain timed out: %d sequences in flight are answered with 503", service.admission.admitted)
            service.deadlines.stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer who is connected, then close.

        uvicorn does it in one step, which resets connections that wait to be accepted or whose request is on its way.
        """
        config, loop = self.config, asyncio.get_running_loop()

        async def answer(waiting: socket.socket) -> None:
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn makes them
                    config=config, server_state=self.server_state, app_state=self.lifespan.state
                ),
                waiting,
                ssl=config.ssl,
                ssl_handshake_timeout=_HANDSHAKE_S if config.ssl else None,
            )

        waiting = [connection for listener in sockets or [] for connection in stop_listening(listener)]
        await asyncio.gather(*map(answer, waiting), return_exceptions=True)  # some have hung up, or don't speak TLS
        for server in self.servers:
            server.close()
        await asyncio.sleep(_ON_THEIR_WAY_S)
        await super().shutdown(sockets)

    async def _exit_on_engine_death(self, service: Service) -> None:
        await service.engine_died.wait()
        self.engine_died = True
        await asyncio.sleep(service.settings.engine_death_grace_s)
        self.should_exit = True


def _further(settings: Settings) -> str:
    where = f" over the unix socket {settings.uds}" if settings.uds else ""
    return f"{where}, documentation at {settings.root_path}/docs" if settings.docs else where


def exempt_from_collection() -> None:
    """Take what exists now, when all is loaded, out of later garbage collections.

    Some 600,000 objects with vLLM: a full collection would stop the event loop for half a second.
    """
    gc.collect()
    gc.freeze()
