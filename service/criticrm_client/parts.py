"""The finished parts of a file that is being scored, each under the digest of its rows and of what scored them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import to_json

from .errors import FileError
from .tables import Line, Row

if sys.platform != "win32":
    import fcntl

_ROWS = 128  # what a kill can cost, besides what is in flight
_FORMATS = (".jsonl", ".ndjson", ".parquet")


@dataclass(slots=True, eq=False)
class Part:
    """Some rows that follow each other.

    Attributes:
        answers: by row, `{"added": ...}` or `{"error": ...}`, None while it is not known.
        is_stored: they lie in the output's own folder.
    """

    number: int
    digest: str
    answers: list[Row | None]
    is_stored: bool = False

    @property
    def is_whole(self) -> bool:
        return all(answer is not None for answer in self.answers)


class Parts:
    """The parts of one output, in the folder `OUT.parts`.

    Args:
        run: everything but the rows that the scores depend on.
    """

    def __init__(self, out: Path, run: Row) -> None:
        self.folder = beside(out, "parts")
        # What was done for another format of the same output is as good.
        others = [beside(out.with_suffix(suffix), "parts") for suffix in _FORMATS]
        self._folders = list(dict.fromkeys([self.folder, *others]))
        self._run = json.dumps(run, sort_keys=True).encode()

    def digest(self, lines: Iterator[Line]) -> str:
        """A digest of all rows and of what their scores depend on."""
        digests = (self._digest(some) for some in _in_parts(lines))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def of(self, lines: Iterator[Line]) -> Iterator[tuple[list[Line], Part]]:
        """Each part's rows, and what is known of them."""
        for number, some in enumerate(_in_parts(lines)):
            digest = self._digest(some)
            part = Part(number, digest, [None] * len(some))
            for folder in self._folders:
                if answers := self._read(folder, number, digest, len(some)):
                    part.answers, part.is_stored = answers, folder is self.folder
                    break
            yield some, part

    def write(self, part: Part) -> None:
        """Raises OSError."""
        body = b"".join(to_json(answer) + b"\n" for answer in part.answers)
        with replacing(_path(self.folder, part.number)) as path:
            path.write_bytes(_header(part.digest, body) + body)

    @contextmanager
    def locked(self, out: Path) -> Iterator[None]:
        """The folder, for this run alone. The lock goes with the process, however that ends; Windows has none such.

        Raises:
            FileError: another run holds it.
        """
        self.folder.mkdir(exist_ok=True)
        if sys.platform == "win32":
            yield
            return
        held = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.folder.is_dir() or not os.path.samestat(os.fstat(held), self.folder.stat()):
                raise BlockingIOError  # the other run has ended since, and removed it
        except BlockingIOError as error:
            os.close(held)
            raise FileError(f"another run is writing {out}: let it end, or choose another output") from error
        try:
            yield
        finally:
            with suppress(OSError):
                self.folder.rmdir()  # if nothing was done
            os.close(held)

    def _digest(self, lines: Sequence[Line]) -> str:
        digest = hashlib.sha256(self._run)
        for line in lines:
            digest.update(b"\n" + line.content)
        return digest.hexdigest()

    @staticmethod
    def _read(folder: Path, number: int, digest: str, rows: int) -> list[Row | None] | None:
        """None if there is no such part, or not every byte of it is as it was written."""
        try:
            header, newline, body = _path(folder, number).read_bytes().partition(b"\n")
        except OSError:
            return None
        if header + newline != _header(digest, body) or body.count(b"\n") != rows:
            return None
        return [json.loads(line) for line in body.splitlines()]


def beside(out: Path, name: str) -> Path:
    """`OUT.name`."""
    return out.with_name(f"{out.name}.{name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is there at the end takes its place, so that a killed run leaves no half file.

    Raises:
        OSError
    """
    unfinished = beside(path, "partial")
    try:
        yield unfinished
        _sync(unfinished)  # else a power cut can leave the new name with no content
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if sys.platform != "win32":
        _sync(path.parent)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _header(digest: str, body: bytes) -> bytes:
    return to_json({"digest": digest, "sha256": hashlib.sha256(body).hexdigest()}) + b"\n"


def _path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:08}.jsonl"


def _in_parts(lines: Iterator[Line]) -> Iterator[list[Line]]:
    part: list[Line] = []
    for line in lines:
        part.append(line)
        if len(part) == _ROWS:
            yield part
            part = []
    if part:
        yield part
