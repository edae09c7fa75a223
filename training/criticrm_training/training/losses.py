"""The losses of a batch, and what is logged beside them; how they are weighed is `objective`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from criticrm_model import CriticRMError

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from .model import JointOutput

Batch = Mapping[str, torch.Tensor]


class NonFiniteLoss(CriticRMError):
    """The loss became NaN or infinite: the weights are worth nothing from here on."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"the loss is {loss} at step {step}, so the run ends here. Its last checkpoint is from before; a lower "
            "learning rate, a longer warm-up or float32 weights may help"
        )


@dataclass(frozen=True, slots=True)
class Losses:
    """A batch's shares of the losses of its optimizer step, each a scalar.

    Attributes:
        critique: `L_c`, in nats a critique token.
        reward, direct: `L_r` after the critique and before it, in nats a pair.
        distance: of both rewards from their teacher, smooth L1, in reward units; 0 without one.
    """

    critique: torch.Tensor
    reward: torch.Tensor
    direct: torch.Tensor
    distance: torch.Tensor


def bradley_terry_loss(margins: torch.Tensor, agreement: torch.Tensor | float = 1.0) -> torch.Tensor:
    """`-p log sigmoid(m) - (1 - p) log sigmoid(-m)`, the reward loss `L_r` (arXiv 2411.16646 has p = 1).

    Args:
        margins: m, reward of the chosen response minus that of the rejected one (and what it should be by), `[n]`.
        agreement: p, the probability that the label is right, `[n]`.

    Returns `[n]`, in nats.
    """
    # -log sigmoid(-m) is -log sigmoid(m) + m
    return -F.logsigmoid(margins) + (1 - agreement) * margins


def losses(
    output: JointOutput,
    batch: Batch,
    counts: torch.Tensor,
    *,
    center: float = 0.0,
    teacher: torch.Tensor | None = None,
) -> Losses:
    """The losses of one batch.

    Args:
        counts: `[4]`, those of `PairCollator` summed over the optimizer step and all processes.
        center: `Objective.center_rewards_coefficient`.
        teacher: `[2b]` float32, the reward that the response should have.
    """
    tokens, judged_pairs, pairs = counts[:3].clamp(min=1)
    pair, weight = _critique_pairs(batch)  # [m] each
    margin, agreement = batch["margin"], batch["agreement"]  # [b] each
    chosen_at, rejected_at = batch["chosen_at"], batch["rejected_at"]  # [m] each
    if output.rewards is None or output.direct_rewards is None:
        scores, direct = output.scores, output.direct_scores  # [n], and [2b]: chosen and rejected in turn
        reward_loss = _reward_loss(scores[chosen_at], scores[rejected_at], margin[pair], agreement[pair], center)
        direct_loss = _reward_loss(direct[0::2], direct[1::2], margin, agreement, center)
    else:
        rewards, direct, labels = output.rewards, output.direct_rewards, batch["labels"]  # [.., rewards] each
        reward_loss = _mean_loss(rewards[chosen_at], rewards[rejected_at], labels[pair], center)
        direct_loss = _mean_loss(direct[0::2], direct[1::2], labels, center)
    distance = torch.zeros((), device=direct_loss.device)
    if teacher is not None:
        score_distance = F.smooth_l1_loss(output.scores, teacher[batch["side_at"]], reduction="none")  # [n]
        direct_distance = F.smooth_l1_loss(output.direct_scores, teacher, reduction="sum")
        distance = ((batch["share"] * score_distance).sum() + direct_distance) / (2 * pairs)
    return Losses(
        critique=output.critique_loss / tokens,
        reward=(weight * reward_loss).sum() / judged_pairs,
        direct=direct_loss.sum() / pairs,
        distance=distance,
    )


def margins(output: JointOutput, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen minus rejected after and before the critique, `[b]` each.

    The mean over a pair's pairs of critiques, NaN where it has none.
    """
    before = output.direct_scores[0::2] - output.direct_scores[1::2]
    pair, weight = _critique_pairs(batch)  # [m] each
    weighted = weight * (output.scores[batch["chosen_at"]] - output.scores[batch["rejected_at"]])
    after = torch.zeros_like(before).index_add(0, pair, weighted)
    has_critiques = torch.zeros_like(before).index_fill(0, pair, 1) > 0
    return torch.where(has_critiques, after, torch.nan), before


@torch.no_grad()
def metrics(output: JointOutput, batch: Batch, counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch's shares of the means over the pairs of its optimizer step; arguments as for `losses`."""
    _, judged_pairs, pairs = counts[:3].clamp(min=1)
    after, before = margins(output, batch)
    found = {
        "accuracy": (after > 0).sum() / judged_pairs,
        "direct_accuracy": (before > 0).sum() / pairs,
    }
    for name, values, count in (("margin", after.nan_to_num(0.0), judged_pairs), ("direct_margin", before, pairs)):
        found |= {name: values.sum() / count, f"{name}_square": values.square().sum() / count}
    return found


def _critique_pairs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """For each pair of critiques, its preference pair and its share of that pair's loss; `[m]` each."""
    chosen, rejected = batch["chosen_at"], batch["rejected_at"]
    return batch["side_at"][chosen] // 2, batch["share"][chosen] * batch["share"][rejected]


def _reward_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor, agreement: torch.Tensor, center: float
) -> torch.Tensor:
    loss = bradley_terry_loss(chosen - rejected - margin, agreement)
    return loss + center * (chosen + rejected) ** 2 if center else loss


def _mean_loss(chosen: torch.Tensor, rejected: torch.Tensor, labels: torch.Tensor, center: float) -> torch.Tensor:
    """`[n]`: the mean over those of several rewards that have a label. Args: `[n, rewards]`, NaN is no label."""
    known = ~labels.isnan()
    loss = _reward_loss(chosen, rejected, torch.zeros_like(labels), labels.nan_to_num(0.5), center)
    return (loss * known).sum(1) / known.sum(1)


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Pair accuracies; a tie counts half. Predictions: `[pairs, 2]` margins, NaN where there is no critique."""
    margins = np.asarray(prediction.predictions)
    found = {}
    for name, column in zip(("accuracy", "direct_accuracy"), margins.T, strict=True):
        column = column[~np.isnan(column)]
        if len(column):
            found[name] = float(np.mean((column > 0) + 0.5 * (column == 0)))
    return found
