"""Progress where somebody watches: a bar on a terminal, if tqdm is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    def update(self, n: int = 1) -> object: ...


class _Silent:
    def update(self, n: int = 1) -> None:
        pass


@contextmanager
def progress_bar(total: int | None, unit: str, wanted: bool | None, done: int = 0) -> Iterator[Bar]:
    """A bar with rate and time left.

    Args:
        wanted: None for one where standard error is a terminal.
        done: of `total`, before this run.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Silent()
        return
    try:
        from tqdm import tqdm  # extra `score`: the base installation is httpx and pydantic
    except ModuleNotFoundError:
        if wanted:
            raise
        yield _Silent()
        return
    with tqdm(total=total, desc="score", unit=unit, initial=done, smoothing=0.05) as bar:
        yield bar
