"""From preference pairs to a reward row: features, fit, report, checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from criticrm_model.checkpoint import add_reward_token, assemble
from criticrm_model.files import write_json
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel
from criticrm_model.reward_vector import save_reward_vector

from ..base import load_base
from ..card import reward_card
from ..data.overlong import Overlong, RenderedPairs, render_pairs
from ..data.pairs import PreferencePair, read_pairs
from ..data.sources import DataError, source_name
from ..data.splits import in_question_order
from ..tables import accuracy_report, as_table
from .features import PairFeatures, extract
from .regression import fit_head

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """The options of `criticrm fit-head`, which describes them.

    Attributes:
        critique_pairs: pairs of each set with critiques; 0 is all.
        work_dir: where finished batches are kept; None is `out / "features"`.
    """

    data: str
    out: Path
    base: str
    heldout: str | None
    instruction: str
    max_critique_tokens: int
    critique_pairs: int
    folds: int
    batch_size: int
    max_model_len: int
    overlong: Overlong
    dtype: Literal["float32", "bfloat16", "float16"]
    work_dir: Path | None
    head_only: bool


def fit(settings: FitSettings) -> None:
    """Run `criticrm fit-head`.

    Raises:
        DataError: a preference file is malformed.
        UnsupportedModel: the base can't carry the readout.
    """
    pairs = in_question_order(read_pairs(settings.data))
    heldout = in_question_order(read_pairs(settings.heldout)) if settings.heldout else []
    _check_folds(settings, pairs)  # before the base is loaded
    settings.out.mkdir(parents=True, exist_ok=True)  # before the work: this may fail
    (rendered, train), (rendered_heldout, seen) = _extract(settings, pairs, heldout)
    pairs, heldout = rendered.pairs, rendered_heldout.pairs
    groups = [pair.group for pair in pairs]
    fitted = fit_head(train.direct, groups, settings.folds, train.critiqued)
    for step in fitted.path:
        logger.info(
            "penalty %8.4f  training loss %.4f  validation loss %.4f",
            step.penalty,
            step.training_loss,
            step.validation_loss,
        )
    logger.info("kept penalty %.4f", fitted.penalty)
    _write(settings, fitted.reward, train, pairs)

    scalar = fit_head(train.direct, groups, settings.folds)  # the matched baseline: same pairs, no critiques at all
    margins = {
        "scalar baseline": scalar.unseen_direct,
        "direct_score": fitted.unseen_direct,
        "score": fitted.unseen_critiqued,
    }
    report = {f"{settings.folds}-fold": accuracy_report(pairs, margins, train.ended)}
    if heldout:
        margins = {
            "scalar baseline": _margins(seen.direct, scalar.reward),
            "direct_score": _margins(seen.direct, fitted.reward),
            "score": _margins(seen.critiqued, fitted.reward),
        }
        report["heldout"] = accuracy_report(heldout, margins, seen.ended)
    write_json(settings.out / "fit_report.json", report)
    logger.info("%s", as_table(report))
    logger.info("wrote %s", settings.out)


def _check_folds(settings: FitSettings, pairs: list[PreferencePair]) -> None:
    questions = len({pair.group for pair in pairs})
    if questions < settings.folds:
        raise DataError(f"{settings.data} has {questions} questions: too few for --folds {settings.folds}")


def _extract(
    settings: FitSettings, pairs: list[PreferencePair], heldout: list[PreferencePair]
) -> list[tuple[RenderedPairs, PairFeatures]]:
    """The features of both sets; the model's memory is free again when this returns."""
    model, tokenizer = load_base(settings.base, getattr(torch, settings.dtype))
    renderer = Renderer(tokenizer, settings.instruction)

    def render(some: list[PreferencePair], name: str, overlong: Overlong) -> RenderedPairs:
        return render_pairs(
            some,
            renderer,
            max_model_len=settings.max_model_len,
            max_critique_tokens=settings.max_critique_tokens,
            overlong=overlong,
            name=name,
        )

    # Both before the work: either may fail. Nothing too long is left out of what is reported: the service truncates it.
    sets = {
        "training pairs": render(pairs, "training pairs", settings.overlong),
        "held-out pairs": render(heldout, "held-out pairs", "truncate"),
    }
    rendered, rendered_heldout = sets.values()
    _check_folds(settings, rendered.pairs)
    questions = len({pair.group for pair in rendered.pairs})
    logger.info(
        "%d pairs of %d questions, %d held-out pairs", len(rendered.pairs), questions, len(rendered_heldout.pairs)
    )
    # Its row is still zero, but it is banned while a critique is written, as it will be when serving.
    reference = ReferenceModel(model, add_reward_token(model, tokenizer), renderer.stop_token_ids)
    return [
        (
            some,
            extract(
                some,
                reference,
                renderer,
                critique_pairs=settings.critique_pairs or len(some.pairs),
                max_critique_tokens=settings.max_critique_tokens,
                batch_size=settings.batch_size,
                work_dir=settings.work_dir or settings.out / "features",
                label=label,
            ),
        )
        for label, some in sets.items()
    ]


def _write(settings: FitSettings, reward: torch.Tensor, train: PairFeatures, pairs: list[PreferencePair]) -> None:
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
        save_reward_vector(reward, card, settings.out)
    else:
        # Folded in float32, in main memory: the precision and the place of fitting are no part of the checkpoint.
        model, tokenizer = load_base(settings.base, torch.float32, device="cpu")
        assemble(model, tokenizer, reward, card, settings.out)


def _margins(states: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[n]`."""
    rewards = states @ reward  # [n, 2]
    return rewards[:, 0] - rewards[:, 1]
