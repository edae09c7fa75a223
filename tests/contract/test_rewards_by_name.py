"""A model with several rewards over HTTP, in the SDK and in files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import StartApp, Using, serving
from criticrm_client import CriticRM, FileError
from criticrm_client.rewards.core import scorer_of_environment
from criticrm_client.rewards.trl import critic_rm
from criticrm_client.rewards.verl import compute_score
from criticrm_model.checkpoint import Checkpoint, WeightedReward
from criticrm_model.manifest import Manifest
from support.scored_files import read
from support.tiny import SEVERAL, make_several

NAMES = [one.name for one in SEVERAL]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = make_several(tmp_path_factory.mktemp("several") / "critic")
    manifest = Manifest.load(folder)
    first, *others = manifest.rewards
    manifest.model_copy(update={"rewards": (first.model_copy(update={"offset": 2.0}), *others)}).save(folder)
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def url(checkpoint: Checkpoint) -> Iterator[str]:
    with serving(checkpoint) as url:
        yield url


@pytest.mark.parametrize("critique", [False, True, {"n": 3}])
async def test_the_score_is_the_weighted_sum(start_app: StartApp, checkpoint: Checkpoint, critique: object) -> None:
    async with start_app(checkpoint=checkpoint) as app:
        answer = (await app.score(prompt="Why?", responses=["So.", "Thus."], critique=critique)).json()
    for result in answer["results"]:
        assert list(result["rewards"]) == NAMES
        for field in ("score", "direct_score"):
            parts = [o.weight * result["rewards"][o.name][field] for o in SEVERAL]
            assert result[field] == pytest.approx(sum(parts))


async def test_the_offset_is_in_its_reward(start_app: StartApp, checkpoint: Checkpoint) -> None:
    first, *others = checkpoint.manifest.rewards
    rewards = (first.model_copy(update={"offset": 0.0}), *others)
    without = Checkpoint(checkpoint.folder, checkpoint.manifest.model_copy(update={"rewards": rewards}))
    found = []
    for one in (checkpoint, without):
        async with start_app(checkpoint=one) as app:
            (result,) = (await app.score(prompt="Why?", responses=["So."])).json()["results"]
            found.append(result)
    apart = {name: found[0]["rewards"][name]["score"] - found[1]["rewards"][name]["score"] for name in NAMES}
    assert apart == pytest.approx({"helpfulness": 2.0, "correctness": 0.0, "verbosity": 0.0})
    assert found[0]["score"] - found[1]["score"] == pytest.approx(1.0)


def test_the_client_has_them(using: Using, url: str) -> None:
    (result,) = using(lambda client: client.score("Why?", ["So."]), url).results
    assert result.rewards is not None
    assert list(result.rewards) == NAMES
    assert using(lambda client: client.model_info(), url).reward_names == tuple(NAMES)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["response", "responses"])
def test_a_file_gets_them(url: str, tmp_path: Path, suffix: str, column: str) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    source.write_text("".join(json.dumps({"prompt": "Why?", column: text}) + "\n" for text in texts(column)))
    with CriticRM(url) as client:
        client.score_file(source, out, progress=False)
    for row in read(out):
        rewards = row["rewards"] if column == "responses" else [row["rewards"]]
        scores = row["score"] if column == "responses" else [row["score"]]
        for reward, score in zip(rewards, scores, strict=True):
            assert sum(o.weight * reward[o.name]["score"] for o in SEVERAL) == pytest.approx(score)


def texts(column: str) -> list[object]:
    return [["So.", "Thus."], ["Hence."]] if column == "responses" else ["So.", "Thus."]


def test_a_file_that_has_such_a_column_is_refused(url: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"prompt": "Why?", "response": "So.", "rewards": 1}))
    with CriticRM(url) as client, pytest.raises(FileError, match="has columns rewards already"):
        client.score_file(source, tmp_path / "out.jsonl", progress=False)


async def test_weights_of_other_rewards_are_not_taken_in_their_place(
    start_app: StartApp, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = make_several(tmp_path / "other", [WeightedReward(o.name, o.weight + 1) for o in SEVERAL])
    async with start_app(checkpoint=checkpoint, admin_key="admin") as app:
        answer = await app.client.post(
            "/admin/reload", json={"checkpoint": str(other)}, headers={"Authorization": "Bearer admin"}
        )
    assert answer.status_code == 409
    assert "its reward tokens are" in answer.json()["error"]["message"]


async def test_nemo_gym_and_slime_get_them(start_app: StartApp, checkpoint: Checkpoint) -> None:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So."}]}]
    gym = {"responses_create_params": {"input": "Why?"}, "response": {"output": output}}
    async with start_app(checkpoint=checkpoint) as app:
        (result,) = (await app.score(prompt="Why?", responses=["So."])).json()["results"]
        expected = {name: reward["score"] for name, reward in result["rewards"].items()}
        assert (await app.client.post("/verify", json=gym)).json()["reward_components"] == expected
        slime = (await app.client.post("/slime", json={"prompt": "Why?", "response": "So."})).json()
        assert slime["rewards"] == expected
    async with start_app() as app:
        assert "reward_components" not in (await app.client.post("/verify", json=gym)).json()


async def test_reward_functions_have_them(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_URL", url)
    scorer_of_environment.cache_clear()
    found = await compute_score("data", "So.", "", {"prompt": "Why?"})
    with CriticRM(url) as client:
        rewards = client.score("Why?", ["So."]).results[0].rewards
    assert rewards is not None
    assert {name: found[f"reward_{name}"] for name in NAMES} == {n: r.score for n, r in rewards.items()}
    logged: dict[str, float] = {}
    await critic_rm(["Why?"], ["So."], log_metric=logged.__setitem__)
    assert {name: logged[f"critic_rm/{name}"] for name in NAMES} == pytest.approx(
        {n: r.score for n, r in rewards.items()}
    )
    scorer_of_environment.cache_clear()
