"""The service against what a user would pick instead. `make bench` runs it; `make bench ARGS="--quick"` tries it.

comparisons, each a ratio within one run, its sides alternating:
  app         the app alone, on the fake engine and one core: results a second, and where the time goes
  generate    HTTP /score against offline LLM.generate of the same prompts, without the reward: tokens a second
  two_copies  HTTP /score against LLM.generate and then LLM.classify with a second copy of the weights
  classify    HTTP /score without critiques against vLLM's own server and its /classify, same backbone and head

Prints a table, then one line of JSON with every round, the workload and the machine. A ratio is the median over
rounds of neighbouring runs, so a machine whose speed drifts does no harm; one that is busy does: look at `load_before`.
Needs about 8 GiB of memory: the sides of a comparison are up together.

examples:
  python benchmarks/run.py --quick
  python benchmarks/run.py --only app
  python benchmarks/run.py --data preferences.jsonl --samples 192 --critique-tokens 128
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from app_alone import bench_app
from common import environment, print_table, say
from critiques import bench_critiques
from direct import bench_direct

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.default import resolve

COMPARISONS = ("app", "generate", "two_copies", "classify")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        metavar="NAMES",
        default=",".join(COMPARISONS),
        help="comma-separated names of the above. Default: all.",
    )
    parser.add_argument("--model", default="default", help="checkpoint to serve, as for 'criticrm serve' (default)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="conversations: JSONL with prompt, and responses or chosen and rejected (benchmarks/conversations.jsonl)",
    )
    parser.add_argument("--samples", type=int, default=96, metavar="N", help="responses in a round (96)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted rounds, after one to warm up (5)")
    parser.add_argument(
        "--critique-tokens", type=int, metavar="N", help="longest critique, in tokens (the checkpoint's own limit)"
    )
    parser.add_argument("--concurrency", type=int, default=96, metavar="N", help="requests in flight (96)")
    parser.add_argument("--quick", action="store_true", help="16 responses and one round, to test that it runs")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(COMPARISONS):
        parser.error(f"--only knows {', '.join(COMPARISONS)}; not {', '.join(sorted(unknown))}")
    if arguments.quick:
        arguments.samples, arguments.rounds = 16, 1
    return arguments


def main() -> None:
    arguments = parse()
    described = environment()
    checkpoint = Checkpoint.open(resolve(arguments.model))
    arguments.critique_tokens = arguments.critique_tokens or checkpoint.manifest.max_critique_tokens
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        folder = Path(scratch)
        if "app" in arguments.only:
            say("app: the fake engine, on one core")
            figures |= bench_app(arguments, checkpoint, folder)
        if {"generate", "two_copies"} & set(arguments.only):
            say("generate, two_copies: starting the engines")
            both = bench_critiques(arguments, checkpoint, folder, two_copies="two_copies" in arguments.only)
            figures |= {k: v for k, v in both.items() if k != "generate" or k in arguments.only}
        if "classify" in arguments.only:
            say("classify: starting the two servers")
            figures |= bench_direct(arguments, checkpoint, folder)
    print_table(figures)
    workload = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    workload["model_version"] = checkpoint.manifest.version
    print(json.dumps({"environment": described, "workload": workload, "figures": figures}))


if __name__ == "__main__":
    main()
