"""Accuracy against tokens where only close responses get a critique, by hand; the setting that is recommended."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from criticrm_model import Calibration, CriticRMError, Manifest, Moments, Scale
from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation import serving
from criticrm_training.evaluation.frontier import frontier, recommend, whole_critiques
from criticrm_training.evaluation.serving import start_service
from criticrm_training.parts import read_parts

# Direct scores in units of 2, so that a difference of 2 is 1 on the calibrated scale.
CALIBRATION = Calibration(
    reference_set="made up",
    n=4,
    direct_score=Moments(mean=0.0, std=2.0),
    score=Moments(mean=0.0, std=1.0),
    scales={0: Scale(slope=0.5, offset=0.0), 1: Scale(slope=1.0, offset=0.0)},
)
MANIFEST = {"calibration": CALIBRATION.model_dump(mode="json")}


def pair(direct: tuple[float, float], greedy: tuple[float, float], tokens: int) -> list[dict[str, Any]]:
    return [
        {
            "direct_score": d,
            "greedy_score": g,
            "critique_tokens": tokens,
            "greedy_trace": [d, *[g] * (tokens - 1)],  # it jumps at once
            "sampled_scores": [g, g, -g],
            "sampled_tokens": [tokens] * 3,
        }
        for d, g in zip(direct, greedy, strict=True)
    ]


# Far apart and right without a critique; close and only right with one; far apart and wrong whatever is done.
ROWS = [
    pair((6.0, 0.0), (1.0, 0.0), 10),
    pair((0.0, 1.0), (1.0, 0.0), 5),
    pair((0.0, 4.0), (0.0, 1.0), 35),
]
RIGHT = [[True, False]] * 3
GROUPS = ["a", "b", "c"]


def point(points: list[dict[str, Any]], margin: float) -> dict[str, Any]:
    return next(one for one in points if one["margin"] >= margin)


def test_by_hand() -> None:
    settings = frontier(ROWS, RIGHT, MANIFEST, GROUPS)
    points = whole_critiques(settings)
    assert points == settings[: len(points)]
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
    assert (chosen.n, chosen.settled) == (1, None)
    assert 0.5 <= chosen.margin < 2
    assert chosen.chosen_on == "validation.jsonl"


def test_ended_critiques_and_means_over_several() -> None:
    settings = frontier(ROWS, RIGHT, MANIFEST, GROUPS, [3])
    every = {(one["n"], one["settled"], one["for"]): one for one in settings if one["critiqued"] == 1}
    assert every[1, None, None]["tokens"] == 1
    ended = [one for (n, settled, _), one in every.items() if n == 1 and settled is not None]
    assert {one["for"] for one in ended} == {4, 16}
    for one in ended:  # the trace moves at its first token alone, so a critique is ended after so many more
        rows = [row for item in ROWS for row in item]
        moved = [row["direct_score"] != row["greedy_score"] for row in rows]
        ends = [min(row["critique_tokens"], one["for"] + 1 + m) for row, m in zip(rows, moved, strict=True)]
        assert one["tokens"] == pytest.approx(sum(ends) / 100)
        assert one["accuracy"] == every[1, None, None]["accuracy"]
    assert every[3, None, None]["tokens"] == 3
    assert every[3, None, None]["accuracy"] == every[1, None, None]["accuracy"]
    longer = [ROWS[0], pair((0.0, 1.0), (1.0, 0.0), 50), ROWS[2]]  # the close one
    chosen = recommend(frontier(longer, RIGHT, MANIFEST, GROUPS, [3]), "validation.jsonl")
    assert chosen.settled is not None
    assert chosen.tokens == 4
    assert chosen.margin < 2


def test_the_best_of_several_is_kept() -> None:
    """By mixed scores on one scale: the second has no critique and stays behind the first, which has one."""
    (first, second), (third, fourth) = pair((3.0, -9.0), (4.0, 9.0), 4), pair((2.0, 1.0), (-4.0, 8.0), 4)
    item = [first, second, third, fourth]
    settings = frontier([item], [[True, False, False, True]], MANIFEST, ["a"])
    some = next(one for one in whole_critiques(settings) if 1.0 <= one["margin"] < 6)
    assert some["critiqued"] == 0.75
    assert some["accuracy"]["value"] == 1.0
    assert some["lost"]["value"] == -1.0  # with critiques for all the wrong second one would be kept
    assert some["agreement"] == 0.0


def test_without_a_common_scale() -> None:
    with pytest.raises(DataError, match="no common scale"):
        frontier(ROWS, RIGHT, {"calibration": None}, GROUPS)
    with pytest.raises(DataError, match="--calibrate"):
        frontier(ROWS, RIGHT, {"calibration": MANIFEST["calibration"] | {"scales": None}}, GROUPS)


def test_what_it_needs_is_known_before_the_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."}))
    folder = tmp_path / "critic"
    shutil.copytree(tiny_checkpoint, folder)
    Manifest.load(folder).model_copy(update={"calibration": None}).save(folder)
    arguments = [str(tmp_path / "pairs.jsonl"), "--model", str(folder), "--out", str(tmp_path / "out"), "--frontier"]
    for more, words in ([], "no common scale"), (["--direct-only"], "leave out --direct-only"):
        with pytest.raises(DataError, match=words):
            Evaluate(_cli_parse_args=[*arguments, *more]).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize(
    ("known", "options"), [(False, ["--samples", "1,3"]), (False, ["--direct-only"]), (True, ["--samples", "1"])]
)
def test_a_calibration_is_measured(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, options: list[str]
) -> None:
    monkeypatch.setattr(serving, "start_service", lambda model: start_service(model, ["--engine", "fake"]))
    folder = tmp_path / "critic"
    shutil.copytree(tiny_checkpoint, folder)
    if not known:
        Manifest.load(folder).model_copy(update={"calibration": None}).save(folder)
    rows = [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [str(tmp_path / "pairs.jsonl"), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert Evaluate(_cli_parse_args=[*arguments, *options, "--calibrate"]).run() == 0
    found = Manifest.load(folder).calibration
    assert found is not None
    assert found.scales is not None
    assert set(found.scales) == ({0} if "--direct-only" in options else {0, 1} if known else {0, 1, 3})
    assert Manifest.load(folder).version != Manifest.load(tiny_checkpoint).version  # normalised scores are others
    scores = [row["direct_score"] for row in read_parts(tmp_path / "out" / "scores")]
    assert found.scales[0](statistics.fmean(scores)) == pytest.approx(0)
    if known:  # the moments stay, which `normalize` uses
        own = Manifest.load(tiny_checkpoint).calibration
        assert own is not None
        assert (found.direct_score, found.score, found.n) == (own.direct_score, own.score, own.n)
    else:
        assert found.n == len(scores) == 16
        assert found.direct_score.mean == pytest.approx(statistics.fmean(scores))
        assert found.direct_score.std == pytest.approx(statistics.stdev(scores))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()  # the name is that of the embedded one
    for wrong in (["--url", "http://127.0.0.1:1"], ["--model", "default"]):
        with pytest.raises(CriticRMError, match="--calibrate needs"):
            Evaluate(_cli_parse_args=[*arguments, *wrong, "--calibrate"]).run()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed")
def test_the_recommended_setting_is_what_auto_does(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert manifest.version != version  # "auto" gives others
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest.selection.margin in [max(one["margin"], 1e-6) for one in report["frontier"]]
    for wrong in (["--recommend"], ["--frontier", "--recommend", "--direct-only"]):
        with pytest.raises(CriticRMError, match="--recommend needs"):
            Evaluate(_cli_parse_args=[*arguments, *wrong]).run()
