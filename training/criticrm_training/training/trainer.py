"""transformers' Trainer with the joint objective."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import save_fsdp_optimizer
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

from .collator import IGNORED
from .model import JointModel, JointOutput
from .objective import Objective, bradley_terry_loss
from .sharded import load_trained_file, trained_weights

_COMPLETE = "complete"  # in a checkpoint folder that was written to its end

Batch = dict[str, torch.Tensor]


class JointTrainer(Trainer):
    """Trains a `JointModel`; everything but the objective is the Trainer's own.

    A loss is the mean over all critique tokens, or all pairs, of an optimizer step, whatever the number of
    accumulated batches and processes: eight batches of one pair train like one batch of eight.
    """

    loss_is_scaled_for_ga = True  # here, by the counts of the whole step

    def __init__(
        self, model: JointModel, arguments: TrainingArguments, *, objective: Objective, **options: Any
    ) -> None:
        super().__init__(model, arguments, compute_metrics=pair_metrics, **options)
        if self.is_fsdp_enabled and (policy := self.accelerator.state.fsdp_plugin.mixed_precision_policy):
            # Rewards stay float32, as do sums of gradients: how many processes there are should not matter.
            policy = replace(policy, output_dtype=None, reduce_dtype=torch.float32)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
        self._objective = objective
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0  # since the last line of the log
        self._critique_weight = 0.0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The batches of one optimizer step, and `[critique tokens, pairs]` in them over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._steps += 1
        return batches, self._counts(batches, device)

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Nothing where a run goes on after its last step: the Trainer would take one more if that cut an epoch."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*arguments, **options)  # type: ignore[no-untyped-call]  # as transformers has it
        else:
            self.control.should_training_stop = True

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Of one batch: its share of the loss of the optimizer step."""
        output: JointOutput = model(**inputs)
        assert isinstance(num_items_in_batch, torch.Tensor)  # of `get_batch_samples`
        tokens, pairs = num_items_in_batch
        margins, direct_margins = _margins(output.scores), _margins(output.direct_scores)
        critique_loss = output.critique_loss / tokens.clamp(min=1)
        reward_loss = bradley_terry_loss(margins, "sum") / pairs
        direct_loss = bradley_terry_loss(direct_margins, "sum") / pairs
        for_critique, for_reward = self._objective.weights(self.state.epoch or 0.0, self.args.num_train_epochs)
        distance = torch.zeros((), device=margins.device)
        taught = self._objective.distill_weight > 0 and for_reward > 0  # the paper's schedule starts without
        if taught:
            with self.accelerator.autocast():  # else around the model's `forward` alone
                teacher = self.accelerator.unwrap_model(model).teacher_scores(**inputs)
            learned = torch.cat([output.scores, output.direct_scores])
            distance = F.smooth_l1_loss(learned, teacher.repeat(2), reduction="sum") / (2 * pairs)
        loss = for_critique * critique_loss + for_reward * (
            reward_loss + self._objective.direct_weight * direct_loss + self._objective.distill_weight * distance
        )
        if model.training:
            parts = {
                "critique_loss": critique_loss,
                "reward_loss": reward_loss,
                "direct_loss": direct_loss,
                "accuracy": (margins > 0).sum() / pairs,
                "direct_accuracy": (direct_margins > 0).sum() / pairs,
            }
            if taught:
                parts["distance"] = distance
            for name, value in parts.items():  # no numbers yet: asking for one makes a GPU wait
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()
            self._critique_weight = for_critique
        loss = loss * self.accelerator.num_processes  # gradients are averaged over them; the counts are of all
        return (loss, output) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,  # noqa: ARG002 - the Trainer's signature
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The reward loss of a batch of b pairs; their margins after and before the critique, `[b, 2]`."""
        with torch.no_grad(), self.compute_loss_context_manager():
            output: JointOutput = model(**self._prepare_inputs(inputs))
        margins = torch.stack([_margins(output.scores), _margins(output.direct_scores)], dim=1)
        return bradley_terry_loss(margins[:, 0]), margins, torch.ones(len(margins), device=margins.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the loss is made of, averaged over the optimizer steps since the last line."""
        if "loss" in logs and self._sums:
            sums = torch.stack(list(self._sums.values()))
            if self.args.world_size > 1:  # each process has its share
                sums = self.accelerator.reduce(sums, reduction="sum")
            logs |= dict(zip(self._sums, (sums / self._steps).tolist(), strict=True))
            logs["critique_weight"] = self._critique_weight
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Only what is trained, whole, whatever it is spread over; the rest is the base's."""
        assert self.model is not None
        weights = trained_weights(self.model, keep=self.args.should_save)
        if self.args.should_save:
            self._save(output_dir, weights)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Marked once it is whole, and only then are older ones deleted: there is always one to go on from."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the Trainer would delete them unmarked
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            (folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / _COMPLETE).touch()
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Under FSDP the Trainer's own would write every weight a second time, the frozen ones too."""
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        assert self.lr_scheduler is not None
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        model = model or self.model
        assert model is not None
        load_trained_file(model, Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:  # has float32 copies of its own of what is trained
            return super()._load_best_model()
        assert self.state.best_model_checkpoint is not None
        return self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _counts(self, batches: list[Batch], device: torch.device) -> torch.Tensor:
        tokens = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        pairs = sum(len(batch["labels"]) // 2 for batch in batches)
        counts = torch.tensor([tokens, pairs], device=device)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts


class LogWhatIsSaved(TrainerCallback):
    """A line in the log at every checkpoint: none is about steps on both sides of one, and half lost to a resume."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        control.should_log |= control.should_save

    on_epoch_end = on_step_end


def last_checkpoint(folder: Path, clean: bool) -> Path | None:
    """The newest checkpoint that was written to its end, if any.

    Args:
        clean: remove those that were not, which the Trainer would count.
    """
    checkpoints = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in checkpoints if (path / _COMPLETE).is_file()]
    for path in checkpoints if clean else ():
        if path not in complete:
            shutil.rmtree(path)
    return complete[-1] if complete else None


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Pair accuracies; a tie counts half. Predictions: `[pairs, 2]` margins."""
    margins = np.asarray(prediction.predictions)
    shares = np.mean((margins > 0) + 0.5 * (margins == 0), axis=0)
    return {"accuracy": float(shares[0]), "direct_accuracy": float(shares[1])}


def _margins(rewards: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[b]`, of rewards in turn `[2b]`."""
    return rewards[0::2] - rewards[1::2]
