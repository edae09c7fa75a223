"""TRL's own GRPOTrainer on a tiny policy, with the rewards of a live Critic-RM service.

Not a training: it shows that rewards and critiques arrive where TRL keeps them. Needs `pip install trl`.

examples:
  python scripts/try_trl.py --url http://127.0.0.1:8000
  CRITICRM_KEY=KEY python scripts/try_trl.py --url http://127.0.0.1:8000 --steps 5 --plain
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from criticrm_client import CriticRM
from criticrm_client.rewards import environment
from criticrm_client.rewards.trl import critic_rm_reward

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.tiny import make_model, make_tokenizer

PROMPTS = [
    "Why is the sky blue? Answer in two sentences.",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
    "Rewrite without the passive voice: 'The report was read by nobody.'",
    "My colleague takes credit for my work. How do I bring it up with her?",
    "Write a Python function that reverses the words of a sentence.",
    "Is it safe to take ibuprofen and paracetamol on the same day?",
    "Name three differences between a virus and a bacterium.",
    "Summarise in one line: the meeting moved to Tuesday since the room was taken.",
]
GENERATIONS = 4


def main() -> None:
    name, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=name, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="URL of the service; the API key is read from CRITICRM_KEY")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--plain", action="store_true", help="prompts are texts instead of messages")
    told = parser.parse_args()
    with CriticRM(told.url, key=environment.key()) as client:
        model_version = client.model_info().model_version
    with tempfile.TemporaryDirectory() as folder:
        found = train(told.url, told.steps, told.plain, folder)
    print(f"\n{'step':>4}  {'mean reward':>11}  {'failed':>6}  critiques, the first")
    for row in found:
        print(f"{row['step']:>4}  {row['reward']:>11.4f}  {row['failed']:>6.2f}  {row['critique'][:60]!r}")
    versions = {package: version(package) for package in ("trl", "transformers", "torch")}
    print(json.dumps({"steps": found, "model_version": model_version, "versions": versions}))


def train(url: str, steps: int, plain: bool, folder: str) -> list[dict[str, float | str]]:
    """What TRL logged of each step. Fails where a reward or a critique is missing."""
    tokenizer = make_tokenizer()
    prompts = PROMPTS if plain else [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    trainer = GRPOTrainer(
        model=make_model(len(tokenizer)),
        reward_funcs=critic_rm_reward(url),
        args=GRPOConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=2 * GENERATIONS,
            num_generations=GENERATIONS,
            max_completion_length=24,
            learning_rate=1e-4,
            logging_steps=1,
            log_completions=True,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True)), "nothing was learnt"
    found: list[dict[str, float | str]] = []
    logged = [row for row in trainer.state.log_history if "rewards/critic_rm/mean" in row]
    assert len(logged) == steps, f"{len(logged)} of {steps} steps logged a reward"
    for step, row in enumerate(logged, start=1):
        assert math.isfinite(row["rewards/critic_rm/mean"]), row
        (file,) = Path(folder).rglob(f"completions*{step:05d}.parquet")
        table = pyarrow.parquet.read_table(file).to_pylist()
        assert len(table) == 2 * GENERATIONS, f"{len(table)} completions in step {step}"
        assert all(math.isfinite(line["critic_rm"]) and line["critic_rm/critique"] for line in table), table
        mean = sum(line["critic_rm"] for line in table) / len(table)
        assert math.isclose(mean, row["rewards/critic_rm/mean"], rel_tol=1e-4, abs_tol=1e-5), (mean, row)
        found.append(
            {
                "step": step,
                "reward": row["rewards/critic_rm/mean"],
                "failed": row["critic_rm/failed"],
                "critique": table[0]["critic_rm/critique"],
            }
        )
    return found


if __name__ == "__main__":
    main()
