"""Margins, agreement and references of a row: what they may be, and how a bad one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from criticrm_training.data.pairs import content_sha256, pairs_sha256, read_pairs
from criticrm_training.data.sources import DataError

ROW: dict[str, Any] = {"prompt": "Q?", "chosen": "good", "rejected": "bad"}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_without_the_columns(tmp_path: Path) -> None:
    (pair,) = read_pairs(written(tmp_path, ROW | {"margin": None, "agreement": None, "reference": None}))
    assert (pair.margin, pair.agreement, pair.reference) == (0.0, 1.0, None)
    assert read_pairs(written(tmp_path, ROW)) == [pair]


@pytest.mark.parametrize(
    ("given", "probability"),
    [
        (0.8, 0.8),
        (1.0, 1.0),
        (0.5, 0.5),
        (2, 2 / 3),
        (3, 1.0),
        (2.0, 2 / 3),
        ("2/3", 2 / 3),
        ("4 of 5", 0.8),
        ("0.75", 0.75),
    ],
)
def test_agreement(tmp_path: Path, given: object, probability: float) -> None:
    (pair,) = read_pairs(written(tmp_path, ROW | {"agreement": given}))
    assert pair.agreement == pytest.approx(probability)


def test_margin_and_reference(tmp_path: Path) -> None:
    first, second = read_pairs(
        written(
            tmp_path, ROW | {"margin": 2, "reference": "42"}, ROW | {"prompt": "R", "margin": 0.5, "reference": " "}
        )
    )
    assert (first.margin, first.reference) == (2.0, "42")
    assert (second.margin, second.reference) == (0.5, None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("margin", -1, "margin: -1 is negative"),
        ("margin", "1.5", "margin: '1.5' is not a finite number"),
        ("margin", float("nan"), "margin: nan is not a finite"),
        ("margin", True, "margin: True is not"),
        ("margin", 10**400, "margin: 1000000000.* is not a finite number"),
        ("agreement", "1e400", "agreement: '1e400' is neither"),
        ("agreement", 1, "agreement: the integer 1 is not 2 or 3 of three annotators; write a probability as 1.0"),
        ("agreement", 4, "agreement: the integer 4"),
        ("agreement", 0, "agreement: the integer 0"),
        ("agreement", 0.4, "agreement: 0.4 is not a probability from 0.5 to 1: the label is more often wrong"),
        ("agreement", "1/3", "agreement: 1/3 is not a probability"),
        ("agreement", "3/2", "agreement: 3/2 is not a probability"),
        ("agreement", "2/0", "agreement: '2/0' is neither"),
        ("agreement", "most", "agreement: 'most' is neither"),
        ("agreement", float("nan"), "agreement: nan is not a probability"),
        ("agreement", True, "agreement: True is not a number"),
        ("agreement", [2, 3], r"agreement: \[2, 3\] is not a number"),
        ("reference", 42, "reference: 42 is not text"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, field: str, value: object, words: str) -> None:
    with pytest.raises(DataError, match=f"row 2: {words}"):
        read_pairs(written(tmp_path, ROW, ROW | {field: value}))


def test_parquet_gives_null_for_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    rows = [ROW | {"agreement": 2, "margin": 1.0}, ROW | {"prompt": "Other?"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [(pair.agreement, pair.margin) for pair in read_pairs(path)] == [(2 / 3, 1.0), (1.0, 0.0)]


def test_a_run_depends_on_them(tmp_path: Path) -> None:
    plain, sure = (read_pairs(written(tmp_path, ROW | {"margin": margin})) for margin in (0, 1))
    assert content_sha256(plain) != content_sha256(sure)
    assert pairs_sha256(plain) != pairs_sha256(sure)


def test_votes_as_floats_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    """One vote of three would be read as certain."""
    rows = [ROW | {"prompt": f"{votes}?", "agreement": votes} for votes in (2.0, 1.0, 3.0)]
    with pytest.raises(DataError, match=r"the column agreement holds 1.0 beside 3.0: one vote, or a probability\?"):
        read_pairs(written(tmp_path, *rows))
