"""A Trainer whose checkpoints hold what is trained, and from whose last whole checkpoint a run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

from .sampler import LengthSampler
from .sharded import load_trained_file, trained_weights

_COMPLETE = "complete"  # in a checkpoint folder that was written to its end


class ResumableTrainer(Trainer):
    """Killed at any point, a run ends like one that was not killed; see `last_checkpoint`."""

    sampler: LengthSampler | None = None  # of the training examples

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Nothing where a run goes on after its last step: the Trainer would take one more if that cut an epoch."""
        if self.state.global_step < self.state.max_steps:
            if self.sampler is not None:  # accelerate finds it behind some kinds of loaders, but not behind all
                self.sampler.set_epoch(options["epoch"])
            super()._run_epoch(*arguments, **options)  # type: ignore[no-untyped-call]  # as transformers has it
        else:
            self.control.should_training_stop = True

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
