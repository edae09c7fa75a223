"""How far apart the rewards of identical greedy requests are, under load: none with kept results, some without.

Serves a model twice, with kept results as by default and with --greedy-results-mib 0, and sends the same few requests
many times in a mixed order. Prints, for each, how many of the distinct requests got more than one reward, and the
largest spread.

examples:
  python benchmarks/repeats.py
  python benchmarks/repeats.py --model my-critic-rm --requests 10000 --distinct 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import environment, running, say, serve_command

from criticrm_client import AsyncCriticRM
from criticrm_model.manifest import DEFAULT_NAME
from criticrm_server.conversations import read_conversations

PORT = 8377


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_NAME, help="checkpoint to serve, as for 'criticrm serve' (default)")
    parser.add_argument(
        "--requests", type=int, default=10_000, metavar="N", help="requests with cached results (10000)"
    )
    parser.add_argument("--uncached", type=int, default=500, metavar="N", help="requests without cached results (500)")
    parser.add_argument("--distinct", type=int, default=500, metavar="N", help="different requests among them (500)")
    parser.add_argument("--max-tokens", type=int, default=16, metavar="N", help="longest critique, in tokens (16)")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="requests in flight (64)")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    found = {}
    for name, requests, options in (
        ("kept", arguments.requests, ("--greedy-results-mib", "64")),
        ("computed", arguments.uncached, ("--greedy-results-mib", "0")),
    ):
        distinct = min(arguments.distinct, max(1, requests // 10))
        with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
            say(f"{name}: starting the server")
            command = serve_command(arguments.model, PORT, *options)
            with running(command, f"http://127.0.0.1:{PORT}/health/ready", Path(scratch) / "server.log"):
                say(f"{name}: {requests} requests, {distinct} of them different")
                found[name] = asyncio.run(ask(requests, distinct, arguments.max_tokens, arguments.concurrency))
        print(f"{name}: {found[name]}")
    print(json.dumps({"environment": environment(), "workload": vars(arguments), "figures": found}))


async def ask(requests: int, distinct: int, max_tokens: int, concurrency: int) -> dict[str, Any]:
    """Send them, and compare the rewards of those that are the same."""
    conversations = read_conversations(None, 66)
    different = [
        (prompt, f"{response[:200]} ({number})")
        for number in range(distinct)
        for prompt, response in [conversations[number % len(conversations)]]
    ]
    order = [number % distinct for number in range(requests)]
    random.Random(0).shuffle(order)
    rewards: dict[int, list[float]] = defaultdict(list)
    critique = {"max_tokens": max_tokens, "include": False}
    room = asyncio.Semaphore(concurrency)
    began = time.perf_counter()
    async with AsyncCriticRM(f"http://127.0.0.1:{PORT}", timeout_s=600) as client:

        async def one(number: int) -> None:
            prompt, response = different[number]
            async with room:
                scores = await client.score(prompt, [response], critique=critique)
            rewards[number].append(scores.rewards[0])

        await asyncio.gather(*map(one, order))
    spreads = [max(found) - min(found) for found in rewards.values()]
    return {
        "requests": requests,
        "distinct": distinct,
        "with_several_rewards": sum(len(set(found)) > 1 for found in rewards.values()),
        "largest_spread": max(spreads),
        "mean_spread": sum(spreads) / len(spreads),
        "seconds": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    main()
