"""Processes that a command starts, and that must not outlive it: they hold a device's memory, or write its files."""

from __future__ import annotations

import ctypes
import signal
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)
_libc = ctypes.CDLL(None)  # loaded here: little is safe between fork and exec


def end_with_parent() -> None:
    """Called in a child: it gets SIGTERM when its parent dies, of SIGKILL too. Linux alone can do that."""
    if sys.platform == "linux":
        _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
