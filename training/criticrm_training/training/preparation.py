"""What a `JointModel` and its data must be like before a run, and how the model is made so."""

from __future__ import annotations

from pathlib import Path

import torch

from criticrm_model.head import load_head

from ..critiques.records import SIDES
from .config import ConfigError
from .model import JointModel, without_adapters
from .rows import CritiquedPairs
from .settings import CriticConfig


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
    fitted, _ = load_head(head)
    if fitted.shape != model.teacher.shape:
        raise ConfigError(f"head: {head} is {tuple(fitted.shape)}, the base needs {tuple(model.teacher.shape)}")
    with torch.no_grad():
        model.reward.weight.copy_(fitted)
        model.teacher.copy_(fitted)


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
