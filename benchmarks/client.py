"""The SDK's `score_many` against a bare load generator that sends the same bodies and reads none of the answers.

Without --url both ask a server that has no model, in a process of its own, so that what is measured is the client;
with it, a service: the client must keep it as busy as the load generator does.

examples:
  python benchmarks/client.py
  python benchmarks/client.py --url http://127.0.0.1:8000 --results 400 --data heldout.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from criticrm_client import AsyncCriticRM, Item

HERE = Path(__file__).parent
_NULL_SERVER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from null_server import NullServer
with NullServer() as server:
    print(server.url, flush=True)
    threading.Event().wait()
"""


def load_items(data: Path | None, count: int) -> list[Item]:
    """One response each, of `data` (prompt with responses, or with chosen and rejected), over again if it is short."""
    found = []
    for line in (data or HERE / "conversations.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for response in row.get("responses") or [row["chosen"], row["rejected"]]:
            found.append(Item.model_validate({"prompt": row["prompt"], "responses": [response]}))
    return [found[i % len(found)] for i in range(count)]


async def by_client(url: str, items: list[Item], concurrency: int, pack: int) -> None:
    async with AsyncCriticRM(url) as client:
        for scores in await client.score_many(items, concurrency=concurrency, pack=pack, progress=False):
            assert scores.rewards


async def by_generator(url: str, items: list[Item], concurrency: int, pack: int) -> None:
    packs = [items[i : i + pack] for i in range(0, len(items), pack)]
    bodies = iter([json.dumps({"items": [item.model_dump() for item in some]}).encode() for some in packs])
    headers = {"Content-Type": "application/json", "X-Request-ID": "load"}

    async def worker(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            async with session.post(f"{url}/score", data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200, answer.status

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))


SIDES: dict[str, Callable[[str, list[Item], int, int], Coroutine[Any, Any, None]]] = {
    "score_many": by_client,
    "load generator": by_generator,
}


def measure(url: str, items: list[Item], rounds: int, concurrency: int, pack: int) -> dict[str, Any]:
    """Results a second, and results a second of this process's CPU time, by side and round; the sides take turns."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    core_rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES)[:: 1 if number % 2 else -1]:
            began, cpu = time.perf_counter(), time.process_time()
            asyncio.run(SIDES[side](url, items, concurrency, pack))
            rates[side].append(len(items) / (time.perf_counter() - began))
            core_rates[side].append(len(items) / (time.process_time() - cpu))
    return {"results_per_s": rates, "results_per_core_s": core_rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a service; a server without a model unless given")
    parser.add_argument("--data", type=Path, help="JSONL to take conversations from")
    parser.add_argument("--results", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--pack", type=int, default=8, help="responses a request")
    args = parser.parse_args()
    items = load_items(args.data, args.results)
    server = None
    if args.url is None:
        command = [sys.executable, "-c", _NULL_SERVER, str(HERE.parent / "tests")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        args.url = server.stdout.readline().strip()
    try:
        found = measure(args.url, items, args.rounds, args.concurrency, args.pack)
    finally:
        if server:
            server.kill()
            server.wait()
    for name, by_side in found.items():
        for side, values in by_side.items():
            print(f"{name:<20}{side:<16}{median(values):>10.1f}   [{min(values):.1f}, {max(values):.1f}]")
    ratios = [a / b for a, b in zip(*found["results_per_s"].values(), strict=True)]
    print(f"score_many over the load generator: {median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")
    print(json.dumps({**found, "ratios": ratios, "pack": args.pack, "concurrency": args.concurrency}))


if __name__ == "__main__":
    main()
