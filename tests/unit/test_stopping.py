"""How a server leaves: nobody who got through to it is cut off."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Iterator

import pytest
import uvicorn

from conftest import MAX_MODEL_LEN, Running, StartApp
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.serve import _Server
from criticrm_server.settings import Settings
from criticrm_server.sockets import bind

BODY = b'{"prompt": "Q", "responses": ["A"]}'
HEADERS = b"Host: test\r\nContent-Type: application/json\r\nContent-Length: %d" % len(BODY)
REQUEST = b"POST /score HTTP/1.1\r\n" + HEADERS + b"\r\n\r\n" + BODY
GOOD = {"prompt": "Q", "responses": ["A"]}


@pytest.fixture(autouse=True)
def _collect_again() -> Iterator[None]:
    yield
    gc.unfreeze()


async def answer(connection: socket.socket) -> bytes:
    """All that comes until the end of a first answer. Raises ConnectionResetError where it is cut off."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    received = b""
    while not received.endswith(b"}"):
        chunk = await loop.sock_recv(connection, 65536)
        if not chunk:
            break
        received += chunk
    return received


async def test_requests_on_their_way_are_answered(opened_checkpoint: Checkpoint) -> None:
    app = create_app(
        Settings(engine="fake"),
        opened_checkpoint,
        FakeEngine(opened_checkpoint.renderer.stop_token_ids[0], max_model_len=MAX_MODEL_LEN),
    )
    listener = bind("127.0.0.1", 0)
    address = listener.getsockname()
    config = uvicorn.Config(app, log_config=None, access_log=False)
    config.load()
    server = _Server(config, lambda: app.state.service)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    with socket.create_connection(address) as kept_alive:
        kept_alive.sendall(REQUEST)
        assert (await answer(kept_alive)).startswith(b"HTTP/1.1 200")
        # From here to the shutdown the event loop does not run: nothing is accepted, nothing is read.
        app.state.service.admission.drain()
        with socket.create_connection(address) as waiting:
            for connection in (kept_alive, waiting):
                connection.sendall(REQUEST)
            await server.shutdown(sockets=[listener])
            for connection in (kept_alive, waiting):
                told = await answer(connection)
                assert told.startswith(b"HTTP/1.1 503")
                assert b"connection: close" in told
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_what_is_loaded_when_it_starts_is_collected_no_more(
    opened_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a full collection, over all of vLLM's objects, would stop the event loop for half a second."""
    done: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: done.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))

    class Recorded(FakeEngine):
        async def start(self) -> None:
            done.append("engine")

    engine = Recorded(opened_checkpoint.renderer.stop_token_ids[0], max_model_len=MAX_MODEL_LEN)
    app = create_app(Settings(engine="fake"), opened_checkpoint, engine)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    config.load()
    server = _Server(config, lambda: app.state.service)
    server.lifespan = config.lifespan_class(config)
    listener = bind("127.0.0.1", 0)
    await server.startup(sockets=[listener])
    assert done == ["engine", "collect", "freeze"]
    await server.shutdown(sockets=[listener])


def leaving(running: Running) -> _Server:
    return _Server(uvicorn.Config(running.app), lambda: running.service)


async def test_readiness_says_no_before_requests_are_refused(start_app: StartApp) -> None:
    async with start_app(drain_delay_s=0.2) as app:
        assert "connection" not in (await app.score(GOOD)).headers
        server = leaving(app)
        draining = asyncio.create_task(server._drain(app.service, signal.SIGTERM))
        await asyncio.sleep(0)
        ready, scored = await app.client.get("/health/ready"), await app.score(GOOD)
        assert (ready.status_code, scored.status_code) == (503, 200)
        assert ready.headers["connection"] == scored.headers["connection"] == "close"
        assert not server.should_exit
        await draining
        assert server.should_exit
        assert (await app.score(GOOD)).status_code == 503


async def test_a_terminal_waits_for_no_balancer(start_app: StartApp) -> None:
    async with start_app(drain_delay_s=60) as app:
        server = leaving(app)
        await asyncio.wait_for(server._drain(app.service, signal.SIGINT), 5)
        assert server.should_exit
