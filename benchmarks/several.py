"""What several rewards cost beside one: the same body, served twice, with one reward and with three.

Both servers are up together and take turns, so that a machine whose speed drifts does no harm.

figures, ratios of time within one run (more than 1: three rewards take longer):
  direct    POST /score without critiques
  critique  POST /score with critiques of --critique-tokens

Prints a table, then one line of JSON with every round, the workload and the machine.

examples:
  python benchmarks/several.py --samples 8 --rounds 1
  python benchmarks/several.py --samples 96 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import environment, load_samples, pair_ratios, post_all, print_table, running, say, serve_command
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticrm_model import RewardCard
from criticrm_model.checkpoint import Checkpoint, WeightedReward, assemble
from criticrm_model.default import resolve
from criticrm_model.stored_head import stored_row

PORT, SEVERAL_PORT = 8943, 8944
SEVERAL = [WeightedReward("helpfulness", 0.5), WeightedReward("correctness", 0.3), WeightedReward("verbosity", 0.2)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, metavar="N", help="responses in a round (96)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted rounds, after one to warm up (5)")
    parser.add_argument("--critique-tokens", type=int, default=16, metavar="N", help="longest critique, in tokens (16)")
    parser.add_argument("--concurrency", type=int, default=96, metavar="N", help="requests in flight (96)")
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


def bench(arguments: argparse.Namespace, checkpoint: Checkpoint, several: Path, folder: Path) -> dict[str, Any]:
    samples = load_samples(checkpoint, None, arguments.samples, arguments.critique_tokens)
    critiques: dict[str, Any] = {"direct": False, "critique": {"max_tokens": arguments.critique_tokens}}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in critiques}
    with (
        running(serve_command("default", PORT), f"http://127.0.0.1:{PORT}/health/ready", folder / "one.log"),
        running(
            serve_command(str(several), SEVERAL_PORT),
            f"http://127.0.0.1:{SEVERAL_PORT}/health/ready",
            folder / "several.log",
        ),
    ):
        for number in range(arguments.rounds + 1):
            for name, critique in critiques.items():
                bodies = [{"prompt": s.prompt, "responses": [s.response], "critique": critique} for s in samples]
                for port, taken in zip((PORT, SEVERAL_PORT), seconds[name], strict=True):
                    took, answers = post_all(f"http://127.0.0.1:{port}/score", bodies, arguments.concurrency)
                    if number:  # after a warm-up
                        taken.append(took)
                    assert all((a["results"][0]["rewards"] is None) == (port == PORT) for a in answers)
    return {
        name: {
            **pair_ratios(three, one),
            "what": f"seconds, three rewards : one ({name})",
            "target": "<= 1.02",
            "three_s": three,
            "one_s": one,
            "sequences": len(samples),
        }
        for name, (one, three) in seconds.items()
    }


def main() -> None:
    arguments = parse()
    described = environment()
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        folder = Path(scratch)
        checkpoint = Checkpoint.open(resolve("default"))
        say("making the default with three rewards")
        several = with_three(checkpoint, folder / "several")
        say("starting the two servers")
        figures = bench(arguments, checkpoint, several, folder)
    print_table(figures)
    print(json.dumps({"environment": described, "workload": vars(arguments), "figures": figures}))


if __name__ == "__main__":
    main()
