"""When a critique is ended, and where its reward is read then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from criticrm_model import NonFiniteReward, RewardTokens, Settle
from criticrm_server.engines.base import Job
from criticrm_server.engines.followed import Followed

SCORES = [0.0, 2.0, 1.0, 1.5, 1.25, 1.25, 1.5, 9.0]


@pytest.mark.parametrize(
    ("within", "tokens", "position"),
    [
        (0.5, 1, 3),  # 1.0 to 1.5, the bound itself included
        (0.49, 1, 4),
        (0.25, 2, 5),
        (0.25, 3, 6),
        (0.0, 1, 5),
        (0.0, 2, None),
        (9.0, 7, 7),
        (9.0, 8, None),  # there are not as many
    ],
)
def test_the_first_position_at_which_the_score_has_stayed(within: float, tokens: int, position: int | None) -> None:
    assert Settle(within, tokens).position(SCORES) == position


@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 5), (2, 3, 3)])
def test_it_is_the_same_in_whatever_pieces_the_scores_come(sizes: Sequence[int]) -> None:
    shown: list[int] = []
    job = Job([1], 1, 8, 0.0, None, settle=Settle(0.25, 2), watch=lambda _, ids, __: shown.extend(ids))
    followed, written = Followed(job, 0, RewardTokens((99,))), 0
    flat = [value for score in SCORES for value in (0.0, score)]
    for size in sizes:
        written += size
        settled = followed.grown(list(range(written)), SimpleNamespace(logprobs=flat[: 2 * written]))
        assert settled == (written >= 6)
        if settled:
            break
    assert shown == list(range(6))


def test_what_comes_after_it_is_not_kept() -> None:
    tokens = RewardTokens((7, 8), (1.0, 2.0))
    trace = [(score, score / 4) for score in SCORES]
    kept = tokens.completion(list(range(8)), "stop", trace[0], trace[-1], trace, Settle(0.375, 2))
    assert kept.finish_reason == "settled"
    assert kept.token_ids == list(range(6))
    assert kept.score == kept.trace[-1] == 1.5 * SCORES[5]
    assert kept.rewards == ((SCORES[0], SCORES[5]), (SCORES[0] / 4, SCORES[5] / 4))
    assert kept.trace == tuple(1.5 * score for score in SCORES[:6])


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_one_that_settles_at_its_last_token_has_ended_by_itself(finish_reason: str) -> None:
    trace = [(score,) for score in SCORES[:6]]
    whole = RewardTokens((7,)).completion(list(range(6)), finish_reason, trace[0], trace[-1], trace, Settle(0.25, 2))  # type: ignore[arg-type]
    assert whole.finish_reason == finish_reason
    assert len(whole.token_ids) == 6


def test_a_score_that_is_no_number_is_never_settled() -> None:
    followed = Followed(Job([1], 1, 8, 0.0, None, settle=Settle(0.5, 1)), 0, RewardTokens((99,)))
    with pytest.raises(NonFiniteReward):
        followed.grown([1, 2, 3], SimpleNamespace(logprobs=[0.0, 1.0, 0.0, math.nan, 0.0, math.nan]))


def test_each_completion_of_a_job_has_its_own_seed_and_watcher() -> None:
    seen: list[int] = []
    job = Job([1], 3, 8, 0.7, 5, watch=lambda k, *_: seen.append(k))
    each = job.split()
    assert [(one.n, one.seed) for one in each] == [(1, 5), (1, 6), (1, 7)]
    for one in each:
        assert one.watch is not None
        one.watch(0, [1], [0.5])
    assert seen == [0, 1, 2]
    assert [one.seed for one in Job([1], 2, 8, 0.7, None).split()] == [None, None]
