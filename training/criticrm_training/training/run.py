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
from .collator import Example, PairCollator, Side
from .config import ConfigError, TrainConfig
from .dataset import Critiques, make_examples
from .model import JointModel
from .objective import Objective
from .sharded import load_trained, loading, splits_weights, trained_weights
from .trainer import JointTrainer, LogWhatIsSaved, last_checkpoint

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
    if config.objective.distill_weight > 0 and (config.lora is None or config.head is None):
        raise ConfigError(
            "objective.distill_weight: the teacher is the frozen base under `lora` with the reward `head`"
        )
    arguments = _training_arguments(config, out, scalar)
    pairs = in_question_order(read_pairs(config.data))
    if arguments.process_index == 0:
        same_run(out, _described(config, scalar, pairs))
    training, validation = split_by_prompt(pairs, config.validation_share)
    training, critiques = _with_critiques(training, config.critiques, config.critiques_per_response)
    training = training[: math.ceil(config.training_share * len(training))]
    last = last_checkpoint(out / "trainer", clean=arguments.process_index == 0)
    if last is not None:
        logger.info("going on from %s", last)
    set_seed(arguments.seed)
    model, tokenizer = _load(config, arguments)
    renderer = Renderer(tokenizer, config.instruction)
    train_set = _examples(training, critiques, renderer, config, scalar)
    judged, validation_critiques = _with_critiques(validation, config.validation_critiques)
    validation_set = _examples(judged, validation_critiques, renderer, config, scalar)
    logger.info(
        "%d training examples of %d pairs, %d validation examples", len(train_set), len(training), len(validation_set)
    )

    if config.head is not None:
        _start_from(config.head, model)
    attention = _attend_by(config.attn_implementation, model)
    trainer = JointTrainer(
        model,
        arguments,
        objective=Objective(schedule="constant", weight=0, direct_weight=0) if scalar else config.objective,
        data_collator=PairCollator(pad_id=renderer.stop_token_ids[0]),
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
            model, tokenizer = _load(config, None)
            load_trained(model, weights)
    _attend_by(attention, model)  # some kinds want autocast
    if first:
        # The same after a resume: that sorts the names, and the last line sums up this process alone.
        lines = [dict(sorted(log.items())) for log in trainer.state.log_history if "train_runtime" not in log]
        write_json(out / "history.json", lines)
        export(model, tokenizer, renderer, validation, config, out, training)
    trainer.accelerator.wait_for_everyone()


def _attend_by(implementation: str | None, model: JointModel) -> str:
    """Change the attention, unless None; returns what it was.

    Raises:
        ConfigError: transformers has none of this name, or not for this model or on this machine.
    """
    lm = cast("PreTrainedModel", model.lm.get_base_model() if isinstance(model.lm, PeftModel) else model.lm)
    before = str(lm.config._attn_implementation)
    if implementation is not None:
        try:
            lm.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"attn_implementation: {error}") from error
    return before


def _load(config: TrainConfig, arguments: TrainingArguments | None) -> tuple[JointModel, PreTrainedTokenizerBase]:
    """The base under its adapters and reward head.

    Args:
        arguments: of the run that it is loaded for, which may split its weights over processes; None: this process
            gets all of them, over all GPUs where there are several.
    """
    with loading(arguments) as device:
        lm, tokenizer = load_base(config.base, getattr(torch, config.dtype), device)
    check_head(lm)
    scale = logit_scale(lm)
    return JointModel(lm if config.lora is None else get_peft_model(lm, _lora(config.lora)), scale), tokenizer


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
    lm, reward = model.lm, model.reward.weight.detach().cpu()
    if isinstance(lm, PeftModel):
        if (out / "adapter").is_dir():  # peft would go on with the model card of a killed run, or with half of it
            shutil.rmtree(out / "adapter")
        lm.peft_config[lm.active_adapter].base_model_name_or_path = base_name(config.base)  # not where it lies here
        lm.save_pretrained(str(out / "adapter"))
        lm = cast("PreTrainedModel", lm.merge_and_unload())
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


def _described(config: TrainConfig, scalar: bool, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """All that the run depends on: a checkpoint of another run must not be gone on from."""
    settings = config.model_dump(mode="json", exclude={"data", "critiques", "validation_critiques"})
    folders = {"critiques": config.critiques, "validation_critiques": config.validation_critiques}
    digests = {name: run_digest(folder) if folder else None for name, folder in folders.items()}
    return settings | digests | {"scalar": scalar, "pairs": content_sha256(pairs)}


def _with_critiques(
    pairs: list[PreferencePair], folder: Path | None, most: int | None = None
) -> tuple[list[PreferencePair], Critiques | None]:
    """The pairs whose responses both have critiques in `folder`, and the first `most` of each response's; all pairs
    where there is no folder.
    """
    if folder is None:
        return pairs, None
    critiques = {response: several[:most] for response, several in by_response(read_critiques(folder)).items()}
    members = [pair for pair in pairs if all((pair.id, side) in critiques for side in SIDES)]
    if not members:
        raise ConfigError(f"{folder} has critiques of none of these {len(pairs)} pairs: is it of other data?")
    return members, critiques


def _examples(
    pairs: Sequence[PreferencePair],
    critiques: Critiques | None,
    renderer: Renderer,
    config: TrainConfig,
    scalar: bool,
) -> list[Example]:
    examples = make_examples(
        pairs,
        critiques,
        renderer,
        max_model_len=config.max_model_len,
        max_critique_tokens=config.max_critique_tokens,
    )
    return [_without_critiques(example) for example in examples] if scalar else examples


def _without_critiques(example: Example) -> Example:
    def bare(side: Side) -> Side:
        return Side(prompt_ids=side["prompt_ids"], critique_ids=[])

    return Example(chosen=bare(example["chosen"]), rejected=bare(example["rejected"]))


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
        "load_best_model_at_end": True,
        "metric_for_best_model": best,
        "report_to": ["tensorboard"],
    }
    fixed = {"output_dir": str(out / "trainer"), "remove_unused_columns": False}
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
