"""A log line for each request that is sent again, in the logger `criticrm_client`."""

from __future__ import annotations

import logging
import time

from .errors import APIError, APIStatusError

logger = logging.getLogger("criticrm_client")
_WARN_EVERY_S = 600.0


class RetryLog:
    """Warns once in ten minutes of each kind of failure of a server; its other retries are logged as INFO.

    A line holds the server's URL without user and password, the kind of failure, the attempt and the request's id; no
    key, no text of a request, and nothing that the server wrote but its error code.
    """

    def __init__(self) -> None:
        self._warned: dict[tuple[str, str, int | None], float] = {}

    def retrying(self, url: str, error: APIError, attempt: int, attempts: int, wait_s: float, request_id: str) -> None:
        """Log that `attempt` of `attempts` failed, and in how many seconds the next one follows."""
        kind = (url, type(error).__name__, error.status_code)
        now = time.monotonic()
        is_new = now - self._warned.get(kind, -_WARN_EVERY_S) >= _WARN_EVERY_S
        if is_new:
            self._warned[kind] = now
        logger.log(
            logging.WARNING if is_new else logging.INFO,
            "%s: %s in attempt %d of %d; the next one follows in %.1f s [request %s]",
            url,
            _describe(error),
            attempt,
            attempts,
            wait_s,
            request_id,
        )


def _describe(error: APIError) -> str:
    if isinstance(error, APIStatusError):
        code = error.code if error.code.isidentifier() and len(error.code) <= 64 else ""
        return f"status {error.status_code} {code}".strip()
    return type(error.__cause__ or error).__name__
