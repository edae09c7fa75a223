"""`criticrm report`: a page that holds its pictures, from what `evaluate` and `train` write."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from criticrm_training.cli import Report
from criticrm_training.data import PreferencePair
from criticrm_training.evaluation.evaluate import MARGINS, RESULTS, _write_margins
from criticrm_training.evaluation.quality import Quality
from criticrm_training.sources import DataError
from criticrm_training.tables import accuracy_report

PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": "Q"},), "good " * (i % 7), "bad " * 3, f"<{i % 2}>", f"q{i}")
    for i in range(60)
]


def evaluation(folder: Path, seed: int, methods: tuple[str, ...]) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    margins = {name: torch.randn(60, generator=generator) + 0.5 for name in methods}
    report: dict[str, Any] = accuracy_report(PAIRS, margins, 0.9)
    report["quality"] = asdict(Quality(120, 0.9, 0.1, 0.5, 0.7))
    (folder / RESULTS).write_text(json.dumps(report))
    _write_margins(folder / MARGINS, PAIRS, margins)
    return folder


def test_a_page_of_tables_and_pictures(tmp_path: Path) -> None:
    plain = ("direct_score", "greedy critique")
    one = evaluation(tmp_path / "one", 0, plain)
    two = evaluation(tmp_path / "two", 1, (*plain, "mean of 1", "mean of 4"))
    run = tmp_path / "run"
    run.mkdir()
    history = [
        {"step": 1, "critique_loss": 3.0, "reward_loss": 0.7},
        {"step": 2, "eval_accuracy": 0.6, "eval_loss": 0.6},
    ]
    (run / "history.json").write_text(json.dumps(history))
    out = tmp_path / "page.html"
    arguments = ["--evaluations", f"base={one}", "--evaluations", f"<ours>={two}", "--runs", f"ours={run}"]
    assert Report(_cli_parse_args=[str(out), *arguments]).run() == 0
    page = out.read_text()
    pictures = [base64.b64decode(data).decode() for data in re.findall(r"base64,([^\"]+)", page)]
    assert len(pictures) == 7
    assert all("<svg" in picture for picture in pictures)
    assert page.count("<table>") == 3
    assert "<ours>" not in page  # names are text
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched by a reader


def test_a_folder_that_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.json does not exist"):
        Report(_cli_parse_args=[str(tmp_path / "p.html"), "--evaluations", f"x={tmp_path}"]).run()
