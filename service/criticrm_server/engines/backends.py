"""Which server gets a job: all responses to one prompt go to one server, unless it has far more to do than others.

The cache of prefixes is each server's own, so a prompt is best prefilled by one of them. A group (one conversation)
ranks the servers by a hash, the same in every gateway that is given the same URLs (rendezvous hashing), and takes the
first whose load is near the average (consistent hashing with bounded loads, Mirrokni et al. 2018). While some of a
group's jobs are in work, more of it follow them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

_SHARE = 1.25  # of the average load that a server may have and still be given more
_TOGETHER = 16  # sequences above that which a group in work may add before it is split


@dataclass(eq=False, slots=True)
class Backend:
    """A vLLM server as this gateway sees it.

    Attributes:
        up: it passed the checks and has not failed since.
        trouble: why it is not up.
        sequences: of ours, in work.
        failures: jobs of ours that it did not finish.
        probe_now: set to have it checked now.
        attempts: the jobs in flight, cancelled if it stops answering.
    """

    url: str
    up: bool = False
    trouble: str = "not probed yet"
    sequences: int = 0
    failures: int = 0
    probe_now: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.url.partition("://")[2]

    def mark_unhealthy(self, trouble: str) -> None:
        self.up, self.trouble = False, trouble
        self.probe_now.set()

    def give_up(self) -> None:
        """End all that waits for it, as a time-out."""
        for attempt in self.attempts:
            attempt.reschedule(asyncio.get_running_loop().time())
        self.attempts.clear()


class Backends:
    """The servers, and which of them a group's jobs are at."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = [Backend(url) for url in urls]
        self._at: dict[int, tuple[Backend, int]] = {}  # by group: where its last job went, and its jobs in work

    def choose(self, group: int, tried: Collection[Backend] = ()) -> Backend | None:
        """The one to send a job of this group to; None if none is up that was not tried."""
        servers = [server for server in self.all if server.up and server not in tried]
        if not servers:
            return None
        bound = _SHARE * sum(server.sequences for server in servers) / len(servers)
        at = self._at.get(group)
        if at is not None and at[0] in servers and at[0].sequences <= bound + _TOGETHER:
            return at[0]
        ranked = sorted(servers, key=lambda server: _rank(group, server), reverse=True)
        return next(server for server in ranked if server.sequences <= bound)  # the least loaded is

    @contextmanager
    def working(self, server: Backend, group: int, sequences: int) -> Iterator[None]:
        """Count a job of so many sequences while it is at a server."""
        self._at[group] = (server, self._jobs(group) + 1)
        server.sequences += sequences
        try:
            yield
        finally:
            server.sequences -= sequences
            left = self._jobs(group) - 1
            if left:
                self._at[group] = (self._at[group][0], left)
            else:
                del self._at[group]

    def _jobs(self, group: int) -> int:
        return self._at[group][1] if group in self._at else 0


def _rank(group: int, server: Backend) -> bytes:
    return blake2b(f"{group} {server.url}".encode(), digest_size=8).digest()
