"""`criticrm probe` on a model that scores the number of characters, and its part of the report."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.probe import Probe
from criticrm_training.commands.report import Report
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation import probes
from criticrm_training.evaluation.probes import FILLER, KEYS
from support.scripted import CALIBRATION, Scripted, in_place_of_a_service

# Characters of the chosen and of the rejected response.
LENGTHS = [(1, 5), (20, 10), (30, 40), (50, 50)]


def ran(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calibration: dict[str, Any] | None = CALIBRATION,
    direct: Callable[[str], float] = len,
    more: Sequence[str] = (),
) -> tuple[dict[str, Any], Scripted]:
    rows = [{"prompt": f"Q{i}", "chosen": "c" * a, "rejected": "r" * b} for i, (a, b) in enumerate(LENGTHS)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    service = Scripted(direct)
    monkeypatch.setattr(probes, "scoring_service", in_place_of_a_service(service, calibration))
    assert Probe(_cli_parse_args=[str(data), "--out", str(tmp_path / "out"), *more]).run() == 0
    report: dict[str, Any] = json.loads((tmp_path / "out" / probes.RESULTS).read_text())
    return report, service


def test_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = ran(tmp_path, monkeypatch)
    found = report["methods"]["direct_score"]["length"]
    assert found["all_responses"]["value"] == pytest.approx(1)
    assert found["all_responses"]["n"] == 8
    assert found["within_pairs"]["value"] == pytest.approx(1)
    assert (found["longer_wins"]["value"], found["longer_wins"]["n"]) == (1, 3)  # two are as long as each other
    buckets = [(b["least"], b["most"], b["accuracy"]["value"]) for b in found["buckets"]]
    assert buckets == [(-10, -10, 0), (-4, -4, 0), (0, 0, 0.5), (10, 10, 1)]


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, service = ran(tmp_path, monkeypatch)
    keys = report["methods"]["direct_score"]["keys"]
    assert list(keys) == list(KEYS)
    step = keys["Let's solve this problem step by step."]  # 38 characters
    assert step["above_chosen"]["value"] == 3 / 4
    assert step["above_rejected"]["value"] == 2 / 4
    assert step["standardised"]["value"] == pytest.approx((38 - 10) / 5)
    assert keys["."]["above_chosen"]["value"] == 0  # as long as the first chosen one, and not above it
    assert keys["(empty)"]["warnings"] == keys["(space)"]["warnings"] == ["empty_response"]
    assert keys["Solution"]["warnings"] == []
    after = report["methods"]["greedy critique"]["keys"]["Solution"]["standardised"]["value"]
    assert after == pytest.approx((8 + 1 - 20) / 10)
    assert report["standardised_over"] == "a set"
    assert len(service.bodies) == len(LENGTHS)  # one request a prompt


def test_several_critiques_are_probed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, service = ran(tmp_path, monkeypatch, more=["--samples", "3"])
    assert list(report["methods"]) == ["direct_score", "greedy critique", "mean of 3"]
    # Critiques add 1, 2 and 3; the greedy one adds 1.
    after = report["methods"]["mean of 3"]["keys"]["Solution"]["standardised"]["value"]
    assert after == pytest.approx((8 + 2 - 20) / 10)
    assert len(service.bodies) == 2 * len(LENGTHS)
    page = tmp_path / "page.html"
    assert Report(_cli_parse_args=[str(page), "--probes", f"one={tmp_path / 'out'}"]).run() == 0


def test_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = ran(tmp_path, monkeypatch)
    padding = report["methods"]["greedy critique"]["padding"]
    assert list(padding) == ["1", "2", "4"]
    for n, row in padding.items():
        assert row["characters"] == int(n) * len(FILLER)
        assert row["change"]["value"] == pytest.approx(row["characters"])
        assert row["standardised"]["value"] == pytest.approx(row["characters"] / 10)


def test_a_checkpoint_without_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = ran(tmp_path, monkeypatch, calibration=None)
    assert report["standardised_over"] == "the responses of these pairs"
    lengths = [length for pair in LENGTHS for length in pair]
    mean = sum(lengths) / 8
    std = (sum((length - mean) ** 2 for length in lengths) / 8) ** 0.5
    found = report["methods"]["direct_score"]["keys"]["(empty)"]["standardised"]["value"]
    assert found == pytest.approx((0 - mean) / std)


def test_scores_that_are_all_the_same_have_no_deviations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = ran(tmp_path, monkeypatch, calibration=None, direct=lambda _: 0.1)
    found = report["methods"]["direct_score"]
    assert {row["standardised"] for row in (found["keys"] | found["padding"]).values()} == {None}
    assert found["keys"]["Solution"]["above_chosen"]["value"] == 0
    assert found["padding"]["4"]["change"]["value"] == 0
    assert "none: all are the same" in probes.as_text(report)


def test_the_report_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(tmp_path, monkeypatch)
    out = tmp_path / "page.html"
    arguments = [str(out), "--probes", f"one={tmp_path / 'out'}", "--probes", f"two={tmp_path / 'out'}"]
    assert Report(_cli_parse_args=arguments).run() == 0
    page = out.read_text()
    pictures = [base64.b64decode(data).decode() for data in re.findall(r"base64,([^\"]+)", page)]
    assert len(pictures) == 2
    assert all("<svg" in picture for picture in pictures)
    assert "<h2>Bias</h2>" in page
    with pytest.raises(DataError, match=r"probe\.json does not exist"):
        Report(_cli_parse_args=[str(out), "--probes", f"x={tmp_path}"]).run()
