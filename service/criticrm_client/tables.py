"""Rows of JSONL and Parquet files, a few at a time however large the file is."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from .errors import FileError

Row = dict[str, Any]
_BATCH = 256
_JSONL = (".jsonl", ".ndjson")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it was read.

    Attributes:
        number: from 1; empty lines are not counted.
        content: what the row's digest is taken of; of a JSONL file, the line itself.
        row: None where the line is no row; `fault` says why.
        batch: of a Parquet file, the row as Arrow has it.
    """

    number: int
    content: bytes
    row: Row | None
    fault: str | None = None
    batch: Any = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows. `schema` is Parquet's, None for JSONL."""

    lines: Callable[[], Iterator[Line]]
    count: int
    schema: Any


def open_source(path: Path) -> Source:
    """Raises FileError."""
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    if path.suffix in _JSONL:
        return Source(lambda: _jsonl_lines(path), sum(1 for _ in _contents(path)), None)
    if path.suffix == ".parquet":
        with _parquet_file(path) as file:
            names = file.schema_arrow.names
            if twice := {name for name in names if names.count(name) > 1}:
                raise FileError(f"{path}: two columns are named {min(twice)!r}")
            return Source(lambda: _parquet_lines(path), file.metadata.num_rows, file.schema_arrow)
    raise FileError(f"{path}: the name must end in .jsonl or .parquet")


def check_target(path: Path) -> None:
    """Before any work is done. Raises FileError."""
    if path.suffix == ".parquet":
        parquet_module()
    elif path.suffix not in _JSONL:
        raise FileError(f"{path}: the name must end in .jsonl or .parquet")
    if path.is_dir():
        raise FileError(f"{path}: a folder")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent}: no such folder")


def parquet_module() -> Any:
    """`pyarrow.parquet`. Raises FileError where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise FileError("Parquet files need pyarrow: pip install 'critic-rm[score]'") from error
    return pyarrow.parquet


def _contents(path: Path) -> Iterator[bytes]:
    """The lines that are not empty, without the byte order mark that some editors begin a file with."""
    with path.open("rb") as file:
        start = file.read(3)
        if start.startswith(_UTF_16):
            raise FileError(f"{path}: UTF-16; JSON lines are UTF-8")
        file.seek(3 if start == codecs.BOM_UTF8 else 0)
        for line in file:
            if content := line.strip():
                yield content


def _jsonl_lines(path: Path) -> Iterator[Line]:
    for number, content in enumerate(_contents(path), start=1):
        try:
            row = from_json(content)
        except ValueError as error:
            yield Line(number, content, None, f"not valid JSON: {error}")
            continue
        yield Line(number, content, row) if isinstance(row, dict) else Line(number, content, None, "not a JSON object")


def _parquet_lines(path: Path) -> Iterator[Line]:
    number = 0
    with _parquet_file(path) as file:
        batches = file.iter_batches(batch_size=_BATCH)
        while True:
            try:
                batch = next(batches, None)
                rows = batch.to_pylist() if batch is not None else []
            except Exception as error:  # pyarrow's errors have no common root but this
                raise FileError(f"{path}: can't be read after row {number}: {error}") from error
            if batch is None:
                return
            for index, row in enumerate(rows):
                number += 1
                yield Line(number, json.dumps(row, default=str).encode(), row, batch=batch.slice(index, 1))


def _parquet_file(path: Path) -> Any:
    try:
        return parquet_module().ParquetFile(path)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path}: {error}") from error
