"""Means and their intervals by hand, against the binomial, and over runs as well as questions; means over samples."""

from __future__ import annotations

import doctest
import math
from itertools import combinations, product
from statistics import mean as average

import numpy as np
import pytest

from criticrm_training import stats
from criticrm_training.evaluation import subsets
from criticrm_training.evaluation.subsets import drawn_means, win_rate
from criticrm_training.stats import Cell, difference, mean, outcomes, pair_accuracy, rank_correlation, weighted_sum

Z2 = 1.959963984540054**2


def questions(n: int) -> list[str]:
    return [str(i) for i in range(n)]


@pytest.mark.parametrize("n", [1, 3, 20, 500])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_wilsons_interval(n: int, right: bool) -> None:
    """20 of 20 is [0.839, 1], not [1, 1]."""
    found = pair_accuracy([1.0 if right else -1.0] * n, questions(n))
    end = n / (n + Z2)
    expected = (1.0, end, 1.0) if right else (0.0, 0.0, 1 - end)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    assert n != 20 or not right or found.low == pytest.approx(0.8389, abs=1e-4)


def test_wilsons_n_is_that_of_the_questions() -> None:
    found = pair_accuracy([1.0] * 100, [str(i // 10) for i in range(100)])
    assert (found.low, found.n) == (pytest.approx(10 / (10 + Z2)), 100)


def test_ties_in_every_pair_are_half_right_with_an_interval() -> None:
    found = pair_accuracy([0.0] * 20, questions(20))
    unseen = Z2 / (20 + Z2)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - unseen / 2, 0.5 + unseen / 2))


def test_one_question_says_little() -> None:
    found = pair_accuracy([1.0, -1.0], ["q", "q"])
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - 0.5 * Z2 / (1 + Z2), 0.5 + 0.5 * Z2 / (1 + Z2)))


def test_an_interval_of_few_questions_covers_as_it_says() -> None:
    """Of samples of 20 at an accuracy of 0.9, some 12 % are all right; still at least 90 % of intervals cover it."""
    rng = np.random.default_rng(0)
    samples = rng.random((200, 20)) < 0.9
    covered = [found.low <= 0.9 <= found.high for found in (mean(sample, questions(20)) for sample in samples)]
    assert average(covered) >= 0.9


def test_a_paired_difference_by_hand() -> None:
    ours, theirs = [1.0] * 30 + [0.0] * 10, [1.0] * 20 + [0.0] * 20
    gain = difference(ours, theirs, questions(40))
    assert gain.value == pytest.approx(0.25)
    assert 0.1 < gain.low < 0.25 < gain.high < 0.45


def test_arms_that_are_right_on_the_same_pairs_may_still_differ_on_others() -> None:
    ours = [1.0] * 30 + [0.0] * 10
    same = difference(ours, ours, questions(40))
    unseen = Z2 / (40 + Z2)
    assert (same.value, same.low, same.high) == pytest.approx((0, -unseen, unseen))
    always = difference([1.0] * 40, [0.0] * 40, questions(40))
    assert always.value == 1
    assert always.low == pytest.approx(1 - math.hypot(unseen, unseen))
    assert always.high == 1


def test_a_difference_of_means_over_samples_is_paired() -> None:
    """Expected outcomes of a half are no ties between which nothing varies."""
    ours, theirs = np.tile([0.5, 1.0], 50), np.tile([0.25, 0.75], 50)
    gain = difference(ours, theirs, questions(100))
    unseen = Z2 / (100 + Z2)
    assert gain.value == pytest.approx(0.25)
    assert (gain.low, gain.high) == pytest.approx((0.25 - unseen * 1.25, 0.25 + unseen * 0.75))


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_a_mean_of_nothing_is_no_number(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a mean of no values, or of one that is NaN"):
        mean(values, questions(len(values)))


def test_margins_are_no_shares() -> None:
    with pytest.raises(ValueError, match="values outside 0 to 1"):
        mean([1.5, -0.5], questions(2))


def test_no_margin_is_neither_right_nor_wrong() -> None:
    assert outcomes([1.0, -1.0, 0.0]).tolist() == [1, 0, 0.5]
    assert np.isnan(outcomes([math.nan])).all()


def test_arms_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="for 3 items"):
        difference([1.0, 0.0], [1.0, 0.0, 1.0], questions(3))


def test_runs_widen_the_interval_by_how_much_they_differ() -> None:
    """Three runs are right on 60, 70 and 80 % of 400 questions: their mean is as uncertain as that of three draws."""
    rng = np.random.default_rng(1)
    runs = np.array([rng.permuted(np.arange(400) < 400 * share) for share in (0.6, 0.7, 0.8)], dtype=float)
    one = mean(runs[1], questions(400))
    alike = mean(np.array([runs[1]] * 3), questions(400))
    assert (alike.value, alike.low, alike.high) == pytest.approx((one.value, one.low, one.high))
    found = mean(runs, questions(400))
    assert found.value == pytest.approx(0.7)
    of_runs = math.sqrt(0.1**2 / 3)  # standard deviation of the three runs: 0.1
    of_questions = math.sqrt(0.7 * 0.3 / 400 / 3)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(math.hypot(of_runs, of_questions), rel=0.15)


def test_arms_with_different_numbers_of_runs_are_compared() -> None:
    ours = np.array([[1.0] * 60 + [0.0] * 40, [1.0] * 80 + [0.0] * 20])
    theirs = [1.0] * 50 + [0.0] * 50
    gain = difference(ours, theirs, questions(100))
    alone = difference(ours.mean(axis=0), theirs, questions(100))
    assert gain.value == alone.value == pytest.approx(0.2)
    assert gain.low < alone.low
    assert gain.high > alone.high


def test_a_cell_that_is_all_right_adds_its_own_uncertainty_to_a_sum() -> None:
    """A subset of three prompts that are all right is resampled as 1 for ever; it is no certain 1."""
    wrong_or_right = np.full((1, 103), np.nan)
    wrong_or_right[0, :100] = np.tile([0.0, 1.0], 50)
    all_right = np.full((1, 103), np.nan)
    all_right[0, 100:] = 1.0
    found = weighted_sum([Cell(wrong_or_right, 0.5), Cell(all_right, 0.5)], questions(103))
    half = 0.5 * 1.96 * 0.05
    unseen = 0.5 * Z2 / (3 + Z2)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - math.hypot(half, unseen), abs=0.01)
    assert found.high == pytest.approx(0.75 + half, abs=0.01)
    assert found.n == 103


def test_a_perfect_correlation_of_two_is_not_certain() -> None:
    found = rank_correlation([1, 2], [1, 2], ["a", "b"])
    assert found is not None
    assert (found.value, found.high) == pytest.approx((1, 1))
    assert found.low < 0


def test_a_number_that_is_none_has_no_rank() -> None:
    with pytest.raises(ValueError, match="a rank of NaN"):
        rank_correlation([1, math.nan, 3], [1, 2, 3], list("abc"))


def test_a_value_without_bounds_has_no_wilson_interval() -> None:
    found = mean([42.0] * 5, questions(5), bounds=None)
    assert (found.value, found.low, found.high) == pytest.approx((42, 42, 42))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_a_mean_of_m_counts_every_m_of_the_samples(m: int) -> None:
    chosen, rejected = [3.0, 1.0, 2.0, 5.0], [2.0, 2.0, 4.0, 0.0]
    found, unreadable = win_rate(chosen, rejected, m)
    by_hand = [
        (average(a) > average(b)) + 0.5 * (average(a) == average(b))
        for a, b in product(combinations(chosen, m), combinations(rejected, m))
    ]
    assert found == pytest.approx(average(by_hand))
    assert unreadable == 0


def test_a_mean_of_one_uses_all_eight_samples() -> None:
    """The deviation of its estimate is that of 64 comparisons, not of one."""
    rng = np.random.default_rng(0)
    truth = 0.6
    rates = [win_rate(rng.normal(0.3583, 1, 8).tolist(), rng.normal(0, 1, 8).tolist(), 1)[0] for _ in range(400)]
    assert average(rates) == pytest.approx(truth, abs=0.03)
    assert np.std(rates) < 0.5 * math.sqrt(truth * (1 - truth))


def test_the_examples() -> None:
    assert doctest.testmod(subsets).failed == 0
    assert stats.SHARE == (0, 1)


def test_scores_that_can_not_be_read_are_ties() -> None:
    assert win_rate([None, None], [1.0, 2.0], 2) == (0.5, 1)
    assert win_rate([5.0, None], [1.0, None], 2) == (1, 0)  # the mean of those that can be read


def test_equal_samples_in_another_order_are_a_tie() -> None:
    samples = [0.1, 0.2, 0.3, 0.7]
    assert win_rate(samples, samples[::-1], 3)[0] == 0.5


def test_drawn_means_take_every_sample_equally_often() -> None:
    samples = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    draws = np.array(list(drawn_means(samples, 1)))
    assert len(draws) == 64
    assert draws.mean(axis=0) == pytest.approx([2.5, 25])
    assert len({(a, b) for a, b in draws.tolist()}) > 10  # each response's draws are its own
    assert np.array(list(drawn_means(samples, 4))).tolist() == [[2.5, 25]]
    assert np.array(list(drawn_means(samples, 1))).tolist() == draws.tolist()
