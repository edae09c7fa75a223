"""What a manifest and a model card say of a reward that was trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from criticrm_model import RewardCard, TrainingData
from criticrm_model.instruction import InstructionSlots

from .base import base_name
from .calibrating import calibrate
from .data.pairs import PreferencePair, content_sha256
from .linear_probe.features import PairFeatures


def reward_card(
    reward: torch.Tensor,
    states: PairFeatures,
    *,
    base: str,
    instruction: str,
    slots: InstructionSlots | None = None,
    max_critique_tokens: int,
    data: str,
    pairs: Sequence[PreferencePair],
    reference_set: str,
) -> RewardCard:
    """The card of a reward vector, calibrated on the pairs of `states` that got critiques.

    Raises:
        CalibrationError: the reward is the same for all of them.

    Args:
        reward: `[d_model]`; of several rewards their weighted sum.
        data: the name of the file or dataset that the pairs come from.
        pairs: those that the reward was fitted on.
        reference_set: which pairs those of `states` are, in words.
    """
    n = len(states.critiqued)
    direct, after = ((found @ reward).double().numpy() for found in (states.direct[:n], states.critiqued))  # [n, 2]
    return RewardCard(
        critique_instruction=instruction,
        slots=slots,
        max_critique_tokens=max_critique_tokens,
        base_model=base_name(base),
        training_data=(TrainingData(name=data, pairs=len(pairs), sha256=content_sha256(pairs)),),
        calibration=calibrate(direct, {1: after}, reference_set),
    )


def model_card(
    name: str, base: str, card: RewardCard | None, summary: Mapping[str, Any], *, adapter: bool = False
) -> str:
    """The README.md of a checkpoint, or of its adapter, as the Hugging Face hub shows it.

    Args:
        card: None for a language model that writes critiques and has no trained reward.
        summary: of the run (`summary.json`).
    """
    kind = "scalar reward model" if summary["scalar"] else "critic and reward model" if card else "critic"
    front_matter = {
        "base_model": base,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["critic-rm", "reward-model"] if card else ["critic-rm"],
    }
    lines = ["---", yaml.safe_dump(front_matter, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    if adapter:
        lines.append(
            f"A LoRA adapter of `{base}`; with `reward.safetensors`, the reward vector, it makes a {kind}. The merged "
            "checkpoint is what `criticrm serve` takes."
        )
    elif card:
        lines.append(
            f"A {kind} made from `{base}`, trained on preference pairs by the method of Critic-RM (arXiv 2411.16646). "
            "The reward of a response is the logit of `<|reward|>`; `critic_rm.json` describes it."
        )
        lines += ["", "```bash", f"criticrm serve --model {name}", "```"]
    else:
        lines.append(
            f"`{base}`, trained to write critiques of responses. **It has no reward that was trained**: it is no "
            "reward model, and `criticrm serve` refuses it."
        )
    rows = [
        ("training pairs", f"{summary['pairs']:,}"),
        ("optimizer steps", f"{summary['steps']:,}"),
        ("tokens", f"{summary['tokens']:,}"),
        ("reward weight x learning rate, summed", f"{summary['reward_weight_times_rate']:.4g}"),
    ]
    if card:
        rows += [(f"data: {d.name}", f"{d.pairs:,} pairs, sha256 `{d.sha256[:12]}`") for d in card.training_data]
        rows.append(("longest critique", f"{card.max_critique_tokens} tokens"))
        rows.append(("critique instruction", f'"{card.critique_instruction}"'))
        if card.calibration:
            after, before = card.calibration.score, card.calibration.direct_score
            rows += [
                ("reward after a critique", f"{after.mean:.3f} ± {after.std:.3f}"),
                ("reward before one", f"{before.mean:.3f} ± {before.std:.3f}"),
                ("measured on", card.calibration.reference_set),
            ]
    lines += ["", "| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    return "\n".join(lines) + "\n"
