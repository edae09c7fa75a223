"""What the stages are made of: trainings, writers and rewards, each in a folder of its own."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measures import accuracy, described, sides_of

from criticrm_model.files import write_json
from criticrm_model.manifest import Manifest
from criticrm_training.critiques.critique_task import load_task
from criticrm_training.critiques.records import SCHEMA, Critique, by_response, critique_tokens
from criticrm_training.critiques.transformers_writer import TransformersWriter
from criticrm_training.critiques.verdict import verdict
from criticrm_training.critiques.writers import Sampling, WritingTask
from criticrm_training.data.pairs import PreferencePair, pair_row, read_pairs
from criticrm_training.data.splits import in_question_order
from criticrm_training.parts import write_in_parts
from criticrm_training.training.run import train
from criticrm_training.training.train_config import TrainConfig

TASK = load_task("reasoning")
INSTRUCTION = TASK.instruction
MAX_MODEL_LEN = 1536
SHORT = 64  # tokens of a critique where there is none, or one by rule


class Workbench:
    """Data, and the folder that all runs are in."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.base = str(arguments.base)
        self.out: Path = arguments.out
        self.size = arguments
        self.began = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        everything = in_question_order(read_pairs(arguments.data / "train.jsonl"))
        first = {pair.group: pair for pair in reversed(everything)}
        self.train = in_question_order(first.values())[: arguments.pairs]
        self.validation = in_question_order(read_pairs(arguments.data / "validation.jsonl"))[: arguments.validation]
        self.all_heldout = in_question_order(read_pairs(arguments.data / "heldout.jsonl"))
        self.heldout = self.all_heldout[: arguments.heldout]
        self.pairs_file = self.out / "train.jsonl"
        self.pairs_file.write_text("".join(json.dumps(pair_row(pair)) + "\n" for pair in self.train), encoding="utf-8")

    def fit(
        self,
        name: str,
        pairs: Sequence[PreferencePair],
        *,
        critiques: Path | None = None,
        reward_critiques: Path | None = None,
        scalar: bool = False,
        schedule: str = "constant",
        weight: float = 0.5,
        rate: float = 2e-4,
        epochs: int = 1,
        longest: int | None = None,
    ) -> None:
        free()
        data = self.out / f"{name}.jsonl"
        data.write_text("".join(json.dumps(pair_row(pair)) + "\n" for pair in pairs), encoding="utf-8")
        config = TrainConfig.model_validate(
            {
                "base": self.base,
                "data": str(data),
                "critiques": critiques,
                "reward_critiques": reward_critiques,
                "validation_share": self.size.calibration,
                "instruction": INSTRUCTION,
                "max_critique_tokens": longest or self.size.critique_tokens,
                "max_model_len": MAX_MODEL_LEN,
                "dtype": self.size.dtype,
                "calibration_pairs": 4,
                "objective": {"schedule": schedule, "direct_weight": 0.1}
                | ({} if schedule == "critique" else {"weight": weight}),
                "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
                "trainer": {
                    "num_train_epochs": epochs,
                    "per_device_train_batch_size": 8 if critiques else 16,
                    "gradient_accumulation_steps": 2 if critiques else 1,
                    "learning_rate": rate,
                    "bf16": self.size.dtype == "bfloat16",
                    "eval_strategy": "no",
                    "save_strategy": "no",
                    "load_best_model_at_end": False,
                    "report_to": [],
                    "disable_tqdm": True,
                    "logging_steps": 20,
                },
            }
        )
        train(config, self.out / name, scalar)
        free()

    def writer(self, model: str) -> TransformersWriter:
        free()
        return TransformersWriter(model, max_model_len=MAX_MODEL_LEN, dtype=self.size.dtype)

    def keep(self, name: str, critiques: list[Critique]) -> Path:
        folder = self.out / name if not name.startswith("control") else self.out / f"{name}-critiques"
        write_in_parts(folder, {}, [[c.row() for c in critiques]], list, SCHEMA, name)
        return folder

    def direct(self, name: str, pairs: Sequence[PreferencePair]) -> list[float]:
        """Rewards before any critique: chosen and rejected in turn."""
        tasks = [WritingTask(p.prompt, p.response(side), INSTRUCTION, 0) for p, side in sides_of(pairs)]
        drafts = self.writer(str(self.out / name)).write(tasks, Sampling(1, 0.0, 1, "reward"))
        return [float(d.score or 0.0) for (d,) in drafts]

    def own_answers(self, name: str, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
        """Greedy critiques with the reply in sight, read by rule."""
        folder = name if name == self.base else str(self.out / name)
        tasks = [WritingTask(p.prompt, p.response(side), INSTRUCTION, 0) for p, side in sides_of(pairs)]
        drafts = [d for (d,) in self.writer(folder).write(tasks, Sampling(1, 0.0, self.size.critique_tokens))]
        critiques = [
            Critique(p.id, side, 0, d.text, None, d.finish_reason, d.tokens, verdict(d.text, p.response(side)))
            for (p, side), d in zip(sides_of(pairs), drafts, strict=True)
        ]
        return described(pairs, critiques) | {"examples": [c.text for c in critiques[:6]]}

    def evaluate(self, name: str, pairs: Sequence[PreferencePair], where: str = "heldout") -> dict[str, Any]:
        writer = self.writer(str(self.out / name))
        tasks = [WritingTask(p.prompt, p.response(side), INSTRUCTION, 7) for p, side in sides_of(pairs)]
        began = time.monotonic()
        drafts = [d for (d,) in writer.write(tasks, Sampling(1, 0.0, self.size.critique_tokens, "reward"))]
        seconds = time.monotonic() - began
        greedy = [float(d.score or 0.0) for d in drafts]
        critiques = [
            Critique(p.id, side, 0, d.text, d.score, d.finish_reason, d.tokens, verdict(d.text, p.response(side)))
            for (p, side), d in zip(sides_of(pairs), drafts, strict=True)
        ]
        before = [float(d.score or 0.0) for (d,) in writer.write(tasks, Sampling(1, 0.0, 1, "reward"))]
        found = described(pairs, critiques) | {
            "greedy": accuracy(pairs, greedy),
            "direct": accuracy(pairs, before),
            "tokens_a_second": sum(d.tokens for d in drafts) / seconds,
        }
        write_json(self.out / f"{name}-{where}.json", {"greedy": greedy, "direct": before})
        texts = [
            {"text": c.text, "finish_reason": c.finish_reason, "score": c.score, "verdict": c.verdict}
            for c in critiques
        ]
        write_json(self.out / f"{name}-texts{'' if where == 'heldout' else '-' + where}.json", texts)
        return found | ({"scores": greedy} if where != "heldout" else {})

    @torch.inference_mode()
    def teacher_forced(self, name: str, pairs: Sequence[PreferencePair], critiques: Sequence[Critique]) -> list[float]:
        """Rewards after given critiques, one a response."""
        folder = self.out / name
        writer = self.writer(str(folder))
        model, renderer = writer._model, writer._renderer.with_instruction(INSTRUCTION)
        token = Manifest.load(folder).reward_token_id
        groups = by_response(critiques)
        sequences = []
        for pair, side in sides_of(pairs):
            prompt = renderer.open(pair.prompt).render(
                pair.response(side),
                max_model_len=MAX_MODEL_LEN,
                max_critique_tokens=self.size.critique_tokens,
                truncate=True,
            )
            sequences.append(
                prompt.token_ids + critique_tokens(renderer, groups[pair.id, side][0], self.size.critique_tokens)
            )
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        scores = [0.0] * len(sequences)
        size = 64 if model.device.type == "cuda" else 8
        for start in range(0, len(order), size):
            places = order[start : start + size]
            width = len(sequences[places[0]])
            ids = torch.tensor([[0] * (width - len(sequences[i])) + sequences[i] for i in places], device=model.device)
            mask = torch.tensor(
                [[0] * (width - len(sequences[i])) + [1] * len(sequences[i]) for i in places], device=model.device
            )
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=2
            ).logits
            for i, score in zip(places, logits[:, 0, token].float().tolist(), strict=True):
                scores[i] = score
        return scores


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
