"""Until when a request may take, and how those that are still open are ended when the server must stop."""

from __future__ import annotations

import asyncio
from types import TracebackType

from .errors import DeadlineExceeded, Draining


class Deadlines:
    """The deadlines of all requests. A request's clock starts before its body is read.

    Args:
        seconds: that a request may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: set[_Scope] = set()
        self._stopped = False

    def start(self) -> float:
        """When a request that begins now must be done, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._seconds

    def until(self, when: float) -> _Scope:
        """A context that ends with DeadlineExceeded at `when`, and with Draining when the server stops before."""
        return _Scope(self, when)

    def stop(self) -> None:
        """End every open context, and every later one."""
        self._stopped = True
        for scope in self._open:
            scope.end()

    def error(self) -> DeadlineExceeded | Draining:
        if self._stopped:
            return Draining("the server stopped before this was done; send it to another, or here once it is back")
        return DeadlineExceeded(f"not done within the server's deadline of {self._seconds:g} s")


class _Scope:
    def __init__(self, deadlines: Deadlines, when: float) -> None:
        self._deadlines = deadlines
        self._timeout = asyncio.timeout_at(when)

    async def __aenter__(self) -> None:
        if self._deadlines._stopped:
            raise self._deadlines.error()
        await self._timeout.__aenter__()
        self._deadlines._open.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines._open.discard(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise self._deadlines.error() from late

    def end(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())
