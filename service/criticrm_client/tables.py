"""Rows of JSONL and Parquet files, a few at a time however large the file is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from .errors import FileError

Row = dict[str, Any]
_BATCH = 256
_JSONL = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it was read: `content` is what its digest is taken of, `fault` why there is no row."""

    content: bytes
    row: Row | None
    fault: str | None = None


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
        with path.open("rb") as file:
            count = sum(1 for line in file if line.strip())
        return Source(lambda: _jsonl_lines(path), count, None)
    if path.suffix == ".parquet":
        parquet = _parquet()
        try:
            meta = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow's errors have no common root but this
            raise FileError(f"{path}: {error}") from error
        return Source(lambda: _parquet_lines(path), meta.metadata.num_rows, meta.schema_arrow)
    raise FileError(f"{path}: the name must end in .jsonl or .parquet")


@contextmanager
def rows_to(path: Path, schema: Any, added: Row) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that writes rows to `path`.

    Args:
        schema: of the rows before anything was added to them, in Parquet's terms; None infers it from the first.
        added: by column, what was added, as an example that has no empty list and no None.

    Raises:
        FileError: a row does not fit the columns of the rows before.
    """
    if ".parquet" not in path.suffixes[-2:]:  # the name may end in ".partial"
        with path.open("wb") as file:

            def write_lines(rows: Sequence[Row]) -> None:
                file.writelines(to_json(row) + b"\n" for row in rows)

            yield write_lines
        return
    parquet = _parquet()
    import pyarrow as pa

    if schema is not None:
        for field in pa.Table.from_pylist([added]).schema:
            schema = schema.append(field)
    writer: Any = None

    def write_table(rows: Sequence[Row]) -> None:
        nonlocal writer
        if not rows:
            return
        try:
            if writer is None:
                # With the example as a last row, whose columns are never empty, and then without it.
                found = schema or pa.Table.from_pylist([*rows, {**rows[0], **added}]).schema
                writer = parquet.ParquetWriter(path, found)
            for row in rows:  # pyarrow would leave such columns out in silence
                if strange := row.keys() - set(writer.schema.names):
                    raise FileError(
                        f"only some rows have the column {min(strange)!r}, so they don't fit one Parquet table; write "
                        "to a .jsonl file"
                    )
            writer.write_table(pa.Table.from_pylist(list(rows), schema=writer.schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise FileError(f"the rows don't fit one Parquet table ({error}); write to a .jsonl file") from error

    try:
        yield write_table
        if writer is None:
            parquet.write_table(pa.Table.from_pylist([], schema=schema or pa.schema([])), path)
    finally:
        if writer is not None:
            writer.close()


def check_target(path: Path) -> None:
    """Before any work is done. Raises FileError."""
    if path.suffix == ".parquet":
        _parquet()
    elif path.suffix not in _JSONL:
        raise FileError(f"{path}: the name must end in .jsonl or .parquet")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent}: no such folder")


def _jsonl_lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for line in file:
            content = line.strip()
            if not content:
                continue
            try:
                row = from_json(content)
            except ValueError as error:
                yield Line(content, None, f"not valid JSON: {error}")
                continue
            yield Line(content, row) if isinstance(row, dict) else Line(content, None, "not a JSON object")


def _parquet_lines(path: Path) -> Iterator[Line]:
    with _parquet().ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                yield Line(json.dumps(row, default=str).encode(), row)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise FileError("Parquet files need pyarrow: pip install 'critic-rm[score]'") from error
    return pyarrow.parquet
