"""`CriticTrainer`: a Critic-RM from a base model and preference rows with critiques."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from criticrm_model.checkpoint import check_head
from criticrm_model.files import write_json
from criticrm_model.logits import logit_scale
from criticrm_model.manifest import is_reward_token
from criticrm_model.prompt import Renderer

from ..base import base_name, load_base
from ..data.overlong import RenderedPairs, render_pairs
from . import hub
from .collator import Example
from .critic_config import CriticConfig
from .dataset import make_examples
from .export import Trained, export, export_language_model
from .model import JointModel
from .preparation import (
    attend_by,
    check_critiques,
    check_dtype,
    check_metric,
    is_imported,
    start_from,
    start_from_imported,
)
from .rows import CritiquedPairs, read_rows
from .sharded import load_trained, loading, splits_weights, trained_weights
from .train_config import ConfigError, Cut
from .trainer import JointTrainer

SUMMARY = "summary.json"  # in the folder of a finished run, written last
Rows = Iterable[Mapping[str, Any]] | CritiquedPairs

logger = logging.getLogger(__name__)


class CriticTrainer(JointTrainer):
    """Trains a Critic-RM on preference pairs and critiques of their responses (arXiv 2411.16646).

    ```python
    from peft import LoraConfig
    from criticrm_training import CriticConfig, CriticTrainer

    args = CriticConfig("run", num_train_epochs=2, learning_rate=1e-4)
    trainer = CriticTrainer("Qwen/Qwen2.5-0.5B-Instruct", args, train_dataset=rows, peft_config=LoraConfig(r=16))
    trainer.train()
    trainer.save_model("my-critic-rm")  # what `criticrm serve` takes
    ```

    Args:
        model: a folder, a hub name or "default"; or a causal LM that is loaded already.
        args: documented field by field there.
        train_dataset: rows with the columns of `rows.read_rows`.
        eval_dataset: the same; critiques in it are not needed. None trains without evaluation and keeps the last step.
        processing_class: the model's tokenizer; loaded with the model, if it is None.
        peft_config: adapters to train; None trains every weight.

    Raises:
        ConfigError, DataError, CheckpointError
        UnsupportedModel: the base can't carry a reward, or its tokenizer can't be rendered for.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        args: CriticConfig,
        *,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        if args.objective.distill_weight > 0 and (peft_config is None or args.head is None):
            raise ConfigError("distill_weight: the teacher is the frozen base under `lora` with the reward `head`")
        self._base, self._peft_config = model, peft_config
        training = _read(train_dataset, "train_dataset", args)
        evaluated = None if eval_dataset is None else _read(eval_dataset, "eval_dataset", args)
        if evaluated is None:
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        check_critiques(training, args)
        set_seed(args.seed)
        # With a mask, its backward pass returns NaN at some lengths: https://github.com/pytorch/pytorch/issues/196678
        torch.backends.cuda.enable_cudnn_sdp(False)
        joint, self._tokenizer = self._load(args, processing_class)
        self._renderer = Renderer(self._tokenizer, args.instruction, slots=args.instruction_slots)
        if args.head is not None:
            start_from(Path(args.head), joint)
        elif is_imported(model):
            start_from_imported(Path(str(model)), joint, args.objective.rewards)
        check_dtype(joint, args)
        self._attention = attend_by(args.attn_implementation, joint)
        rendered = self._rendered(training, args, "training pairs")
        self._training, self._validation = rendered.pairs, [] if evaluated is None else list(evaluated.pairs)
        judging = None
        if evaluated is not None:
            unlearned = CritiquedPairs(evaluated.pairs, None, evaluated.judged)
            check_metric(evaluated, args)
            judging = self._examples(self._rendered(unlearned, args, "validation pairs"), unlearned, args)
        super().__init__(
            joint,
            args,
            stop_token_ids=self._renderer.stop_token_ids,
            suppress_token_ids=[id_ for text, id_ in self._tokenizer.get_vocab().items() if is_reward_token(text)],
            train_dataset=self._examples(rendered, training, args, args.cut),
            eval_dataset=judging,
            callbacks=callbacks,
        )
        self._saved: Path | None = None  # where the finished model is

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says of the run so far.

        `best` is `metric_for_best_model` of the checkpoint that is kept, None where none was chosen.
        """
        return {
            "scalar": self.args.scalar,
            "steps": self.state.global_step,
            "pairs": len(self._training),
            "reward_weight_times_rate": self.weight_times_rate,
            "tokens": int(self.tokens),
            "reward_trained": self.weight_times_rate > 0,
            "best": self.state.best_metric,
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the finished model: a Critic-RM, or a language model where no reward was trained.

        After adapters, these in the subfolder `adapter`. Ends the training: adapters are merged.

        Called by the Trainer itself, for a checkpoint of the run, only what is trained.
        """
        if _internal_call:
            return super().save_model(output_dir, _internal_call)
        out = Path(output_dir or str(self.args.output_dir))
        if self._saved is None:
            self._write(out)
            self._saved = out
        elif self.is_world_process_zero() and out.resolve() != self._saved.resolve():
            not_copied = shutil.ignore_patterns("trainer", "calibration")
            shutil.copytree(self._saved, out, dirs_exist_ok=True, ignore=not_copied)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self.push_to_hub("Model save")
        return None

    def init_hf_repo(self, token: str | None = None) -> None:
        """Create the repository `hub_model_id` before the work, so that a wrong key is known early."""
        if self.args.hub_model_id is None:
            raise ConfigError("hub_model_id: push_to_hub needs the repository's name, owner/name")
        if self.is_world_process_zero():
            key = token or self.args.hub_token
            self.hub_model_id: Any = hub.create(self.args.hub_model_id, token=key, private=self.args.hub_private_repo)

    def push_to_hub(  # type: ignore[override]  # as many commits as repositories
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,  # noqa: ARG002 - the Trainer's signature
        token: str | None = None,
        revision: str | None = None,
        **_: Any,
    ) -> list[str]:
        """Upload the finished checkpoint to `hub_model_id`, and the adapter to `hub_model_id`-adapter.

        Returns the addresses of the commits (of the first process).
        """
        if self._saved is None:
            pushes, self.args.push_to_hub = self.args.push_to_hub, False
            self.save_model(str(Path(str(self.args.output_dir)) / "model"))
            self.args.push_to_hub = pushes
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        if not self.is_world_process_zero():
            return []
        assert self._saved is not None
        assert self.hub_model_id is not None
        return hub.push(
            self._saved,
            self.hub_model_id,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo,
            message=commit_message or "End of training",
            revision=revision or self.args.hub_revision,
        )

    def _write(self, out: Path) -> None:
        model, first = self.accelerator.unwrap_model(self.model), self.is_world_process_zero()
        if splits_weights(self.args):
            weights = trained_weights(model, keep=first)
            self.accelerator.free_memory()
            if first:
                model, self._tokenizer = self._load(None, self._tokenizer)
                load_trained(model, weights)
        if not first:
            return
        attend_by(self._attention, model)  # some kinds want autocast
        out.mkdir(parents=True, exist_ok=True)
        # The same after a resume: that sorts the names, and the last line sums up this process alone.
        lines = [dict(sorted(log.items())) for log in self.state.log_history if "train_runtime" not in log]
        write_json(out / "history.json", lines)
        trained = Trained(self._base_name(), self._training, self._validation, self.summary)
        if self._objective.trains_reward:
            if not self.summary["reward_trained"]:
                logger.warning("the reward of %s was not trained: its weight times the learning rate is 0", out)
            export(model, self._tokenizer, self._renderer, self.args, trained, out)
        else:
            export_language_model(model, self._tokenizer, trained, out)
        write_json(out / SUMMARY, self.summary)

    def _load(
        self, args: CriticConfig | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[JointModel, PreTrainedTokenizerBase]:
        """The base under its adapters and reward head.

        Args:
            args: of the run that it is loaded for, which may split its weights over processes; None: this process
                gets all of them, over all GPUs where there are several.
        """
        settings = args or self.args
        if isinstance(self._base, PreTrainedModel):
            if splits_weights(settings):
                raise ConfigError("model: give its name or folder, for each process loads its part of the weights")
            lm = self._base
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(lm.config._name_or_path)
        else:
            with loading(args) as device:
                lm, loaded = load_base(str(self._base), getattr(torch, settings.dtype), device)
            tokenizer = tokenizer or loaded
        check_head(lm)
        scale = logit_scale(lm)
        weights = list(settings.objective.rewards.values())
        return JointModel(self._add_adapters(lm), scale, weights=weights, writes=not settings.scalar), tokenizer

    def _add_adapters(self, lm: PreTrainedModel) -> PreTrainedModel | PeftModel:
        if self._peft_config is None:
            return lm
        try:
            return get_peft_model(lm, self._peft_config)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ConfigError(f"lora: {error}") from error

    def _base_name(self) -> str:
        base = self._base
        return base_name(str(base.config._name_or_path if isinstance(base, PreTrainedModel) else base))

    def _rendered(self, data: CritiquedPairs, args: CriticConfig, name: str) -> RenderedPairs:
        return render_pairs(
            data.pairs,
            self._renderer,
            max_model_len=args.max_model_len,
            max_critique_tokens=args.max_critique_tokens,
            overlong=args.overlong,
            name=name,
        )

    def _examples(
        self, rendered: RenderedPairs, data: CritiquedPairs, args: CriticConfig, cut: Cut = "none"
    ) -> list[Example]:
        return make_examples(
            rendered,
            self._renderer,
            learned=data.learned,
            judged=data.judged,
            scalar=args.scalar,
            max_critique_tokens=args.max_critique_tokens,
            cut=cut,
        )


def _read(data: Rows, name: str, args: CriticConfig) -> CritiquedPairs:
    return data if isinstance(data, CritiquedPairs) else read_rows(data, name, args.objective.rewards)
