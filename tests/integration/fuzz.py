"""Nothing a caller sends kills the engine: requests drawn at random, against a live server.

    python tests/integration/fuzz.py --url http://127.0.0.1:8000 --minutes 10 --seed 0

Prints a table, then a line of JSON; exits with 1 if an invariant broke. What is sent is in `fuzz_requests.py`. Answers
of `/health/live` that took over 250 ms are counted: the event loop, or the machine, was busy with something else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import sys
import time
from collections import Counter
from typing import Any

import httpx
from fuzz_floods import REPORTED_S, StallWatch
from fuzz_requests import NDJSON, Case, Requests

IDLE = ("criticrm_sequences", "criticrm_waiting_requests", "vllm:num_requests_running", "vllm:num_requests_waiting")


class Fuzz:
    """One run: `callers` send one request after the other until the time is over."""

    def __init__(self, client: httpx.AsyncClient, seed: int, seconds: float, callers: int = 24) -> None:
        self.client = client
        self.seed = seed
        self.seconds = seconds
        self.callers = callers
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []
        self.seeded: list[tuple[Case, Any]] = []

    async def run(self) -> dict[str, Any]:
        """Send, let the server come to rest, repeat what was seeded, and sum up."""
        requests = await Requests.measure(self.client)
        ends = time.monotonic() + self.seconds
        await asyncio.gather(*(self._caller(requests, f"{self.seed}/{number}", ends) for number in range(self.callers)))
        await self._rest()
        repeated = await self._repeat_seeded()
        return {
            "requests": self.outcomes.total(),
            "outcomes": {f"{kind} {outcome}": count for (kind, outcome), count in sorted(self.outcomes.items())},
            "seconds": self.seconds,
            "seed": self.seed,
            "callers": self.callers,
            **repeated,
            "faults": self.faults,
        }

    async def _caller(self, requests: Requests, seed: str, ends: float) -> None:
        draw = random.Random(seed)
        while time.monotonic() < ends and len(self.faults) < 20:
            case = requests.draw(draw)
            self.outcomes[case.kind, await self._send(case)] += 1

    async def _send(self, case: Case) -> str:
        try:
            async with asyncio.timeout(case.hang_up_after_s):
                answer = await self.client.post(case.path, content=case.content, headers=case.headers)
        except TimeoutError:
            return "hung up"
        except httpx.HTTPError as error:
            self.faults.append(f"{case.kind}: {type(error).__name__} {error}")
            return type(error).__name__
        if fault := _fault(case, answer):
            self.faults.append(f"{case.kind}: {fault}: {case.content[:300]!r}")
        if answer.status_code == 200 and case.seeded:
            self.seeded = [*self.seeded[-19:], (case, _critiques(answer))]
        return str(answer.status_code)

    async def _rest(self) -> None:
        """Everyone has hung up or been answered: nothing may stay admitted, or in the engine."""
        busy = dict.fromkeys(IDLE, math.nan)
        for _ in range(600):
            text = (await self.client.get("/metrics")).text
            busy = {name: _gauge(text, name) for name in IDLE}
            if not any(busy.values()):
                break
            await asyncio.sleep(0.1)
        else:
            self.faults.append(f"still busy a minute after the last request: {busy}")
        ready = await self.client.get("/health/ready")
        if ready.status_code != 200:
            self.faults.append(f"not ready in the end: {ready.text}")

    async def _repeat_seeded(self) -> dict[str, int]:
        """The seeded requests again, each alone, twice: how many give the same critiques and scores."""
        alone = under_load = 0
        for case, loaded in self.seeded:
            first, second = [
                _critiques(await self.client.post("/score", content=case.content, headers=case.headers))
                for _ in range(2)
            ]
            alone += _same(first, second)
            under_load += _same(first, loaded)
        return {"seeded": len(self.seeded), "same_alone": alone, "same_as_under_load": under_load}


def _gauge(metrics: str, name: str) -> float:
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)))


def _fault(case: Case, answer: httpx.Response) -> str:
    """What is wrong with an answer, or nothing."""
    if answer.status_code != 200:
        error = answer.json()["error"]
        if answer.status_code == 503 and error["code"] == "overloaded":
            return "" if "Retry-After" in answer.headers else "503 without Retry-After"
        expected = case.codes
        return "" if error["code"] in expected else f"{answer.status_code} {error}, expected {expected or 200}"
    if case.must_fail:
        return "200 for a request that is invalid"
    if case.path != "/score":
        rewards = _rewards(case.path, answer.json())
        fine = len(rewards) == case.responses and all(isinstance(r, float) and math.isfinite(r) for r in rewards)
        return "" if fine else f"the rewards {rewards}"
    if case.headers.get("accept") == NDJSON:
        *results, end = map(json.loads, answer.text.splitlines())
        if end["error"] or end["count"] != len(results):
            return f"the stream ended with {end}"
    else:
        results = answer.json()["results"]
    if len(results) != case.responses:
        return f"{len(results)} results for {case.responses} responses"
    for result in results:
        scores = [result["score"], result["direct_score"], *(critique["score"] for critique in result["critiques"])]
        if result["status"] == "error":
            if result["error"]["code"] not in case.codes or scores != [None, None]:
                return f"the result {result}"
        elif not all(isinstance(score, float) and math.isfinite(score) for score in scores):
            return f"a score that is not finite: {scores}"
    return ""


def _rewards(path: str, body: dict[str, Any]) -> list[Any]:
    """What a framework reads of a drop-in route's answer."""
    match path.partition("?")[0]:
        case "/get_reward":
            return list(body["rewards"])
        case "/v1/score/evaluation":
            return list(body["scores"])
        case "/classify":
            return [one["probs"][-1] for one in body["data"]]
        case "/slime":
            return [body["score"]]
        case _:
            return [body["reward"]]


def _critiques(answer: httpx.Response) -> list[dict[str, Any]]:
    return [critique for result in answer.json().get("results", []) for critique in result["critiques"]]


def _same(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """The same critiques, with scores that differ by no more than float32 does between batches."""
    pairs = zip(ones, others, strict=True) if len(ones) == len(others) else [({"text": 0}, {"text": 1})]
    return all(one["text"] == other["text"] and abs(one["score"] - other["score"]) <= 1e-4 for one, other in pairs)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument(
        "--max-stall-s",
        type=float,
        default=10 * REPORTED_S,
        help="a fault: the longest that /health/live may take; what takes over a tenth of it is counted (%(default)s)",
    )
    options = parser.parse_args()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=options.url, timeout=330, limits=limits) as client:
        with StallWatch(options.url) as watch:
            summary = await Fuzz(client, options.seed, options.minutes * 60, options.callers).run()
    worst = max(watch.stalls, default=0.0)
    summary |= {"stalls_over_250_ms": len(watch.stalls), "worst_stall_s": worst}
    if worst > options.max_stall_s:
        summary["faults"].append(f"/health/live took {worst:.1f} s: the event loop stood still")
    for outcome, count in summary["outcomes"].items():
        sys.stdout.write(f"{outcome:<40}{count:>8}\n")
    sys.stdout.write(json.dumps(summary) + "\n")
    return int(bool(summary["faults"]))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
