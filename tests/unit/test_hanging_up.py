"""A caller that hangs up, or does not read: wherever its request is, it lets go of what it held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from conftest import Running, StartApp
from criticrm_server.routes.score_stream import PermittedStream
from support.dropin import bodies

BODY = json.dumps({"prompt": "Q", "responses": ["A", "B"]}).encode()
ACCEPTS = pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])


class Caller:
    """Speaks ASGI itself: httpx's transport can neither hang up half way nor stop reading."""

    def __init__(self, app: Any, accept: str, body: bytes = BODY, *, whole: bool = True, path: str = "/score") -> None:
        self._parts = [{"type": "http.request", "body": body, "more_body": not whole}]
        self._hung_up = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"accept", accept.encode())],
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        self.request = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            return self._parts.pop()
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def hang_up(self) -> None:
        """And see the request end by itself."""
        self._hung_up.set()
        await asyncio.wait_for(self.request, 5)


@asynccontextmanager
async def full_house(start_app: StartApp) -> AsyncIterator[Running]:
    """Two sequences are at work and stay there: the next request waits for room."""
    async with start_app(max_sequences=2, max_critiques=1, queue_timeout_s=60) as app:
        app.engine.delay_s = 60
        first = Caller(app.app, "application/json")
        while app.engine.running < 2:
            await asyncio.sleep(0.001)
        yield app
        await first.hang_up()


@ACCEPTS
async def test_while_its_work_is_in_the_engine(running: Running, accept: str) -> None:
    running.engine.delay_s = 60
    caller = Caller(running.app, accept)
    while running.engine.running < 2:
        await asyncio.sleep(0.001)
    await caller.hang_up()
    assert running.engine.running == running.service.admission.admitted == 0


@pytest.mark.parametrize(("path", "body"), bodies().items())
async def test_of_a_drop_in_route(running: Running, path: str, body: dict[str, Any]) -> None:
    running.engine.delay_s = 60
    caller = Caller(running.app, "*/*", json.dumps(body).encode(), path=path)
    while not running.engine.running:
        await asyncio.sleep(0.001)
    await caller.hang_up()
    assert running.engine.running == running.service.admission.admitted == 0


@ACCEPTS
async def test_while_it_waits_for_room(start_app: StartApp, accept: str) -> None:
    async with full_house(start_app) as app:
        caller = Caller(app.app, accept)
        while not app.service.admission.waiting:
            await asyncio.sleep(0.001)
        await caller.hang_up()
        assert app.service.admission.waiting == 0
        assert app.service.admission.admitted == app.engine.running == 2  # the other caller's
    assert app.service.admission.admitted == app.engine.running == 0


async def test_before_its_body_is_whole(running: Running) -> None:
    caller = Caller(running.app, "application/json", BODY[:10], whole=False)
    await caller.hang_up()
    assert caller.sent[0]["status"] == 499  # nobody reads it; the log and the metrics do
    metrics = (await running.client.get("/metrics")).text
    assert 'criticrm_requests_total{route="/score",status="499"} 1.0' in metrics


async def test_one_that_never_reads_is_cut_off(running: Running) -> None:
    """It would hold its place for ever: the deadline bounds the work, not the sending."""

    async def lines() -> AsyncIterator[str]:
        yield "{}\n"

    async def stuck(_: Any) -> None:
        await asyncio.Event().wait()

    permit = await running.service.admission.admit(3)
    long_ago = asyncio.get_running_loop().time() - 60
    stream = PermittedStream(lines(), permit, long_ago, "application/x-ndjson")
    await asyncio.wait_for(stream({"type": "http"}, asyncio.Event().wait, stuck), 5)
    assert running.service.admission.admitted == 0


@ACCEPTS
@pytest.mark.parametrize("steps", range(16))
async def test_cancelled_around_the_moment_room_comes(start_app: StartApp, accept: str, steps: int) -> None:
    """Whichever step of its way a request is cut off at, as the deadline does, its place is not lost."""
    async with start_app(max_sequences=2, max_critiques=1, queue_timeout_s=60) as app:
        app.engine.delay_s = 60
        permit = await app.service.admission.admit(2)
        caller = Caller(app.app, accept)
        while not app.service.admission.waiting:
            await asyncio.sleep(0.001)
        permit.release()
        for _ in range(steps):
            await asyncio.sleep(0)
        caller.request.cancel()
        await asyncio.gather(caller.request, return_exceptions=True)
        assert app.service.admission.admitted == app.service.admission.waiting == app.engine.running == 0
