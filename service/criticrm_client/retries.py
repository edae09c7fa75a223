"""When a request is sent again, to which server, and how long to wait before."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from .addresses import parse_url

# A request that brings servers down must not get to all of them (docs/adr/0009).
MOST_SERVERS = 3


@dataclass(frozen=True, slots=True)
class Retries:
    """Broken connections, 5xx, 408, 409 and 429 are tried again; no other answer: it would be the same once more.

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
        for name in ("first_wait_s", "longest_wait_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is no time in seconds")

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
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(slots=True, eq=False)
class Server:
    """`away_until`, on the monotonic clock: no request is sent before, unless all servers are away."""

    url: str
    auth: httpx.BasicAuth | None = None
    in_flight: int = 0
    failures: int = 0
    away_until: float = 0.0


class Servers:
    """Several servers of one checkpoint. A request goes to the least busy; one that failed is avoided for a while.

    Raises:
        ValueError: no URL, or one that is no server's.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("a client needs at least one URL")
        self.all = [Server(*parsed) for parsed in dict(map(parse_url, urls)).items()]
        self._turn = 0

    def choose(self, among: Sequence[Server] = ()) -> Server:
        """Least in flight, in turn where several are. Where some are given, one of these."""
        now = time.monotonic()
        servers = list(among) or self.all
        back = [server for server in servers if server.away_until <= now]
        able = [server for server in back if self._is_able(server, now)] or back or servers
        self._turn += 1
        start = self._turn % len(able)
        return min(able[start:] + able[:start], key=lambda server: server.in_flight)

    def worked(self, server: Server) -> None:
        server.failures, server.away_until = 0, 0.0

    def failed(self, server: Server, wait_s: float, among: Sequence[Server] = ()) -> bool:
        """Set it aside; True if another, where some are given of these, can be asked at once."""
        now = time.monotonic()
        server.failures += 1
        server.away_until = max(server.away_until, now + wait_s)
        return any(other.away_until <= now for other in among or self.all if other is not server)

    @staticmethod
    def _is_able(server: Server, now: float) -> bool:
        """One that failed gets one request at a time until it works again."""
        return server.away_until <= now and not (server.failures and server.in_flight)
