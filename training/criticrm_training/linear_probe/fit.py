"""From preference pairs to a reward row: features, fit, report, checkpoint."""

from __future__ import annotations

import logging

import torch

from criticrm_model.checkpoint import add_reward_token, assemble
from criticrm_model.files import write_json
from criticrm_model.head import save_head
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel

from ..base import load_base
from ..card import reward_card
from ..commands.fit_head import FitHead
from ..data.pairs import PreferencePair, in_question_order, read_pairs
from ..data.sources import DataError, source_name
from ..tables import accuracy_report, as_table
from .features import PairFeatures, extract
from .regression import fit_head

logger = logging.getLogger(__name__)


def fit(settings: FitHead) -> None:
    """Run `criticrm fit-head`.

    Raises:
        DataError: a preference file is malformed.
        UnsupportedModel: the base can't carry the readout.
    """
    pairs = in_question_order(read_pairs(settings.data))
    heldout = in_question_order(read_pairs(settings.heldout)) if settings.heldout else []
    groups = [pair.group for pair in pairs]
    if len(set(groups)) < settings.folds:
        raise DataError(f"{settings.data} has {len(set(groups))} questions: too few for --folds {settings.folds}")
    logger.info("%d pairs of %d questions, %d held-out pairs", len(pairs), len(set(groups)), len(heldout))

    settings.out.mkdir(parents=True, exist_ok=True)  # before the work: this may fail
    train, seen = _extract(settings, pairs, heldout)
    head = fit_head(train.direct, groups, settings.folds, train.critiqued)
    for step in head.path:
        logger.info(
            "penalty %8.4f  training loss %.4f  validation loss %.4f",
            step.penalty,
            step.training_loss,
            step.validation_loss,
        )
    logger.info("kept penalty %.4f", head.penalty)
    _write(settings, head.reward, train, pairs)

    scalar = fit_head(train.direct, groups, settings.folds)  # the matched baseline: same pairs, no critiques at all
    margins = {
        "scalar baseline": scalar.unseen_direct,
        "direct_score": head.unseen_direct,
        "score": head.unseen_critiqued,
    }
    report = {f"{settings.folds}-fold": accuracy_report(pairs, margins, train.ended)}
    if heldout:
        margins = {
            "scalar baseline": _margins(seen.direct, scalar.reward),
            "direct_score": _margins(seen.direct, head.reward),
            "score": _margins(seen.critiqued, head.reward),
        }
        report["heldout"] = accuracy_report(heldout, margins, seen.ended)
    write_json(settings.out / "fit_report.json", report)
    logger.info("%s", as_table(report))
    logger.info("wrote %s", settings.out)


def _extract(
    settings: FitHead, pairs: list[PreferencePair], heldout: list[PreferencePair]
) -> tuple[PairFeatures, PairFeatures]:
    """Of both sets; the model's memory is free again when this returns."""
    model, tokenizer = load_base(settings.base, getattr(torch, settings.dtype))
    renderer = Renderer(tokenizer, settings.instruction)
    # Its row is still zero, but it is banned while a critique is written, as it will be when serving.
    reference = ReferenceModel(model, add_reward_token(model, tokenizer), renderer.stop_token_ids)

    def features(some: list[PreferencePair], label: str) -> PairFeatures:
        return extract(
            some,
            reference,
            renderer,
            critique_pairs=settings.critique_pairs or len(some),
            max_critique_tokens=settings.max_critique_tokens,
            max_model_len=settings.max_model_len,
            batch_size=settings.batch_size,
            work_dir=settings.work_dir or settings.out / "features",
            label=label,
        )

    return features(pairs, "training"), features(heldout, "held-out")


def _write(settings: FitHead, reward: torch.Tensor, train: PairFeatures, pairs: list[PreferencePair]) -> None:
    name = source_name(settings.data)
    card = reward_card(
        reward,
        train,
        base=settings.base,
        instruction=settings.instruction,
        max_critique_tokens=settings.max_critique_tokens,
        data=name,
        pairs=pairs,
        reference_set=f"both responses of the pairs of {name} that got critiques",
    )
    if settings.head_only:
        save_head(reward, card, settings.out)
    else:
        # Folded in float32, in main memory: the precision and the place of fitting are no part of the checkpoint.
        model, tokenizer = load_base(settings.base, torch.float32, device="cpu")
        assemble(model, tokenizer, reward, card, settings.out)


def _margins(states: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[n]`."""
    rewards = states @ reward  # [n, 2]
    return rewards[:, 0] - rewards[:, 1]
