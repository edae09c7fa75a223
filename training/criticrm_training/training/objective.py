"""The joint objective: how the critique loss and the reward loss are weighed (arXiv 2411.16646)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["paper", "constant", "additive"]


class Objective(BaseModel):
    """The weights of the losses over a run.

    With `t` the share of the run that is done, in epochs, and `E` the number of epochs:

    - `paper`: `lambda * L_c + (1 - lambda) * L_r`, lambda 1 until the last epoch, then down to `1 - beta` over it.
      The reward overfits within an epoch while writing critiques takes several.
    - `constant`: the same with lambda `weight` throughout.
    - `additive`: `L_r + weight * L_c`, the form of CLoud (arXiv 2408.11791).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: Schedule = "paper"
    beta: float = Field(0.9, ge=0, le=1)
    weight: float = Field(0.5, ge=0, description="Of the critique loss, for 'constant' and 'additive'.")
    direct_weight: float = Field(
        0.1, ge=0, description="Of the reward loss before the critique, beside the one after it; not in the paper."
    )
    distill_weight: float = Field(
        0.0,
        ge=0,
        description="Of the distance of both rewards from their teacher: the reward before the critique of the frozen"
        " base with `head`. Not in the paper. Where labels are few or noisy, they don't bring what the prompt tells to"
        " the end of the critique, and fitting them makes the reward before it worse.",
    )

    def weights(self, epoch: float, epochs: float) -> tuple[float, float]:
        """`(of the critique loss, of the reward loss)` after `epoch` of `epochs`, in epochs."""
        if self.schedule == "additive":
            return self.weight, 1.0
        if self.schedule == "constant":
            return self.weight, 1 - self.weight
        into_last = min(max(epoch - (epochs - 1), 0.0), 1.0)
        critique = 1 - self.beta * into_last
        return critique, 1 - critique


def bradley_terry_loss(margins: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """`-log sigmoid(r(x, y+) - r(x, y-))`: the reward loss `L_r` (arXiv 2411.16646).

    Args:
        margins: reward of the chosen response minus that of the rejected one, `[n]`.
        reduction: "mean" or "sum", over the pairs.
    """
    losses = -F.logsigmoid(margins)
    return losses.sum() if reduction == "sum" else losses.mean()
