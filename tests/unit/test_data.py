"""Preference files: what is read, and how a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from criticrm_training.data import DataError, PreferencePair, file_sha256, read_pairs

ROW: dict[str, Any] = {"prompt": "Q?", "chosen": "good", "rejected": "bad"}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_explicit_prompt(tmp_path: Path) -> None:
    (pair,) = read_pairs(written(tmp_path, ROW | {"id": "x", "category": "math"}))
    assert pair == PreferencePair("x", ({"role": "user", "content": "Q?"},), "good", "bad", "math", "q?")


def test_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))
    explicit, implicit = (
        {"prompt": turns, "chosen": good, "rejected": bad},
        {"chosen": [*turns, *good], "rejected": [*turns, *bad], "id": "other"},
    )
    for row in (explicit, implicit):
        (pair,) = read_pairs(written(tmp_path, row))
        assert pair.prompt == tuple(turns)
        assert (pair.chosen, pair.rejected) == ("good", "bad")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW | {"chosen": "better"}]), path)
    assert [pair.chosen for pair in read_pairs(path)] == ["good", "better"]


def test_duplicates_are_dropped(tmp_path: Path) -> None:
    assert len(read_pairs(written(tmp_path, ROW, ROW, ROW | {"chosen": "other"}))) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "Q", "chosen": "a"}, "row 2: no field 'rejected'"),
        (ROW | {"chosen": 3}, "row 2: chosen: neither text nor a list of messages"),
        (ROW | {"prompt": ""}, "row 2: no prompt"),
        (ROW | {"rejected": "good"}, "row 2: chosen and rejected are the same"),
        (ROW | {"prompt": [{"role": "robot", "content": "x"}]}, r"row 2: prompt\[0\].role: 'robot'"),
        (ROW | {"prompt": [{"role": "user"}]}, r"row 2: prompt\[0\]: a message needs"),
        (ROW | {"chosen": [{"role": "user", "content": "x"}]}, "row 2: chosen: the last message is the user's"),
        (["not", "a", "row"], "row 2"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_pairs(written(tmp_path, ROW, row))


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "Q"')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for path, words in (
        (broken, "row 1: not JSON"),
        (empty, "holds no preference pairs"),
        (tmp_path / "none.jsonl", "does not exist"),
        (Path(__file__), "are .jsonl or .parquet"),
    ):
        with pytest.raises(DataError, match=words):
            read_pairs(path)


def test_sha256_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
