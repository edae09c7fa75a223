"""The gateway before two stock vLLM servers, started as it says itself: transformers' answers, and a server is killed.

The tests run in this order.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from criticrm_client import AsyncCriticRM
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.readout import CPU_ENGINE_ARGUMENTS
from criticrm_server.engines.remote_checks import server_command, vllm_flags
from support.live import Server, wait_until
from support.references import assert_results_of_transformers

pytestmark = pytest.mark.integration

PROMPT = "a long story " * 60
RESPONSES = [f"Answer {number} is this one." for number in range(24)]


class StockServer:
    """`python -m vllm.entrypoints.openai.api_server`, with the command that the gateway prints."""

    def __init__(self, checkpoint: Checkpoint, core: int, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        small = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 50_000_000}
        flags = vllm_flags({**CPU_ENGINE_ARGUMENTS, **small, "host": "127.0.0.1", "port": port})
        command = [server_command(checkpoint).splitlines()[0], *flags]
        arguments = [sys.executable, *shlex.split(" ".join(command))[1:]]
        bind = {"VLLM_CPU_OMP_THREADS_BIND": str(core), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                arguments, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **bind, "VLLM_NO_USAGE_STATS": "1"}
            )

    def __enter__(self) -> StockServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def running(self) -> float:
        """Its requests in work, by its own count."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))

    def kill(self) -> None:
        if self.process.poll() is None:
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for member in family:
                member.kill()
            self.process.wait(10)
            psutil.wait_procs(family, timeout=10)


@pytest.fixture(scope="module")
def stock(opened_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StockServer]]:
    folder = tmp_path_factory.mktemp("stock")
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        servers = [
            stack.enter_context(StockServer(opened_checkpoint, cores[k % len(cores)], folder / f"{k}.log"))
            for k in range(2)
        ]
        yield servers


@pytest.fixture(scope="module")
def gateway(
    stock: list[StockServer], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """It is started at once, and waits for the servers."""
    urls = ",".join(server.url for server in stock)
    log = tmp_path_factory.mktemp("gateway") / "screen.log"
    with Server(str(tiny_checkpoint), "--engine", "remote", "--remote-urls", urls, log=log) as gateway:
        wait_until(lambda: all(server.ready() for server in stock), 240, stock[1].log.read_text)
        wait_until(lambda: gateway.metric("criticrm_server_up") == 2, 60, gateway.screen)
        yield gateway


def test_critiques_and_scores_are_those_of_transformers(gateway: Server, opened_checkpoint: Checkpoint) -> None:
    answer = gateway.score(prompt=PROMPT, responses=RESPONSES, critique={"max_tokens": 24}).json()
    assert_results_of_transformers(answer["results"], opened_checkpoint, PROMPT, RESPONSES, max_tokens=24)
    assert answer["model_version"] == opened_checkpoint.manifest.version
    assert answer["usage"]["cached_tokens"] > 0


def test_samples_follow_from_their_seed(gateway: Server) -> None:
    body = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 3, "seed": 7, "max_tokens": 12}}
    first, second = (gateway.score(**body).json()["results"][0] for _ in range(2))
    assert [c["text"] for c in first["critiques"]] == [c["text"] for c in second["critiques"]]
    assert len({c["text"] for c in first["critiques"]}) == 3


async def test_a_caller_that_hangs_up_frees_the_server(gateway: Server, stock: list[StockServer]) -> None:
    slow = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 8, "max_tokens": 1000, "temperature": 1}}
    async with gateway.client() as client:
        waiting = asyncio.create_task(client.post("/score", json=slow))
        # Not all eight: a sampled critique may end with its first token.
        await asyncio.to_thread(wait_until, lambda: sum(server.running() for server in stock) >= 1, 60)
        waiting.cancel()
    await asyncio.to_thread(wait_until, lambda: sum(server.running() for server in stock) == 0, 20)


async def test_a_server_that_is_killed_under_load_loses_no_item(gateway: Server, stock: list[StockServer]) -> None:
    """Ends a server: the last test of this file."""
    items = [(f"Question {number}: why?", [f"Answer {k} to {number}." for k in range(2)]) for number in range(300)]
    async with AsyncCriticRM(gateway.url) as client:
        scoring = asyncio.ensure_future(client.score_many(items, critique={"max_tokens": 128}, concurrency=24))
        await asyncio.to_thread(wait_until, lambda: min(server.running() for server in stock) >= 8, 60)
        await asyncio.to_thread(stock[0].kill)
        assert not scoring.done()
        scored = list(await scoring)
    assert len(scored) == len(items)
    assert [len(item.rewards) for item in scored] == [2] * len(items)
    assert gateway.metric("criticrm_server_up") == 1
    assert gateway.metric("criticrm_server_failures_total") >= 8
    assert gateway.get("/health/ready").status_code == 200
    assert gateway.process.poll() is None
    assert "is unhealthy" in gateway.screen()
