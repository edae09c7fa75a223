"""`criticrm fit-head`, from a preference file to a checkpoint, on a tiny base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from criticrm_model import CheckpointError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.prompt import Renderer
from criticrm_model.reference import ReferenceModel
from criticrm_model.reward_vector import load_reward_vector
from criticrm_training.commands.fit_head import FitHead
from criticrm_training.data.overlong import render_pairs
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.linear_probe import features as features_module
from criticrm_training.linear_probe import fit as fit_head_module
from criticrm_training.linear_probe.features import PairFeatures, extract
from support.tiny import INSTRUCTION, make_tokenizer

pytestmark = pytest.mark.slow

TOPICS = ["sky", "sea", "light", "water", "answer", "question", "model", "source"]


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Separable: a chosen response says "right", a rejected one "wrong"."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Why is the {topic} {i}?",
            "chosen": f"right {topic}",
            "rejected": f"wrong {topic}",
            "category": "even" if i % 2 else "odd",
        }
        for i in range(12)
        for topic in TOPICS
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def settings(base: Path | str, data: Path, out: Path, **changes: object) -> FitHead:
    fields = {
        "data": str(data),
        "base": str(base),
        "out": out,
        "instruction": INSTRUCTION,
        "max_critique_tokens": 6,
        "dtype": "float32",
        "folds": 4,
        "max_model_len": 256,
    }
    return FitHead.model_validate(fields | changes)


def test_it_learns_and_writes_a_checkpoint_that_opens(base: Path, pairs_file: Path, tmp_path: Path) -> None:
    assert settings(base, pairs_file, tmp_path / "out", heldout=str(pairs_file)).run() == 0
    opened = Checkpoint.open(tmp_path / "out")
    manifest = opened.manifest
    assert manifest.max_critique_tokens == 6
    assert manifest.critique_instruction == INSTRUCTION
    assert manifest.training_data[0].pairs == 96
    assert manifest.calibration is not None
    report = json.loads((tmp_path / "out" / "fit_report.json").read_text())
    assert set(report["heldout"]["accuracy"]) == {"overall", "even", "odd"}
    overall = report["heldout"]["accuracy"]["overall"]
    assert set(overall) == {"longer wins", "scalar baseline", "direct_score", "score"}
    assert report["4-fold"]["accuracy"]["overall"]["direct_score"]["value"] >= 0.95
    assert overall["longer wins"]["value"] == 0.5  # both are five letters: every pair ties


def test_the_base_of_a_critic_rm_stays_the_base(tiny_checkpoint: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Not the folder that it lay in here."""
    settings(tiny_checkpoint, pairs_file, tmp_path, critique_pairs=4, max_critique_tokens=2).run()
    assert Checkpoint.open(tmp_path).manifest.base_model == "tiny-llama"


def test_the_fitted_reward_is_the_reward_that_is_read(base: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Hidden state times vector while fitting, logit of the token in the checkpoint."""
    settings(base, pairs_file, tmp_path / "row", head_only=True, critique_pairs=8).run()
    settings(base, pairs_file, tmp_path / "full", critique_pairs=8).run()
    reward, card = load_reward_vector(tmp_path / "row")
    opened = Checkpoint.open(tmp_path / "full")
    assert opened.manifest.model_dump(include=set(card.model_dump())) == card.model_dump()
    model = ReferenceModel.load(opened.folder, opened.manifest.reward_token_id, opened.renderer.stop_token_ids)
    prompts = [[20, 21, 22], [30, 31, 32, 33]]
    completions, hidden = model.critique(prompts, max_tokens=6)
    assert (hidden.direct @ reward).tolist() == pytest.approx([c.direct_score for c in completions], abs=1e-4)
    assert (hidden.critiqued @ reward).tolist() == pytest.approx([c.score for c in completions], abs=1e-4)


def run_extract(base: Path, data: Path, work_dir: Path, batch_size: int = 16, critique_pairs: int = 20) -> PairFeatures:
    tokenizer = make_tokenizer()
    renderer = Renderer(tokenizer, INSTRUCTION)
    model = ReferenceModel.load(base, renderer.stop_token_ids[0], renderer.stop_token_ids, dtype="float32")
    rendered = render_pairs(read_pairs(data)[:20], renderer, max_model_len=256, max_critique_tokens=6, overlong="error")
    return extract(
        rendered,
        model,
        renderer,
        critique_pairs=critique_pairs,
        max_critique_tokens=6,
        batch_size=batch_size,
        work_dir=work_dir,
        label="test",
    )


def test_a_killed_run_goes_on_where_it_stopped(
    base: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_extract(base, pairs_file, tmp_path / "whole")
    critique = ReferenceModel.critique
    calls = []

    def killed(self: ReferenceModel, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return critique(self, *args, **kwargs)

    monkeypatch.setattr(ReferenceModel, "critique", killed)
    with pytest.raises(KeyboardInterrupt):
        run_extract(base, pairs_file, tmp_path / "resumed")
    resumed = run_extract(base, pairs_file, tmp_path / "resumed")
    assert len(calls) == 2 + 2  # 40 responses are three batches: one was kept
    torch.testing.assert_close(resumed.direct, whole.direct, rtol=0, atol=0)
    torch.testing.assert_close(resumed.critiqued, whole.critiqued, rtol=0, atol=0)
    assert resumed.critiques == whole.critiques


def test_a_batch_half_written_is_written_again(base: Path, pairs_file: Path, tmp_path: Path) -> None:
    whole = run_extract(base, pairs_file, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.rename(path.with_suffix(".partial"))
    again = run_extract(base, pairs_file, tmp_path)
    torch.testing.assert_close(again.direct, whole.direct)


def test_the_batch_size_does_not_matter(
    base: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run_extract(base, pairs_file, tmp_path / "one", batch_size=1)
    many = run_extract(base, pairs_file, tmp_path / "many", batch_size=16)
    monkeypatch.setattr(features_module, "_TOKENS_PER_BATCH", 200)
    few = run_extract(base, pairs_file, tmp_path / "few", batch_size=16)
    for other in (many, few):
        torch.testing.assert_close(other.direct, one.direct, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.critiqued, one.critiqued, atol=1e-5, rtol=1e-5)
        assert other.critiques == one.critiques
    # Noise, no drift: differences do not lean to one side.
    difference = (many.direct - one.direct).double()
    assert abs(difference.mean().item()) < 1e-7


def test_some_pairs_without_critiques(base: Path, pairs_file: Path, tmp_path: Path) -> None:
    every = run_extract(base, pairs_file, tmp_path)
    some = run_extract(base, pairs_file, tmp_path, critique_pairs=7)
    torch.testing.assert_close(some.direct, every.direct, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some.critiqued, every.critiqued[:7], atol=1e-5, rtol=1e-5)
    assert some.critiques == every.critiques[:7]


def test_too_few_questions_for_the_folds(base: Path, pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 96 questions: too few for --folds 97"):
        settings(base, pairs_file, tmp_path, folds=97).run()


@pytest.mark.parametrize("name", ["./no/such/base", "/no/such/base", "my models/base"])
def test_a_base_that_is_not_there_is_told_in_a_line(pairs_file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"can't be loaded: give a folder or a hub name") as raised:
        settings(name, pairs_file, tmp_path).run()
    assert len(str(raised.value).splitlines()) == 1


def test_a_base_without_weights(pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"the base {tmp_path} can't be loaded"):
        settings(tmp_path, pairs_file, tmp_path).run()


def test_what_is_banned_while_fitting_is_the_reward_token_alone(
    base: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Banning a stop token instead would give critiques that never end."""

    class Seen(Exception):
        pass

    def look(_pairs: object, reference: ReferenceModel, *_: object, **__: object) -> PairFeatures:
        assert reference.reward_token_id not in reference.stop_token_ids
        assert reference.reward_token_id == len(make_tokenizer())
        raise Seen

    monkeypatch.setattr(fit_head_module, "extract", look)
    with pytest.raises(Seen):
        settings(base, pairs_file, tmp_path).run()


def test_pairs_that_are_too_long_are_dropped_and_held_out_ones_cut(
    base: Path, pairs_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "long.jsonl"
    long = {"prompt": "Why? " + "passage " * 300, "chosen": "right", "rejected": "wrong"}
    data.write_text(pairs_file.read_text() + "\n" + json.dumps(long))
    settings(base, data, tmp_path / "out", heldout=str(data), critique_pairs=4, max_critique_tokens=2).run()
    assert Checkpoint.open(tmp_path / "out").manifest.training_data[0].pairs == 96
    report = json.loads((tmp_path / "out" / "fit_report.json").read_text())
    assert report["heldout"]["accuracy"]["overall"]["direct_score"]["n"] == 97
    assert "training pairs: 1 of 97 (1.0 %" in caplog.text
    assert "held-out pairs: 1 of 97 (1.0 %" in caplog.text
