"""A trainer in a process of its own, which takes optimizer steps when it is asked to (worker.py, training.py).

`trainers.py trl|scalar|joint FOLDER SETTINGS`; the settings are a `TrainConfig` for all three.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, TrainerCallback, TrainerState, TrainingArguments
from worker import answer

from criticrm_model.prompt import Renderer
from criticrm_training.critiques.records import SIDES
from criticrm_training.data.overlong import render_pairs
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.splits import in_question_order
from criticrm_training.training.collator import count_tokens
from criticrm_training.training.run import train
from criticrm_training.training.train_config import TrainConfig


class Turns(TrainerCallback):
    """Trains as many steps as each line of standard input asks for, and one before them that is not timed.

    That one wakes the process: the system may have taken memory from it while it waited. Between two turns the trainer
    waits; when there are no more lines the process ends, without what follows training.

    Tokens are those of the responses with their prompts, and of their critiques, without padding, whether a prompt is
    computed once for several of them or not; `computed` counts each as often as it is computed.
    """

    def __init__(self) -> None:
        self._from = self._until = 0
        self._counted = torch.zeros(2, dtype=torch.long)  # tokens and those computed, since the beginning
        self._before = self._counted.clone()  # at the beginning of this turn
        self._began = self._cpu_began = 0.0

    # Trainer calls these with its arguments, its state and its control.
    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, *__: Any, model: Any, train_dataloader: Any, **___: Any
    ) -> None:
        rows = train_dataloader.dataset
        pairs = [sum(count_tokens(row[side]) for side in SIDES) for row in rows] if "chosen" in rows[0] else None

        def count(_: Any, __: Any, batch: dict[str, Any]) -> None:
            computed = int(batch["attention_mask"].sum())
            tokens = computed if pairs is None else sum(pairs[i] for i in batch["index"].tolist())
            self._counted += torch.tensor([tokens, computed])

        model.register_forward_pre_hook(count, with_kwargs=True)
        every = list(model.parameters())
        answer(parameters=sum(p.numel() for p in every), trainable=sum(p.numel() for p in every if p.requires_grad))
        self._wait(state)

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == self._from:
            self._before = self._counted.clone()
            self._began, self._cpu_began = time.perf_counter(), time.process_time()
        if state.global_step < self._until:
            return
        tokens, computed = (self._counted - self._before).tolist()
        answer(
            seconds=time.perf_counter() - self._began,
            cpu_seconds=time.process_time() - self._cpu_began,
            tokens=tokens,
            computed=computed,
            peak_bytes=peak_bytes(),
        )
        self._wait(state)

    def _wait(self, state: TrainerState) -> None:
        _return_memory()  # three trainers with the activations of their last step do not fit into 24 GB
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        self._from = state.global_step + 1
        self._until = self._from + json.loads(line)["steps"]


def _return_memory() -> None:
    """What is free within this process goes back to the system, where its C library can do that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_bytes() -> int:
    """Of the GPU's memory where there is one, else the greatest resident set of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def train_trl(config: TrainConfig, folder: Path) -> None:
    """TRL's RewardTrainer on the token ids that `criticrm train --scalar` learns from, with the same arguments."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(config.base)
    rendered = render_pairs(
        in_question_order(read_pairs(config.data)),
        Renderer(tokenizer, config.instruction),
        max_model_len=config.max_model_len,
        max_critique_tokens=config.max_critique_tokens,
        overlong=config.overlong,
    )
    rows = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in rendered.prompts]
    loading = {"dtype": config.dtype}
    if config.attn_implementation is not None:
        loading["attn_implementation"] = config.attn_implementation
    RewardTrainer(
        config.base,
        RewardConfig(str(folder), max_length=None, model_init_kwargs=loading, **config.trainer),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="SEQ_CLS", **config.lora) if config.lora else None,
    ).train()


def main() -> None:
    side, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    config = TrainConfig.model_validate(settings)
    transformers.trainer.DEFAULT_CALLBACKS.append(Turns)  # of every Trainer: all three run as a user runs them
    if side == "trl":
        train_trl(config, folder)
    else:
        train(config, folder, scalar=side == "scalar")


if __name__ == "__main__":
    main()
