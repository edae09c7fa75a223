"""How many sequences are in the house: admitted at once, held in a bounded queue, or refused.

A sequence is one critique of one response. vLLM batches whatever is admitted; this only bounds it, so that
memory stays flat and a caller hears of overload while it can still do something about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from .errors import Draining, LimitExceeded, Overloaded


class Permit:
    """A place for some sequences; give it back once, by leaving its context or by `release`."""

    __slots__ = ("_release", "sequences")

    def __init__(self, sequences: int, release: Callable[[int], None]) -> None:
        self.sequences = sequences
        self._release: Callable[[int], None] | None = release

    def release(self) -> None:
        release, self._release = self._release, None
        if release:
            release(self.sequences)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """First come, first served; a large request at the head is not overtaken by small ones."""

    def __init__(self, max_sequences: int, max_waiting: int, queue_timeout_s: float) -> None:
        self.max_sequences = max_sequences
        self.max_waiting = max_waiting
        self.queue_timeout_s = queue_timeout_s
        self.in_house = 0
        self.leaving = False  # about to drain: takes what comes, but asks for no more
        self.draining = False
        self._waiting: dict[asyncio.Future[None], int] = {}  # in order of arrival
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def admit(self, sequences: int) -> Permit:
        """Wait for room, and take it.

        Raises:
            LimitExceeded: more than the house ever holds.
            Overloaded: the queue is full, or the wait too long.
            Draining: the server is stopping.
        """
        if sequences > self.max_sequences:
            raise LimitExceeded("body", sequences, self.max_sequences, "sequences (responses times critiques)")
        if self.draining:
            raise Draining("the server is stopping; send this to another, or here once it is back")
        if not self._waiting and self.in_house + sequences <= self.max_sequences:
            self._enter(sequences)
            return Permit(sequences, self._leave)
        if len(self._waiting) >= self.max_waiting:
            raise Overloaded(f"{self.in_house} sequences are in work and {len(self._waiting)} requests wait; try again")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = sequences
        try:
            async with asyncio.timeout(self.queue_timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._leave(sequences)  # room came in the same moment
            else:
                self._waiting.pop(place, None)
                self._let_in()  # what stood behind may fit
            if isinstance(error, TimeoutError):
                raise Overloaded(f"no room came within {self.queue_timeout_s:g} s; try again") from error
            raise
        return Permit(sequences, self._leave)

    def leave(self) -> None:
        """Readiness says no and connections end with their answers, so that callers go elsewhere before `drain`."""
        self.leaving = True

    def drain(self) -> None:
        """Refuse new requests from now on; those admitted or waiting go on."""
        self.leaving = self.draining = True

    async def empty(self, timeout_s: float) -> bool:
        """Wait until nobody is in the house or the queue; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.in_house or self._waiting:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _enter(self, sequences: int) -> None:
        self.in_house += sequences

    def _leave(self, sequences: int) -> None:
        self.in_house -= sequences
        self._let_in()
        if not self.in_house and not self._waiting:
            self._empty.set()

    def _let_in(self) -> None:
        while self._waiting:
            place, sequences = next(iter(self._waiting.items()))
            if self.in_house + sequences > self.max_sequences:
                break
            del self._waiting[place]
            if not place.done():  # its waiter may have been cancelled already
                self._enter(sequences)
                place.set_result(None)
