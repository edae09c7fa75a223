"""What several rewards cost beside one: one engine of vLLM, whose jobs read one reward or three.

In one process and one engine, for two servers of the same weights differ by more than what is measured. The sides take
turns, each first in every other round, so that a machine whose speed drifts does no harm.

figures, ratios of time within one run (more than 1: three rewards take longer):
  direct    jobs without a critique
  critique  jobs with a critique of --critique-tokens

Prints a table, then one line of JSON with every round, the workload and the machine.

examples:
  python benchmarks/several.py --samples 4 --rounds 1
  python benchmarks/several.py --samples 64 --rounds 11
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import MAX_MODEL_LEN, environment, load_samples, pair_ratios, print_table, say
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticrm_model import RewardCard, RewardTokens
from criticrm_model.checkpoint import Checkpoint, WeightedReward, assemble
from criticrm_model.default import resolve
from criticrm_model.stored_head import stored_row
from criticrm_server.engines.base import Job
from criticrm_server.settings import Settings

SEVERAL = [WeightedReward("helpfulness", 0.5), WeightedReward("correctness", 0.3), WeightedReward("verbosity", 0.2)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="responses in a round (32)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="counted rounds, after one to warm up (9)")
    parser.add_argument("--critique-tokens", type=int, default=16, metavar="N", help="longest critique, in tokens (16)")
    return parser.parse_args()


def with_three(checkpoint: Checkpoint, out: Path) -> Path:
    """The default with three rewards: its own, and two others."""
    manifest = checkpoint.manifest
    row = stored_row(checkpoint.folder, manifest.reward_token_id, checkpoint.config.tie_word_embeddings)  # [d_model]
    card = RewardCard.model_validate({name: getattr(manifest, name) for name in RewardCard.model_fields})
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    assemble(model, tokenizer, torch.stack([row, row.roll(1), row.flip(0)]), card, out, SEVERAL)
    return out


async def bench(arguments: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, Any]:
    from criticrm_server.engines.vllm_engine import VLLMEngine

    samples = load_samples(checkpoint, None, arguments.samples, arguments.critique_tokens)
    kinds = {
        "direct": [Job(s.token_ids, 1, 1, 0.0, None, ban=None) for s in samples],
        "critique": [Job(s.token_ids, 1, arguments.critique_tokens, 0.0, None) for s in samples],
    }
    settings = {"dtype": "bfloat16", "max_model_len": MAX_MODEL_LEN, "prefix_caching": False, "kv_cache_gib": 2}
    engine = VLLMEngine(checkpoint, Settings(model=str(checkpoint.folder), **settings))
    three = checkpoint.manifest.reward_tokens
    sides = {"one": RewardTokens(three.ids[:1]), "three": three}
    seconds: dict[tuple[str, str], list[float]] = {(kind, side): [] for kind in kinds for side in sides}
    await engine.start()
    try:
        for number in range(arguments.rounds + 1):
            for kind, jobs in kinds.items():
                for side in sides if number % 2 else reversed(sides):
                    engine._tokens = sides[side]
                    began = time.perf_counter()
                    await asyncio.gather(*map(engine.run, jobs))
                    if number:  # after a warm-up
                        seconds[kind, side].append(time.perf_counter() - began)
    finally:
        await engine.close()
    return {
        kind: {
            **pair_ratios(seconds[kind, "three"], seconds[kind, "one"]),
            "what": f"seconds, three rewards : one ({kind})",
            "target": "<= 1.02",
            "three_s": seconds[kind, "three"],
            "one_s": seconds[kind, "one"],
            "sequences": len(samples),
        }
        for kind in kinds
    }


def main() -> None:
    arguments = parse()
    described = environment()
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        say("making the default with three rewards")
        several = with_three(Checkpoint.open(resolve("default")), Path(scratch) / "several")
        say("starting the engine")
        figures = asyncio.run(bench(arguments, Checkpoint.open(several)))
    print_table(figures)
    print(json.dumps({"environment": described, "workload": vars(arguments), "figures": figures}))


if __name__ == "__main__":
    main()
