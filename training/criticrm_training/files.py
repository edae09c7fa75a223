"""Files that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` write to a name beside `path`, and rename: what a kill leaves there the next run writes over."""
    unfinished = path.with_name(f"{path.name}.partial")
    write(unfinished)
    unfinished.replace(path)


def write_text(path: Path, text: str) -> None:
    """UTF-8."""
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Indented, for readers."""
    write_text(path, json.dumps(value, indent=2) + "\n")
