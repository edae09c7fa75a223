"""A termination that leaves nothing running."""

from __future__ import annotations

import signal
import sys


def exit_on_sigterm() -> None:
    """An exit runs what ends a command's children (vLLM's engine, a server); a death by the signal would leave them.

    For the main thread of a command.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
