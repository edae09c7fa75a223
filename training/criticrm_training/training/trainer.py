"""transformers' Trainer with the joint objective."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainingArguments

from .checkpoints import ResumableTrainer
from .config import ConfigError
from .losses import Losses, bradley_terry_loss, losses, margins, metrics
from .model import JointModel, JointOutput
from .objective import Objective

Batch = dict[str, torch.Tensor]
_WEIGHT_TIMES_RATE = "reward_weight_times_rate"  # in the log, summed from the first step on; so is
_TOKENS = "tokens"  # without padding


class JointTrainer(ResumableTrainer):
    """Trains a `JointModel`; everything but the objective is the Trainer's own.

    A loss is the mean over all critique tokens, or all pairs, of an optimizer step, whatever the number of
    accumulated batches and processes: eight batches of one pair train like one batch of eight.

    Attributes:
        weight_times_rate: sum over the optimizer steps of the reward loss's weight times the learning rate: how much
            the reward was trained. Two runs are matched if theirs are equal.
        tokens: that were trained on, critiques and prompts, without padding.
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
        self._epochs = 1.0
        self._weights = (0.0, 0.0)  # of the critique loss and of the reward loss in this step
        self._sums: dict[str, torch.Tensor] = {}  # over the steps since the last line of the log
        self._steps = 0  # these
        self.weight_times_rate = 0.0
        self.tokens: torch.Tensor | int = 0

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[Any]
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """The Trainer's, once the length of the run is known. Raises ConfigError: the reward would get no weight."""
        values = super().set_initial_training_values(args, dataloader)
        steps_an_epoch, steps = values[1], values[-1]
        self._epochs = steps / steps_an_epoch
        if self._objective.trains_reward and not self._objective.reward_weight_sum(steps, self._epochs) > 0:
            raise ConfigError(
                f"objective: in the {steps} optimizer steps of this run the reward loss never has a weight, so the "
                "reward would not be trained; train longer, or change schedule, beta or weight ('schedule: critique' "
                "trains the critiques alone)"
            )
        return values

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The batches of one optimizer step, and their `counts` (`PairCollator`) over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.stack([batch["counts"] for batch in batches]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self._weights = self._objective.weights(self.state.global_step / self.state.max_steps, self._epochs)
        self.weight_times_rate += self._weights[1] * self._get_learning_rate()
        self.tokens += counts[3]
        self._steps += 1
        return batches, counts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Of one batch: its share of the loss of the optimizer step."""
        assert isinstance(num_items_in_batch, torch.Tensor)  # of `get_batch_samples`
        output: JointOutput = model(**inputs)
        objective, (for_critique, for_reward) = self._objective, self._weights
        teacher = None
        if objective.distill_weight > 0 and for_reward > 0:  # the paper's schedule starts without
            with self.accelerator.autocast():  # else around the model's `forward` alone
                teacher = self.accelerator.unwrap_model(model).teacher_scores(**inputs)
        found = losses(output, inputs, num_items_in_batch, center=objective.center_rewards_coefficient, teacher=teacher)
        self._record(found, metrics(output, inputs, num_items_in_batch), taught=teacher is not None)
        loss = for_critique * found.critique + for_reward * (
            found.reward + objective.direct_weight * found.direct + objective.distill_weight * found.distance
        )
        loss = loss * self.accelerator.num_processes  # gradients are averaged over them; the counts are of all
        return (loss, output) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,  # noqa: ARG002 - the Trainer's signature
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The reward loss of a batch of b pairs, before the critique where there is none; their margins after and
        before it, `[b, 2]`.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output: JointOutput = model(**inputs)
        after, before = margins(output, inputs)
        loss = bradley_terry_loss(torch.where(after.isnan(), before, after)).mean()
        return loss, torch.stack([after, before], dim=1), torch.ones(len(before), device=before.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the loss is made of, averaged over the optimizer steps since the last line."""
        if "loss" in logs and self._sums:
            sums = torch.stack(list(self._sums.values()))
            if self.args.world_size > 1:  # each process has its share
                sums = self.accelerator.reduce(sums, reduction="sum")
            logs |= dict(zip(self._sums, (sums / self._steps).tolist(), strict=True))
            logs["critique_weight"], logs["reward_weight"] = self._weights
            logs |= {_WEIGHT_TIMES_RATE: self.weight_times_rate, _TOKENS: int(self.tokens)}
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)

    def _init_training_state(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        """Goes on with the sums of the checkpoint, in whose log the last line is of its last step."""
        trained: tuple[int, int] = super()._init_training_state(*arguments, **options)
        last: dict[str, float] = next((log for log in reversed(self.state.log_history) if _TOKENS in log), {})
        self.weight_times_rate = last.get(_WEIGHT_TIMES_RATE, 0.0)
        self.tokens = int(last.get(_TOKENS, 0))
        return trained

    def _record(self, found: Losses, measured: dict[str, torch.Tensor], taught: bool) -> None:
        """For the log; no numbers yet: asking for one makes a GPU wait."""
        parts = {"critique_loss": found.critique, "reward_loss": found.reward, "direct_loss": found.direct}
        if taught:
            parts["distance"] = found.distance
        for name, value in (parts | measured).items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Pair accuracies; a tie counts half. Predictions: `[pairs, 2]` margins, NaN where there is no critique."""
    margins = np.asarray(prediction.predictions)
    found = {}
    for name, column in zip(("accuracy", "direct_accuracy"), margins.T, strict=True):
        column = column[~np.isnan(column)]
        if len(column):
            found[name] = float(np.mean((column > 0) + 0.5 * (column == 0)))
    return found
