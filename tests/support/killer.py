"""Kills a command at any point at which it changes a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree"}
_WRITING = os.O_WRONLY | os.O_RDWR

Inode = int
Seen = dict[Inode, tuple[int, int]]  # size, time of the last change


class Killed(BaseException):
    """Nothing but a test catches it: as near to SIGKILL as a process gets that goes on."""


class Killer:
    """Raises Killed at one point of what changes the files of `folder`; see `points`.

    Before every change that Python makes (its audit events) are two points: one in the middle of what was written
    since the last change, if anything was, also by libraries that are not Python; and one after that.

    Args:
        at: the point's number, from 0.
    """

    def __init__(self, folder: Path, at: int) -> None:
        self._folder = folder
        self._left = at
        self._seen, _ = self._look()

    def reach(self) -> None:
        now, files = self._look()
        written = [inode for inode in now if now[inode] != self._seen.get(inode) and now[inode][0]]
        self._seen = now
        if written:
            newest = max(written, key=lambda inode: now[inode][1])
            self._point(lambda: os.truncate(files[newest], now[newest][0] // 2))
        self._point(lambda: None)

    def _look(self) -> tuple[Seen, dict[Inode, Path]]:
        files = {path.stat().st_ino: path for path in self._folder.rglob("*") if path.is_file()}
        return {inode: (path.stat().st_size, path.stat().st_mtime_ns) for inode, path in files.items()}, files

    def _point(self, damage: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == -1:
            damage()
            raise Killed

    def concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event not in _CHANGES or (event == "open" and not arguments[2] & _WRITING):
            return False
        if isinstance(arguments[0], int) or not os.path.isabs(os.fsdecode(arguments[0])):
            return event in ("os.remove", "os.rmdir")  # by the handle of its folder: in a tree that is removed
        return self._folder in Path(os.fsdecode(arguments[0])).parents


_killer: Killer | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _killer is not None and _killer.concerns(event, arguments):
        _killer.reach()


_hooked = False


def killed(command: Callable[[Path], object], out: Path, at: int) -> bool:
    """Run `command(out)`, which is killed at its point number `at` of `out`'s folder; False if it had ended by then."""
    global _killer, _hooked
    if not _hooked:  # a hook is for ever
        sys.addaudithook(_audit)
        _hooked = True
    _killer = Killer(out.parent, at)
    try:
        command(out)
        _killer.reach()
    except Killed:
        return True
    finally:
        _killer = None
    return False
