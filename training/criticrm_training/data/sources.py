"""Rows of a local file or of a Hugging Face dataset."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from criticrm_model import CriticRMError

T = TypeVar("T")
_SURROGATE = re.compile("[\ud800-\udfff]")


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


def as_object(row: Any) -> dict[str, Any]:
    """The row, if it has fields. Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object with fields, not {type(row).__name__}")
    return row


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
        a_list = path.suffix == ".json" and file.read(64).removeprefix(BOM_UTF8).lstrip()[:1] == b"["
    return _json_list(path) if a_list else _json_lines(path)


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON in UTF-8 ({error})") from error
    for number, row in enumerate(found, start=1):
        must_be_unicode(row, path, number)
        yield number, row


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:  # decoded line by line: a text file would not say which one is bad
        for number, line in enumerate(file, start=1):
            if line.removeprefix(BOM_UTF8).strip():
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, row {number}: not JSON in UTF-8 ({error})") from error
                if b"\\u" in line:
                    must_be_unicode(row, path, number)
                yield number, row


def must_be_unicode(row: Any, source: Path | str, number: int) -> None:
    r"""JSON can spell half of a character (\ud83d without its second half), which no tokenizer and no file takes.

    Raises:
        DataError: naming the row and the field.
    """

    def search(value: Any, field: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                search(inner, f"{field}.{key}" if field else str(key))
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                search(inner, f"{field}[{i}]")
        elif isinstance(value, str) and (half := _SURROGATE.search(value)):
            raise DataError(
                f"{source}, row {number}: {field}: character {half.start() + 1} is {half[0]!r}, half of a surrogate "
                "pair: the text was cut inside a character"
            )

    search(row, "")


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
