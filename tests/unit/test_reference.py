"""The reward position, and the reference that reads it."""

from __future__ import annotations

import pytest
import torch

from criticrm_model import NonFiniteReward, reward_positions
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

PROMPTS = [list(range(20, 20 + n)) for n in (3, 17, 9, 30)]


@pytest.fixture(scope="module")
def reference(opened_checkpoint: Checkpoint) -> ReferenceModel:
    return ReferenceModel.load(
        opened_checkpoint.folder,
        opened_checkpoint.manifest.reward_token_id,
        opened_checkpoint.renderer.stop_token_ids,
        dtype="float32",
    )


def test_positions_by_hand() -> None:
    # prompt: 0 1 2, completion: 3 4; token 3 is predicted at 2, the last token (4) at 3
    assert reward_positions(3, 2) == (2, 3)
    assert reward_positions(3, 1) == (2, 2)  # no critique: both are the same
    for lengths in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one token"):
            reward_positions(*lengths)


def test_score_reads_the_reward_logit_at_the_two_positions(reference: ReferenceModel) -> None:
    prompt, completion = [20, 21, 22], [30, 31]
    with torch.no_grad():
        logits = reference.model(torch.tensor([prompt + completion])).logits[0, :, reference.reward_token_id]
    assert reference.score(prompt, completion) == pytest.approx((logits[2].item(), logits[3].item()), abs=1e-5)


def test_writing_and_scoring_agree(reference: ReferenceModel) -> None:
    completions, _ = reference.critique(PROMPTS, max_tokens=12)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert (completion.direct_score, completion.score) == pytest.approx(
            reference.score(prompt, completion.token_ids), abs=1e-5
        )


def test_hidden_states_give_the_rewards(reference: ReferenceModel) -> None:
    completions, hidden = reference.critique(PROMPTS, max_tokens=12)
    row = reference.model.get_output_embeddings().weight[reference.reward_token_id].detach()
    assert (hidden.direct @ row).tolist() == pytest.approx([c.direct_score for c in completions], abs=1e-5)
    assert (hidden.critiqued @ row).tolist() == pytest.approx([c.score for c in completions], abs=1e-5)


def test_the_batch_does_not_matter(reference: ReferenceModel) -> None:
    together, _ = reference.critique(PROMPTS, max_tokens=12)
    for prompt, batched in zip(PROMPTS, together, strict=True):
        (alone,), _ = reference.critique([prompt], max_tokens=12)
        assert alone.token_ids == batched.token_ids
        assert (alone.direct_score, alone.score) == pytest.approx((batched.direct_score, batched.score), abs=1e-5)


def test_a_critique_ends_with_its_stop_token_or_at_its_limit(reference: ReferenceModel) -> None:
    completions, _ = reference.critique(PROMPTS * 16, max_tokens=150, temperature=20.0, seed=1)
    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {"stop", "length"}
    for completion in completions:
        stops = [token in reference.stop_token_ids for token in completion.token_ids]
        if completion.finish_reason == "stop":
            assert stops.index(True) == len(stops) - 1
        else:
            assert len(stops) == 150
            assert not any(stops)


def test_the_reward_token_is_never_written(reference: ReferenceModel) -> None:
    completions, _ = reference.critique(PROMPTS * 8, max_tokens=40, temperature=2.0, seed=2)
    assert not any(reference.reward_token_id in completion.token_ids for completion in completions)


def test_a_seed_repeats(reference: ReferenceModel) -> None:
    one, other, third = (
        [c.token_ids for c in reference.critique(PROMPTS, max_tokens=12, temperature=1.0, seed=seed)[0]]
        for seed in (3, 3, 4)
    )
    assert one == other != third


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-4])
def test_a_temperature_next_to_nothing_is_next_to_greedy(reference: ReferenceModel, temperature: float) -> None:
    """Logits divided by it would be infinite."""
    greedy, _ = reference.critique(PROMPTS, max_tokens=6)
    sampled, _ = reference.critique(PROMPTS, max_tokens=6, temperature=temperature, seed=1)
    assert [c.token_ids for c in sampled] == [c.token_ids for c in greedy]


def test_a_reward_that_is_not_finite_is_an_error(reference: ReferenceModel) -> None:
    weight = reference.model.get_output_embeddings().weight
    kept = weight[reference.reward_token_id].detach().clone()
    try:
        with torch.no_grad():
            weight[reference.reward_token_id] = torch.inf
        with pytest.raises(NonFiniteReward):
            reference.score([20, 21], [22])
        with pytest.raises(NonFiniteReward):
            reference.critique([[20, 21]], max_tokens=2)
    finally:
        with torch.no_grad():
            weight[reference.reward_token_id] = kept
