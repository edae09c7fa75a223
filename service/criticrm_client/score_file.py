"""Score each row of a file: streaming, with what fails beside it, going on where it was killed.

The rows are taken in parts. A finished part lies in `OUT.parts` under the digest of its rows, the options and the
checkpoint's version; a later run takes over what has the same digest, and scores the rest. In the end the parts
become `OUT`, in the order of the input, what failed becomes `OUT.failed.jsonl`, and `OUT.run.json` tells a later
run that there is nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from .columns import Columns
from .errors import APIStatusError, FileError, ResultError
from .progress import progress_bar
from .tables import Line, Row, Source, check_target, open_source, rows_to
from .types import Item, ItemScores, Options

if TYPE_CHECKING:
    from .async_client import AsyncCriticRM

if sys.platform != "win32":
    import fcntl

_PART_ROWS = 128  # what a kill can cost, besides what is in flight
_RUN = "run.json"


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What came of a file.

    Attributes:
        failed_rows: the file that names them and their reasons, None if there are none.
        taken_over: rows that an earlier run had scored.
        mean_score: over rows; of several responses a row, of the best ones. None if no row was scored.
        failures: how many rows by reason: the server's code, "invalid_row", or the exception's name.
    """

    out: Path
    failed_rows: Path | None
    rows: int
    scored: int
    truncated: int
    taken_over: int
    seconds: float
    mean_score: float | None
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.rows - self.scored


@dataclass(slots=True, eq=False)
class _Part:
    """`answers`: by row, `{"added": ...}` or `{"error": ...}`, None while it is not known."""

    number: int
    digest: str
    answers: list[Row | None]

    @property
    def head(self) -> Row:
        return {"digest": self.digest, "rows": len(self.answers)}

    @property
    def is_whole(self) -> bool:
        return all(answer is not None for answer in self.answers)


async def score_file(
    client: AsyncCriticRM,
    source: Path,
    out: Path,
    columns: Columns,
    *,
    concurrency: int,
    pack: int,
    progress: bool | None,
    **options: Unpack[Options],
) -> FileSummary:
    """Write the rows of `source` to `out` with their scores. Rows that failed before are tried again.

    Raises:
        FileError: a file can't be read or written, a column is missing, or another run writes `out`.
        APIError: the service refuses the job, has gone, or serves another checkpoint now (CheckpointChangedError);
            what is done is kept for the next run.
    """
    check_target(out)
    table = open_source(source)
    first = next((line.row for line in table.lines() if line.row is not None), None)
    if first is None:
        raise FileError(f"{source}: no rows")
    layout = columns.found_in(first)
    if taken := sorted(set(first) & set(layout.example())):
        raise FileError(f"{source} has columns {', '.join(taken)} already; choose a prefix for the new ones")
    version = (await client.model_info()).model_version
    given = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in options.items()}
    run = {"format": 1, "columns": asdict(layout), "options": given, "model_version": version}
    job = _Job(table, layout, run, _beside(out, "parts"))
    digest = job.digest()
    if done := _done(out, digest):
        return done
    began = time.monotonic()
    with _alone(job.folder, out):
        with progress_bar(table.count, "row", progress) as bar:
            stream = client.score_stream(job.items(bar.update), concurrency=concurrency, pack=pack, **options)
            async for scores in stream:
                job.answered(scores)
                bar.update()
            job.close()
        return _merged(job, digest, out, time.monotonic() - began)


class _Job:
    """The rows that are still to do, and the parts they belong to.

    Args:
        run: everything but the rows that the scores depend on.
    """

    def __init__(self, source: Source, columns: Columns, run: Row, folder: Path) -> None:
        self.source, self.columns, self.folder = source, columns, folder
        self._run = json.dumps(run, sort_keys=True).encode()
        self._asked: deque[tuple[_Part, int]] = deque()
        self._open: dict[int, _Part] = {}
        self._new = set(columns.example())
        self.taken_over = 0

    def parts(self, *, with_failures: bool) -> Iterator[tuple[list[Line], _Part]]:
        """Each part's rows, and what is known of them; `with_failures` also which of them could not be scored."""
        for number, lines in enumerate(_in_parts(self.source.lines())):
            part = _Part(number, self._digest(lines), [None] * len(lines))
            self._read(part, with_failures)
            yield lines, part

    def digest(self) -> str:
        """Of all rows and of what their scores depend on."""
        parts = (self._digest(lines) for lines in _in_parts(self.source.lines()))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def _digest(self, lines: list[Line]) -> str:
        digest = hashlib.sha256(self._run)
        for line in lines:
            digest.update(b"\n" + line.content)
        return digest.hexdigest()

    def items(self, taken_over: Any) -> Iterator[Item]:
        """What is to be sent, in the order in which `answered` gets it back."""
        for lines, part in self.parts(with_failures=False):
            done = sum(answer is not None for answer in part.answers)
            self.taken_over += done
            taken_over(done)
            if part.is_whole:
                continue
            self._open[part.number] = part
            for index, line in enumerate(lines):
                if part.answers[index] is not None:
                    continue
                try:
                    row = _row(line)
                    if taken := self._new & row.keys():
                        raise ValueError(f"{min(taken)}: there already, unlike in the first row")
                    item = self.columns.item(row)
                except ValueError as error:
                    part.answers[index] = _failure("invalid_row", str(error))
                    taken_over(1)
                    continue
                self._asked.append((part, index))
                yield item
            self._write_if_whole(part)

    def answered(self, scores: ItemScores) -> None:
        part, index = self._asked.popleft()
        failure = scores.failure
        if failure is None:
            part.answers[index] = {"added": self.columns.added(scores.results)}
        else:
            code = failure.code if isinstance(failure, ResultError | APIStatusError) else type(failure).__name__
            part.answers[index] = _failure(code, failure.message, failure.request_id)
        self._write_if_whole(part)

    def close(self) -> None:
        assert not self._open, "rows without an answer"

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:08}.jsonl"

    def _read(self, part: _Part, with_failures: bool) -> None:
        try:
            head, *lines = self._path(part.number).read_bytes().splitlines()
        except FileNotFoundError:
            return
        if json.loads(head) == part.head:
            answers = [json.loads(line) for line in lines]
            part.answers = [answer if with_failures or "added" in answer else None for answer in answers]

    def _write_if_whole(self, part: _Part) -> None:
        if not part.is_whole or part.number not in self._open:
            return
        del self._open[part.number]
        with _whole(self._path(part.number)) as path:
            path.write_bytes(b"".join(to_json(row) + b"\n" for row in (part.head, *part.answers)))


def _merged(job: _Job, digest: str, out: Path, seconds: float) -> FileSummary:
    """`out` and what failed, from the parts; these are removed unless something failed."""
    failed_path = _beside(out, "failed.jsonl")
    failures: Counter[str] = Counter()
    rows = scored = truncated = 0
    total = 0.0
    name = job.columns.prefix + "score"
    with (
        _whole(failed_path) as failed_partial,
        failed_partial.open("wb") as failed,
        _whole(out) as out_partial,
        rows_to(out_partial, job.source.schema, job.columns.example()) as write,
    ):
        for lines, part in job.parts(with_failures=True):
            good: list[Row] = []
            for line, answer in zip(lines, part.answers, strict=True):
                rows += 1
                if answer is None:
                    raise FileError(f"{job.folder} or the input changed while the rows were written; start again")
                if "error" in answer:
                    failures[answer["error"]["code"]] += 1
                    given = line.row if line.row is not None else line.content.decode("utf-8", "replace")
                    failed.write(to_json({"row": rows, **answer, "input": given}) + b"\n")
                    continue
                added = answer["added"]
                good.append({**_row(line), **added})
                truncated += "truncated" in added[job.columns.prefix + "status"]
                total += max(added[name]) if isinstance(added[name], list) else added[name]
                scored += 1
            write(good)
    summary = FileSummary(
        out=out,
        failed_rows=failed_path if failures else None,
        rows=rows,
        scored=scored,
        truncated=truncated,
        taken_over=job.taken_over,
        seconds=seconds,
        mean_score=total / scored if scored else None,
        failures=failures,
    )
    if not failures:
        failed_path.unlink()
        with _whole(_beside(out, _RUN)) as path:
            path.write_bytes(to_json({"digest": digest, **asdict(summary)}, indent=2) + b"\n")
        shutil.rmtree(job.folder)
    return summary


def _done(out: Path, digest: str) -> FileSummary | None:
    """Of an earlier run over the same rows that has ended well."""
    try:
        run = from_json(_beside(out, _RUN).read_bytes())
    except FileNotFoundError:
        return None
    if run.pop("digest") != digest or not out.is_file():
        return None
    return FileSummary(**run | {"out": out, "taken_over": run["rows"], "seconds": 0.0, "failures": Counter()})


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


def _in_parts(lines: Iterator[Line]) -> Iterator[list[Line]]:
    part: list[Line] = []
    for line in lines:
        part.append(line)
        if len(part) == _PART_ROWS:
            yield part
            part = []
    if part:
        yield part


def _row(line: Line) -> Row:
    if line.row is None:
        raise ValueError(line.fault)
    return line.row


def _failure(code: str, message: str, request_id: str | None = None) -> Row:
    return {"error": {"code": code, "message": message, "request_id": request_id}}


@contextmanager
def _alone(folder: Path, out: Path) -> Iterator[None]:
    """`folder`, for this run alone. The lock goes with the process, however that ends; Windows has none of the kind.

    Raises:
        FileError: another run holds it.
    """
    folder.mkdir(exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not folder.is_dir() or not os.path.samestat(os.fstat(held), folder.stat()):
            raise BlockingIOError  # the other run has ended since, and removed it
    except BlockingIOError as error:
        os.close(held)
        raise FileError(f"another run is writing {out}: let it end, or choose another output") from error
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # if nothing was done
        os.close(held)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is there at the end takes its place, so that a killed run leaves no half file."""
    unfinished = path.with_name(path.name + ".partial")
    yield unfinished
    os.replace(unfinished, path)
