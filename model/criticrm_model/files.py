"""Files that are there whole or not at all, wherever the process that writes them is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name in the same folder to write to; what is there at the end of the context takes the place of `path`.

    The name is always the same one: what a killed run left under it, the next one writes over.
    """
    unfinished = path.with_name(path.name + ".partial")
    yield unfinished
    os.replace(unfinished, path)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value`, indented, whole."""
    write_text(path, json.dumps(value, indent=2) + "\n")
