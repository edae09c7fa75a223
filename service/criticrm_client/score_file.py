"""Score each row of a file: streaming, with what fails beside it, going on where it was killed.

The rows are taken in parts. A finished part lies in `OUT.parts` under the digest of its rows, the options and the
checkpoint's version; a later run takes over what has the same digest, also for another format of the output, and
scores the rest. In the end the parts become `OUT`, in the order of the input, what failed becomes
`OUT.failed.jsonl`, and `OUT.run.json` tells a later run that there is nothing to do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Unpack

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from .arguments import ItemLike, Options
from .columns import Columns
from .errors import APIStatusError, FileError, ResultError
from .outcomes import ItemScores
from .outputs import output_schema, rows_to
from .parts import Part, Parts, beside, replacing
from .progress import progress_bar
from .schemas import Item, ModelInfo
from .tables import Line, Row, Source, check_target, open_source

_RUN, _FAILED = "run.json", "failed.jsonl"


class _Client(Protocol):
    """What a file needs of `AsyncCriticRM`, whose module imports this one."""

    async def model_info(self) -> ModelInfo: ...

    def score_stream(
        self, items: Iterable[ItemLike], *, concurrency: int, pack: int, **options: Unpack[Options]
    ) -> AsyncIterator[ItemScores]: ...


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


async def score_file(
    client: _Client,
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
        FileError: a file can't be read or written, `out` can't hold the rows or would replace `source`, a column is
            missing, or another run writes `out`.
        APIError: the service refuses the job, has gone, or serves another checkpoint now (CheckpointChangedError);
            what is done is kept for the next run.
    """
    with _system_errors(out):
        check_target(out)
        table = open_source(source)
        _check_apart(source, out)
        layout = _layout(source, table, columns, ())
        info = await client.model_info()
        version = info.model_version
        if info.reward_names:
            _layout(source, table, columns, info.reward_names)
        given = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in options.items()}
        parts = Parts(out, {"format": 1, "columns": asdict(layout), "options": given, "model_version": version})
        digest = parts.digest(table.lines())
        if done := _done(out, digest):
            return done
        began = time.monotonic()
        example = layout.example(info.reward_names)
        job = _Job(table, layout, parts, set(example))
        with parts.locked(out):
            schema = output_schema(out, table, job.valid_lines, example)
            with progress_bar(table.count, "row", progress) as bar:
                stream = client.score_stream(job.items(bar.update), concurrency=concurrency, pack=pack, **options)
                async for scores in stream:
                    job.answered(scores)
                    bar.update()
                job.close()
            return _merged(job, schema, digest, out, time.monotonic() - began)


class _Job:
    """The rows that are still to do, and the parts they belong to."""

    def __init__(self, source: Source, columns: Columns, parts: Parts, new: set[str]) -> None:
        self.source, self.columns, self.parts = source, columns, parts
        self._asked: deque[tuple[Part, int]] = deque()
        self._open: dict[int, Part] = {}
        self._new = new
        self.taken_over = 0

    def valid_lines(self) -> Iterator[Line]:
        """The lines that hold something to score."""
        for line in self.source.lines():
            try:
                self._item(line)
            except ValueError:
                continue  # `items` says why
            yield line

    def items(self, taken_over: Any) -> Iterator[Item]:
        """What is to be sent, in the order in which `answered` gets it back."""
        for lines, part in self.parts.of(self.source.lines()):
            part.answers = [answer if answer and "added" in answer else None for answer in part.answers]
            done = sum(answer is not None for answer in part.answers)
            self.taken_over += done
            taken_over(done)
            if part.is_whole and part.is_stored:
                continue
            self._open[part.number] = part
            for index, line in enumerate(lines):
                if part.answers[index] is not None:
                    continue
                try:
                    item = self._item(line)
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

    def _item(self, line: Line) -> Item:
        if line.row is None:
            raise ValueError(line.fault)
        if taken := self._new & line.row.keys():
            raise ValueError(f"{min(taken)}: there already, unlike in the first row")
        return self.columns.item(line.row)

    def _write_if_whole(self, part: Part) -> None:
        if part.is_whole and part.number in self._open:
            del self._open[part.number]
            self.parts.write(part)


def _merged(job: _Job, schema: Any, digest: str, out: Path, seconds: float) -> FileSummary:
    """`out` and what failed, from the parts; these are removed unless something failed."""
    failed_path = beside(out, _FAILED)
    failures: Counter[str] = Counter()
    rows = scored = truncated = 0
    total = 0.0
    name = job.columns.prefix + "score"
    with (
        replacing(failed_path) as failed_partial,
        failed_partial.open("wb") as failed,
        replacing(out) as out_partial,
        rows_to(out_partial, schema) as write,
    ):
        for lines, part in job.parts.of(job.source.lines()):
            good: list[tuple[Line, Row]] = []
            for line, answer in zip(lines, part.answers, strict=True):
                rows += 1
                if answer is None:
                    raise FileError(f"{job.parts.folder} or the input changed while the rows were written; start again")
                if "error" in answer:
                    failures[answer["error"]["code"]] += 1
                    failed.write(_failed_line(line, answer))
                    continue
                added = answer["added"]
                good.append((line, added))
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
        with replacing(beside(out, _RUN)) as path:
            path.write_bytes(to_json({"digest": digest, **asdict(summary)}, indent=2) + b"\n")
        shutil.rmtree(job.parts.folder)
    return summary


def _layout(source: Path, table: Source, columns: Columns, rewards: Sequence[str]) -> Columns:
    """Which columns are read and added.

    Args:
        rewards: names, of a model with several.

    Raises:
        FileError
    """
    first, fault = None, ""
    for line in table.lines():
        first = line.row
        if first is not None:
            break
        fault = fault or f"; the first line is none: {line.fault}"
    if first is None:
        raise FileError(f"{source}: no rows{fault}")
    layout = columns.found_in(first)
    if taken := sorted(set(first) & set(layout.example(rewards))):
        raise FileError(f"{source} has columns {', '.join(taken)} already; choose a prefix for the new ones")
    return layout


def _check_apart(source: Path, out: Path) -> None:
    """That no file which a run writes is its input, by whatever name. Raises FileError."""
    written = [out, *(beside(out, name) for name in (_FAILED, _RUN))]
    for path in (*written, *(beside(path, "partial") for path in written)):
        if path.exists() and path.samefile(source):
            raise FileError(f"{source} is the input, and {path} would be written over it: choose another output")
    if beside(out, "parts").resolve() in source.resolve().parents:
        raise FileError(f"{source} lies in the folder for parts of {out}: choose another output")


def _done(out: Path, digest: str) -> FileSummary | None:
    """The summary of an earlier run over the same rows that succeeded, if there was one."""
    try:
        run = from_json(beside(out, _RUN).read_bytes())
        if run.pop("digest") != digest or not out.is_file():
            return None
        return FileSummary(**run | {"out": out, "taken_over": run["rows"], "seconds": 0.0, "failures": Counter()})
    except (FileNotFoundError, ValueError, TypeError, AttributeError, KeyError):  # none, or a damaged one
        return None


def _failed_line(line: Line, answer: Row) -> bytes:
    given = line.row if line.row is not None else line.content.decode("utf-8", "replace")
    return to_json({"row": line.number, **answer, "input": given}, bytes_mode="base64") + b"\n"


def _failure(code: str, message: str, request_id: str | None = None) -> Row:
    return {"error": {"code": code, "message": message, "request_id": request_id}}


@contextmanager
def _system_errors(out: Path) -> Iterator[None]:
    """A full disk, a folder without permission: as FileError."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(out)
        raise FileError(f"{where}: {error.strerror or error}; what is done is kept for the next run") from error
