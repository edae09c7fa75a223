"""Rows of a local file or of a Hugging Face dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from criticrm_model import CriticRMError

T = TypeVar("T")


class DataError(CriticRMError):
    """Preference data can't be read; the message names the source, row and field."""


def rows(source: Path | str) -> Iterator[tuple[int, Any]]:
    """Each row with its number from 1, which in a text file is its line's.

    Args:
        source: a `.jsonl`, `.json` (rows in lines, or in one list) or `.parquet` file; or what
            `datasets.load_dataset` takes: a folder of data files, or `owner/name`, with `:subset` and `@split` after
            it where the first and `train` won't do.

    Raises:
        DataError: there is no such source, or it is broken.
    """
    path = Path(source)
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix in {".jsonl", ".json"}:
        return _json(path)
    if path.is_file():
        raise DataError(f"{path}: preference files are .jsonl or .parquet")
    return _dataset(str(source))


def parsed(source: Path | str, parse: Callable[[int, Any], T]) -> Iterator[tuple[int, T]]:
    """Each row's number, and what `parse` makes of that number and the row.

    Raises:
        DataError: there is no such source, it is broken, or `parse` raised KeyError, TypeError or ValueError.
    """
    for number, row in rows(source):
        try:
            yield number, parse(number, row)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{source}, row {number}: {reason}") from error


def source_name(source: Path | str) -> str:
    """As a manifest names it: a file without its folder, a dataset in full."""
    return Path(source).name if Path(source).exists() else str(source)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet

    _must_exist(path)
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no parquet that can be read beyond row {number} ({error})") from error


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    _must_exist(path)
    with path.open("rb") as file:
        a_list = path.suffix == ".json" and file.read(1) == b"["
    return _json_list(path) if a_list else _json_lines(path)


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(json.loads(path.read_bytes()), start=1)
    except ValueError as error:
        raise DataError(f"{path}: not JSON in UTF-8 ({error})") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:  # decoded line by line: a text file would not say which one is bad
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode())
                except ValueError as error:
                    raise DataError(f"{path}, row {number}: not JSON in UTF-8 ({error})") from error


def _dataset(source: str) -> Iterator[tuple[int, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name, _, split = source.partition("@")
    name, _, subset = name.partition(":")
    try:
        dataset = load_dataset(name, subset or None, split=split or "train")
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{source} is no file and no dataset that can be loaded; a dataset is a folder of data files or "
            f"owner/name[:subset][@split]. {reason}"
        ) from error
    yield from enumerate(dataset, start=1)


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist")
