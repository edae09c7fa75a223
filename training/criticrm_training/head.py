"""Bradley-Terry on frozen hidden states: one reward vector for both reward positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Ridge strengths on standardised features, strong to weak; the path is left once validation stops improving.
_PENALTIES = tuple(10 ** (k / 4) for k in range(4, -13, -1))
_PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One point of the regularisation path. Losses in nats a pair."""

    penalty: float
    training_loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True)
class FittedHead:
    """`reward`: `[d_model]` float32. `path`: what was tried. `penalty`: what was kept."""

    reward: torch.Tensor
    penalty: float
    path: list[Step]


def bradley_terry_loss(reward_chosen: torch.Tensor, reward_rejected: torch.Tensor) -> torch.Tensor:
    """`-log sigmoid(r(x, y+) - r(x, y-))`, averaged: METHOD's `L_r` (arXiv 2411.16646).

    Args:
        reward_chosen, reward_rejected: `[n]`.
    """
    return -F.logsigmoid(reward_chosen - reward_rejected).mean()


def fit_head(training: Sequence[torch.Tensor], validation: Sequence[torch.Tensor]) -> FittedHead:
    """Fit one vector on all given positions at once; a pair counts once at each position it was seen at.

    The ridge path runs from strong to weak, each fit started at the one before; the vector with the least
    validation loss is kept and the path is left after `_PATIENCE` steps without a better one. On a convex
    problem this is what early stopping approximates.

    Args:
        training, validation: one tensor a position, `[pairs, 2, d_model]`, chosen first; the number of pairs
            may differ from position to position.
    """
    # The spread of responses at their own position, pooled: one vector serves them all.
    spread = [t.flatten(0, 1).double() for t in training]
    variance = sum(((s - s.mean(0)).square().sum(0) for s in spread), torch.zeros(1))
    scale = (variance / sum(map(len, spread))).sqrt() + 1e-6  # [d_model]
    train, valid = (
        torch.cat([(t[:, 0] - t[:, 1]).double() for t in positions]) / scale  # [pairs of all positions, d_model]
        for positions in (training, validation)
    )

    def loss(w: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
        return -F.logsigmoid(differences @ w).mean()

    w = torch.zeros(scale.shape[0], dtype=torch.float64, requires_grad=True)
    best, best_loss, best_penalty = w.detach().clone(), float("inf"), _PENALTIES[0]
    path: list[Step] = []
    since_best = 0
    for penalty in _PENALTIES:
        optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.Optimizer = optimizer, penalty: float = penalty) -> torch.Tensor:
            optimizer.zero_grad()
            objective = loss(w, train) + 0.5 * penalty * w.square().sum()
            objective.backward()
            return objective

        optimizer.step(closure)
        with torch.no_grad():
            step = Step(penalty, loss(w, train).item(), loss(w, valid).item())
        path.append(step)
        if step.validation_loss < best_loss:
            best, best_loss, best_penalty, since_best = w.detach().clone(), step.validation_loss, penalty, 0
        elif (since_best := since_best + 1) >= _PATIENCE:
            break
    return FittedHead((best / scale).float(), best_penalty, path)
