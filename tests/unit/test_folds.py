"""Folds of questions, and critics that have seen the pairs that they score."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.critiques import Critiques
from criticrm_training.critiques import vllm_writer
from criticrm_training.critiques.records import read_critiques
from criticrm_training.critiques.writers import Draft
from criticrm_training.data.folds import Fold, fold_of
from criticrm_training.data.pairs import PreferencePair, read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.data.trained_questions import InSampleError, read_trained_questions, write_trained_questions
from criticrm_training.parts import read_run

ROWS = [
    {"id": f"{i}-{k}", "prompt": f"Question {i}?", "chosen": f"good {k}", "rejected": "bad"}
    for i in range(40)
    for k in range(2)
]
PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": f"Q{i // 2}"},), "a", "b", "all", f"q{i // 2}")
    for i in range(400)
]


def test_each_question_is_in_one_fold_with_all_its_pairs() -> None:
    folds = [Fold(k, 4).inside(PAIRS) for k in range(4)]
    assert sorted(p.id for fold in folds for p in fold) == sorted(p.id for p in PAIRS)
    groups = [{p.group for p in fold} for fold in folds]
    assert sum(map(len, groups)) == 200
    assert all(35 <= len(group) <= 65 for group in groups)
    assert Fold(1, 4).outside(PAIRS) == [p for p in PAIRS if p not in folds[1]]
    assert [fold_of(f"q{i}", 4) for i in range(6)] == [fold_of(f"q{i}", 4) for i in range(6)]
    assert Fold(1, 4).inside(PAIRS[100:]) == [p for p in folds[1] if int(p.id) >= 100]  # whatever others there are


@pytest.mark.parametrize("text", ["2/2", "0/1", "0/0", "1", "", "a/2", "-1/2", "0/2/3", "0.5/2"])
def test_no_such_fold(text: str) -> None:
    with pytest.raises(DataError, match="no fold"):
        Fold.parse(text)


def test_an_empty_fold_is_an_error() -> None:
    holding = fold_of("q0", 2)
    with pytest.raises(DataError, match=f"no pair is outside fold {holding}/2"):
        Fold(holding, 2).outside(PAIRS[:2])
    with pytest.raises(DataError, match="too few questions"):
        Fold(1 - holding, 2).inside(PAIRS[:2])


@pytest.mark.parametrize("n", [3, 5, 12])
def test_fewer_questions_than_folds(n: int) -> None:
    """Each question is in one fold, some folds are empty; without an empty fold nothing is left out."""
    few = [p for p in PAIRS if p.group in ("q7", "q11")]
    held = {fold_of(p.group, n) for p in few}
    assert len(held) < n
    inside = [p for k in sorted(held) for p in Fold(k, n).inside(few)]
    assert sorted(p.id for p in inside) == sorted(p.id for p in few)
    for k in set(range(n)) - held:
        with pytest.raises(DataError, match=f"no pair is in fold {k}/{n}: there are too few questions"):
            Fold(k, n).inside(few)
        assert Fold(k, n).outside(few) == few


class Scored:
    """Scores everything 1."""

    name = "scored"

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def write(self, tasks: Any, sampling: Any) -> list[list[Draft]]:
        return [[Draft("It says good things.", "stop", 5, 1.0)] * sampling.n for _ in tasks]


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(vllm_writer, "VLLMWriter", Scored)
    data, critic = tmp_path / "pairs.jsonl", tmp_path / "critic"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    critic.mkdir()

    def run(out: str, *options: str) -> Path:
        arguments = [
            "sample",
            str(data),
            "--model",
            str(critic),
            "--writer",
            "vllm",
            "--out",
            str(tmp_path / out),
            "-n",
            "1",
        ]
        assert Critiques(_cli_parse_args=[*arguments, *options]).run() == 0
        return tmp_path / out

    return run


def test_a_fold_is_sampled(tmp_path: Path, sample: Any) -> None:
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    inside = {c.pair_id for c in read_critiques(sample("in", "--fold", "1/2", "--score", "reward"))}
    outside = {c.pair_id for c in read_critiques(sample("out", "--skip-fold", "1/2", "--score", "reward"))}
    assert inside == {p.id for p in Fold(1, 2).inside(pairs)}
    assert outside == {p.id for p in pairs} - inside
    limited = {c.pair_id for c in read_critiques(sample("few", "--fold", "1/2", "--limit", "6", "--score", "reward"))}
    assert len(limited) == 6
    assert limited < inside


def test_an_empty_fold_is_an_error_before_anything_is_written(
    tmp_path: Path, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    monkeypatch.setattr(vllm_writer, "VLLMWriter", None)  # none is opened
    empty = next(k for k in range(200) if all(fold_of(pair.group, 200) != k for pair in pairs))
    with pytest.raises(DataError, match=f"no pair is in fold {empty}/200: there are too few questions"):
        sample("none", "--fold", f"{empty}/200", "--score", "reward")
    assert not (tmp_path / "none").exists()


def test_a_critic_does_not_score_the_pairs_that_it_was_trained_on(
    tmp_path: Path, sample: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, critic = read_pairs(tmp_path / "pairs.jsonl"), tmp_path / "critic"
    assert read_run(sample("unknown", "--score", "reward"))["trained_pairs"] is None
    write_trained_questions(critic, Fold(0, 2).inside(pairs))
    assert "Question" not in (critic / "trained_questions.json").read_text()
    questions = read_trained_questions(critic)
    assert questions is not None
    assert len(questions) == len(Fold(0, 2).inside(pairs)) / 2

    seen = len(Fold(0, 2).inside(pairs))
    with pytest.raises(InSampleError, match=rf"^{seen} of 80 pairs ask a question .*--fold"):
        sample("all", "--score", "reward")
    assert not (tmp_path / "all").exists()
    assert read_run(sample("other", "--score", "reward", "--fold", "1/2"))["trained_pairs"] == 0
    with caplog.at_level(logging.WARNING):
        own = sample("own", "--score", "reward", "--in-sample")
    assert f"{seen} of 80 pairs ask a question that this critic was trained on" in caplog.text
    assert read_run(own)["trained_pairs"] == seen
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Critiques(_cli_parse_args=["filter", str(own), "--out", str(tmp_path / "filtered")]).run()
    assert f"{seen} pairs ask a question that their critic was trained on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Critiques(_cli_parse_args=["filter", str(tmp_path / "other"), "--out", str(tmp_path / "clean")]).run()
    assert not caplog.text
