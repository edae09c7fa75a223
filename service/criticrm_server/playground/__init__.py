"""The playground's built files, and how they are read. `make page` builds them from `service/playground`."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "licences.txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Attributes:
        digest: of its content, for the ETag.
    """

    content: bytes
    compressed: bytes
    digest: str
    media_type: str


@cache
def read_page_file(name: str) -> PageFile | None:
    """A file of the page, or None if the page has no file of this name."""
    if name not in _MEDIA_TYPES:
        return None
    content = (_FOLDER / name).read_bytes()
    return PageFile(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        digest=hashlib.sha256(content).hexdigest()[:16],
        media_type=_MEDIA_TYPES[name],
    )
