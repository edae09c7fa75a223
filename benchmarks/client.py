"""The SDK's `score_many` against wrk, which sends the same bodies and parses none of the answers.

Without --url both ask a server that has no model, in a process of its own, so that what is measured is the client;
with it, a service: the client must keep it as busy as wrk does. Needs wrk (Debian and Ubuntu: apt-get install wrk).

examples:
  python benchmarks/client.py
  python benchmarks/client.py --url http://127.0.0.1:8000 --seconds 40 --data heldout.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from criticrm_client import AsyncCriticRM, Item

HERE = Path(__file__).parent
_NULL_SERVER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from support.null_server import NullServer
with NullServer() as server:
    print(server.url, flush=True)
    threading.Event().wait()
"""
# One body a line; what it counts goes to the standard error, since wrk writes its own table to the output.
_WRK = """
local requests, i = {}, 0
for body in io.lines("%s") do
  local headers = {["Content-Type"] = "application/json", ["X-Request-ID"] = "wrk"}
  requests[#requests + 1] = wrk.format("POST", "/score", headers, body)
end
function request() i = i %% #requests + 1; return requests[i] end
function done(summary)
  local e = summary.errors
  io.stderr:write(summary.requests, " ", e.connect + e.read + e.write + e.status + e.timeout)
end
"""


def load_items(data: Path | None) -> list[Item]:
    """One response each, of `data`: prompt with responses, or with chosen and rejected."""
    found = []
    for line in (data or HERE / "conversations.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for response in row.get("responses") or [row["chosen"], row["rejected"]]:
            found.append(Item.model_validate({"prompt": row["prompt"], "responses": [response]}))
    return found


class Load:
    """The same work for both sides: `items` over and over, `pack` responses a request, `concurrency` requests."""

    def __init__(self, url: str, items: list[Item], seconds: float, concurrency: int, pack: int) -> None:
        self.url, self.items, self.seconds, self.concurrency, self.pack = url, items, seconds, concurrency, pack

    def by_score_many(self) -> int:
        """Results that came."""

        def until() -> Iterator[Item]:
            end = time.monotonic() + self.seconds
            for item in cycle(self.items):
                if time.monotonic() > end:
                    return
                yield item

        async def run() -> int:
            async with AsyncCriticRM(self.url) as client:
                found = 0
                async for scores in client.score_stream(until(), concurrency=self.concurrency, pack=self.pack):
                    assert scores.rewards
                    found += 1
                return found

        return asyncio.run(run())

    def by_wrk(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            bodies, script = Path(folder, "bodies"), Path(folder, "post.lua")
            items = iter([item.model_dump() for item in self.items])
            packs = iter(lambda: list(islice(items, self.pack)), [])
            bodies.write_text("".join(json.dumps({"items": some}) + "\n" for some in packs), encoding="utf-8")
            script.write_text(_WRK % bodies, encoding="utf-8")
            options = ["-t", "1", "-c", str(self.concurrency), "-d", f"{self.seconds:.0f}s", "--timeout", "300s"]
            command = ["wrk", *options, "-s", str(script), self.url]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        requests, errors = map(int, done.stderr.split())
        assert not errors, f"{errors} errors\n{done.stdout}"
        return requests * self.pack


def rate_of(run: Callable[[], int]) -> float:
    """Results a second."""
    began = time.perf_counter()
    return run() / (time.perf_counter() - began)


def rate_at(url: str, run: Callable[[], int]) -> float:
    """Results a second that the server counted, without the first and the last sixth of the run."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            counted = re.search(r"^criticrm_score_count (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
            samples.append((time.perf_counter(), float(counted[1]) if counted else 0.0))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        run()
    finally:
        over.set()
        watching.join()
    middle = samples[len(samples) // 6 : -len(samples) // 6]
    (t0, n0), (t1, n1) = middle[0], middle[-1]
    return (n1 - n0) / (t1 - t0)


def core_seconds() -> float:
    """Processor time of this process and of those it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measure(load: Load, rounds: int, at_server: bool) -> dict[str, Any]:
    """Results a second, and results a second of the side's processor time, by round; the sides take turns."""
    sides = {"score_many": load.by_score_many, "wrk": load.by_wrk}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    core_rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            cpu, found = core_seconds(), 0

            def run(side: str = side) -> int:
                nonlocal found
                found = sides[side]()
                return found

            rates[side].append(rate_at(load.url, run) if at_server else rate_of(run))
            core_rates[side].append(found / (core_seconds() - cpu))
    return {"results_per_s": rates, "results_per_core_s": core_rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="URL of a service. Default: a local server without a model.")
    parser.add_argument("--data", type=Path, help="JSONL to take conversations from")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight (default: %(default)s)")
    parser.add_argument("--pack", type=int, default=8, help="responses in each request (default: %(default)s)")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed: apt-get install wrk, or see https://github.com/wg/wrk")
    items, server = load_items(args.data), None
    url = args.url
    if url is None:
        command = [sys.executable, "-c", _NULL_SERVER, str(HERE.parent / "tests")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        url = server.stdout.readline().strip()
    try:
        load = Load(url, items[: len(items) // args.pack * args.pack], args.seconds, args.concurrency, args.pack)
        found = measure(load, args.rounds, at_server=server is None)
    finally:
        if server:
            server.kill()
            server.wait()
    for name, by_side in found.items():
        for side, values in by_side.items():
            print(f"{name:<20}{side:<16}{median(values):>10.1f}   [{min(values):.1f}, {max(values):.1f}]")
    ratios = [a / b for a, b in zip(*found["results_per_s"].values(), strict=True)]
    print(f"score_many over wrk: {median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")
    print(json.dumps({**found, "ratios": ratios, "pack": args.pack, "concurrency": args.concurrency}))


if __name__ == "__main__":
    main()
