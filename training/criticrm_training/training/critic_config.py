"""`CriticConfig`: transformers' `TrainingArguments` with what a Critic-RM needs beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from pydantic import ValidationError
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from criticrm_model.instruction import DEFAULT_CRITIQUE_INSTRUCTION, InstructionSlots

from ..data.overlong import OVERLONG
from .limits import limit_faults
from .objective import Objective, Schedule
from .sharded import splits_weights
from .train_config import CUT, ConfigError, Cut

_STEADY = (SchedulerType.CONSTANT_WITH_WARMUP, SchedulerType.CONSTANT)  # learning rates that don't fall
_BY_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)

# Fields of TrainingArguments that would fail or do nothing here, and why.
_BEST = "the best checkpoint is chosen by accuracies over all validation pairs"
_HUB = "what is pushed is the finished checkpoint, once; see push_to_hub"
_GOES_ON = "a run that goes on where it was killed could not end like one that was not killed"
_SCRIPT = "only programs that read it themselves know it"
_REFUSED = {
    "label_smoothing_factor": "there are no class labels; a column `agreement` says how sure a pair's label is",
    "use_liger_kernel": "its kernels replace losses of transformers that are not computed here",
    "liger_kernel_config": "its kernels replace losses of transformers that are not computed here",
    "torch_compile": "batches differ in shape, so that every one would be compiled anew",
    "torch_compile_backend": "batches differ in shape, so that every one would be compiled anew",
    "torch_compile_mode": "batches differ in shape, so that every one would be compiled anew",
    "auto_find_batch_size": f"{_GOES_ON}, with other batches",
    "save_only_model": f"{_GOES_ON}, without its optimizer",
    "enable_jit_checkpoint": "a killed run goes on from its last checkpoint; save_steps says how old that is",
    "average_tokens_across_devices": "a loss is always the mean over the tokens, or pairs, of all devices",
    "bf16_full_eval": "it would round the reward head; `bf16: true` is for evaluation as well",
    "fp16_full_eval": "it would round the reward head; `fp16: true` is for evaluation as well",
    "prediction_loss_only": _BEST,
    "include_for_metrics": _BEST,
    "batch_eval_metrics": _BEST,
    "eval_do_concat_batches": _BEST,
    "use_cache": "training reads each sequence once",
    "remove_unused_columns": "the trainer makes its own columns from yours",
    "label_names": "the trainer makes its own columns from yours",
    "length_column_name": "the trainer makes its own columns from yours",
    "parallelism_config": "rewards are read at positions of whole sequences, which it splits",
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "optim_target_modules": "the optimizers that take it keep parameter groups of their own, and the head needs one",
    "resume_from_checkpoint": f"{_SCRIPT}; a run goes on by itself, and train(resume_from_checkpoint=...) is there",
    "do_train": _SCRIPT,
    "do_predict": _SCRIPT,
    "dataloader_persistent_workers": "they would keep the critiques of the first evaluation, and each reads fresh ones",
    "debug": "its hooks end in errors here; a loss that is not finite ends a run anyway",
}
# Fields that it had once, which people still write.
_GONE = {
    "group_by_length": "it is `train_sampling_strategy: group_by_length` by now, and that is the default here",
    "evaluation_strategy": "it is `eval_strategy` by now",
    "warmup_ratio": "it is `warmup_steps` with a number below 1 by now",
}


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class CriticConfig(TrainingArguments):
    """What `CriticTrainer` does.

    All fields of transformers' `TrainingArguments` are taken; those that would fail or do nothing here are refused by
    name.

    Other defaults than theirs: `lr_scheduler_type` "constant_with_warmup" with `warmup_steps` 0.05 (the reward is
    trained last: a rate that falls has ended by then), `train_sampling_strategy` "group_by_length", evaluation and
    checkpoints each tenth of the run, the best of them at the end, and the last two kept.

    Attributes:
        instruction: the instruction for a critique; written to the checkpoint and used by the service.
        slots: columns that the critic reads behind the instruction, and how: fields of `InstructionSlots`.
        max_model_len: of prompt, response and critique, in tokens; the service's default is the same.
        max_critique_tokens: of each critique, its end included.
        cut: "none" or "random": what is cut of the critiques that the reward is read after (`config.CUT`).
        overlong: "drop", "truncate" or "error": what becomes of pairs that are longer than `max_model_len`.
        dtype: of weights that are loaded by name: "float32", or "bfloat16" for a frozen base under adapters.
        attn_implementation: attention while training, as transformers names it; its own choice, if None.
        head: folder of a reward to start from (`criticrm fit-head --head-only`) instead of zero.
        scalar: train the matched baseline: the same pairs, steps and reward weights, without critiques.
        schedule, beta, critique_weight, direct_weight, distill_weight, center_rewards_coefficient, rewards: see
            `Objective`; `critique_weight` is its `weight`.
        head_learning_rate: of the reward head; `learning_rate`, if None.
        head_weight_decay: of the reward head; `weight_decay` is for everything else.
        fresh_critique_pairs: so many validation pairs are critiqued by the model that is trained at each evaluation,
            once the reward is trained; by its accuracy on these the best checkpoint is chosen. 0: by the reward before
            the critique.
        calibration_pairs: so many validation pairs are critiqued for the manifest's moments.
        data_name: of the training data, for the manifest.
    """

    lr_scheduler_type: SchedulerType | str = field(default="constant_with_warmup", metadata=_help("See the class."))
    warmup_steps: float = field(default=0.05, metadata=_help("Optimizer steps; below 1 a share of the run."))
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata=_help("'group_by_length' puts pairs of like length into a batch, in a random order; also 'random', "
        "'sequential'."),
    )  # fmt: skip
    use_cpu: bool = field(default_factory=lambda: not torch.cuda.is_available(), metadata=_help("No accelerator."))
    eval_strategy: Any = field(default="steps", metadata=_help("Evaluate each `eval_steps`."))
    eval_steps: float | None = field(default=0.1, metadata=_help("Below 1 a share of the run."))
    save_strategy: Any = field(default="steps", metadata=_help("Write a checkpoint each `save_steps`."))
    save_steps: float = field(default=0.1, metadata=_help("Below 1 a share of the run."))
    save_total_limit: int | None = field(default=2, metadata=_help("So many checkpoints are kept, and the best one."))
    logging_steps: float = field(default=10, metadata=_help("Optimizer steps between two lines of the log."))
    # Theirs asks the GPU for the loss of each batch; a NaN is to be seen, too.
    logging_nan_inf_filter: bool = field(default=False, metadata=_help("Leave losses that are not finite out."))
    load_best_model_at_end: bool = field(default=True, metadata=_help("Keep the best checkpoint, not the last one."))
    remove_unused_columns: bool = field(default=False, metadata=_help("Refused: the trainer makes its own columns."))
    hub_strategy: Any = field(default="end", metadata=_help("Refused: the finished checkpoint is pushed, once."))

    instruction: str = field(default=DEFAULT_CRITIQUE_INSTRUCTION, metadata=_help("What asks for a critique."))
    slots: dict[str, Any] | None = field(default=None, metadata=_help("Columns that the critic reads, and how."))
    max_model_len: int = field(default=4096, metadata=_help("Of prompt, response and critique, in tokens."))
    max_critique_tokens: int = field(default=64, metadata=_help("Of each critique, its end included."))
    cut: Cut = field(default="none", metadata=_help(CUT))
    overlong: Literal["drop", "truncate", "error"] = field(default="drop", metadata=_help(OVERLONG))
    dtype: str = field(default="float32", metadata=_help("Of weights that are loaded by name: float32, bfloat16."))
    attn_implementation: str | None = field(default=None, metadata=_help("Attention while training."))
    head: str | None = field(default=None, metadata=_help("Folder of a reward to start from."))
    scalar: bool = field(default=False, metadata=_help("Train the matched baseline, without critiques."))
    schedule: Schedule = field(default="paper", metadata=_help("How the losses are weighed over the run."))
    beta: float = field(default=0.9, metadata=_help("For 'paper': the reward's weight at the end."))
    critique_weight: float = field(default=0.5, metadata=_help("For 'constant' and 'additive'."))
    direct_weight: float = field(default=0.1, metadata=_help("Of the reward loss before the critique."))
    distill_weight: float = field(default=0.0, metadata=_help("Of the distance of both rewards from their teacher."))
    center_rewards_coefficient: float = field(default=0.0, metadata=_help("Of (r+ + r-)^2; keeps rewards around 0."))
    rewards: dict[str, float] | None = field(default=None, metadata=_help("Several, and their weights in the score."))
    head_learning_rate: float | None = field(default=None, metadata=_help("Of the reward head."))
    head_weight_decay: float = field(default=0.0, metadata=_help("Of the reward head."))
    fresh_critique_pairs: int = field(default=64, metadata=_help("Validation pairs critiqued at each evaluation."))
    calibration_pairs: int = field(default=100, metadata=_help("Validation pairs critiqued for the moments."))
    data_name: str = field(default="preference pairs", metadata=_help("Of the training data, for the manifest."))

    def __post_init__(self) -> None:
        """Raises ConfigError: every field that can't be right."""
        faults = [*self._refused(), *limit_faults(self)]
        try:
            self.instruction_slots  # noqa: B018 - for its faults
        except ValidationError as error:
            faults += [f"slots.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        try:
            objective = self.objective
        except ValidationError as error:
            names, named = {"weight": "critique_weight"}, {fault.partition(":")[0] for fault in faults}
            fields_of = [(str(e["loc"][0]) if e["loc"] else "objective", e["msg"]) for e in error.errors()]
            faults += [f"{names.get(n, n)}: {why}" for n, why in fields_of if names.get(n, n) not in named]
        else:
            if objective.schedule == "paper" and self.lr_scheduler_type not in _STEADY:
                kind = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
                faults.append(
                    f"lr_scheduler_type: {kind} ends the learning rate when 'schedule: paper' begins to train the "
                    f"reward, so the reward would hardly be trained; use {' or '.join(s.value for s in _STEADY)}, or "
                    "another schedule"
                )
            if self.lr_scheduler_type in _BY_METRIC and not objective.trains_reward:
                faults.append(
                    "lr_scheduler_type: this objective trains no reward, and there is no other metric that the "
                    "learning rate could follow"
                )
            if self.scalar and not objective.trains_reward:
                faults.append("scalar: this objective trains no reward, and the scalar baseline nothing else")
            if self.eval_strategy == IntervalStrategy.NO or not objective.trains_reward:
                self.load_best_model_at_end = False  # nothing says which is the best
            metric = self.metric_for_best_model
            if metric is None or (self.scalar and str(metric).endswith("accuracy")):
                self.metric_for_best_model = "accuracy" if self.writes_critiques else "direct_accuracy"
        if faults:
            raise ConfigError("\n  ".join(["these settings are wrong:", *faults]))
        if "LOCAL_RANK" not in os.environ:  # one process: transformers would ask for the group that it is not in
            self.ddp_backend = None
        super().__post_init__()  # type: ignore[no-untyped-call]  # as transformers has it
        if self.n_gpu > 1:
            raise ConfigError(
                f"{self.n_gpu} GPUs are visible to this one process, and transformers' DataParallel can't split pairs "
                "over them: start it by `torchrun --nproc-per-node N --no-python criticrm train ...`, or make one "
                "visible with CUDA_VISIBLE_DEVICES=0"
            )

    @property
    def objective(self) -> Objective:
        """Raises pydantic's ValidationError."""
        return Objective(
            schedule=self.schedule,
            beta=self.beta,
            weight=self.critique_weight,
            direct_weight=0.0 if self.scalar else self.direct_weight,  # it has one reward only
            distill_weight=0.0 if self.scalar else self.distill_weight,
            center_rewards_coefficient=self.center_rewards_coefficient,
            rewards=self.rewards or {},
        )

    @property
    def instruction_slots(self) -> InstructionSlots | None:
        """Raises pydantic's ValidationError."""
        return None if self.slots is None else InstructionSlots.model_validate(self.slots)

    @property
    def writes_critiques(self) -> bool:
        """Whether the model writes critiques at an evaluation; it can't where no process has all of its weights."""
        return self.fresh_critique_pairs > 0 and not self.scalar and not splits_weights(self)

    def _refused(self) -> list[str]:
        default_of = {f.name: f.default for f in fields(self)} | {"include_for_metrics": []}
        faults = [
            f"{name}: {reason}"
            for name, reason in _REFUSED.items()
            if (getattr(self, name) or None) != (default_of[name] or None)
        ]
        if self.train_sampling_strategy == "batch_rebalance":
            faults.append("train_sampling_strategy: batch_rebalance gives processes batches of different sizes")
        if self.save_strategy == SaveStrategy.BEST:
            faults.append("save_strategy: a run goes on from its last checkpoint; the best one is kept anyway")
        if isinstance(self.accelerator_config, dict) and self.accelerator_config.get("dispatch_batches"):
            faults.append("accelerator_config.dispatch_batches: batches can't be cut into parts by their rows")
        version = self.fsdp_config.get("version", 2) if isinstance(self.fsdp_config, dict) else 2
        if self.fsdp and str(version) != "2":
            faults.append(f"fsdp_config.version: {version}: only FSDP2 keeps the parameters that checkpoints hold")
        return faults


def critic_config(values: dict[str, Any]) -> CriticConfig:
    """From what a file says. Raises ConfigError: the fields that are wrong."""
    if gone := [f"{name}: {reason}" for name, reason in _GONE.items() if name in values]:
        raise ConfigError("\n  ".join(["trainer: these settings are wrong:", *gone]))
    try:
        return CriticConfig(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"trainer: {error}") from error
