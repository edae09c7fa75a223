"""How long a scoring request waited and ran: the headers `x-queue-time` and `x-inference-time`, in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


def record_queue_time(scope: Scope, seconds: float) -> None:
    """How long the request waited until its first sequence was admitted, or it was refused."""
    scope["queue_s"] = seconds


def record_inference_time(scope: Scope, seconds: float) -> None:
    """From the first admitted sequence to the last result: rendering, the engine, and waiting for further places."""
    scope["inference_s"] = seconds


def timing_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What was recorded of the request so far; a stream's headers are sent before its inference time is known."""
    names = {"queue_s": b"x-queue-time", "inference_s": b"x-inference-time"}
    return [(name, f"{1000 * scope[key]:.3f}".encode()) for key, name in names.items() if key in scope]
