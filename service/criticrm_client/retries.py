"""When a request is sent again, to which server, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


@dataclass(frozen=True, slots=True)
class Retries:
    """5xx and broken connections are tried again; a 4xx never: the same request would get the same answer.

    Attributes:
        attempts: in all, the first one included.
        first_wait_s: doubles with every attempt, less up to half of it at random so that callers don't come back
            together.
        longest_wait_s: also where a server's `Retry-After` asks for more.
    """

    attempts: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: {self.attempts} is below 1")

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Before the attempt after this one, which is counted from 1."""
        doubled = self.first_wait_s * 2.0 ** min(attempt - 1, 30)
        wait = doubled * random.uniform(0.5, 1)
        return min(max(wait, retry_after_s or 0.0), self.longest_wait_s)


DEFAULT_RETRIES = Retries()


def retry_after_s(answer: httpx.Response) -> float | None:
    """What `Retry-After` asks for, in seconds; RFC 9110 allows a number or a date."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


@dataclass(slots=True, eq=False)
class Server:
    """`away_until` on the monotonic clock: not asked before, unless all are away."""

    url: str
    in_flight: int = 0
    failures: int = 0
    away_until: float = 0.0


class Servers:
    """Several servers of one checkpoint: the least busy is asked; one that failed is set aside and tried again."""

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("a client needs at least one URL")
        self._servers = [Server(url.rstrip("/")) for url in dict.fromkeys(urls)]
        self._turn = 0

    def choose(self) -> Server:
        """Least in flight, in turn where several are."""
        now = time.monotonic()
        back = [server for server in self._servers if server.away_until <= now]
        able = [server for server in back if self._is_able(server, now)] or back or self._servers
        self._turn += 1
        start = self._turn % len(able)
        return min(able[start:] + able[:start], key=lambda server: server.in_flight)

    def worked(self, server: Server) -> None:
        server.failures, server.away_until = 0, 0.0

    def failed(self, server: Server, wait_s: float) -> bool:
        """Set it aside; True if another can be asked at once."""
        now = time.monotonic()
        server.failures += 1
        server.away_until = max(server.away_until, now + wait_s)
        return any(other.away_until <= now for other in self._servers if other is not server)

    @staticmethod
    def _is_able(server: Server, now: float) -> bool:
        """One that failed gets one request at a time until it works again."""
        return server.away_until <= now and not (server.failures and server.in_flight)
