"""Processes that a command starts (vLLM's engine, a server) end with it: they hold a device's memory, or its files."""

from __future__ import annotations

import ctypes
import signal
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)
_libc = ctypes.CDLL(None)  # loaded here: little is safe between fork and exec


def exit_on_sigterm() -> None:
    """Called by a command, in its main thread: an exit runs what ends its children; a death by the signal does not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def end_with_parent() -> None:
    """Called in a child: it gets SIGTERM when its parent dies, of SIGKILL too. Linux alone can do that."""
    if sys.platform == "linux":
        _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
