"""Bradley-Terry on features, and the accuracy it is judged by."""

from __future__ import annotations

import math

import pytest
import torch

from criticrm_training.accuracy import pair_accuracy
from criticrm_training.head import bradley_terry_loss, fit_head


def made_features(pairs: int, seed: int, signal: float) -> torch.Tensor:
    """`[pairs, 2, 16]`: the chosen response lies `signal` further along one direction."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(pairs, 2, 16, generator=generator)
    direction = torch.linspace(-1, 1, 16)
    features[:, 0] += signal * direction / direction.norm()
    return features


def margins(features: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    rewards = features @ reward
    return rewards[:, 0] - rewards[:, 1]


def test_loss_by_hand() -> None:
    loss = bradley_terry_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2)


def test_it_learns_what_is_there() -> None:
    head = fit_head([made_features(600, 0, 4.0)], [made_features(200, 1, 4.0)])
    assert (margins(made_features(500, 2, 4.0), head.reward) > 0).float().mean() >= 0.95


def test_shuffled_labels_stay_at_chance() -> None:
    def shuffled(features: torch.Tensor) -> torch.Tensor:
        """Every other pair the wrong way round."""
        features[::2] = features[::2].flip(1)
        return features

    head = fit_head([shuffled(made_features(600, 0, 4.0))], [shuffled(made_features(200, 1, 4.0))])
    accuracy = (margins(shuffled(made_features(2000, 2, 4.0)), head.reward) > 0).float().mean().item()
    assert accuracy == pytest.approx(0.5, abs=0.04)


def test_one_vector_serves_both_positions() -> None:
    direct, after = made_features(600, 0, 3.0), made_features(300, 1, 3.0) * 5  # other scale, other count
    head = fit_head([direct, after], [made_features(200, 2, 3.0), made_features(100, 3, 3.0) * 5])
    for features in (made_features(500, 4, 3.0), made_features(500, 5, 3.0) * 5):
        assert (margins(features, head.reward) > 0).float().mean() >= 0.9


def test_early_stopping_keeps_the_best_and_leaves_the_path() -> None:
    head = fit_head([made_features(40, 0, 1.0)], [made_features(200, 1, 1.0)])
    losses = [step.validation_loss for step in head.path]
    assert head.penalty == head.path[losses.index(min(losses))].penalty
    assert len(losses) - 1 - losses.index(min(losses)) == 4
    assert head.path[-1].training_loss < head.path[0].training_loss  # it fitted on, and was not followed


def test_accuracy_by_hand() -> None:
    accuracy = pair_accuracy([1.0, -1.0, 0.0, 2.0], ["a", "b", "c", "d"])
    assert accuracy.value == (1 + 0 + 0.5 + 1) / 4
    assert accuracy.n == 4
    assert 0 <= accuracy.low < accuracy.value < accuracy.high <= 1


def test_an_interval_covers_like_the_binomial() -> None:
    accuracy = pair_accuracy([1.0] * 600 + [-1.0] * 400, [str(i) for i in range(1000)])
    half = 1.96 * math.sqrt(0.6 * 0.4 / 1000)
    assert accuracy.low == pytest.approx(0.6 - half, abs=0.005)
    assert accuracy.high == pytest.approx(0.6 + half, abs=0.005)


def test_pairs_of_one_question_count_as_one_draw() -> None:
    outcomes = [1.0, -1.0] * 20
    margin = [outcome for outcome in outcomes for _ in range(25)]
    alone = pair_accuracy(margin, [str(i) for i in range(1000)])
    clustered = pair_accuracy(margin, [str(i // 25) for i in range(1000)])
    assert clustered.value == alone.value
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)
