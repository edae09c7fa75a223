"""A checkpoint with several rewards: the model, its files, and engines that read all of them in one pass."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from criticrm_model import CheckpointError, Manifest, RewardTokens
from criticrm_model.checkpoint import Checkpoint, WeightedReward, assemble
from criticrm_model.importing.exporter import export_classifier
from criticrm_server.checks import SelfCheckFailed
from criticrm_server.engines.base import Engine, Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.engines.remote import RemoteEngine
from criticrm_server.engines.remote_checks import read_logits
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.greedy_results import GreedyResults
from criticrm_server.self_check import self_check
from criticrm_server.settings import Settings
from support.fake_vllm import FakeVLLM, with_made_up_references
from support.references import load_reference
from support.tiny import SEVERAL, card, make_model, make_several, make_tokenizer, several_rewards

pytestmark = pytest.mark.slow

LONGEST = 2048
WEIGHTS = [one.weight for one in SEVERAL]
JOB = Job([40, 41, 42, 43], n=1, max_tokens=6, temperature=0.0, seed=None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_several(tmp_path_factory.mktemp("several") / "critic"))


@pytest.fixture
async def engine(checkpoint: Checkpoint) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint, Settings(engine="transformers", dtype="float32"))
    await engine.start()
    yield engine
    await engine.close()


def test_each_reward_is_its_vector_times_the_hidden_state(checkpoint: Checkpoint) -> None:
    manifest = checkpoint.manifest
    assert [reward.token for reward in manifest.rewards] == [f"<|reward:{one.name}|>" for one in SEVERAL]
    model = load_reference(checkpoint)
    seen: list[torch.Tensor] = []
    hook = model.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    read = model.read(JOB.token_ids, [50, 51])
    hook.remove()
    expected = seen[0] @ several_rewards().T  # [2, rewards]
    assert torch.tensor(read.rewards).T.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    weighted = (expected * torch.tensor(WEIGHTS)).sum(-1).tolist()
    assert [read.direct_score, read.score] == pytest.approx(weighted, abs=1e-5)


@pytest.mark.parametrize("rows", [2, 4])
def test_as_many_vectors_as_rewards(rows: int, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(CheckpointError, match=f"3 rewards have {rows} reward vectors"):
        assemble(make_model(len(tokenizer)), tokenizer, torch.ones(rows, 64), card(), tmp_path, SEVERAL)


def test_a_row_that_was_changed_is_found(tmp_path: Path) -> None:
    folder = make_several(tmp_path / "critic")
    manifest = Manifest.load(folder)
    first, second, third = manifest.rewards
    wrong = second.model_copy(update={"sha256": "0" * 64})
    manifest.model_copy(update={"rewards": (first, wrong, third)}).save(folder)
    with pytest.raises(CheckpointError, match=r"the reward row's sha256 is .*\(correctness\)"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("rewards", "fault"),
    [
        ([{"weight": 2.0}], "the weight of a single reward is 1"),
        ([{"name": "a", "weight": 0.0}, {"name": "b", "token_id": 2, "weight": 0.0}], "all weights are 0"),
        ([{"name": "a"}, {"name": "a", "token_id": 2}], "two have the same name"),
        ([{"name": "a"}, {"name": "b"}], "two have the same token_id"),
        ([{"name": f"r{i}", "token_id": i} for i in range(128)], "at most 127 items"),
    ],
)
def test_rewards_that_make_no_score(rewards: list[dict[str, object]], fault: str) -> None:
    known = {"token_id": 1, "sha256": "0" * 64}
    with pytest.raises(ValidationError, match=fault):
        Manifest.model_validate({**dict(card()), "rewards": [known | reward for reward in rewards]})


def test_the_version_is_that_of_every_reward(checkpoint: Checkpoint) -> None:
    manifest = checkpoint.manifest
    first, *others = manifest.rewards
    versions = {manifest.version}
    for change in ({"weight": 0.6}, {"name": "other"}, {"offset": 1.0}):
        versions.add(
            manifest.model_copy(update={"rewards": (first, *others[:-1], others[-1].model_copy(update=change))}).version
        )
    assert len(versions) == 4


async def test_a_healthy_engine_passes_and_each_reward_is_compared(
    engine: TransformersEngine, checkpoint: Checkpoint
) -> None:
    checks = {check.name: check for check in await self_check(engine.run, engine.facts, checkpoint, LONGEST)}
    assert checks["rewards"].n == 8 * len(SEVERAL)
    assert checks["rewards"].rms < 1e-4


async def test_rewards_whose_errors_cancel_out_in_the_score_are_refused(
    engine: TransformersEngine, checkpoint: Checkpoint
) -> None:
    """The score stays what it was: helpfulness weighs 0.5, correctness 0.75."""

    async def sabotaged(job: Job) -> Output:
        output = await engine.run(job)
        moved = []
        for c in output.completions:
            (a, b), (p, q), last = c.rewards
            moved.append(replace(c, rewards=((a + 3, b + 3), (p - 2, q - 2), last)))
        return replace(output, completions=moved)

    with pytest.raises(SelfCheckFailed, match="rewards: the rewards that make the score are not those"):
        await self_check(sabotaged, engine.facts, checkpoint, LONGEST)


async def test_a_result_that_is_kept_has_all_of_them(engine: TransformersEngine) -> None:
    results = GreedyResults(engine, "version", 2**20)
    first, again = await results.run(JOB), await results.run(JOB)
    assert again.reused
    assert again.completions == first.completions
    assert len(again.completions[0].rewards) == len(SEVERAL)


async def test_a_server_of_vllm_is_asked_for_all_of_them(checkpoint: Checkpoint) -> None:
    with_references = with_made_up_references(checkpoint)
    with FakeVLLM(with_references) as server:
        remote: Engine = RemoteEngine(with_references, Settings(engine="remote", remote_urls=server.url))
        await remote.start()
        try:
            (completion,) = (await remote.run(JOB)).completions
        finally:
            await remote.close()
    (first, *_) = completion.rewards
    assert completion.rewards == tuple((first[0] + k, first[1] + k) for k in range(3))
    assert completion.score == pytest.approx(sum(w * r for w, (_, r) in zip(WEIGHTS, completion.rewards, strict=True)))


def test_a_reward_whose_token_was_written_is_read_by_its_id() -> None:
    """Of a job that bans nothing. vLLM's server puts the written token first, and names none twice."""
    steps = [{3: 1.5, 2: 0.5, 4: 2.5}, {2: 0.1, 3: 0.2, 4: -9999.0}, {9: 7.0, 2: 1.0, 3: 2.0}]
    content = [
        {"top_logprobs": [{"token_id": token_id, "logprob": logit} for token_id, logit in step.items()]}
        for step in steps
    ]
    first, second, third = read_logits({"logprobs": {"content": content}}, [2, 3, 4])
    assert (first.token_ids, first.logits) == ([2, 2, 2], [0.5, 0.1, 1.0])
    assert (second.token_ids, second.logits) == ([3, 3, 3], [1.5, 0.2, 2.0])
    assert third.token_ids == [4, 4, -1]
    assert third.logits[0] == 2.5
    assert math.isnan(third.logits[1])


async def test_the_made_up_rewards_differ() -> None:
    engine = FakeEngine(1, tokens=RewardTokens((5, 6, 7), (1.0, 2.0, 3.0)))
    (completion,) = (await engine.run(JOB)).completions
    assert len({before for before, _ in completion.rewards}) == 3


def test_the_score_alone_becomes_a_classifier(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert export_classifier(checkpoint, tmp_path / "classifier") <= 1e-5


def test_two_rewards_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="two rewards have the same name"):
        make_several(tmp_path / "critic", [WeightedReward("a"), WeightedReward("b"), WeightedReward("a")])
