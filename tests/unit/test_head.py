"""Bradley-Terry on features, and the accuracy it is judged by."""

from __future__ import annotations

import math
import tracemalloc

import pytest
import torch

from criticrm_training import stats as stats_module
from criticrm_training.linear_probe.regression import fit_head
from criticrm_training.stats import pair_accuracy
from criticrm_training.training.losses import bradley_terry_loss


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


def each_its_own(features: torch.Tensor) -> list[str]:
    return [f"question {i}" for i in range(len(features))]


def share_right(features: torch.Tensor, reward: torch.Tensor) -> float:
    return (margins(features, reward) > 0).float().mean().item()


def test_loss_by_hand() -> None:
    loss = bradley_terry_loss(torch.tensor([1.0, -2.0])).mean()
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2)


def test_it_learns_what_is_there() -> None:
    features = made_features(600, 0, 4.0)
    head = fit_head(features, each_its_own(features), folds=5)
    assert share_right(made_features(500, 2, 4.0), head.reward) >= 0.95
    assert (head.unseen_direct > 0).float().mean() >= 0.95


def test_shuffled_labels_stay_at_chance() -> None:
    def shuffled(features: torch.Tensor) -> torch.Tensor:
        """Every other pair the wrong way round."""
        features[::2] = features[::2].flip(1)
        return features

    features = shuffled(made_features(2000, 0, 4.0))
    head = fit_head(features, each_its_own(features), folds=5)
    assert share_right(shuffled(made_features(2000, 2, 4.0)), head.reward) == pytest.approx(0.5, abs=0.04)
    assert (head.unseen_direct > 0).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_one_vector_serves_both_positions() -> None:
    direct, after = made_features(600, 0, 3.0), made_features(300, 1, 3.0) * 5  # other scale, other count
    head = fit_head(direct, each_its_own(direct), folds=5, critiqued=after)
    assert (len(head.unseen_direct), len(head.unseen_critiqued)) == (600, 300)
    for features in (made_features(500, 4, 3.0), made_features(500, 5, 3.0) * 5):
        assert share_right(features, head.reward) >= 0.9


def test_the_penalty_that_does_best_on_unseen_pairs_is_kept() -> None:
    features = made_features(60, 0, 1.0)
    head = fit_head(features, each_its_own(features), folds=6)
    losses = [step.validation_loss for step in head.path]
    assert head.penalty == head.path[losses.index(min(losses))].penalty
    assert len(losses) - 1 - losses.index(min(losses)) == 3  # and the path was left
    assert head.path[-1].training_loss < head.path[0].training_loss  # where it would have fitted on
    assert bradley_terry_loss(head.unseen_direct).mean().item() == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.slow
def test_a_question_is_never_on_both_sides_of_a_split() -> None:
    """Labels that are noise but agree within a question: seen questions would be answered right."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 2, 64, generator=generator).repeat_interleave(4, dim=0)
    features += 0.01 * torch.randn(features.shape, generator=generator)
    together = [f"question {i // 4}" for i in range(400)]
    share = (fit_head(features, together, folds=10).unseen_direct > 0).float().mean().item()
    leaked = (fit_head(features, each_its_own(features), folds=10).unseen_direct > 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.12)
    assert leaked > 0.9


def test_more_folds_than_questions() -> None:
    with pytest.raises(ValueError, match="10 folds need as many questions; there are 3"):
        fit_head(made_features(9, 0, 1.0), ["a", "b", "c"] * 3, folds=10)


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


def test_an_interval_takes_little_memory() -> None:
    """All resamples at once would be 10,000 counts a question, hundreds of megabytes."""
    margin, groups = [1.0, -1.0, 1.0] * 1000, [str(i) for i in range(3000)]
    tracemalloc.start()
    try:
        pair_accuracy(margin, groups)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_an_interval_is_the_same_in_one_piece_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    margin, groups = [1.0, -1.0, 1.0, 0.0] * 20, [str(i // 2) for i in range(80)]
    whole = pair_accuracy(margin, groups)
    monkeypatch.setattr(stats_module, "_WEIGHTS_AT_ONCE", 40 * 77)
    assert pair_accuracy(margin, groups) == whole


def test_pairs_of_one_question_count_as_one_draw() -> None:
    outcomes = [1.0, -1.0] * 20
    margin = [outcome for outcome in outcomes for _ in range(25)]
    alone = pair_accuracy(margin, [str(i) for i in range(1000)])
    clustered = pair_accuracy(margin, [str(i // 25) for i in range(1000)])
    assert clustered.value == alone.value
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)
