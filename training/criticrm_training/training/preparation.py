"""What a `JointModel` and its data must be like before a run, and how the model is made so."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from criticrm_model import Manifest
from criticrm_model.manifest import MANIFEST_NAME
from criticrm_model.reward_vector import load_reward_vector
from criticrm_model.stored_head import stored_rows

from ..critiques.records import SIDES
from .critic_config import CriticConfig
from .model import JointModel, without_adapters
from .rows import CritiquedPairs
from .train_config import ConfigError


def check_critiques(data: CritiquedPairs, args: CriticConfig) -> None:
    """Raises ConfigError: a loss would have nothing to learn from."""
    if args.scalar:
        return
    if data.learned is None and args.objective.weights(0.0, 1.0)[0] > 0:
        raise ConfigError("critiques: a Critic-RM learns from some; --scalar trains the baseline without")
    judged = data.judged or {}
    if args.objective.trains_reward and not any(all((p.id, side) in judged for side in SIDES) for p in data.pairs):
        raise ConfigError(
            "reward_critiques: no training pair has critiques of both responses, so the reward after a critique would "
            "never be trained; give a finished `critiques sample` of these pairs"
        )


def check_metric(evaluated: CritiquedPairs, args: CriticConfig) -> None:
    """Raises ConfigError: an evaluation would not have the metric that something follows."""
    by_accuracy = str(args.metric_for_best_model).removeprefix("eval_") == "accuracy"
    if by_accuracy and args.objective.trains_reward and not args.writes_critiques and not evaluated.judged:
        raise ConfigError(
            "metric_for_best_model: accuracy is that after critiques, and evaluations have none: set "
            "fresh_critique_pairs above 0, give validation_critiques, or choose direct_accuracy"
        )


def check_dtype(model: JointModel, args: CriticConfig) -> None:
    """Raises ConfigError: an optimizer's steps would be rounded away."""
    if args.fsdp or args.deepspeed:  # they train copies in float32
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            raise ConfigError(
                f"dtype: {name} would be trained in {str(parameter.dtype).removeprefix('torch.')}, which rounds most "
                "steps of an optimizer away; use dtype float32 with `bf16: true` (the products are in bfloat16), or "
                "adapters (`lora`), FSDP or DeepSpeed"
            )


def start_from(head: Path, model: JointModel) -> None:
    fitted, _ = load_reward_vector(head)
    if fitted.shape != model.teacher.shape:
        raise ConfigError(f"head: {head} is {tuple(fitted.shape)}, the base needs {tuple(model.teacher.shape)}")
    with torch.no_grad():
        model.reward.weight.copy_(fitted)
        model.teacher.copy_(fitted)


def start_from_imported(base: Path, model: JointModel, rewards: Collection[str]) -> None:
    """Start from the rewards of an imported checkpoint; without offsets, for a loss sees differences of rewards.

    In the LM head their rows are zero from then on: a logit of 10 would be a word that the critique loss has to
    unlearn.

    Args:
        rewards: names of several that are to be trained.

    Raises:
        ConfigError: the base has others.
    """
    manifest = Manifest.load(base)
    names = [reward.name for reward in manifest.rewards] if len(manifest.rewards) > 1 else []
    if names != list(rewards):
        has = f"the rewards {', '.join(names)}" if names else "one reward"
        raise ConfigError(f"objective.rewards: {base} has {has}: name the same, in the same order, to start from it")
    tied = bool(without_adapters(model.lm).config.get_text_config().tie_word_embeddings)
    ids = list(manifest.reward_tokens.ids)
    rows = (stored_rows(base, ids, tied) * model.logit_scale).view_as(model.teacher)
    with torch.no_grad():
        model.reward.weight.copy_(rows)
        model.teacher.copy_(rows)
        weight = without_adapters(model.lm).get_output_embeddings().weight
        if not manifest.reads_existing_token and weight.numel():  # it is empty where ZeRO-3 has split it
            weight[ids] = 0


def is_imported(base: object) -> bool:
    """Whether a base is a folder of a checkpoint that was imported, and so has a reward to start from."""
    folder = Path(base) if isinstance(base, str | Path) else None
    return folder is not None and (folder / MANIFEST_NAME).is_file() and Manifest.load(folder).origin is not None


def attend_by(implementation: str | None, model: JointModel) -> str:
    """Change the attention, unless None; returns what it was.

    Raises:
        ConfigError: transformers has none of this name, or not for this model or on this machine.
    """
    lm = without_adapters(model.lm)
    before = str(lm.config._attn_implementation)
    if implementation is not None:
        try:
            lm.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"attn_implementation: {error}") from error
    return before
