"""Two servers are stopped and started in turn under load: nobody loses a request."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from criticrm_client import AsyncCriticRM, ItemScores
from support.live import Server, wait_until

pytestmark = pytest.mark.integration

ROUNDS = 1
ITEMS = [(f"Question {number}?", ["An answer.", "Another."]) for number in range(32)]


class Pair:
    """Two servers that keep their ports."""

    def __init__(self, checkpoint: Path, logs: Path) -> None:
        self._checkpoint = checkpoint
        self._logs = logs
        self._started = 0
        self.servers = [self._start(0) for _ in range(2)]
        self.urls = [server.url for server in self.servers]

    def restart(self, which: int) -> int:
        """The exit code of the one that was stopped."""
        old = self.servers[which]
        old.signal(signal.SIGTERM)
        code = old.exit_code(timeout_s=60)
        self.servers[which] = self._start(int(old.url.rpartition(":")[2]))
        return code

    def scored(self) -> int:
        """Requests to /score that were answered with 200, by all servers that ever ran."""
        return sum(log.read_text("utf-8").count("POST /score 200") for log in self._logs.glob("*.log"))

    def _start(self, port: int) -> Server:
        self._started += 1
        log = self._logs / f"{self._started}.log"
        return Server(str(self._checkpoint), "--engine", "transformers", "--dtype", "float32", log=log, port=port)


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # each takes one core
        pair = Pair(tiny_checkpoint, tmp_path_factory.mktemp("rolling"))
    yield pair
    for server in pair.servers:
        server.kill()


async def test_a_rolling_restart_loses_nothing(pair: Pair) -> None:
    stopped: list[int] = []
    found: list[ItemScores] = []
    sent = 0
    done = asyncio.Event()

    def items() -> Iterator[tuple[str, list[str]]]:
        nonlocal sent
        while not done.is_set():
            yield ITEMS[sent % len(ITEMS)]
            sent += 1

    async def score() -> None:
        async with AsyncCriticRM(pair.urls) as client:
            async for scores in client.score_stream(items(), concurrency=8, pack=2, critique={"max_tokens": 8}):
                found.append(scores)

    async with AsyncCriticRM(pair.urls[0]) as client:
        before = await client.score_many(ITEMS, pack=1, critique={"max_tokens": 8}, progress=False)
    expected = [scores.rewards for scores in before]
    answered = len(ITEMS)  # a request's line is written after its answer
    await asyncio.to_thread(wait_until, lambda: pair.scored() == answered, 30)

    outcomes: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(score())
        for url in pair.urls:
            for connections in (0, 1):
                group.create_task(_call(url, connections, outcomes, done))
        while not found:
            await asyncio.sleep(0.05)
        for _ in range(ROUNDS):
            for which in range(2):
                stopped.append(await asyncio.to_thread(pair.restart, which))
        done.set()

    assert stopped == [0] * 2 * ROUNDS
    assert len(found) == sent > 20
    for number, scores in enumerate(found):
        assert scores.error is None
        assert scores.rewards == pytest.approx(expected[number % len(ITEMS)], abs=1e-5)
    await asyncio.to_thread(wait_until, lambda: pair.scored() - answered >= sent, 30)
    assert pair.scored() - answered == sent  # none was scored a second time
    # Those who call one server alone: an answer, or a refused connection; never one that breaks.
    assert set(outcomes) <= {"200", "503", "refused"}
    assert outcomes["200"]
    assert outcomes["refused"]


async def _call(url: str, kept_alive: int, outcomes: Counter[str], done: asyncio.Event) -> None:
    """One request after the other, without retries, over a connection that is kept or a new one for each."""
    limits = httpx.Limits(max_keepalive_connections=kept_alive)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        while not done.is_set():
            try:
                answer = await client.post("/classify", json={"input": "Fine."})
            except httpx.ConnectError:
                outcomes["refused"] += 1
            except httpx.TransportError as error:
                outcomes[repr(error)] += 1
            else:
                outcomes[str(answer.status_code)] += 1
            await asyncio.sleep(0.05)
