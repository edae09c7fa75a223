"""Rows and their scores as JSONL or Parquet. Whether the file can hold the rows is known before any is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from .errors import FileError
from .tables import Line, Row, Source, parquet_module

_BATCH = 256
Write = Callable[[Sequence[tuple[Line, Row]]], None]


def output_schema(out: Path, source: Source, lines: Callable[[], Iterator[Line]], added: Row) -> Any:
    """The schema of a Parquet `out`, with types that hold every row; None for JSONL.

    A column or a key that a row lacks is null in Parquet.

    Args:
        lines: a new iterator over the rows to be written, each time it is called.
        added: the columns that a row gets, as an example that has no empty list and no None.

    Raises:
        FileError: a row does not fit; names the row and the column.
    """
    if out.suffix != ".parquet":
        if source.schema is not None:
            for line in lines():
                _check_json(line)
        return None
    parquet = parquet_module()
    import pyarrow as pa

    new = list(pa.Table.from_pylist([added]).schema)
    schema = source.schema
    if schema is None:
        types: dict[str, Any] = {}
        for some in _batches(lines()):
            for name in dict.fromkeys(name for line in some for name in line.row or ()):
                types[name] = _wider(types.get(name, pa.null()), name, some)
        for some in _batches(lines()):
            for name, kind in types.items():
                _check_held(name, kind, some)
        schema = pa.schema(list(types.items()))
    for field in schema:
        try:
            parquet.ParquetWriter(pa.MockOutputStream(), pa.schema([field])).close()
        except pa.ArrowException as error:
            raise FileError(f"column {field.name!r}: {error}; write to a .jsonl file") from error
    for field in new:
        schema = schema.append(field)
    return schema


@contextmanager
def rows_to(path: Path, schema: Any) -> Iterator[Write]:
    """A function that writes rows, each with the columns that it got.

    Args:
        schema: as `output_schema` gives it.
    """
    if schema is None:
        with path.open("wb") as file:
            yield lambda rows: file.writelines(_json_line(line, added) for line, added in rows)
        return
    with parquet_module().ParquetWriter(path, schema) as writer:

        def write(rows: Sequence[tuple[Line, Row]]) -> None:
            if rows:
                writer.write_table(_table(rows, schema))

        yield write


def _json_line(line: Line, added: Row) -> bytes:
    """A line of JSON stays as it was, so that no number is rounded; the new fields go before its last brace."""
    if line.batch is None:
        return line.content[:-1] + b"," + to_json(added)[1:] + b"\n"
    return to_json({**(line.row or {}), **added}) + b"\n"


def _table(rows: Sequence[tuple[Line, Row]], schema: Any) -> Any:
    import pyarrow as pa

    if rows[0][0].batch is None:
        return pa.Table.from_pylist([{**(line.row or {}), **added} for line, added in rows], schema=schema)
    table = pa.Table.from_batches([line.batch for line, _ in rows])
    for field in list(schema)[table.num_columns :]:
        table = table.append_column(field, pa.array([added[field.name] for _, added in rows], field.type))
    return table.combine_chunks()


def _check_json(line: Line) -> None:
    row = line.row or {}
    try:
        to_json(row)
    except ValueError:
        for name, value in row.items():
            try:
                to_json(value)
            except ValueError as error:
                raise FileError(
                    f"row {line.number}, column {name!r}: JSON can't hold it ({error}); write to a .parquet file, or "
                    "leave the column out"
                ) from error
        raise


def _wider(known: Any, name: str, lines: Sequence[Line]) -> Any:
    """The Arrow type that holds the column in these rows and, as `known` does, in those before."""
    import pyarrow as pa

    try:
        return _unified(known, pa.array([_value(line, name) for line in lines]).type)
    except (pa.ArrowException, ValueError, OverflowError):
        for line in lines:
            try:
                known = _unified(known, pa.array([_value(line, name)]).type)
            except (pa.ArrowException, ValueError, OverflowError) as error:
                raise _misfit(line, name, str(error).strip()) from error
        return known


def _unified(*types: Any) -> Any:
    import pyarrow as pa

    schemas = [pa.schema([("this column", kind)]) for kind in types]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _check_held(name: str, kind: Any, lines: Sequence[Line]) -> None:
    """That the column says in this type what the rows say: pyarrow makes 1.0 of true, and drops keys in silence."""
    import pyarrow as pa

    try:
        kept = pa.array([_value(line, name) for line in lines], kind).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        kept = None
    for index, line in enumerate(lines):
        value = _value(line, name)
        try:
            [held] = pa.array([value], kind).to_pylist() if kept is None else [kept[index]]
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise _misfit(line, name, str(error)) from error
        if not _equal(value, held):
            raise _misfit(line, name, f"{value!r:.80} would become {held!r:.80}")


def _equal(given: Any, kept: Any) -> bool:
    """But for what is missing, which is None; and 1 may be 1.0."""
    if isinstance(given, dict):
        return (
            isinstance(kept, dict)
            and given.keys() <= kept.keys()
            and all(_equal(given.get(key), value) for key, value in kept.items())
        )
    if isinstance(given, list):
        return isinstance(kept, list) and len(given) == len(kept) and all(map(_equal, given, kept))
    if isinstance(given, float) and math.isnan(given):
        return isinstance(kept, float) and math.isnan(kept)
    return isinstance(given, bool) == isinstance(kept, bool) and bool(given == kept)


def _value(line: Line, name: str) -> Any:
    return (line.row or {}).get(name)


def _misfit(line: Line, name: str, why: str) -> FileError:
    return FileError(
        f"row {line.number}, column {name!r}: it does not fit one Parquet column with the other rows ({why}); write to "
        "a .jsonl file"
    )


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while some := list(islice(lines, _BATCH)):
        yield some
