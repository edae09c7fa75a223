"""What a writer saw cut to its length is counted, kept with the critiques and reported, once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.critiques import Critiques
from criticrm_training.commands.critiques.refine import Refine
from criticrm_training.commands.critiques.sample import Sample
from criticrm_training.critiques.critique_task import CritiqueTask, Tasks
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique, read_critiques
from criticrm_training.critiques.summary import sample_summary
from criticrm_training.data.pairs import read_pairs
from criticrm_training.parts import write_in_parts
from support.tiny import INSTRUCTION

pytestmark = pytest.mark.usefixtures("logging_as_before")

ROWS = [
    {"id": "a", "prompt": "Why?", "chosen": "right", "rejected": "word " * 200},
    {"id": "b", "prompt": "How?", "chosen": "right", "rejected": "wrong"},
    {"id": "c", "prompt": "When? " + "and then? " * 200, "chosen": "right", "rejected": "wrong"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return tmp_path / "pairs.jsonl"


def options(base: Path, out: Path) -> dict[str, Any]:
    return {
        "model": str(base),
        "writer": "transformers",
        "dtype": "float32",
        "max_model_len": 200,
        "max_tokens": 4,
        "out": out,
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "truncated" in r.getMessage()]


def test_sampling_counts_what_it_cut(base: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    step = Sample(data=str(pairs), n=2, instruction=INSTRUCTION, **options(base, tmp_path / "sampled"))
    for _ in range(2):  # a run that finds everything done reports it as well
        caplog.clear()
        Critiques.model_construct(sample=step, filter=None, refine=None).run()
        (warning,) = warnings(caplog)
        assert warning.startswith("3 of 6 responses (50.0 %) were truncated to fit max_model_len 200")
        assert "responses truncated for the writer" in caplog.text
        assert "3 of 6 (50.0%)" in caplog.text
    cut = {(c.pair_id, c.side): c.truncated for c in read_critiques(tmp_path / "sampled")}
    assert {response for response, truncated in cut.items() if truncated} == {
        ("a", "rejected"), ("c", "chosen"), ("c", "rejected"),
    }  # fmt: skip
    assert set(cut.values()) == {True, False}


@pytest.mark.parametrize("method", ["summ", "rank"])
def test_refining_counts_what_it_cut(
    base: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: Any
) -> None:
    """A prompt of its own a response for summ, a critique for rank."""
    responses = [(row["id"], side) for row in ROWS for side in SIDES]
    critiques = [Critique(*response, k, f"It is {k}.", 5, "stop", 4).row() for response in responses for k in (1, 2)]
    write_in_parts(tmp_path / "kept", {}, [[0]], lambda _: critiques, SCHEMA, "made")
    step = Refine(
        critiques=tmp_path / "kept", data=str(pairs), method=method, top_k=1,
        **options(base, tmp_path / "refined") | {"max_model_len": 600},
    )  # fmt: skip
    caplog.set_level(logging.INFO)
    Critiques.model_construct(sample=None, filter=None, refine=step).run()
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{3 if method == 'summ' else 6} of {6 if method == 'summ' else 12} prompts (50.0 %)")


def test_an_endpoint_does_not_say(pairs: Path) -> None:
    found = [Critique(row["id"], side, 0, "It is.", 5, "stop", 4) for row in ROWS for side in SIDES]
    tasks = Tasks({"default": CritiqueTask(instruction="Review it.", max_tokens=8)})
    assert dict(sample_summary(found, read_pairs(pairs), tasks))["responses truncated for the writer"] == "unknown"
