"""transformers' Trainer with the joint objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import mul
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.neftune import activate_neftune
from transformers.trainer_utils import TrainOutput

from ..critiques.records import SIDES
from .checkpoints import LogWhatIsSaved, ResumableTrainer
from .collator import Example, PairCollator
from .critic_config import CriticConfig
from .dataset import as_dataset
from .fresh import with_critiques, write_critiques
from .losses import NonFiniteLoss, bradley_terry_loss, losses, margins, metrics, pair_metrics
from .model import JointModel, JointOutput, without_adapters
from .optimizer import PartsTrainer
from .packing import why_not_packed
from .sampler import LengthSampler
from .step_log import StepLog
from .teacher import teacher_scores
from .train_config import ConfigError

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
_WEIGHT_TIMES_RATE = "reward_weight_times_rate"  # in the log, summed from the first step on; so is
_TOKENS = "tokens"  # without padding


class JointTrainer(PartsTrainer, ResumableTrainer):
    """Trains a `JointModel` on examples; everything but the objective is the Trainer's own.

    A loss is the mean over all critique tokens, or all pairs, of an optimizer step, whatever the number of
    accumulated batches and processes: eight batches of one pair train like one batch of eight.

    Attributes:
        weight_times_rate: sum over the optimizer steps of the reward loss's weight times the learning rate: how much
            the reward was trained. Two runs are matched if theirs are equal.
        tokens: that were trained on, critiques and prompts, without padding.

    Args:
        stop_token_ids: that end a critique.
        suppress_token_ids: that no critique has.
        eval_dataset: the first ones of it get critiques of the model as it is at an evaluation, those that come with
            critiques are evaluated after these; the reward before the critique is evaluated on all.

    Raises:
        ConfigError: the arguments can't be used together, or not here.
    """

    loss_is_scaled_for_ga = True  # here, by the counts of the whole step
    args: CriticConfig
    train_dataset: Dataset
    eval_dataset: Dataset | None

    def __init__(
        self,
        model: JointModel,
        args: CriticConfig,
        *,
        stop_token_ids: Sequence[int],
        suppress_token_ids: Sequence[int] = (),
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        why_not = why_not_packed(without_adapters(model.lm))
        if why_not is not None:
            logger.warning("each response and critique gets a row of its own, with a copy of its prompt: %s", why_not)
        d_model = model.config.get_text_config().hidden_size
        datasets = as_dataset(train_dataset), as_dataset(eval_dataset) if eval_dataset else None
        try:
            super().__init__(
                model,
                args,
                data_collator=PairCollator(stop_token_ids[0], packed=why_not is None, d_model=d_model),
                train_dataset=datasets[0],
                eval_dataset=datasets[1],
                compute_metrics=pair_metrics,
                callbacks=[LogWhatIsSaved(), *callbacks],
            )
        except (TypeError, ValueError) as error:  # what only it can check, such as that FSDP has several processes
            raise ConfigError(f"trainer: {error}") from error
        if self.is_fsdp_enabled and (policy := self.accelerator.state.fsdp_plugin.mixed_precision_policy):
            # Rewards stay float32, as do sums of gradients: how many processes there are should not matter.
            policy = replace(policy, output_dtype=None, reduce_dtype=torch.float32)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
        self._stop_token_ids, self._suppress_token_ids = stop_token_ids, suppress_token_ids
        self._objective = args.objective
        self._epochs = 1.0
        self._weights = (0.0, 0.0)  # of the critique loss and of the reward loss in this step
        self._log = StepLog()
        self._teacher: torch.Tensor | None = None  # [examples, 2]
        self.weight_times_rate = 0.0
        self.tokens: torch.Tensor | int = 0

    def train(self, *arguments: Any, **options: Any) -> TrainOutput:
        """The Trainer's, with NEFTune's noise added here.

        It would look for the embeddings in a `JointModel`, whose own accelerate would take for a reason to split them
        off.
        """
        alpha, self.neftune_noise_alpha = self.args.neftune_noise_alpha, None
        assert self.model is not None
        lm = self.model.lm
        hook = None if alpha is None else activate_neftune(lm, alpha)
        try:
            return super().train(*arguments, **options)
        finally:
            if hook is not None:
                hook.remove()

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[Any]
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """The Trainer's, once the length of the run is known.

        Raises:
            ConfigError: there is no whole batch, or the reward would get no weight.
        """
        if not len(dataloader):
            raise ConfigError(
                f"dataloader_drop_last: {len(self.train_dataset)} training pairs are no whole batch, and others are "
                "dropped; make per_device_train_batch_size smaller, or leave dataloader_drop_last out"
            )
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

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The Trainer's. Raises ConfigError: there is no such scheduler, or the reward's rate would be 0 throughout."""
        steps = num_training_steps
        try:
            scheduler = super().create_scheduler(steps, optimizer)
            rates = [scheduler.lr_lambdas[-1](i) for i in range(steps)] if isinstance(scheduler, LambdaLR) else None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"lr_scheduler_type, lr_scheduler_kwargs: {error}") from error
        weights = (self._objective.weights(i / steps, self._epochs)[1] for i in range(steps))
        if self._objective.trains_reward and rates and not any(map(mul, rates, weights)):
            raise ConfigError(
                f"warmup_steps: in each of the {steps} optimizer steps of this run the learning rate or the weight of "
                "the reward loss is 0, so the reward would not be trained; train longer, or set warmup_steps to 0 (a "
                "warm-up begins at a rate of 0)"
            )
        return scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The batches of one optimizer step, and their `counts` (`PairCollator`) over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.stack([batch["counts"] for batch in batches]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self._weights = self._objective.weights(self.state.global_step / self.state.max_steps, self._epochs)
        self.trains_head = self._weights[1] > 0
        self.weight_times_rate += self._weights[1] * self._get_learning_rate()
        self._log.steps += 1
        if not self._idle:
            self.tokens += counts[3]
        if self._objective.distill_weight > 0 and self.trains_head and self._teacher is None:
            self._teacher = teacher_scores(self)
        return batches, counts

    @property
    def _idle(self) -> bool:
        """The scalar baseline before the reward's phase: nothing has a weight, so nothing is computed."""
        return self.args.scalar and not self.trains_head and not self.args.fp16  # which scales what it computed

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if self._idle:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch: its share of the loss of the optimizer step."""
        assert isinstance(num_items_in_batch, torch.Tensor)  # of `get_batch_samples`
        output: JointOutput = model(**inputs)
        objective, (critique_weight, reward_weight) = self._objective, self._weights
        teacher = None if self._teacher is None else self._teacher[inputs["index"]].flatten()
        found = losses(output, inputs, num_items_in_batch, center=objective.center_rewards_coefficient, teacher=teacher)
        self._log.add(found, metrics(output, inputs, num_items_in_batch), output)
        loss = critique_weight * found.critique + reward_weight * (
            found.reward + objective.direct_weight * found.direct + objective.distill_weight * found.distance
        )
        loss = loss * self.accelerator.num_processes  # gradients are averaged over them; the counts are of all
        return (loss, output) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The Trainer's, after critiques that the model writes now; none are written before the reward is trained."""
        if eval_dataset is None and self.args.writes_critiques and (self._reward_has_begun or not self.is_in_train):
            eval_dataset = self._with_fresh_critiques()
        found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,  # noqa: ARG002 - the Trainer's signature
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The reward loss of a batch of b pairs, and their margins after and before the critique, `[b, 2]`.

        The loss is that before the critique where there is none.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output: JointOutput = model(**inputs)
        after, before = margins(output, inputs)
        loss = bradley_terry_loss(torch.where(after.isnan(), before, after)).mean()
        return loss, torch.stack([after, before], dim=1), torch.ones(len(before), device=before.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the loss is made of, averaged over the optimizer steps since the last line."""
        if "loss" in logs:
            logs |= self._log.drain(self.accelerator)
            if self._teacher is None:
                logs.pop("distance", None)
            logs |= {f"grad_norm_{part}": norm.item() for part, norm in self.norms.items()}
            logs["critique_weight"], logs["reward_weight"] = self._weights
            logs |= {_WEIGHT_TIMES_RATE: self.weight_times_rate, _TOKENS: int(self.tokens)}
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise NonFiniteLoss(self.state.global_step, logs["loss"])

    @property
    def _reward_has_begun(self) -> bool:
        return self.weight_times_rate > 0

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """None is the best before the reward is trained."""
        return self._reward_has_begun and bool(super()._determine_best_metric(metrics, trial))

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # By the optimizer step: what a step is made of doesn't depend on how it is split.
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = LengthSampler(list(self.train_dataset["length"]), step, seed)
        return self.sampler

    def _init_training_state(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        """Goes on with the sums of the checkpoint, in whose log the last line is of its last step."""
        trained: tuple[int, int] = super()._init_training_state(*arguments, **options)
        last: dict[str, float] = next((log for log in reversed(self.state.log_history) if _TOKENS in log), {})
        self.weight_times_rate = last.get(_WEIGHT_TIMES_RATE, 0.0)
        self.tokens = int(last.get(_TOKENS, 0))
        return trained

    def _with_fresh_critiques(self) -> Any:
        """The validation examples, the first ones with a critique of each response that the model writes now."""
        assert self.model is not None
        assert self.eval_dataset is not None
        examples = cast("list[Example]", self.eval_dataset.to_list())
        prompts = [e[side]["prompt_ids"] for e in examples[: self.args.fresh_critique_pairs] for side in SIDES]
        rank, processes = self.args.process_index, self.args.world_size
        self.model.eval()
        with self.accelerator.autocast():
            mine = write_critiques(
                self.model.lm,
                prompts[rank::processes],
                stop_token_ids=self._stop_token_ids,
                max_tokens=self.args.max_critique_tokens,
                suppress_token_ids=self._suppress_token_ids,
            )
        parts = [mine] if processes == 1 else gather_object([mine])
        written = [parts[i % processes][i // processes] for i in range(len(prompts))]
        return as_dataset(with_critiques(examples, written))
