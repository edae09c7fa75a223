"""A trained `JointModel` as files: the one checkpoint format, its adapter, and model cards."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from criticrm_model import RewardCard, RewardTokens
from criticrm_model.checkpoint import WeightedReward, add_reward_tokens, assemble
from criticrm_model.files import write_text
from criticrm_model.manifest import MANIFEST_NAME
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel
from criticrm_model.reward_vector import save_reward_vector

from ..card import model_card, reward_card
from ..data.overlong import render_pairs
from ..data.pairs import PreferencePair
from ..data.trained_questions import write_trained_questions
from ..linear_probe.features import extract
from .critic_config import CriticConfig
from .model import JointModel

_CARD = "README.md"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """What is known of a trained model, for its manifest and its cards.

    Attributes:
        base: the name of the base, as a manifest gives it.
        training, validation: the pairs it was trained on, and those it was not.
        summary: of the run.
    """

    base: str
    training: Sequence[PreferencePair]
    validation: Sequence[PreferencePair]
    summary: Mapping[str, Any]


def export(
    model: JointModel,
    tokenizer: PreTrainedTokenizerBase,
    renderer: Renderer,
    args: CriticConfig,
    trained: Trained,
    out: Path,
) -> None:
    """Write a Critic-RM: adapters merged, the reward head as the reward token's row, calibrated.

    Calibrated on critiques that it writes of validation pairs (of training pairs where there are none).
    """
    lm, reward = _merged(model, trained.base, out), model.reward.weight.detach().cpu()
    score = model.score_vector.detach().cpu()
    several = [WeightedReward(name, weight) for name, weight in args.objective.rewards.items()]
    added = add_reward_tokens(lm, tokenizer, several)
    tokens = RewardTokens(tuple(one.token_id for one in added), tuple(one.weight for one in added))
    reference = ReferenceModel(lm, tokens, renderer.stop_token_ids)
    kind, measured = ("validation", trained.validation) if trained.validation else ("training", trained.training)
    calibration = render_pairs(
        measured[: args.calibration_pairs],
        renderer,
        max_model_len=args.max_model_len,
        max_critique_tokens=args.max_critique_tokens,
        overlong="truncate",
        name="calibration",
    )
    states = extract(
        calibration,
        reference,
        renderer,
        critique_pairs=args.calibration_pairs,
        max_critique_tokens=args.max_critique_tokens,
        batch_size=32,
        # Its files are named after what goes into the model; other weights need another folder.
        work_dir=out / "calibration" / hashlib.sha256(reward.numpy().tobytes()).hexdigest()[:12],
        label="calibration",
    )
    card = reward_card(
        score,
        states,
        base=trained.base,
        instruction=args.instruction,
        slots=args.instruction_slots,
        max_critique_tokens=args.max_critique_tokens,
        data=args.data_name,
        pairs=trained.training,
        reference_set=f"both responses of {len(states.critiqued)} {kind} pairs of {args.data_name}",
    )
    (out / MANIFEST_NAME).unlink(missing_ok=True)  # written last: a folder that has one is complete
    if (out / "adapter").is_dir():
        save_reward_vector(reward, card, out / "adapter")
    _write_cards(trained, card, out)
    write_trained_questions(out, trained.training)
    assemble(lm, tokenizer, reward, card, out, several)
    logger.info("wrote %s", out)


def export_language_model(model: JointModel, tokenizer: PreTrainedTokenizerBase, trained: Trained, out: Path) -> None:
    """Write what an objective without a reward loss trained: a causal LM that writes critiques.

    It has no reward token and no manifest, so that nobody serves a reward that was never trained.
    """
    lm = _merged(model, trained.base, out)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    lm.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _write_cards(trained, None, out)
    write_trained_questions(out, trained.training)
    logger.warning(
        "wrote %s: a language model that writes critiques. Its reward was not trained, as the objective says, so it is "
        "no Critic-RM yet: sample from it, or train its reward with `base: %s`",
        out,
        out,
    )


def _write_cards(trained: Trained, card: RewardCard | None, out: Path) -> None:
    """As the hub shows them: README.md beside the weights, and beside the adapter."""
    write_text(out / _CARD, model_card(out.name, trained.base, card, trained.summary))
    if (out / "adapter").is_dir():
        name = f"{out.name} adapter"
        write_text(out / "adapter" / _CARD, model_card(name, trained.base, card, trained.summary, adapter=True))


def _merged(model: JointModel, base: str, out: Path) -> PreTrainedModel:
    """The language model, adapters merged into it and written to `out/adapter`."""
    lm = model.lm
    lm.config.use_cache = True  # which the trainer switches off, and a file would keep
    if not isinstance(lm, PeftModel):
        return lm
    if (out / "adapter").is_dir():  # peft would go on with the model card of a killed run, or with half of it
        shutil.rmtree(out / "adapter")
    lm.peft_config[lm.active_adapter].base_model_name_or_path = base  # not where it lies here
    # Where the base is a checkpoint, whose vocabulary has reward tokens, peft would add all of the embedding.
    lm.save_pretrained(str(out / "adapter"), save_embedding_layers=False)
    return cast("PreTrainedModel", lm.merge_and_unload())
