"""The app alone: the fake engine, the server on one core, the load on another."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from common import CRITICRM, load_samples, post_all, running

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.settings import Settings

PORT = 8943
URL = f"http://127.0.0.1:{PORT}"
CONCURRENCY = 16
SERVER = "server, sockets, collector"
# A function's stage is the first with a mark in its file and name; any other's time goes to its callers.
STAGES = {
    "render and tokenise": (
        "criticrm_model/prompt.py _render",
        "prompt.py open",
        "criticrm_model/conversation.py",
        "contents.py _",
        "contents.py tok",
    ),
    "decode critiques": ("criticrm_model/prompt.py decode", "contents.py decode"),
    "parse and validate": ("from_json", "validate_python", "schemas.py"),
    "serialise": ("to_json", "model_dump_json", "ModelPrivateAttr", "pydantic/main.py __init__"),
    "metrics": ("criticrm_server/metrics.py", "prometheus_client"),
    "fake engine": ("engines/fake.py",),
    "admission": ("admission.py",),
    "score, results": ("scorer.py", "statistics.py"),
    "tasks": ("asyncio/",),
    "routes, middleware": (
        "starlette/",
        "fastapi/",
        "criticrm_server/middleware.py",
        "criticrm_server/disconnect.py",
        "body.py",
        "routes/",
        "logging/",
        "contextlib.py",
    ),
}
Function = tuple[str, int, str]


def bench_app(arguments: argparse.Namespace, checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Results a second at eight responses a request and at one, and microseconds a result by stage."""
    count = 1000 if arguments.quick else 8000  # results in a round
    cores = sorted(os.sched_getaffinity(0))
    command = [
        *("taskset", "-c", str(cores[0]), CRITICRM, "serve", arguments.model),
        *("--engine", "fake", "--port", str(PORT), "--log-level", "warning"),
    ]
    figures: dict[str, Any] = {}
    with running(command, f"{URL}/health/ready", folder / "app.log") as server:
        os.sched_setaffinity(0, {cores[-1]})
        try:
            for name, responses in (("app", 8), ("app_one", 1)):
                bodies = _bodies(arguments, checkpoint, responses, count // responses)
                rates, cpu_rates = [], []
                for number in range(arguments.rounds + 1):
                    used = _cpu_seconds(server)
                    took, _ = post_all(f"{URL}/score", bodies, CONCURRENCY)
                    used = _cpu_seconds(server) - used
                    if number:  # after a warm-up
                        rates.append(len(bodies) * responses / took)
                        cpu_rates.append(len(bodies) * responses / used)
                figures[name] = {
                    "value": median(rates),
                    "lowest": min(rates),
                    "highest": max(rates),
                    "what": f"results/s on one core, {responses} a request",
                    "target": ">= 1000" if responses == 8 else "-",
                    "per_cpu_second": median(cpu_rates),  # the same on a machine that is busy with something else
                    "critique_tokens": arguments.critique_tokens,
                }
        finally:
            os.sched_setaffinity(0, set(cores))
    for name, responses in (("app", 8), ("app_one", 1)):
        stages = asyncio.run(_stages(_bodies(arguments, checkpoint, responses, 800 // responses), checkpoint))
        # What the server's process uses beyond the app itself: uvicorn, the kernel, Python's garbage collector.
        stages[SERVER] = 1e6 / figures[name]["per_cpu_second"] - sum(stages.values())
        figures[name]["us_a_result"] = stages
    _print_stages(figures["app"]["us_a_result"], figures["app_one"]["us_a_result"])
    return figures


def _bodies(arguments: argparse.Namespace, checkpoint: Checkpoint, responses: int, count: int) -> list[dict[str, Any]]:
    samples = load_samples(checkpoint, arguments.data, arguments.samples, arguments.critique_tokens)
    texts = [s.response for s in samples]
    return [
        {
            "prompt": samples[i % len(samples)].prompt,
            "responses": [texts[(i * responses + k) % len(texts)] for k in range(responses)],
            "critique": {"max_tokens": arguments.critique_tokens},
        }
        for i in range(count)
    ]


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system


async def _stages(bodies: list[dict[str, Any]], checkpoint: Checkpoint) -> dict[str, float]:
    """Microseconds a result that the app takes in-process, split as a profile of it is.

    The whole is timed without the profiler, which slows Python down more than compiled code: a split, not a speed.
    """
    app = create_app(
        Settings(engine="fake", greedy_results_mib=0),
        checkpoint,
        FakeEngine(checkpoint.renderer.stop_token_ids[0], max_model_len=4096),
    )
    requests = [json.dumps(body).encode() for body in bodies]
    async with app.router.lifespan_context(app):
        await _call_all(app, requests)  # warm-up
        gc.disable()  # it would count for whatever function it interrupts
        began = time.process_time()
        await _call_all(app, requests)
        took = time.process_time() - began
        profile = cProfile.Profile()
        profile.enable()
        await _call_all(app, requests)
        profile.disable()
        gc.enable()
    shares = _shares(pstats.Stats(profile).stats)  # type: ignore[attr-defined]
    results = sum(len(body["responses"]) for body in bodies)
    return {stage: share * took / results * 1e6 for stage, share in shares.items()}


async def _call_all(app: Any, requests: list[bytes]) -> None:
    left = iter(requests)

    async def caller() -> None:
        for request in left:
            await _call(app, request)

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


async def _call(app: Any, request: bytes) -> None:
    """One `POST /score` without a server, from a caller that stays until it has its answer."""
    parts = [{"type": "http.request", "body": request, "more_body": False}]

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(request)).encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/score"}
    await app(scope | {"raw_path": b"/score", "query_string": b"", "headers": headers}, receive, send)


def _shares(stats: dict[Function, Any]) -> dict[str, float]:
    """Each stage's share of the time. A builtin's or a library's own time belongs to the stages that called it."""

    @cache
    def stage(function: Function) -> str | None:
        file, _, name = function
        return next((s for s, marks in STAGES.items() if any(mark in f"{file} {name}" for mark in marks)), None)

    def give(function: Function, seconds: float, depth: int) -> None:
        own = stage(function)
        callers = {f: entry[3] for f, entry in stats[function][4].items() if f in stats}
        whole = sum(callers.values())
        if own is not None or depth == 0 or not whole:
            shares[own or "other"] += seconds
            return
        for caller, cumulative in callers.items():
            give(caller, seconds * cumulative / whole, depth - 1)

    shares: dict[str, float] = defaultdict(float, dict.fromkeys(STAGES, 0.0))
    for function, entry in stats.items():
        if entry[2] > 0:
            give(function, entry[2], depth=6)
    total = sum(shares.values())
    return {name: seconds / total for name, seconds in shares.items()}


def _print_stages(eight: dict[str, float], one: dict[str, float]) -> None:
    print(f"{'where the app spends its time':<32}{'8 a request':>14}{'1 a request':>14}   microseconds a result")
    for name in eight:
        print(f"  {name:<30}{eight[name]:>14.0f}{one.get(name, 0):>14.0f}")
    print(f"  {'together':<30}{sum(eight.values()):>14.0f}{sum(one.values()):>14.0f}")
