"""`criticrm train` against TRL's RewardTrainer: tokens a second of the optimizer steps, and peak memory.

TRL is wanted for this alone: `pip install trl` (in an environment that has the extra `train`).

sides, each in a process of its own, taking turns:
  trl     TRL's RewardTrainer
  scalar  `criticrm train --scalar`, the baseline without critiques
  joint   `criticrm train`, the critique loss and the reward loss together

figures, each a ratio within one run:
  scalar         tokens/s of scalar : trl
  joint          time a computed token of joint : scalar; a critique's tokens count like any others, and what a pair
                 shares once, on both sides
  memory_scalar  peak memory of scalar : trl (the GPU's, or the process's)
  memory_joint   peak memory of joint : trl
  mfu_SIDE       model FLOPs utilisation of each side, on GPUs whose peak is known

The sides have the same base, LoRA, optimizer, precision (float32 weights; bfloat16 autocast where the machine has
it), pairs a batch, and the same token ids: those of our renderer, which asks for a critique at the end. joint has
critiques after them. Pairs are of mixed length, from a few words to whole answers. What differs is what is compared:
ours puts pairs of like length into a batch and computes what both responses of a pair begin with once, TRL draws them
at random, pads, and computes each response by itself; a rate counts the tokens of all responses with their prompts,
without padding.
TRL puts all chosen responses of a batch before all rejected ones, applies its head to every token and keeps the last
one's score, and works out its metrics in every step; ours reads the reward at one position in float32, twice, and joint
runs the LM head on the critiques. TRL recomputes activations unless told not to; here neither side does, or both
(--gradient-checkpointing).

Loading, evaluation and export are not timed. Prints a table, then one line of JSON with every round, the workload and
the machine. A ratio is the median over rounds of neighbouring turns; look at `load_before` on a busy machine.

examples:
  python benchmarks/training.py --quick
  python benchmarks/training.py --data preferences.jsonl --batch 4 --steps 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import HERE, environment, pair_ratios, print_table, say, write_pairs
from worker import Worker

from criticrm_model.default import build_base
from criticrm_model.manifest import DEFAULT_NAME
from criticrm_training.base import has_fast_bfloat16
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique
from criticrm_training.data.pairs import read_pairs
from criticrm_training.parts import write_in_parts

TRAINERS = ("trl", "scalar", "joint")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_NAME, help="base to train: a folder, or the embedded one (default)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="preference pairs, as for 'criticrm train' (made of benchmarks/conversations.jsonl)",
    )
    parser.add_argument("--pairs", type=int, default=96, metavar="N", help="preference pairs, all trained on (96)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="pairs in an optimizer step (4)")
    parser.add_argument(
        "--steps", type=int, default=6, metavar="N", help="timed steps in a turn, after one that is not (6)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted rounds, after one to warm up (5)")
    parser.add_argument("--critique-tokens", type=int, default=64, metavar="N", help="longest critique, in tokens (64)")
    parser.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="longest prompt plus critique, in tokens (1024)"
    )
    parser.add_argument("--attention", metavar="NAME", help="attention of all sides (transformers' own choice)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations, on all sides")
    parser.add_argument("--quick", action="store_true", help="one pair a step and one round, to test that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pairs, arguments.batch, arguments.steps, arguments.rounds = 16, 1, 1, 1
    if find_spec("trl") is None:
        parser.error("TRL is not installed; this comparison alone needs it: pip install trl")
    return arguments


# Dense bfloat16, by NVIDIA's data sheets.
_PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


def main() -> None:
    arguments = parse()
    described = environment()
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        figures = bench_training(arguments, Path(scratch))
    print_table(figures)
    workload = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    print(json.dumps({"environment": described, "workload": workload, "figures": figures}))


def bench_training(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    settings = _settings(arguments, folder)
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in TRAINERS}
    with ExitStack() as stack:
        say("starting the trainers")
        workers = {
            side: stack.enter_context(
                Worker(side, folder / side, settings, folder / f"{side}.log", HERE / "trainers.py")
            )
            for side in TRAINERS
        }
        if len(trainable := {worker.ready["trainable"] for worker in workers.values()}) != 1:
            raise SystemExit(f"the sides train different numbers of parameters: {trainable}")
        for number in range(arguments.rounds + 1):
            say(f"round {number} of {arguments.rounds}" if number else "warming up")
            for side, worker in workers.items():
                turn = worker.run(steps=arguments.steps)
                if number:  # the first is for warming up
                    turns[side].append(turn)
        parameters = workers["scalar"].ready["parameters"]
    return _figures(turns) | _utilisation(turns, parameters)


def _utilisation(turns: dict[str, list[dict[str, Any]]], parameters: int) -> dict[str, Any]:
    """Model FLOPs utilisation (Chowdhery et al. 2022), on GPUs whose peak is known.

    With LoRA a token takes 4 FLOPs a parameter: forward, and backward without the base's weight gradients.
    """
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((flops for known, flops in _PEAK_FLOPS.items() if known in name), None)
    if peak is None:
        return {}
    return {
        f"mfu_{side}": {
            "value": max(4 * parameters * turn["tokens"] / turn["seconds"] for turn in taken) / peak,
            "what": f"model FLOPs utilisation, {side}, of {peak / 1e12:g} TFLOPS ({name})",
            "target": "-",
        }
        for side, taken in turns.items()
    }


def _figures(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    tokens = {side: [turn["tokens"] for turn in taken] for side, taken in turns.items()}
    rates = {side: [turn["tokens"] / turn["seconds"] for turn in taken] for side, taken in turns.items()}
    computed = {side: [turn["computed"] / turn["seconds"] for turn in taken] for side, taken in turns.items()}
    peaks = {side: max(turn["peak_bytes"] for turn in taken) for side, taken in turns.items()}
    return {
        "scalar": {
            **pair_ratios(rates["scalar"], rates["trl"]),
            "what": "tokens/s, train --scalar : TRL's RewardTrainer",
            "target": ">= 1.50",
            "tokens": tokens,
            "tokens_per_s": rates,
            "computed_per_s": computed,
            "cpu_s": {side: [turn["cpu_seconds"] for turn in taken] for side, taken in turns.items()},
        },
        "joint": {
            **pair_ratios(computed["scalar"], computed["joint"]),
            "what": "time a computed token, train : train --scalar",
            "target": "<= 1.15",
        },
        **{
            f"memory_{side}": {
                "value": peaks[side] / peaks["trl"],
                "what": f"peak memory, {side} : TRL's RewardTrainer",
                "target": "-",
                "ours_bytes": peaks[side],
                "rival_bytes": peaks["trl"],
            }
            for side in ("scalar", "joint")
        },
    }


def _settings(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A `TrainConfig` of the same losses, LoRA and trainer for all sides."""
    data = write_pairs(arguments.data, arguments.pairs, folder / "pairs.jsonl")
    if arguments.data is None:
        _mix_lengths(data)
    return {
        "base": str(_base(arguments.model)),
        "data": str(data),
        "critiques": str(_critiques(data, folder / "critiques")),
        "validation_share": 0,
        "max_critique_tokens": arguments.critique_tokens,
        "overlong": "truncate",
        "max_model_len": arguments.max_length,
        "attn_implementation": arguments.attention,
        "objective": {"schedule": "constant"},  # both losses from the first step
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "trainer": {
            "max_steps": (arguments.rounds + 1) * (arguments.steps + 1),
            "per_device_train_batch_size": arguments.batch,
            "learning_rate": 2e-4,
            "bf16": has_fast_bfloat16(),
            "use_cpu": not torch.cuda.is_available(),
            "gradient_checkpointing": arguments.gradient_checkpointing,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        },
    }


def _mix_lengths(data: Path) -> None:
    """Both responses of a pair are cut to a share of their words, from an eighth to all, as answers' lengths differ."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for i, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            words = row[side].split(" ")
            row[side] = " ".join(words[: max(1, len(words) // (8, 4, 2, 1)[i % 4])])
    data.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _base(model: str) -> Path:
    """A folder for both trainers to load."""
    return build_base() if model == DEFAULT_NAME else Path(model)


def _critiques(data: Path, folder: Path) -> Path:
    """A critique of each response, which quotes it: cut at the longest, as many a critique by a small model is."""
    rows = [
        Critique(pair.id, side, 0, f"The reply says: {getattr(pair, side)}", None, "stop", 0).row()
        for pair in read_pairs(data)
        for side in SIDES
    ]
    write_in_parts(folder, {}, [rows], _as_they_are, SCHEMA, "critiques")
    return folder


def _as_they_are(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(rows)


if __name__ == "__main__":
    main()
