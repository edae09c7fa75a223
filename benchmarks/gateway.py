"""The gateway (`--engine remote`) before one stock vLLM server, against calling that server directly.

Direct requests carry the same token ids, rendered before the clock runs, so what is measured is all that the gateway
adds: schema, rendering, checks, JSON, one more hop. Throughput: both sides take turns with all requests. Latency: one
request at a time, the same one on both sides, in turns.

examples:
  python benchmarks/gateway.py
  python benchmarks/gateway.py --samples 24 --rounds 2 --pairs 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from common import CRITICRM, ENGINE, environment, load_samples, post_all, running, say, score_bodies

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.default import resolve
from criticrm_server.engines.base import Job
from criticrm_server.engines.readout import CPU_ENGINE_ARGUMENTS, sampling_parameters
from criticrm_server.engines.remote_checks import GENERATE, request_body, server_command, vllm_flags

SERVER_PORT, GATEWAY_PORT = 8947, 8948
SERVER, GATEWAY = f"http://127.0.0.1:{SERVER_PORT}", f"http://127.0.0.1:{GATEWAY_PORT}"


def direct_bodies(checkpoint: Checkpoint, prompts: Sequence[list[int]], max_tokens: int) -> list[Any]:
    """What the gateway sends for these prompts."""
    tokens, stops = checkpoint.manifest.reward_tokens, checkpoint.renderer.stop_token_ids
    jobs = [Job(ids, n=1, max_tokens=max_tokens, temperature=0.0, seed=None) for ids in prompts]
    return [json.loads(request_body(job.token_ids, sampling_parameters(job, tokens, stops))) for job in jobs]


def throughput(sides: dict[str, tuple[str, list[Any]]], rounds: int, concurrency: int) -> dict[str, list[float]]:
    """Seconds by side and round; the sides take turns, and turns at being first. A warm-up round is left out."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            url, bodies = sides[side]
            took, _ = post_all(url, bodies, concurrency)
            if number:
                seconds[side].append(took)
                say(f"  round {number} {side:<8}{took:8.2f} s")
    return seconds


async def latencies(sides: dict[str, tuple[str, list[Any]]], pairs: int) -> dict[str, list[float]]:
    """Milliseconds of each request alone, by side; the k-th of both is the same request."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
        for number in range(pairs + 4):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                url, bodies = sides[side]
                began = time.perf_counter()
                async with session.post(url, json=bodies[number % len(bodies)]) as answer:
                    await answer.read()
                    assert answer.status == 200, answer.status
                if number >= 4:  # after a warm-up
                    found[side].append(1000 * (time.perf_counter() - began))
    return found


def interval(values: Sequence[float]) -> list[float]:
    """95 % of the median, by bootstrap."""
    draws = random.Random(0)
    medians = sorted(median(draws.choices(values, k=len(values))) for _ in range(2000))
    return [medians[50], medians[1949]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, help="JSONL to take conversations from")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--critique-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=200, help="requests for the latency")
    args = parser.parse_args()
    checkpoint = Checkpoint.open(resolve(args.model))
    samples = load_samples(checkpoint, args.data, args.samples, args.critique_tokens)
    prompts = [sample.token_ids for sample in samples]
    critiqued = [
        body | {"critique": {"max_tokens": args.critique_tokens}} for body in score_bodies(samples, critique=True)
    ]
    full = {
        "gateway": (f"{GATEWAY}/score", critiqued),
        "direct": (SERVER + GENERATE, direct_bodies(checkpoint, prompts, args.critique_tokens)),
    }
    short = {
        "gateway": (f"{GATEWAY}/score", score_bodies(samples, critique=False)),
        "direct": (SERVER + GENERATE, direct_bodies(checkpoint, prompts, 1)),
    }
    server = [
        *(sys.executable, *shlex.split(server_command(checkpoint).splitlines()[0])[1:]),
        *shlex.split(" ".join(vllm_flags(ENGINE | CPU_ENGINE_ARGUMENTS))),
        *("--port", str(SERVER_PORT), "--uvicorn-log-level", "warning"),
    ]
    gateway = [
        *(CRITICRM, "serve", args.model, "--engine", "remote", "--remote-urls", SERVER, "--port", str(GATEWAY_PORT)),
        *("--max-model-len", str(ENGINE["max_model_len"]), "--log-level", "warning"),
    ]
    found = environment()
    with tempfile.TemporaryDirectory() as folder:
        say("starting the vLLM server")
        with (
            running(server, f"{SERVER}/health", Path(folder) / "server.log"),
            running(gateway, f"{GATEWAY}/health/ready", Path(folder) / "gateway.log"),
        ):
            say("throughput, with critiques")
            seconds = throughput(full, args.rounds, args.concurrency)
            say("throughput, without")
            short_seconds = throughput(short, args.rounds, args.concurrency)
            say("latency")
            one = asyncio.run(latencies(short, args.pairs))
            critiques = asyncio.run(latencies(full, args.pairs // 4))
    print(f"{'':<44}{'median':>9}   95 % interval")
    for name, by_side in (("results/s, critiques", seconds), ("results/s, none", short_seconds)):
        ratios = [a / b for a, b in zip(by_side["direct"], by_side["gateway"], strict=True)]
        low, high = interval(ratios)
        found[name] = {"seconds": by_side, "ratio": median(ratios), "interval": [low, high]}
        print(f"{name + ', gateway over direct':<44}{median(ratios):>9.3f}   [{low:.3f}, {high:.3f}]")
    for name, times in (("ms, none", one), ("ms, critiques", critiques)):
        added = [a - b for a, b in zip(times["gateway"], times["direct"], strict=True)]
        low, high = interval(added)
        found[name] = {"direct": median(times["direct"]), "added": median(added), "interval": [low, high]}
        print(f"{name + ', added by the gateway':<44}{median(added):>9.2f}   [{low:.2f}, {high:.2f}]")
    print(json.dumps({**found, **{key: str(value) for key, value in vars(args).items()}}))


if __name__ == "__main__":
    main()
