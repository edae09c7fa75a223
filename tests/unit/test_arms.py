"""How arms are compared: like with like, the same pairs, questions and runs; and whether they were trained alike."""

from __future__ import annotations

import doctest
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from criticrm_training.commands.report import Report
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation import arms
from criticrm_training.evaluation.arms import compare, read_arm
from criticrm_training.evaluation.outcomes import Preferences
from criticrm_training.evaluation.results import write_results
from criticrm_training.reporting.training import mismatches


def pairs(n: int = 10, text: str = "good") -> list[PreferencePair]:
    return [
        PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), f"{text} {i}", f"bad {i}", "all", f"q{i}")
        for i in range(n)
    ]


def evaluation(
    folder: Path,
    right: Mapping[str, int],
    headline: str,
    *,
    of: list[PreferencePair] | None = None,
    against: Mapping[str, list[Path]] = {},
) -> dict[str, Any]:
    """One whose methods are right on the first so many of ten pairs."""
    of = of or pairs()
    found = {method: Preferences.of([1.0] * n + [-1.0] * (len(of) - n)) for method, n in right.items()}
    return write_results(folder, "made", of, found, critiques_ended=None, headline=headline, against=against)


def compared(report: dict[str, Any], other: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {
        (c["ours"], c["theirs"]): (c["our_accuracy"], c["their_accuracy"], round(c["value"], 9))
        for c in report["against"][other]
    }


def test_a_critic_is_compared_by_its_critiques_with_another_by_its_critiques(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """0.80 against 0.90 is -0.10, though the other's direct score is right on half of the pairs only."""
    caplog.set_level("INFO")
    evaluation(tmp_path / "other", {"direct_score": 5, "greedy critique": 9}, "greedy critique")
    ours = {"direct_score": 6, "greedy critique": 8, "mean of 4": 7}
    report = evaluation(tmp_path / "ours", ours, "greedy critique", against={"other": [tmp_path / "other"]})
    assert compared(report, "other") == {
        ("greedy critique", "greedy critique"): (0.8, 0.9, -0.1),
        ("direct_score", "direct_score"): (0.6, 0.5, 0.1),
    }
    assert "this (greedy critique) 0.800, other (greedy critique) 0.900: difference -0.100 [" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "headline"), [({"direct_score": 7}, "direct_score"), ({"mean of 8": 7, "mean of 1": 5}, "mean of 8")]
)
def test_a_critic_against_a_scalar_or_a_judge_by_the_headline_of_each(
    tmp_path: Path, theirs: dict[str, int], headline: str
) -> None:
    evaluation(tmp_path / "other", theirs, headline)
    ours = {"direct_score": 6, "greedy critique": 8}
    report = evaluation(tmp_path / "ours", ours, "greedy critique", against={"other": [tmp_path / "other"]})
    found = compared(report, "other")
    assert next(iter(found)) == ("greedy critique", headline)
    assert found["greedy critique", headline] == (0.8, 0.7, 0.1)
    assert found.get(("direct_score", "direct_score")) == ((0.6, 0.7, -0.1) if "direct_score" in theirs else None)
    assert len(found) == (2 if "direct_score" in theirs else 1)


def test_other_pairs_with_the_same_ids_are_other_pairs(tmp_path: Path) -> None:
    """Ids are numbers of rows unless a file has its own."""
    evaluation(tmp_path / "other", {"direct_score": 5}, "direct_score", of=pairs(text="fine"))
    with pytest.raises(DataError, match="other evaluated other pairs"):
        evaluation(tmp_path / "ours", {"direct_score": 5}, "direct_score", against={"other": [tmp_path / "other"]})


def test_an_arm_of_several_runs(tmp_path: Path) -> None:
    for name, right in (("one", 9), ("two", 5), ("scalar", 6)):
        evaluation(tmp_path / name, {"direct_score": right}, "direct_score")
    critic = read_arm("critic", [tmp_path / "one", tmp_path / "two"])
    scalar = read_arm("scalar", [tmp_path / "scalar"])
    (both,) = compare(critic, scalar)
    assert (both["our_accuracy"], both["their_accuracy"]) == (0.7, 0.6)
    assert both["value"] == pytest.approx(0.1)
    (one,) = compare(read_arm("critic", [tmp_path / "one"]), scalar)
    assert both["high"] - both["low"] > one["high"] - one["low"]
    again = evaluation(
        tmp_path / "ours", {"direct_score": 6}, "direct_score", against={"c": [tmp_path / "one", tmp_path / "two"]}
    )
    assert compared(again, "c")["direct_score", "direct_score"] == (0.6, 0.7, -0.1)


def test_runs_of_one_arm_are_of_one_kind(tmp_path: Path) -> None:
    evaluation(tmp_path / "one", {"direct_score": 5, "greedy critique": 5}, "greedy critique")
    evaluation(tmp_path / "two", {"direct_score": 5}, "direct_score")
    with pytest.raises(DataError, match="two can not be another run of 'critic': it has another headline than"):
        read_arm("critic", [tmp_path / "one", tmp_path / "two"])


def test_methods_that_have_no_pair_in_common_are_not_compared(tmp_path: Path) -> None:
    nan = float("nan")
    for name, margins in (("one", [1.0, nan]), ("two", [nan, 1.0])):
        found = {"direct_score": Preferences.of([1.0, 1.0]), "teacher-forced": Preferences.of(margins)}
        write_results(tmp_path / name, "m", pairs(2), found, critiques_ended=None, headline="direct_score", against={})
    (only,) = compare(read_arm("a", [tmp_path / "one"]), read_arm("b", [tmp_path / "two"]))
    assert only["ours"] == "direct_score"


def test_the_report_shows_runs_and_differences(tmp_path: Path) -> None:
    for name, right in (("scalar", 6), ("one", 9), ("two", 5)):
        evaluation(tmp_path / name, {"direct_score": right}, "direct_score")
    evaluation(tmp_path / "elsewhere", {"direct_score": 6}, "direct_score", of=pairs(8))
    page = tmp_path / "page.html"
    folders = [("scalar", "scalar"), ("critic", "one"), ("critic", "two"), ("far", "elsewhere")]
    arguments = [f"--evaluations={arm}={tmp_path / folder}" for arm, folder in folders]
    assert Report(_cli_parse_args=[str(page), *arguments]).run() == 0
    text = page.read_text()
    assert "<h3>critic (2 runs)</h3>" in text
    assert "critic: direct_score against scalar: direct_score</td><td>0.700</td><td>0.600</td><td>+0.100" in text
    assert "Evaluated on other pairs than scalar, not compared: far." in text


def test_a_folder_is_one_run() -> None:
    with pytest.raises(ValidationError, match="duplicate folders: a=x; one run would count as two"):
        Report(_cli_parse_args=["page.html", "--evaluations=a=x", "--evaluations=a=x"])
    with pytest.raises(ValidationError, match="'x' is not NAME=FOLDER"):
        Report(_cli_parse_args=["page.html", "--runs=x"])
    with pytest.raises(ValidationError, match="a: several folders under one name"):
        Report(_cli_parse_args=["page.html", "--probes=a=x", "--probes=a=y"])


SCALAR = {"scalar": True, "steps": 100, "pairs": 40, "reward_weight_times_rate": 1e-3, "tokens": 5}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"reward_weight_times_rate": 1.04e-3}, []),
        (
            {"reward_weight_times_rate": 0.047e-3},
            ["critic: not matched: 0.047 of the scalar's (sum over the steps of reward weight x learning rate)"],
        ),
        (
            {"reward_weight_times_rate": 1.06e-3},
            ["critic: not matched: 1.060 of the scalar's (sum over the steps of reward weight x learning rate)"],
        ),
        ({"steps": 90}, ["critic: not matched: 90 optimizer steps, the scalar's are 100"]),
        ({"pairs": 41}, ["critic: not matched: 41 pairs, the scalar's are 40"]),
    ],
)
def test_arms_that_are_not_matched_are_named(change: dict[str, Any], lines: list[str]) -> None:
    assert mismatches({"critic": SCALAR | {"scalar": False} | change, "scalar": SCALAR}) == lines


def test_what_has_no_summary_can_not_be_judged() -> None:
    lines = ["old: no summary.json, so whether it is matched is unknown"]
    assert mismatches({"old": None}) == lines
    assert mismatches({"old": None, "scalar": SCALAR, "critic": SCALAR | {"scalar": False}}) == lines


def test_without_a_scalar_the_first_run_is_the_baseline() -> None:
    one, two = SCALAR | {"scalar": False}, SCALAR | {"scalar": False, "reward_weight_times_rate": 0.0}
    (line,) = mismatches({"one": one, "two": two})
    assert line.startswith("two: not matched: 0.000 of one's")
    (line,) = mismatches({"two": two, "one": one})
    assert line.startswith("one: not matched: two's is 0")


def test_the_report_draws_a_run_and_says_how_it_was_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = [{"step": s, "grad_norm_head": 1.0, "grad_norm_body": 2.0, "margin_mean": 0.1 * s} for s in (1, 2)]
    for name, summary in (
        ("scalar", SCALAR),
        ("critic", SCALAR | {"scalar": False, "reward_weight_times_rate": 4.7e-5}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.json").write_text(json.dumps(history))
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    page = tmp_path / "page.html"
    arguments = [f"--runs={name}={tmp_path / name}" for name in ("scalar", "critic")]
    assert Report(_cli_parse_args=[str(page), *arguments]).run() == 0
    text = page.read_text()
    assert "<td>critic</td><td>no</td><td>100</td><td>40</td><td>5</td><td>4.7e-05</td>" in text
    assert "critic: not matched: 0.047 of the scalar" in text
    assert "critic: not matched: 0.047 of the scalar" in caplog.text
    assert text.count("data:image/svg") == 2  # norms, margins


def test_the_examples() -> None:
    assert doctest.testmod(arms).failed == 0
