"""Which responses are close enough for a critique, and the scale that is measured on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from criticrm_model import Calibration, Moments, Scale
from criticrm_model.selection import Rule, select
from criticrm_training.calibrating import CalibrationError, fit_scale

DIRECT = Moments(mean=1.0, std=2.0)
AFTER = Moments(mean=-1.0, std=4.0)


def chosen(scores: list[float | None], **rule: object) -> list[int]:
    return sorted(k for _, k in select([scores], [10], Rule(**rule)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "margin", "best", "every"),
    [
        ([3.0, 2.5, 0.0, 0.4], 0.5, [0, 1], [0, 1, 2, 3]),  # what is exactly at the margin is close
        ([3.0, 2.4, 0.0], 0.5, [], []),
        ([1.0, 1.0], 0.1, [0, 1], [0, 1]),  # a tie
        ([2.0, None, 1.9], 0.2, [0, 2], [0, 2]),
        ([None, 0.1], 0.2, [1], [1]),  # alone: close to the mean of the reference set
        ([None, 0.3], 0.2, [], []),
        ([-0.2], 0.2, [0], [0]),
        ([None, None], 9.0, [], []),
        ([5.0, 0.0, 0.0], 1.0, [], [1, 2]),  # not in question for the best, but for a ranking
    ],
)
def test_what_is_close(scores: list[float | None], margin: float, best: list[int], every: list[int]) -> None:
    assert chosen(scores, margin=margin, rank="best") == best
    assert chosen(scores, margin=margin, rank="all") == every


def test_a_budget_is_spent_on_the_closest_first() -> None:
    prompts: list[list[float | None]] = [[1.0, 0.6], [2.0, 1.9, 0.0], [0.05]]
    rule = Rule(1.0, "best", budget=35)
    assert select(prompts, [10, 10, 10], rule) == {(2, 0), (1, 0), (1, 1)}
    assert select(prompts, [10, 10, 10], Rule(1.0)) == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}
    assert select(prompts, [10, 40, 10], rule) == {(2, 0)}  # nothing jumps the queue
    assert select(prompts, [10, 10, 10], Rule(1.0, "best", budget=5)) == set()


def test_the_order_of_responses_does_not_matter() -> None:
    draw = random.Random(0)
    for _ in range(200):
        scores: list[float | None] = [round(draw.gauss(0, 1), 1) for _ in range(draw.randint(1, 6))]
        order = draw.sample(range(len(scores)), len(scores))
        for rank in ("best", "all"):
            straight = select([scores], [1], Rule(0.3, rank))  # type: ignore[arg-type]
            shuffled = select([[scores[k] for k in order]], [1], Rule(0.3, rank))  # type: ignore[arg-type]
            assert {order[k] for _, k in shuffled} == {k for _, k in straight}


def calibration(scales: dict[int, Scale] | None) -> Calibration:
    return Calibration(reference_set="made up", n=4, direct_score=DIRECT, score=AFTER, scales=scales)


def test_both_positions_have_one_scale() -> None:
    plain = calibration(None)
    assert plain.scale(0)(3.0) == 1.0  # standard deviations from the mean
    assert plain.scale(1)(3.0) == plain.scale(8)(3.0) == 1.0
    measured = calibration(
        {0: Scale(slope=0.1, offset=0.0), 1: Scale(slope=2.0, offset=1.0), 4: Scale(slope=3.0, offset=1.0)}
    )
    assert measured.scale(0)(3.0) == pytest.approx(0.3)
    assert [measured.scale(m)(1.0) for m in (1, 3, 4, 9)] == [3.0, 3.0, 4.0, 4.0]
    assert Calibration.model_validate_json(measured.model_dump_json()) == measured


def test_the_slope_makes_differences_log_odds() -> None:
    generator = np.random.default_rng(0)
    truth = 1.7
    scores = generator.normal(3.0, 1.0, size=(20_000, 2))
    right = generator.random(20_000) < 1 / (1 + np.exp(-truth * (scores[:, 0] - scores[:, 1])))
    scores[~right] = scores[~right][:, ::-1]
    scale = fit_scale(scores)
    assert scale.slope == pytest.approx(truth, rel=0.05)
    assert scale(float(scores.mean())) == pytest.approx(0.0, abs=1e-9)


def test_slopes_of_rewards_that_are_always_or_never_right() -> None:
    with pytest.raises(CalibrationError, match="the scores have no scale"):
        fit_scale(np.zeros((50, 2)))
    perfect = fit_scale(np.array([[1.0, 0.0]] * 50))
    assert math.isfinite(perfect.slope)
    assert perfect.slope > 2
    useless = fit_scale(np.array([[0.0, 1.0]] * 50))
    assert 0 < useless.slope < 0.2  # all responses are close to each other: all get a critique
