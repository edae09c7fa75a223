"""`criticrm train`: from preference pairs and critiques to a Critic-RM checkpoint; goes on where it was killed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import LoraConfig

from ..critiques.records import SIDES, by_response, read_critiques
from ..data.folds import Fold
from ..data.pairs import PreferencePair, content_sha256, read_pairs
from ..data.sources import source_name
from ..data.splits import in_question_order, split_by_prompt
from ..parts import run_digest, same_run
from .checkpoints import last_checkpoint
from .critic_config import CriticConfig, critic_config
from .critic_trainer import CriticTrainer
from .dataset import Critiques
from .rows import CritiquedPairs
from .train_config import ConfigError, TrainConfig

_TOP_LEVEL = (  # settings of `CriticConfig` that the file has outside of `trainer:`
    "instruction",
    "max_model_len",
    "max_critique_tokens",
    "cut",
    "overlong",
    "dtype",
    "attn_implementation",
    "calibration_pairs",
)

_OF_NO_ACCOUNT = ("hub_token", "disable_tqdm", "log_level")  # for what is trained; and a key is not to be written down

logger = logging.getLogger(__name__)


def train(config: TrainConfig, out: Path, scalar: bool = False) -> None:
    """Train, and write the checkpoint with the best validation accuracy to `out`.

    Args:
        out: gets the Critic-RM; `out/trainer` the run's checkpoints and logs, `out/adapter` the LoRA adapter.
        scalar: the matched baseline: the same pairs, optimizer steps and reward weights, without critiques.

    Raises:
        ConfigError, DataError, UnsupportedModel
        PartsError: the critiques have not ended, or `out` holds another run.
    """
    arguments = training_arguments(config, out, scalar)
    lora = None if config.lora is None else lora_config(config.lora)
    pairs = in_question_order(read_pairs(config.data, config.objective.rewards))
    training, validation = split_by_prompt(pairs, config.validation_share) if config.validation_share else (pairs, [])
    if not validation and arguments.eval_strategy != "no":
        raise ConfigError(
            f"validation_share: {config.validation_share} of {len(pairs)} pairs are no validation pairs; give more "
            "pairs or a larger share, or train without evaluation (trainer.eval_strategy: 'no')"
        )
    if config.folds is not None:
        training = Fold(config.folds.exclude, config.folds.n).outside(training)
    learned = _critiques(config.critiques, config.critiques_per_response, training)
    judged = learned
    if config.reward_critiques:
        judged = _critiques(config.reward_critiques, config.reward_critiques_per_response, training)
    training = _with_critiques(training, learned, judged)
    training = training[: math.ceil(config.training_share * len(training))]
    given = None if arguments.writes_critiques else _critiques(_validation_folders(config), None, validation)
    trainer = CriticTrainer(
        config.base,
        arguments,
        train_dataset=CritiquedPairs(training, learned, judged),
        eval_dataset=CritiquedPairs(validation, None, given) if validation else None,
        peft_config=lora,
    )
    logger.info("%d training pairs, %d validation pairs", len(training), len(validation))
    first = trainer.is_world_process_zero()
    if first:  # not before: a run that is refused claims no folder
        same_run(out, _described(config, scalar, pairs))
    last = last_checkpoint(out / "trainer", clean=first)
    if last is not None:
        logger.info("going on from %s", last)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model(str(out))


def training_arguments(config: TrainConfig, out: Path, scalar: bool) -> CriticConfig:
    """The file's `trainer:` with what the file says elsewhere. Raises ConfigError."""
    ours: dict[str, Any] = {name: getattr(config, name) for name in _TOP_LEVEL}
    ours["slots"] = None if config.slots is None else config.slots.model_dump()
    ours |= {("critique_weight" if name == "weight" else name): value for name, value in config.objective}
    ours |= {
        "output_dir": str(out / "trainer"),
        "scalar": scalar,
        "head": None if config.head is None else str(config.head),
        "data_name": source_name(config.data),
    }
    if twice := sorted(ours.keys() & config.trainer.keys()):
        raise ConfigError(f"trainer: {', '.join(twice)}: set these outside of `trainer:`, or on the command line")
    defaults: dict[str, Any] = {"report_to": ["tensorboard"]}
    if config.validation_critiques and not scalar:
        defaults["metric_for_best_model"] = "accuracy"
    return critic_config(defaults | deepcopy(config.trainer) | ours)  # TrainingArguments fills in what is nested


def lora_config(options: dict[str, Any]) -> LoraConfig:
    """Raises ConfigError: peft has no such option."""
    try:
        return LoraConfig(**({"task_type": "CAUSAL_LM"} | options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {error}") from error


def _described(config: TrainConfig, scalar: bool, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """All that the run depends on: a checkpoint of another run must not be gone on from."""
    folders = {
        "critiques": config.critiques,
        "reward_critiques": config.reward_critiques,
        "validation_critiques": _validation_folders(config),
    }
    settings = config.model_dump(mode="json", exclude={"data", *folders})
    digests = {name: [run_digest(folder) for folder in several] for name, several in folders.items()}
    settings["trainer"] = {name: v for name, v in settings["trainer"].items() if name not in _OF_NO_ACCOUNT}
    return settings | digests | {"scalar": scalar, "pairs": content_sha256(pairs)}


def _validation_folders(config: TrainConfig) -> tuple[Path, ...]:
    return () if config.validation_critiques is None else (config.validation_critiques,)


def _critiques(folders: Sequence[Path], most: int | None, pairs: Sequence[PreferencePair]) -> Critiques | None:
    """The first `most` of each response's in all folders; None where there is no folder."""
    if not folders:
        return None
    written = by_response(critique for folder in folders for critique in read_critiques(folder))
    critiques = {response: several[:most] for response, several in written.items()}
    if pairs and not _with_critiques(pairs, critiques):
        names = ", ".join(map(str, folders))
        raise ConfigError(f"{names} has critiques of none of these {len(pairs)} pairs: is it of other data?")
    return critiques


def _with_critiques(pairs: Sequence[PreferencePair], *folders: Critiques | None) -> list[PreferencePair]:
    """The pairs of which any of the folders has critiques; all where there is no folder."""
    known = [critiques for critiques in folders if critiques is not None]
    return [pair for pair in pairs if not known or any((pair.id, side) in c for c in known for side in SIDES)]
