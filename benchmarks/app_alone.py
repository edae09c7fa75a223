"""The app alone: the fake engine, the server on one core, the load on another."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import sys
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from common import load_samples, post_all, running

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.settings import Settings

PORT = 8943
# Where a function's own time is counted; the first that matches its file.
_STAGES = {
    "render and tokenise": ("criticrm_model/prompt.py", "encode' of 'tokenizers"),
    "decode": ("decode' of 'tokenizers", "tokenization_utils"),
    "validate and serialise": ("pydantic", "schemas.py", "from_json"),
    "score": ("scorer.py", "admission.py", "fake.py", "metrics.py", "prometheus_client", "statistics.py"),
    "http": ("starlette", "fastapi", "criticrm_server/http.py", "routes/", "json/"),
    "event loop": ("asyncio", "selectors", "uvloop", "_contextvars"),
}


def bench_app(arguments: argparse.Namespace, checkpoint: Checkpoint, logs: Path) -> dict[str, Any]:
    """Results a second at eight responses a request and at one, and the share of time by stage."""
    figures = {}
    seconds = 1 if arguments.quick else 4
    cores = sorted(os.sched_getaffinity(0))
    command = [
        *("taskset", "-c", str(cores[0])),
        *(str(Path(sys.executable).with_name("criticrm")), "serve", arguments.model, "--engine", "fake"),
        *("--port", str(PORT), "--log-level", "warning"),
    ]
    url = f"http://127.0.0.1:{PORT}"
    with running(command, url, "/health/ready", logs / "app.log"):
        os.sched_setaffinity(0, {cores[-1]})
        try:
            for responses in (8, 1):
                requests = _requests(arguments, checkpoint, responses, count=seconds * 1000 // responses)
                rates = []
                for _ in range(1 + arguments.rounds):
                    took, _ = asyncio.run(post_all(f"{url}/score", requests, concurrency=16))
                    rates.append(len(requests) * responses / took)
                target = ">= 1000" if responses == 8 else "(beside it)"
                rates = rates[1:]  # after a warm-up
                figures[f"app, {responses} a request"] = {
                    "ratio": median(rates),
                    "lowest": min(rates),
                    "highest": max(rates),
                    "target": f"{target} results/s",
                }
        finally:
            os.sched_setaffinity(0, set(cores))
    shares = asyncio.run(_stages(_requests(arguments, checkpoint, 8, count=100), checkpoint))
    print("where the app's time goes (own time, eight responses a request):")
    for stage, share in shares.items():
        print(f"  {stage:<24}{share:>6.1%}")
    figures["app, 8 a request"]["stages"] = shares
    return figures


def _requests(
    arguments: argparse.Namespace, checkpoint: Checkpoint, responses: int, count: int
) -> list[dict[str, Any]]:
    samples = load_samples(checkpoint, arguments.data, 96, 64)
    texts = [s.response for s in samples]
    return [
        {
            "prompt": samples[i % len(samples)].prompt,
            "responses": [texts[(i * responses + k) % len(texts)] for k in range(responses)],
        }
        for i in range(count)
    ]


async def _stages(requests: list[dict[str, Any]], checkpoint: Checkpoint) -> dict[str, float]:
    """Profile the app in-process. Profiling slows Python down more than compiled code: shares, not speeds."""
    app = create_app(
        Settings(engine="fake"),
        checkpoint,
        lambda c, _: (FakeEngine(c.renderer.stop_token_ids[0]), 4096),
    )
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        profile = cProfile.Profile()
        for body in requests:
            request = client.build_request("POST", "/score", json=body)
            profile.enable()
            await transport.handle_async_request(request)
            profile.disable()
    own: dict[str, float] = dict.fromkeys([*_STAGES, "other"], 0.0)
    for (file, _, function), (_, _, seconds, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        where = f"{file} {function}"
        stage = next((name for name, marks in _STAGES.items() if any(mark in where for mark in marks)), "other")
        own[stage] += seconds
    total = sum(own.values())
    return {name: seconds / total for name, seconds in own.items()}
