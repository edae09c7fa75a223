"""The writer without vLLM: it writes what the reference writes, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from criticrm_training.critiques import decoding
from criticrm_training.critiques.transformers_writer import TransformersWriter
from criticrm_training.critiques.writers import Conversation, Sampling, WriterError, WritingTask
from support.tiny import INSTRUCTION, make_checkpoint, make_model, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "critic")


@pytest.fixture(scope="module")
def writer(folder: Path) -> TransformersWriter:
    return TransformersWriter(str(folder), max_model_len=512, dtype="float32")


def task(response: str, seed: int = 0, prefix: str = "") -> WritingTask:
    return WritingTask(({"role": "user", "content": "Why is the sky blue?"},), response, INSTRUCTION, seed, prefix)


TASKS = [task("Air scatters blue light." * k, seed) for seed, k in enumerate((1, 9, 3, 5, 2))]


def test_greedy_critiques_and_rewards_are_the_references(writer: TransformersWriter, folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    renderer = checkpoint.renderer
    reference = ReferenceModel.load(folder, checkpoint.manifest.reward_token_id, renderer.stop_token_ids)
    prompts = [
        renderer.open(t.prompt).render(t.response, max_model_len=512, max_critique_tokens=24).token_ids for t in TASKS
    ]
    expected, _ = reference.critique(prompts, max_tokens=24)
    drafts = writer.write(TASKS, Sampling(1, 0.0, 24, "reward"))
    for (draft,), completion in zip(drafts, expected, strict=True):
        assert draft.text == renderer.decode(completion.token_ids)
        assert (draft.tokens, draft.finish_reason) == (len(completion.token_ids), completion.finish_reason)
        assert draft.score == pytest.approx(completion.score, abs=1e-4)


def test_a_draft_depends_on_its_own_seed_alone(writer: TransformersWriter) -> None:
    sampling = Sampling(3, 0.9, 24)
    together = writer.write(TASKS, sampling)
    alone = [writer.write([t], sampling)[0] for t in TASKS]
    assert together == alone
    assert len({draft.text for draft in together[0]}) > 1
    other = writer.write([task(TASKS[0].response, seed=99)], sampling)[0]
    assert [d.text for d in other] != [d.text for d in together[0]]


def test_sequences_that_ended_leave_the_batch(writer: TransformersWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written does not change with when they leave."""
    sampling = Sampling(8, 2.0, 64, "reward")
    early = writer.write(TASKS, sampling)
    assert any(d.finish_reason == "stop" and d.tokens < 40 for several in early for d in several)
    monkeypatch.setattr(decoding, "_ENDED_SHARE", 2.0)  # never
    late = writer.write(TASKS, sampling)
    flat = [(d, e) for several in zip(early, late, strict=True) for d, e in zip(*several, strict=True)]
    assert all((d.text, d.tokens) == (e.text, e.tokens) for d, e in flat)
    assert [d.score for d, _ in flat] == pytest.approx([e.score for _, e in flat], abs=1e-4)


def test_the_shares_of_sampled_tokens_are_the_models() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.0, 0.7]]))
    uniforms = (torch.arange(1000) + 0.5) / 1000
    tokens = decoding._draw(logits.expand(1000, -1).clone(), 1.0, uniforms)
    assert torch.bincount(tokens, minlength=4).tolist() == [100, 200, 0, 700]


def test_a_prefix_begins_the_draft_and_is_not_counted(writer: TransformersWriter) -> None:
    (plain,), (continued,) = writer.write([task("Light."), task("Light.", prefix="The reply is")], Sampling(1, 0.0, 8))
    assert continued.text.startswith("The reply is")
    assert continued.tokens <= 8
    assert not plain.text.startswith("The reply is")


def test_expected_scores_are_read_after_the_score_line(writer: TransformersWriter) -> None:
    drafts = writer.write(TASKS, Sampling(2, 0.7, 16, "expected"))
    scores = [draft.score for several in drafts for draft in several]
    assert all(score is not None and 1 <= score <= 9 for score in scores)
    assert len(set(scores)) > 1


def test_conversations_are_answered(writer: TransformersWriter) -> None:
    conversation = Conversation(({"role": "user", "content": "Why?"},), seed=3)
    (drafts,) = writer.answer([conversation], Sampling(2, 0.7, 8))
    assert len(drafts) == 2
    with pytest.raises(WriterError, match="do not fit in max_model_len 512"):
        writer.answer([conversation], Sampling(1, 0.0, 512))


def test_only_a_critic_scores_by_its_reward(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = TransformersWriter(str(tmp_path), max_model_len=512, dtype="float32")
    with pytest.raises(WriterError, match="no reward token"):
        base.write([task("Light.")], Sampling(1, 0.0, 4, "reward"))


def test_no_prompt_is_longer_than_the_model_was_made_for(folder: Path) -> None:
    writer = TransformersWriter(str(folder), max_model_len=4096, dtype="float32")
    with pytest.raises(WriterError, match="do not fit in max_model_len 2048"):
        writer.answer([Conversation(({"role": "user", "content": "Why?"},), seed=3)], Sampling(1, 0.0, 2048))
