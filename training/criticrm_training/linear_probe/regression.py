"""Bradley-Terry on frozen hidden states: one reward vector for both reward positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..training.losses import bradley_terry_loss

# Ridge strengths on standardised features, strong to weak; the path is left once unseen pairs stop improving.
_PENALTIES = tuple(10 ** (k / 4) for k in range(4, -13, -1))
_PATIENCE = 3
# A pair's loss after the critique, beside its loss before it. Measured for the embedded default by ten-fold
# cross-validation: with half the weight the direct score loses nothing (0.6626 nats with and without the critiques),
# and the score after the critique is right on as many unseen pairs as with the full weight (0.55).
_CRITIQUED_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """One point of the regularisation path. Losses of the direct score, in nats a pair, over the folds."""

    penalty: float
    training_loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A reward vector, and what it is worth on questions that it has not seen.

    Attributes:
        reward: `[d_model]` float32, fitted on every pair with the penalty that was kept.
        penalty: the one with the least validation loss.
        path: what was tried.
        unseen_direct, unseen_critiqued: `[pairs]` and `[m]` float32: each pair's margin (chosen minus rejected) by
            the vector of the fold that left its question out, at the penalty that was kept.
    """

    reward: torch.Tensor
    penalty: float
    path: list[Step]
    unseen_direct: torch.Tensor
    unseen_critiqued: torch.Tensor


def fit_head(
    direct: torch.Tensor, groups: Sequence[str], folds: int, critiqued: torch.Tensor | None = None
) -> FittedHead:
    """Fit one vector on both positions at once.

    The strength of the ridge is chosen by cross-validation over questions, by the loss of the direct score, which
    every pair has; then every pair is fitted on. One split of a few thousand pairs would choose it by luck. On each
    fold the path runs from strong to weak, each fit started at the one before, and is left after `_PATIENCE` steps
    without a better validation loss: on a convex problem this is what early stopping approximates.

    Args:
        direct: before any critique, `[pairs, 2, d_model]`, chosen first.
        groups: of each pair; pairs of one group are never on both sides of a split.
        folds: how many, from 2 to the number of groups.
        critiqued: after the critique, `[m, 2, d_model]`, of the first m pairs.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    positions = [direct] if critiqued is None or not len(critiqued) else [direct, critiqued]
    fold_of = _assign_folds(groups, folds)
    fold_at = torch.cat([fold_of[: len(states)] for states in positions])  # [pairs of all positions]
    weight = torch.ones(len(fold_at), dtype=torch.float64)
    weight[len(direct) :] = _CRITIQUED_WEIGHT
    # The spread of responses at their own position, pooled: one vector serves them all.
    spread = [states.flatten(0, 1).double() for states in positions]
    variance = sum(((s - s.mean(0)).square().sum(0) for s in spread), torch.zeros(1))
    scale = (variance / sum(map(len, spread))).sqrt() + 1e-6  # [d_model]
    differences = torch.cat([(s[:, 0] - s[:, 1]).double() for s in positions]) / scale

    kept = [fold_at != fold for fold in range(folds)]
    paths = [_path(differences[keep], weight[keep]) for keep in kept]
    path: list[Step] = []
    unseen = torch.empty(0)
    since_best = 0
    for penalty, vectors in zip(_PENALTIES, zip(*paths, strict=True), strict=False):
        margins = torch.empty(len(differences), dtype=torch.float64)
        training_loss = 0.0
        for keep, vector in zip(kept, vectors, strict=True):
            margins[~keep] = differences[~keep] @ vector
            training_loss += (
                bradley_terry_loss((differences @ vector)[: len(direct)][keep[: len(direct)]]).mean().item() / folds
            )
        step = Step(penalty, training_loss, bradley_terry_loss(margins[: len(direct)]).mean().item())
        best = min((s.validation_loss for s in path), default=float("inf"))
        path.append(step)
        if step.validation_loss < best:
            unseen, since_best = margins, 0
        elif (since_best := since_best + 1) >= _PATIENCE:
            break
    penalty = min(path, key=lambda step: step.validation_loss).penalty
    *_, vector = _path(differences, weight, until=penalty)
    return FittedHead(
        (vector / scale).float(), penalty, path, unseen[: len(direct)].float(), unseen[len(direct) :].float()
    )


def _path(differences: torch.Tensor, weight: torch.Tensor, until: float = 0.0) -> Iterator[torch.Tensor]:
    """`[d_model]` float64 for each penalty in turn, down to `until`."""
    w = torch.zeros(differences.shape[1], dtype=torch.float64, requires_grad=True)
    for penalty in _PENALTIES:
        if penalty < until:
            return
        optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.Optimizer = optimizer, penalty: float = penalty) -> torch.Tensor:
            optimizer.zero_grad()
            losses = -torch.nn.functional.logsigmoid(differences @ w)
            objective = (weight * losses).sum() / weight.sum() + 0.5 * penalty * w.square().sum()
            objective.backward()
            return objective

        optimizer.step(closure)
        yield w.detach().clone()


def _assign_folds(groups: Sequence[str], folds: int) -> torch.Tensor:
    """The fold of each pair, `[pairs]`: groups in the order of their hashes, dealt out in turn."""
    names = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < folds:
        raise ValueError(f"{folds} folds need as many questions; there are {len(names)}")
    fold = {name: i % folds for i, name in enumerate(names)}
    return torch.tensor([fold[name] for name in groups])
