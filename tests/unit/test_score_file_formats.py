"""Every kind of row in every kind of file: what the output can't hold is refused before anything is scored."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from criticrm_client import FileError
from support.null_server import NullServer, score_of
from support.scored_files import read, rows, score, write

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[NullServer]:
    with NullServer() as running:
        yield running


def with_column(values: list[Any]) -> list[dict[str, Any]]:
    return [{**row, "w": value} for row, value in zip(rows(len(values)), values, strict=True)]


@pytest.mark.parametrize(
    "values",
    [
        [1] * 130 + [1.5],
        [1.5] * 300 + [2],
        [None] * 300 + ["text"],
        [[]] * 300 + [["text"]],
        [{"a": 1}] * 300 + [{"a": 1.5}],
        [{"a": None}] * 300 + [{"a": {"b": [True]}}],
        [float("inf"), 1],
    ],
    ids=["int, float", "float, int", "null, text", "empty list", "nested int, float", "nested null", "infinity"],
)
def test_types_hold_every_row(server: NullServer, tmp_path: Path, values: list[Any]) -> None:
    out = tmp_path / "out.parquet"
    score(server, write(tmp_path / "in.jsonl", with_column(values)), out)
    assert [row["w"] for row in read(out)] == values
    assert [row["score"] for row in read(out)] == [score_of(f"Because {i}.") for i in range(len(values))]


def test_a_key_that_a_row_lacks_is_null(server: NullServer, tmp_path: Path) -> None:
    values = [{"a": 1}] * 200 + [{"b": "x"}]
    score(server, write(tmp_path / "in.jsonl", with_column(values)), tmp_path / "out.parquet")
    assert [row["w"] for row in read(tmp_path / "out.parquet")] == [{"a": 1, "b": None}] * 200 + [{"a": None, "b": "x"}]


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([1] * 200 + ["text"], 201),
        ([1.5] * 3 + [True], 4),  # pyarrow alone writes 1.0
        ([True] * 200 + [1], 201),
        ([2**53 + 1] + [1] * 200 + [0.5], 1),  # no float is that number
        ([1, 2**63], 2),
        ([{"a": 1}] * 200 + [["a"]], 201),
        ([{"a": [1]}] * 200 + [{"a": ["x"]}], 201),
        ([[1.5], [True]], 2),
    ],
)
def test_rows_that_fit_no_column_are_named_before_any_is_scored(
    server: NullServer, tmp_path: Path, values: list[Any], row: int
) -> None:
    source = write(tmp_path / "in.jsonl", with_column(values))
    with pytest.raises(FileError, match=rf"^row {row}, column 'w': .*write to a \.jsonl file"):
        score(server, source, tmp_path / "out.parquet")
    assert not server.rows
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_objects_without_keys_have_no_column(server: NullServer, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", with_column([{}, {}]))
    with pytest.raises(FileError, match=r"column 'w'.*\.jsonl"):
        score(server, source, tmp_path / "out.parquet")
    assert not server.rows


def test_bytes_in_parquet_are_refused_for_json_before_any_row_is_scored(server: NullServer, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", with_column([b"text"] * 200 + [b"\xff\xd8"]))
    with pytest.raises(FileError, match=r"^row 201, column 'w': JSON can't hold it .*\.parquet"):
        score(server, source, tmp_path / "out.jsonl")
    assert not server.rows
    score(server, source, tmp_path / "out.parquet")
    assert read(tmp_path / "out.parquet")[200]["w"] == b"\xff\xd8"


ARROW = {
    "int8": pa.array([1, None], pa.int8()),
    "float32": pa.array([0.1, None], pa.float32()),
    "large_string": pa.array(["a", None], pa.large_string()),
    "binary": pa.array([b"\xff", None]),
    "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "ns": pa.array([1, 2], pa.timestamp("ns")),
    "zone": pa.array([1, 2], pa.timestamp("us", "UTC")),
    "date": pa.array([dt.date(2020, 1, 1), None]),
    "time": pa.array([dt.time(1), None]),
    "duration": pa.array([dt.timedelta(1), None]),
    "decimal": pa.array([decimal.Decimal("1.10"), None]),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
    "nested": pa.array([[{"a": {"b": [1]}}], None]),
    "null": pa.nulls(2),
}


def test_parquet_columns_stay_what_they_are(server: NullServer, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(2))
    for name, column in ARROW.items():
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "in.parquet")
    score(server, tmp_path / "in.parquet", tmp_path / "out.parquet")
    given, kept = pq.read_table(tmp_path / "in.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert kept.select(given.column_names).equals(given)


def test_parquet_columns_as_json(server: NullServer, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(2))
    for name, column in ARROW.items():
        if name not in ("binary", "ns"):
            table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "in.parquet")
    score(server, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    first = read(tmp_path / "out.jsonl")[0]
    assert (first["decimal"], first["date"], first["map"], first["fixed"]) == ("1.10", "2020-01-01", [["a", 1]], [1, 2])


def test_json_stays_as_it_was_written(server: NullServer, tmp_path: Path) -> None:
    line = '{ "prompt":"Why?","response":"So.", "exact": 0.10000000000000000000001, "large":123456789012345678901234 }'
    (tmp_path / "in.jsonl").write_text(line + "\n")
    score(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith(line[:-1] + ',"score":')
    assert read(tmp_path / "out.jsonl")[0]["score"] == score_of("So.")


def test_two_parquet_columns_of_one_name(server: NullServer, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(2))
    pq.write_table(table.append_column("id", pa.array([1, 2])), tmp_path / "in.parquet")
    with pytest.raises(FileError, match="two columns are named 'id'"):
        score(server, tmp_path / "in.parquet", tmp_path / "out.jsonl")


def test_a_parquet_file_that_is_damaged_in_its_middle(server: NullServer, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows(5000)), path, row_group_size=500, compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"in\.parquet: can't be read after row \d+"):
        score(server, path, tmp_path / "out.jsonl")
    assert not server.rows


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_no_row_was_scored(server: NullServer, tmp_path: Path, kind: str) -> None:
    bad = [{"prompt": "Why?", "response": None, "w": 1}, {"prompt": "Why?", "response": 3, "w": "x"}]
    out = tmp_path / f"out.{kind}"
    assert score(server, write(tmp_path / "in.jsonl", bad), out).failed == 2
    assert read(out) == []


def test_a_byte_order_mark(server: NullServer, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\ufeff" + "".join(json.dumps(row) + "\r\n" for row in rows(3)), encoding="utf-8")
    assert score(server, source, tmp_path / "out.jsonl").failed == 0
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [0, 1, 2]
    source.write_text(json.dumps(rows(1)[0]), encoding="utf-16")
    with pytest.raises(FileError, match="UTF-16; JSON lines are UTF-8"):
        score(server, source, tmp_path / "out.jsonl")
