"""Accuracy against tokens where only close responses get a critique, by hand; the setting that is recommended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_model import Calibration, CriticRMError, Manifest, Moments
from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation import serving
from criticrm_training.evaluation.frontier import frontier, recommend
from criticrm_training.evaluation.serving import start_service

# Direct scores in units of 2, so that a difference of 2 is 1 on the calibrated scale.
CALIBRATION = Calibration(
    reference_set="made up", n=4, direct_score=Moments(mean=0.0, std=2.0), score=Moments(mean=0.0, std=1.0)
)


def pair(direct: tuple[float, float], greedy: tuple[float, float], tokens: int) -> list[dict[str, Any]]:
    return [
        {"direct_score": d, "greedy_score": g, "critique_tokens": tokens} for d, g in zip(direct, greedy, strict=True)
    ]


# Far apart and right without a critique; close and only right with one; far apart and wrong whatever is done.
ROWS = pair((6.0, 0.0), (1.0, 0.0), 10) + pair((0.0, 1.0), (1.0, 0.0), 5) + pair((0.0, 4.0), (0.0, 1.0), 35)
GROUPS = ["a", "b", "c"]


def point(points: list[dict[str, Any]], margin: float) -> dict[str, Any]:
    return next(one for one in points if one["margin"] >= margin)


def test_by_hand() -> None:
    points = frontier(ROWS, CALIBRATION, GROUPS)
    assert [one["margin"] for one in points] == sorted(one["margin"] for one in points)
    none, some, every = points[0], point(points, 0.5), points[-1]
    assert none["critiqued"] == none["tokens"] == 0
    assert none["accuracy"]["value"] == pytest.approx(1 / 3)
    assert none["lost"]["value"] == pytest.approx(1 / 3)
    assert some["critiqued"] == pytest.approx(1 / 3)
    assert some["tokens"] == pytest.approx(0.1)
    assert some["accuracy"]["value"] == pytest.approx(2 / 3)
    assert some["lost"]["value"] == 0
    assert some["agreement"] == 1
    assert every["critiqued"] == every["tokens"] == 1
    chosen = recommend(points, "validation.jsonl")
    assert 0.5 <= chosen.margin < 2
    assert chosen.chosen_on == "validation.jsonl"


def test_without_a_common_scale() -> None:
    with pytest.raises(DataError, match="no calibration"):
        frontier(ROWS, None, GROUPS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed")
def test_the_recommended_setting_is_what_auto_does(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(serving, "start_service", lambda model: start_service(model, ["--engine", "fake"]))
    folder = tmp_path / "critic"
    shutil.copytree(tiny_checkpoint, folder)
    version = Manifest.load(folder).version
    rows = [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [str(tmp_path / "validation.jsonl"), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert Evaluate(_cli_parse_args=[*arguments, "--frontier", "--recommend"]).run() == 0
    manifest = Manifest.load(folder)
    assert manifest.selection is not None
    assert manifest.selection.chosen_on == "validation.jsonl"
    assert manifest.version == version  # the same rewards
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest.selection.margin in [max(one["margin"], 1e-6) for one in report["frontier"]]
    for wrong in (["--recommend"], ["--frontier", "--recommend", "--direct-only"]):
        with pytest.raises(CriticRMError, match="--recommend needs"):
            Evaluate(_cli_parse_args=[*arguments, *wrong]).run()
