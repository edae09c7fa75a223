"""Long work in parts: each part is a Parquet file that is there or not, so a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from criticrm_model import CriticRMError
from criticrm_model.files import whole, write_json

_RUN = "run.json"

T = TypeVar("T")


class PartsError(CriticRMError):
    """A folder holds another run, or none that has ended."""


def write_in_parts(
    folder: Path,
    run: dict[str, Any],
    chunks: Sequence[Sequence[T]],
    work: Callable[[Sequence[T]], list[dict[str, Any]]],
    schema: pa.Schema,
    label: str,
    unit: str = "pair",
) -> None:
    """Write `work(chunk)` for each chunk as a part in `folder`; parts that are there already are not made again.

    Args:
        run: everything the rows depend on. A folder holds parts of one run only.
        work: must give the same rows for the same chunk, whatever was done before.
        label: of the progress bar, which counts the elements of the chunks.
        unit: what it calls them.

    Raises:
        PartsError: `folder` holds parts of a run with other settings or inputs.
    """
    write_stream_in_parts(folder, run, chunks, lambda missing: (work(chunk) for chunk in missing), schema, label, unit)


def write_stream_in_parts(
    folder: Path,
    run: dict[str, Any],
    chunks: Sequence[Sequence[T]],
    stream: Callable[[Iterator[Sequence[T]]], Generator[list[dict[str, Any]], None, None]],
    schema: pa.Schema,
    label: str,
    unit: str = "pair",
) -> None:
    """As `write_in_parts`, for work that begins on the next chunks before it ends this one, so that an engine or a
    service is never idle between parts.

    Args:
        stream: takes the chunks whose parts are missing, from an iterator that it may read as far ahead as it likes,
            and yields the rows of each, in order. The rows of a chunk must not depend on the others.

    Raises:
        PartsError: `folder` holds parts of a run with other settings or inputs.
        ValueError: `stream` yields more or fewer lists of rows than it was given chunks.
    """
    same_run(folder, run)
    paths = [folder / f"part-{number:06}.parquet" for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    total = sum(map(len, chunks))
    with tqdm(total=total, desc=label, unit=unit, smoothing=0.05) as progress:
        progress.update(total - sum(len(chunks[number]) for number in missing))
        with closing(stream(chunks[number] for number in missing)) as produced:
            for number, rows in zip(missing, produced, strict=True):
                with whole(paths[number]) as unfinished:
                    pq.write_table(pa.Table.from_pylist(rows, schema=schema), unfinished)
                progress.update(len(chunks[number]))
    write_json(folder / _RUN, run | {"parts": len(chunks)})


def read_parts(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run that has ended, in order.

    Raises:
        PartsError: there is no run, or it has not ended.
    """
    parts = read_run(folder).get("parts")
    if parts is None:
        raise PartsError(f"{folder} holds a run that has not ended; start it again and it goes on where it stopped")
    return [row for number in range(parts) for row in pq.read_table(folder / f"part-{number:06}.parquet").to_pylist()]


def read_run(folder: Path) -> dict[str, Any]:
    """What the run in `folder` was made of. Raises PartsError."""
    if not (folder / _RUN).is_file():
        raise PartsError(f"{folder} holds no run")
    run: dict[str, Any] = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    return run


def run_digest(folder: Path) -> str:
    """Changes with the run in `folder`: what a later step depends on. Raises PartsError."""
    if not (folder / _RUN).is_file():
        raise PartsError(f"{folder} holds no run")
    return hashlib.sha256((folder / _RUN).read_bytes()).hexdigest()


def in_chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Neighbours together, `size` at a time."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def same_run(folder: Path, run: dict[str, Any]) -> None:
    """Claim `folder` for a run, or find that it is this run's already.

    Raises:
        PartsError: it is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _RUN
    if not path.is_file():
        write_json(path, run)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    there.pop("parts", None)
    # As JSON gives it back: tuples are lists.
    if differing := sorted(k for k in there | run if there.get(k) != json.loads(json.dumps(run)).get(k)):
        raise PartsError(
            f"{folder} holds a run with another {', '.join(differing)}; choose another folder, or remove this one"
        )
