"""`criticrm train`: from preference pairs and critiques to a Critic-RM checkpoint; goes on where it was killed."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from criticrm_model.checkpoint import add_reward_token, assemble, check_head
from criticrm_model.files import write_json
from criticrm_model.head import load_head, save_head
from criticrm_model.manifest import MANIFEST_NAME
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel

from ..base import base_name, load_base, logit_scale
from ..card import reward_card
from ..critiques.records import SIDES, by_response, read_critiques
from ..data.overlong import render_pairs
from ..data.pairs import PreferencePair, content_sha256, in_question_order, read_pairs, split_by_prompt
from ..data.sources import source_name
from ..linear_probe.features import extract
from ..parts import run_digest, same_run
from .checkpoints import LogWhatIsSaved, last_checkpoint
from .collator import Example, PairCollator
from .config import ConfigError, TrainConfig
from .dataset import Critiques, make_examples
from .model import JointModel
from .objective import Objective
from .packing import why_not_packed
from .sharded import load_trained, loading, splits_weights, trained_weights
from .trainer import JointTrainer

_STEADY = ("constant_with_warmup", "constant")  # learning rates that don't fall
SUMMARY = "summary.json"  # in a run's folder

logger = logging.getLogger(__name__)


def train(config: TrainConfig, out: Path, scalar: bool = False) -> None:
    """Train, and write the checkpoint with the best validation accuracy to `out`.

    Args:
        out: gets the Critic-RM; `out/trainer` the run's checkpoints and logs, `out/adapter` the LoRA adapter.
        scalar: the matched baseline: the same examples and optimizer steps, without their critiques.

    Raises:
        ConfigError, DataError, UnsupportedModel
        PartsError: the critiques have not ended, or `out` holds another run.
    """
    if config.critiques is None and not scalar:
        raise ConfigError("critiques: a Critic-RM learns from some; --scalar trains the baseline without")
    if scalar and not config.objective.trains_reward:
        raise ConfigError("objective: it trains no reward, and --scalar trains nothing else")
    if config.objective.distill_weight > 0 and (config.lora is None or config.head is None):
        raise ConfigError(
            "objective.distill_weight: the teacher is the frozen base under `lora` with the reward `head`"
        )
    arguments = _training_arguments(config, out, scalar)
    pairs = in_question_order(read_pairs(config.data))
    if arguments.process_index == 0:
        same_run(out, _described(config, scalar, pairs))
    training, validation = split_by_prompt(pairs, config.validation_share)
    learned = _critiques(config.critiques, config.critiques_per_response, training)
    judged = learned
    if config.reward_critiques is not None:
        judged = _critiques(config.reward_critiques, config.reward_critiques_per_response, training)
    training = _with_critiques(training, learned, judged)
    training = training[: math.ceil(config.training_share * len(training))]
    if not scalar and config.objective.trains_reward:
        _check_judged(training, judged)
    last = last_checkpoint(out / "trainer", clean=arguments.process_index == 0)
    if last is not None:
        logger.info("going on from %s", last)
    set_seed(arguments.seed)
    model, tokenizer = _load(config, arguments, scalar)
    renderer = Renderer(tokenizer, config.instruction)
    train_set = _examples(training, renderer, config, scalar, learned=learned, judged=judged)
    fresh = _critiques(config.validation_critiques, None, validation)
    validation_set = _examples(_with_critiques(validation, fresh), renderer, config, scalar, judged=fresh)
    logger.info(
        "%d training examples of %d pairs, %d validation examples", len(train_set), len(training), len(validation_set)
    )

    if config.head is not None:
        _start_from(config.head, model)
    attention = _attend_by(config.attn_implementation, model)
    trainer = JointTrainer(
        model,
        arguments,
        objective=_scalar(config.objective) if scalar else config.objective,
        data_collator=PairCollator(pad_id=renderer.stop_token_ids[0], packed=_packs(model)),
        train_dataset=train_set,
        eval_dataset=validation_set,
        callbacks=[LogWhatIsSaved()],
    )
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    first = trainer.is_world_process_zero()
    if splits_weights(arguments):
        weights = trained_weights(model, keep=first)
        trainer.accelerator.free_memory()
        if first:
            model, tokenizer = _load(config, None, scalar)
            load_trained(model, weights)
    _attend_by(attention, model)  # some kinds want autocast
    if first:
        # The same after a resume: that sorts the names, and the last line sums up this process alone.
        lines = [dict(sorted(log.items())) for log in trainer.state.log_history if "train_runtime" not in log]
        write_json(out / "history.json", lines)
        summary = {
            "scalar": scalar,
            "steps": trainer.state.global_step,
            "pairs": len(training),
            "reward_weight_times_rate": trainer.weight_times_rate,
            "tokens": int(trainer.tokens),
            "reward_trained": config.objective.trains_reward,
        }
        if summary["reward_trained"]:
            export(model, tokenizer, renderer, validation, config, out, training)
        else:
            export_language_model(model, tokenizer, config, out)
        write_json(out / SUMMARY, summary)  # last: a run whose folder has one has ended
    trainer.accelerator.wait_for_everyone()


def _attend_by(implementation: str | None, model: JointModel) -> str:
    """Change the attention, unless None; returns what it was.

    Raises:
        ConfigError: transformers has none of this name, or not for this model or on this machine.
    """
    lm = _without_adapters(model)
    before = str(lm.config._attn_implementation)
    if implementation is not None:
        try:
            lm.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"attn_implementation: {error}") from error
    return before


def _load(
    config: TrainConfig, arguments: TrainingArguments | None, scalar: bool
) -> tuple[JointModel, PreTrainedTokenizerBase]:
    """The base under its adapters and reward head.

    Args:
        arguments: of the run that it is loaded for, which may split its weights over processes; None: this process
            gets all of them, over all GPUs where there are several.
    """
    with loading(arguments) as device:
        lm, tokenizer = load_base(config.base, getattr(torch, config.dtype), device)
    check_head(lm)
    scale = logit_scale(lm)
    adapted = lm if config.lora is None else get_peft_model(lm, _lora(config.lora))
    return JointModel(adapted, scale, writes=not scalar), tokenizer


def export(
    model: JointModel,
    tokenizer: PreTrainedTokenizerBase,
    renderer: Renderer,
    validation: Sequence[PreferencePair],
    config: TrainConfig,
    out: Path,
    pairs: Sequence[PreferencePair],
) -> None:
    """Write the one checkpoint format: adapters merged, the reward head as the reward token's row.

    Args:
        validation: pairs to calibrate on; the model critiques the first of them.
        pairs: those it was trained on.
    """
    lm, reward = _merged(model, config, out), model.reward.weight.detach().cpu()
    reference = ReferenceModel(lm, add_reward_token(lm, tokenizer), renderer.stop_token_ids)
    calibration = render_pairs(
        validation[: config.calibration_pairs],
        renderer,
        max_model_len=config.max_model_len,
        max_critique_tokens=config.max_critique_tokens,
        overlong="truncate",
        name="calibration pairs",
    )
    states = extract(
        calibration,
        reference,
        renderer,
        critique_pairs=config.calibration_pairs,
        max_critique_tokens=config.max_critique_tokens,
        batch_size=32,
        # Its files are named after what goes into the model; other weights need another folder.
        work_dir=out / "calibration" / hashlib.sha256(reward.numpy().tobytes()).hexdigest()[:12],
        label="calibration",
    )
    name = source_name(config.data)
    card = reward_card(
        reward,
        states,
        base=config.base,
        instruction=config.instruction,
        max_critique_tokens=config.max_critique_tokens,
        data=name,
        pairs=pairs,
        reference_set=f"both responses of {len(states.critiqued)} validation pairs of {name}",
    )
    if config.lora is not None:
        save_head(reward, card, out / "adapter")
    assemble(lm, tokenizer, reward, card, out)
    logger.info("wrote %s", out)


def export_language_model(
    model: JointModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig, out: Path
) -> None:
    """Write what an objective without a reward loss trained: a causal LM that writes critiques.

    It has no reward token and no manifest, so that nobody serves a reward that was never trained.
    """
    lm = _merged(model, config, out)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    lm.save_pretrained(out)
    tokenizer.save_pretrained(out)
    logger.warning(
        "wrote %s: a language model that writes critiques. Its reward was not trained, as `objective` says, so it is "
        "no Critic-RM yet: sample from it, or train its reward with `base: %s`",
        out,
        out,
    )


def _merged(model: JointModel, config: TrainConfig, out: Path) -> PreTrainedModel:
    """The language model, adapters merged into it and written to `out/adapter`."""
    lm = model.lm
    if not isinstance(lm, PeftModel):
        return lm
    if (out / "adapter").is_dir():  # peft would go on with the model card of a killed run, or with half of it
        shutil.rmtree(out / "adapter")
    lm.peft_config[lm.active_adapter].base_model_name_or_path = base_name(config.base)  # not where it lies here
    lm.save_pretrained(str(out / "adapter"))
    return cast("PreTrainedModel", lm.merge_and_unload())


def _described(config: TrainConfig, scalar: bool, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """All that the run depends on: a checkpoint of another run must not be gone on from."""
    folders = ("critiques", "reward_critiques", "validation_critiques")
    settings = config.model_dump(mode="json", exclude={"data", *folders})
    digests = {name: run_digest(folder) if (folder := getattr(config, name)) else None for name in folders}
    return settings | digests | {"scalar": scalar, "pairs": content_sha256(pairs)}


def _critiques(folder: Path | None, most: int | None, pairs: Sequence[PreferencePair]) -> Critiques | None:
    """The first `most` of each response's in `folder`; None without one."""
    if folder is None:
        return None
    critiques = {response: several[:most] for response, several in by_response(read_critiques(folder)).items()}
    if pairs and not _with_critiques(pairs, critiques):
        raise ConfigError(f"{folder} has critiques of none of these {len(pairs)} pairs: is it of other data?")
    return critiques


def _with_critiques(pairs: Sequence[PreferencePair], *folders: Critiques | None) -> list[PreferencePair]:
    """The pairs of which any of the folders has critiques; all where there is no folder."""
    known = [critiques for critiques in folders if critiques is not None]
    return [pair for pair in pairs if not known or any((pair.id, side) in c for c in known for side in SIDES)]


def _check_judged(pairs: Sequence[PreferencePair], judged: Critiques | None) -> None:
    if not any(all((pair.id, side) in (judged or {}) for side in SIDES) for pair in pairs):
        raise ConfigError(
            "reward_critiques: no training pair has critiques of both responses, so the reward after a critique would "
            "never be trained; give a finished `critiques sample` of these pairs"
        )


def _examples(
    pairs: Sequence[PreferencePair],
    renderer: Renderer,
    config: TrainConfig,
    scalar: bool,
    **critiques: Critiques | None,
) -> list[Example]:
    return make_examples(
        pairs,
        renderer,
        scalar=scalar,
        max_model_len=config.max_model_len,
        max_critique_tokens=config.max_critique_tokens,
        **critiques,
    )


def _scalar(objective: Objective) -> Objective:
    """The same weights of the reward loss at every step, so that the baseline is matched; it has one reward only."""
    return objective.model_copy(update={"direct_weight": 0.0, "distill_weight": 0.0})


def _packs(model: JointModel) -> bool:
    why_not = why_not_packed(_without_adapters(model))
    if why_not is not None:
        logger.warning("each critique gets a row of its own, with a copy of its prompt: %s", why_not)
    return why_not is None


def _without_adapters(model: JointModel) -> PreTrainedModel:
    lm = model.lm
    return cast("PreTrainedModel", lm.get_base_model()) if isinstance(lm, PeftModel) else lm


def _training_arguments(config: TrainConfig, out: Path, scalar: bool) -> TrainingArguments:
    """The file's own over ours: evaluate and save each epoch's tenth, keep what is best on the validation pairs."""
    best = "accuracy" if config.validation_critiques and not scalar else "direct_accuracy"
    defaults: dict[str, Any] = {
        "use_cpu": not torch.cuda.is_available(),  # else bf16 is refused where there is no GPU
        "eval_strategy": "steps",
        "eval_steps": 0.1,
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # would ask the GPU for each loss; a NaN is to be seen, too
        "lr_scheduler_type": _STEADY[0],
        "warmup_steps": 0.05,
        "load_best_model_at_end": True,
        "metric_for_best_model": best,
        "report_to": ["tensorboard"],
    }
    fixed = {"output_dir": str(out / "trainer"), "remove_unused_columns": False}
    if config.objective.schedule == "paper":
        kind = str(config.trainer.get("lr_scheduler_type", _STEADY[0]))
        if kind not in _STEADY:
            raise ConfigError(
                f"trainer.lr_scheduler_type: {kind} ends the learning rate when `schedule: paper` begins to train the "
                f"reward, so the reward would hardly be trained; use {' or '.join(_STEADY)}, or another schedule"
            )
    try:
        return TrainingArguments(**(defaults | deepcopy(config.trainer) | fixed))  # fills in what is nested
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"trainer: {error}") from error


def _start_from(head: Path, model: JointModel) -> None:
    fitted, _ = load_head(head)
    if fitted.shape != model.teacher.shape:
        raise ConfigError(f"head: {head} is {tuple(fitted.shape)}, the base needs {tuple(model.teacher.shape)}")
    with torch.no_grad():
        model.reward.weight.copy_(fitted)
        model.teacher.copy_(fitted)


def _lora(options: dict[str, Any]) -> LoraConfig:
    try:
        return LoraConfig(**({"task_type": "CAUSAL_LM"} | options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {error}") from error
