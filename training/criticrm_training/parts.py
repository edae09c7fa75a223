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
    stream_in_parts(folder, run, chunks, lambda missing: map(work, missing), schema, label, unit)


def stream_in_parts(
    folder: Path,
    run: dict[str, Any],
    chunks: Sequence[Sequence[T]],
    work: Callable[[Sequence[Sequence[T]]], Iterator[list[dict[str, Any]]]],
    schema: pa.Schema,
    label: str,
    unit: str = "pair",
) -> None:
    """As `write_in_parts`, of work that may begin a chunk before the one before it has ended.

    So an engine or a service is never idle between parts.

    Args:
        work: is given the chunks whose parts are not there yet, and gives the rows of each, in order; those of a chunk
            must not depend on the others. If it is a generator, it is closed whatever happens.

    Raises:
        PartsError: `folder` holds parts of a run with other settings or inputs.
        ValueError: `work` gives more or fewer lists of rows than it was given chunks.
    """
    same_run(folder, run)
    paths = [folder / f"part-{number:06}.parquet" for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]

    def produced() -> Generator[list[dict[str, Any]], None, None]:
        yield from work([chunks[number] for number in missing])

    total = sum(map(len, chunks))
    with tqdm(total=total, desc=label, unit=unit, smoothing=0.05) as progress, closing(produced()) as parts:
        progress.update(total - sum(len(chunks[number]) for number in missing))
        for number, rows in zip(missing, parts, strict=True):
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
