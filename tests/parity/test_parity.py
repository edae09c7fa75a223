"""vLLM's rewards are those of transformers, on the same token ids, at both positions.

A score depends on its item alone: not on what else is in the batch, the order, or the prefix cache. In float32.
"""

from __future__ import annotations

import pytest
from parity_runs import Run, Runs, run_all

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from support.references import load_reference

pytestmark = pytest.mark.integration

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def runs(opened_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return run_all(opened_checkpoint, tmp_path_factory.mktemp("parity") / "engine.log")


@pytest.fixture(scope="module")
def reference(opened_checkpoint: Checkpoint) -> ReferenceModel:
    return load_reference(opened_checkpoint)


@pytest.mark.parametrize("kind", ["batched", "sampled"])
def test_rewards_are_those_of_transformers(runs: Runs, reference: ReferenceModel, kind: str) -> None:
    differences = []
    for run in getattr(runs, kind):
        for completion in run.completions:
            direct, final = reference.score(run.job.token_ids, completion.token_ids)
            differences += [completion.direct_score - direct, completion.score - final]
    assert max(map(abs, differences)) <= TOLERANCE
    # Noise has no direction: a drift would show here long before it reached the tolerance.
    assert abs(sum(differences) / len(differences)) <= TOLERANCE / 10


def test_critiques_that_end_by_themselves_and_at_the_limit_are_both_compared(runs: Runs) -> None:
    completions = [completion for run in (*runs.batched, *runs.sampled) for completion in run.completions]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_a_critique_ends_with_a_stop_token_or_at_its_limit(runs: Runs, reference: ReferenceModel) -> None:
    for run in (*runs.batched, *runs.sampled):
        for completion in run.completions:
            *body, last = completion.token_ids
            assert not set(body) & set(reference.stop_token_ids)
            assert (last in reference.stop_token_ids) == (completion.finish_reason == "stop")
            assert completion.finish_reason == "stop" or len(completion.token_ids) == run.job.max_tokens


def test_the_reward_token_is_never_written(runs: Runs, reference: ReferenceModel) -> None:
    for run in (*runs.batched, *runs.sampled):
        for completion in run.completions:
            assert reference.reward_token_id not in completion.token_ids


def test_samples_share_the_direct_score_and_differ_after_it(runs: Runs) -> None:
    for run in runs.sampled:
        assert len(run.completions) == run.job.n
        assert len({completion.direct_score for completion in run.completions}) == 1
        assert len({completion.score for completion in run.completions}) > 1


@pytest.mark.parametrize("way", ["batched", "shuffled", "cached"])
def test_greedy_scores_are_those_of_the_item_alone(runs: Runs, way: str) -> None:
    differences = []
    for alone, other in zip(runs.alone, getattr(runs, way), strict=True):
        assert other.job == alone.job
        assert other.completions[0].token_ids == alone.completions[0].token_ids
        differences += _differences(other, alone)
    assert max(map(abs, differences)) <= TOLERANCE
    assert abs(sum(differences) / len(differences)) <= TOLERANCE / 10


def test_the_cache_was_used_and_was_not(runs: Runs) -> None:
    assert len(runs.alone) == 32
    assert all(run.cached_tokens == 0 for run in runs.alone)
    assert sum(run.cached_tokens > 0 for run in runs.cached) >= 16


def _differences(run: Run, other: Run) -> list[float]:
    a, b = run.completions[0], other.completions[0]
    return [a.direct_score - b.direct_score, a.score - b.score]
