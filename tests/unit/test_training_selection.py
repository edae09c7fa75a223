"""Which pairs and critiques a run learns from: folds, several folders, and critiques that are longer than it takes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.critiques.records import SCHEMA, SIDES, read_critiques
from criticrm_training.data.folds import Fold
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.splits import in_question_order, split_by_prompt
from criticrm_training.data.trained_questions import trained_pairs
from criticrm_training.parts import write_in_parts
from criticrm_training.training import run as run_module
from criticrm_training.training.run import train
from criticrm_training.training.train_config import ConfigError, TrainConfig
from support.runs import write_config

pytestmark = pytest.mark.slow

ONE_STEP = {"max_steps": 1, "warmup_steps": 0, "eval_strategy": "no", "save_strategy": "no"}
FAST: dict[str, Any] = {"trainer": ONE_STEP | {"load_best_model_at_end": False}, "lora": {"r": 2}}


@pytest.mark.parametrize("exclude", [0, 1])
def test_a_critic_has_not_seen_the_fold_that_it_is_trained_without(
    base: Path, data: Path, tmp_path: Path, exclude: int
) -> None:
    folds = {"n": 2, "exclude": exclude}
    config = write_config(tmp_path / "c.yaml", base, data, folds=folds, calibration_pairs=2, **FAST)
    train(config, tmp_path / "out")
    training, validation = split_by_prompt(in_question_order(read_pairs(config.data)), config.validation_share)
    fold = Fold(exclude, 2)
    assert trained_pairs(str(tmp_path / "out"), fold.inside(training)) == 0
    assert trained_pairs(str(tmp_path / "out"), fold.outside(training)) == len(fold.outside(training))
    assert trained_pairs(str(tmp_path / "out"), validation) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["pairs"] == len(fold.outside(training))


def test_a_fold_that_is_not_there_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude 2: the folds are numbered from 0 to 1"):
        write_config(tmp_path / "c.yaml", base, data, folds={"n": 2, "exclude": 2})


def test_critiques_of_several_folders_are_those_of_one(base: Path, data: Path, tmp_path: Path) -> None:
    rows = [c.row() for c in read_critiques(data / "critiques")]
    halves = [[r for r in rows if (int(r["pair_id"][-1]) % 2 == half)] for half in (0, 1)]
    folders = [tmp_path / f"half-{half}" for half in (0, 1)]
    for folder, half in zip(folders, halves, strict=True):
        write_in_parts(folder, {}, [half], list, SCHEMA, "half")
    pairs = read_pairs(data / "pairs.jsonl")
    together = run_module._critiques(folders, None, pairs)
    assert together == run_module._critiques([data / "critiques"], None, pairs)
    config = write_config(tmp_path / "c.yaml", base, data, critiques=[str(folder) for folder in folders])
    assert config.critiques == tuple(folders)
    assert TrainConfig(data="x").critiques == ()


def test_critiques_that_are_cut_are_counted(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, max_critique_tokens=4, calibration_pairs=2, **FAST)
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path / "out")
    training, _ = split_by_prompt(read_pairs(config.data), config.validation_share)
    n = 2 * len(SIDES) * len(training)  # in both roles
    (line,) = [m for m in caplog.messages if "max_critique_tokens 4" in m]
    assert line.startswith(f"{n} of {n} critiques are longer than max_critique_tokens 4")
