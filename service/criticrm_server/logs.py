"""One log format for everything in the process: JSON for machines, text for people."""

from __future__ import annotations

import logging
import re
import sys
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


def configure_logging(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Send all logs to standard error. `auto` is text on a terminal, else JSON."""
    if style == "auto":
        style = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler()
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                reserved_attrs=[*RESERVED_ATTRS, "vllm_process_name"],  # which vLLM puts on every record
            )
        )
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "urllib3", "filelock", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


class TextFormatter(logging.Formatter):
    """A line a record, with what finds a request again at its end; further lines (a traceback's, say) are indented.

    What callers send can neither begin a line of its own nor control a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        first, *others = super().format(record).split("\n")
        found = [f"{name}={value}" for name in ("code", "request_id", "trace_id") if (value := vars(record).get(name))]
        lines = [" ".join([first, *found]), *(line if line.startswith("    ") else f"    {line}" for line in others)]
        return "\n".join(map(printable, lines))


# Control characters, and those that reorder a line or break it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with its control characters as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
