"""Work that is done is kept: over damaged parts, another output format, and outputs that would replace the input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from criticrm_client import Columns, FileError
from criticrm_client.parts import Parts
from criticrm_client.tables import Line
from support.null_server import NullServer, score_of
from support.scored_files import read, rows, score, write

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[NullServer]:
    with NullServer() as running:
        yield running


def begun(server: NullServer, tmp_path: Path, out: str) -> Path:
    """A file of 300 rows, scored but for its last one."""
    source = write(tmp_path / "in.jsonl", [*rows(300), {"id": 300, "prompt": "Why?", "response": None}])
    assert score(server, source, tmp_path / out).failed == 1
    server.rows.clear()
    return source


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut after a line": lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
    "one line": lambda content: content.splitlines()[0],
    "zeros": lambda content: bytes(len(content)),
    "not text": lambda content: b"\xff" + content[1:],
    "another score": lambda content: content.replace(b'"score":0.', b'"score":1.', 1),
    "a list": lambda _: b"[]\n[]\n",
    "more": lambda content: content + content.splitlines(keepends=True)[-1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_part_is_scored_again(server: NullServer, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    source, out = begun(server, tmp_path, "out.jsonl"), tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.parts" / "part-00000001.jsonl"
    part.write_bytes(damage(part.read_bytes()))
    write(source, rows(300))
    score(server, source, out)
    assert set(server.rows) == {f"Because {i}." for i in range(128, 300)}  # the last part has changed
    assert [(row["id"], row["score"]) for row in read(out)] == [(i, score_of(f"Because {i}.")) for i in range(300)]


def test_a_part_is_read_only_as_it_was_written(tmp_path: Path) -> None:
    """Whichever byte is another one."""
    out = tmp_path / "out.jsonl"
    parts = Parts(out, {})
    parts.folder.mkdir()
    [(_, part)] = parts.of(_lines(2))
    part.answers = [{"added": {"score": 0.5}}, {"error": {"code": "invalid_row"}}]
    parts.write(part)
    path = parts.folder / "part-00000000.jsonl"
    content = path.read_bytes()
    [(_, back)] = parts.of(_lines(2))
    assert back.answers == part.answers
    for place in range(len(content)):
        for changed in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
            path.write_bytes(changed)
            [(_, back)] = parts.of(_lines(2))
            assert back.answers == [None, None], (place, changed)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"digest": 1}', "\x00"])
def test_a_damaged_summary_is_made_again(server: NullServer, tmp_path: Path, content: str) -> None:
    source, out = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.jsonl"
    score(server, source, out)
    (tmp_path / "out.jsonl.run.json").write_text(content)
    assert score(server, source, out).scored == 3


def test_parts_serve_another_format(server: NullServer, tmp_path: Path) -> None:
    source = begun(server, tmp_path, "out.jsonl")
    write(source, rows(300))
    summary = score(server, source, tmp_path / "out.parquet")
    assert summary.taken_over == 256
    assert set(server.rows) == {f"Because {i}." for i in range(256, 300)}
    assert [row["score"] for row in read(tmp_path / "out.parquet")] == [score_of(f"Because {i}.") for i in range(300)]
    assert (tmp_path / "out.jsonl.parts").is_dir()  # of a run that may go on


def _lines(n: int) -> Iterator[Line]:
    return (Line(i, b"{}", {}) for i in range(n))


def same(_: Path, source: Path) -> Path:
    return source


def symbolic(link: Path, source: Path) -> Path:
    link.symlink_to(source)
    return link


def hard(link: Path, source: Path) -> Path:
    os.link(source, link)
    return link


def dotted(_: Path, source: Path) -> Path:
    return source.parent / "." / "x" / ".." / source.name


@pytest.mark.parametrize("spelt", [same, symbolic, hard, dotted])
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.failed.jsonl"])
def test_an_output_that_is_the_input(
    server: NullServer, tmp_path: Path, spelt: Callable[[Path, Path], Path], name: str
) -> None:
    (tmp_path / "x").mkdir()
    if name == "out.jsonl":
        source = write(tmp_path / "in.jsonl", rows(3))
        out = spelt(tmp_path / "out.jsonl", source)
    else:  # what failed, to be scored again
        out = tmp_path / "out.jsonl"
        source = spelt(tmp_path / "in.jsonl", write(tmp_path / name, rows(3)))
    content = source.read_bytes()
    with pytest.raises(FileError, match=r"is the input, and .* would be written over it"):
        score(server, source, out)
    assert source.read_bytes() == content
    assert not server.rows


def test_an_input_among_the_parts(server: NullServer, tmp_path: Path) -> None:
    begun(server, tmp_path, "out.jsonl")
    part = tmp_path / "out.jsonl.parts" / "part-00000000.jsonl"
    with pytest.raises(FileError, match="lies in the folder for parts"):
        score(server, part, tmp_path / "out.jsonl", columns=Columns("a", "b"))


def test_what_the_system_refuses_is_a_file_error(
    server: NullServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in.jsonl", rows(300))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileError, match="a folder"):
        score(server, source, tmp_path / "folder.jsonl")
    with pytest.raises(FileError, match="File name too long"):
        score(server, source, tmp_path / f"{'x' * 300}.jsonl")
    (tmp_path / "out.jsonl.parts").touch()
    with pytest.raises(FileError, match=r"out\.jsonl\.parts: File exists"):
        score(server, source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.parts").unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("criticrm_client.parts.os.replace", full)
        with pytest.raises(FileError, match="No space left on device"):
            score(server, source, tmp_path / "out.jsonl")
    assert not list(tmp_path.rglob("*.partial"))
    assert score(server, source, tmp_path / "out.jsonl").scored == 300


def test_files_are_on_the_disk_before_they_get_their_name(
    server: NullServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def check(source: Path, target: Path) -> None:
        assert str(source) in synced
        replace(source, target)

    monkeypatch.setattr("criticrm_client.parts.os.fsync", note)
    monkeypatch.setattr("criticrm_client.parts.os.replace", check)
    score(server, write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.jsonl")
    assert str(tmp_path / "out.jsonl.partial") in synced
    assert str(tmp_path) in synced
    json.loads((tmp_path / "out.jsonl.run.json").read_text())
