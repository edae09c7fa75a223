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

from criticrm_training.commands.report import Report
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation.outcomes import Preferences
from criticrm_training.evaluation.quality import CritiqueStatistics
from criticrm_training.evaluation.results import write_results

PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": "Q"},), "good " * (i % 7), "bad " * 3, f"<{i % 2}>", f"q{i}")
    for i in range(60)
]


def evaluation(folder: Path, seed: int, methods: tuple[str, ...], pairs: int = 1000) -> Path:
    generator = torch.Generator().manual_seed(seed)
    found = {name: Preferences.of(torch.randn(60, generator=generator) + 0.5) for name in methods}
    more: dict[str, Any] = {"trained_on_pairs": pairs, "quality": asdict(CritiqueStatistics(120, 0.9, 0.1, 0.5, 0.7))}
    write_results(folder, "made", PAIRS, found, critiques_ended=0.9, headline=methods[0], against={}, more=more)
    return folder


def judgements(folder: Path) -> Path:
    """A judge has no direct score, ties, and pairs that it does not know."""
    found = {"mean of 4": Preferences.of([0.0, 1.0, float("nan"), -1.0] * 15)}
    write_results(folder, "made", PAIRS, found, critiques_ended=0.9, headline="mean of 4", against={})
    return folder


def drawn(page: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r"base64,([^\"]+)", page)]


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
    pictures = drawn(page)
    assert len(pictures) == 6
    assert all("<svg" in picture for picture in pictures)
    assert page.count("<table>") == 6  # differences, two by category, critiques, pairs, training
    assert "<ours>" not in page  # names are text
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched by a reader


def test_a_judge_and_the_size_of_the_data(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = [f"--evaluations=judge={judgements(tmp_path / 'judge')}"]
    for share, pairs in ((50, 500), (100, 1000)):
        folder = evaluation(tmp_path / str(share), share, ("direct_score", "greedy critique"), pairs)
        arguments.append(f"--evaluations=ours@{share}={folder}")
    assert Report(_cli_parse_args=[str(out), *arguments]).run() == 0
    page = out.read_text()
    assert len(drawn(page)) == 5
    assert "Accuracy against the pairs that were learned from" in page
    by_category = page[page.index("By category") :]
    assert "<td>45</td>" not in by_category  # every table counts the pairs of its data

    assert Report(_cli_parse_args=[str(out), arguments[0]]).run() == 0
    assert len(drawn(out.read_text())) == 2  # several critiques, length; there are no rewards


def test_a_folder_that_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.json does not exist"):
        Report(_cli_parse_args=[str(tmp_path / "p.html"), "--evaluations", f"x={tmp_path}"]).run()
