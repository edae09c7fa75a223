"""transformers' Trainer with the joint objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from criticrm_model import CheckpointError

from .batches import IGNORED
from .joint import JointModel, JointOutput
from .objective import Objective, bradley_terry_loss

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
        self._objective = objective
        self._sums: dict[str, float] = {}
        self._logged_at = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The batches of one optimizer step, and `[critique tokens, pairs]` in them over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._counts(batches, device)

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
        loss = for_critique * critique_loss + for_reward * (reward_loss + self._objective.direct_weight * direct_loss)
        if model.training:
            accuracy = (margins > 0).sum() / pairs
            parts = {"critique_loss": critique_loss, "reward_loss": reward_loss, "accuracy": accuracy}
            for name, value in parts.items():
                self._sums[name] = self._sums.get(name, 0.0) + value.item()
            self._sums["critique_weight"] = for_critique
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
            weight = self._sums.pop("critique_weight")
            steps = max(1, self.state.global_step - self._logged_at)
            logs |= {name: total / steps for name, total in self._sums.items()} | {"critique_weight": weight}
            self._sums, self._logged_at = {}, self.state.global_step
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Only what is trained, tied weights once; loading leaves the rest as it is."""
        model = self.model
        assert model is not None
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        state = model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value for name, value in state.items() if name in trained})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What is frozen is missing from a checkpoint, and should be; anything else is an error."""
        model = self.model
        assert model is not None
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if wrong := [*load_result.unexpected_keys, *(trained & set(load_result.missing_keys))]:
            raise CheckpointError(f"the run's checkpoint does not fit its model: {', '.join(sorted(wrong)[:5])}")

    def _counts(self, batches: list[Batch], device: torch.device) -> torch.Tensor:
        tokens = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        pairs = sum(len(batch["labels"]) // 2 for batch in batches)
        counts = torch.tensor([tokens, pairs], device=device)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Pair accuracies; a tie counts half. Predictions: `[pairs, 2]` margins."""
    margins = np.asarray(prediction.predictions)
    shares = np.mean((margins > 0) + 0.5 * (margins == 0), axis=0)
    return {"accuracy": float(shares[0]), "direct_accuracy": float(shares[1])}


def _margins(rewards: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[b]`, of rewards in turn `[2b]`."""
    return rewards[0::2] - rewards[1::2]
