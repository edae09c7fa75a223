"""`criticrm train` against TRL's RewardTrainer: tokens a second and peak memory, at the same work.

Three sides, each a process of its own, in turn, round after round:
  trl     TRL's RewardTrainer on AutoModelForSequenceClassification (`pip install trl`; nothing else here needs it)
  scalar  our scalar baseline, as `criticrm train --scalar`
  joint   our joint objective: the same prompts and responses, and a critique of each

Model, token ids, order, batch, LoRA layers, optimizer, learning rate and precision (float32 weights under bfloat16
autocast) are the same. What differs is what the trainers are: TRL pads chosen and rejected of a batch into one forward
pass and reads a classification head at the last token, as ours reads the reward there; ours runs the LM head at the
critique's positions. Only optimizer steps are timed, after some to warm up. Memory is the greatest during these steps.

examples:
  python benchmarks/training.py --quick
  python benchmarks/training.py --data preferences.jsonl --model path/to/instruct-model --steps 20
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import HERE, environment, pair_ratios
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from criticrm_model.manifest import DEFAULT_CRITIQUE_INSTRUCTION
from criticrm_model.prompt import Renderer
from criticrm_training.base import load_base
from criticrm_training.batches import Example, PairCollator, Side
from criticrm_training.joint import JointModel
from criticrm_training.objective import Objective
from criticrm_training.trainer import JointTrainer

SIDES = ("trl", "scalar", "joint")
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="base: 'default', a folder or a hub name (default)")
    parser.add_argument("--data", metavar="FILE", help="preference pairs (two responses of each conversation here)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="timed optimizer steps a round (8)")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="steps before them (2)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (3)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="pairs a step (4)")
    parser.add_argument("--critique-tokens", type=int, default=48, metavar="N", help="of each made critique (48)")
    parser.add_argument("--max-length", type=int, default=512, metavar="N", help="tokens of a prompt at most (512)")
    parser.add_argument("--quick", action="store_true", help="one round of two steps: does it run, not how fast")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what this process is
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.warmup = 1, 2, 1
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    described = environment()
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            print(f"round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr, flush=True)
            done = subprocess.run(
                [sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True
            )
            rounds[side].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {side: [r["tokens"] / r["seconds"] for r in found] for side, found in rounds.items()}
    memory = {side: max(r["peak_bytes"] for r in found) / 2**30 for side, found in rounds.items()}
    figures = {
        "scalar": {"what": "our scalar baseline's tokens a second, of TRL's", "target": ">= 1.0"}
        | pair_ratios(speed["scalar"], speed["trl"]),
        "joint": {"what": "what a token of the joint objective costs, of the scalar's", "target": "<= 1.25"}
        | pair_ratios(speed["scalar"], speed["joint"]),
    }
    for name, figure in figures.items():
        print(
            f"{name:<8}{figure['value']:>7.2f} [{figure['lowest']:.2f}, {figure['highest']:.2f}]  "
            f"{figure['target']:<8} {figure['what']}"
        )
    for side in SIDES:
        print(f"{side:<8}{max(speed[side]):>7.0f} tokens a second, peak memory {memory[side]:.2f} GiB")
    print(json.dumps({"environment": described, "workload": vars(arguments), "figures": figures, "rounds": rounds}))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    lm, tokenizer = load_base(arguments.model, torch.float32)
    examples = make_examples(arguments, Renderer(tokenizer, DEFAULT_CRITIQUE_INSTRUCTION))
    options: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(prefix="criticrm-bench-"),
        "max_steps": arguments.warmup + arguments.steps,
        "per_device_train_batch_size": arguments.batch,
        "learning_rate": 1e-4,
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 5,
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
    }
    build = _trl if arguments.side == "trl" else _ours
    trainer = build(arguments, lm, tokenizer, examples, options)
    del lm
    gc.collect()
    timer = Timer(arguments.warmup)
    trainer.add_callback(timer)
    trainer.model.register_forward_pre_hook(timer.count, with_kwargs=True)
    trainer.train()
    return {"tokens": timer.tokens, "seconds": timer.seconds, "peak_bytes": _peak_bytes()}


def make_examples(arguments: argparse.Namespace, renderer: Renderer) -> list[Example]:
    """As many pairs as the steps take. Each critique is made of the words of its response: for speed they will do."""
    wanted = arguments.batch * (arguments.warmup + arguments.steps)
    rows = [json.loads(line) for line in Path(arguments.data or HERE / "conversations.jsonl").read_text().splitlines()]
    examples: list[Example] = []
    for i in range(wanted):
        row = rows[i % len(rows)]
        opened = renderer.open(
            [{"role": "user", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
        )
        sides = []
        for response in row.get("responses") or (row["chosen"], row["rejected"]):
            rendered = opened.render(
                response,
                max_model_len=arguments.max_length + arguments.critique_tokens,
                max_critique_tokens=arguments.critique_tokens,
                truncate=True,
            )
            words = renderer.tokenize_critique(response * (1 + 8 * arguments.critique_tokens // max(1, len(response))))
            critique = words[: arguments.critique_tokens] if arguments.side == "joint" else []
            sides.append(Side(prompt_ids=rendered.token_ids, critique_ids=critique))
        examples.append(Example(chosen=sides[0], rejected=sides[-1]))
    return examples


def _ours(
    arguments: argparse.Namespace, lm: Any, tokenizer: Any, examples: list[Example], options: dict[str, Any]
) -> Trainer:
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=LAYERS, task_type="CAUSAL_LM")
    scalar = Objective(schedule="constant", weight=0, direct_weight=0)
    return JointTrainer(
        JointModel(get_peft_model(lm, lora)),
        TrainingArguments(**options),
        objective=scalar if arguments.side == "scalar" else Objective(schedule="additive"),
        data_collator=PairCollator(pad_id=tokenizer.eos_token_id),
        train_dataset=examples,
    )


def _trl(_: argparse.Namespace, lm: Any, tokenizer: Any, examples: list[Example], options: dict[str, Any]) -> Trainer:
    try:
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer
    except ImportError as error:
        raise SystemExit(f"this compares with TRL: pip install trl ({error})") from error
    config = lm.config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    model.model.load_state_dict(lm.model.state_dict())
    rows = [
        {"chosen_ids": example["chosen"]["prompt_ids"], "rejected_ids": example["rejected"]["prompt_ids"]}
        for example in examples
    ]
    return RewardTrainer(
        model,
        RewardConfig(**options, max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules=LAYERS, task_type="SEQ_CLS", modules_to_save=["score"]
        ),
    )


class Timer(TrainerCallback):
    """Seconds and tokens of the optimizer steps after the first `warmup` ones."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.tokens, self.seconds, self._began, self._timed = 0, 0.0, 0.0, False

    def count(self, _module: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        if self._timed:
            self.tokens += int(inputs["attention_mask"].sum())

    def on_step_begin(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == self.warmup:
            _forget_peak()
        self._timed = state.global_step >= self.warmup
        self._began = _now()

    def on_step_end(self, _arguments: Any, _state: Any, _control: Any, **_: Any) -> None:
        if self._timed:
            self.seconds += _now() - self._began


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
