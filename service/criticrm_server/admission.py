"""How many sequences are in work: admitted at once, held in a bounded queue, or refused.

A sequence is one critique of one response. vLLM batches whatever is admitted; this only limits it, so that
memory is bounded and a caller gets 503 early enough to retry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from types import TracebackType

from .errors import Busy, Draining, LimitExceeded, Overloaded, Sleeping
from .fair_queue import FairQueue
from .finish_rate import FinishRate


class Permit:
    """The places of one request.

    Places are granted as they become free, and each is returned when its sequence is done. The end of the permit's
    context, or `release`, returns the rest.
    """

    __slots__ = ("_admission", "_begun", "_free", "_missing", "_taken", "_takers", "key", "sequences")

    def __init__(self, admission: Admission, sequences: int, key: Hashable) -> None:
        self.sequences = sequences
        self.key = key
        self._admission = admission
        self._missing = sequences  # of these places
        self._free = 0
        self._taken = 0
        self._takers: deque[tuple[asyncio.Future[None], int]] = deque()
        self._begun: asyncio.Future[None] | None = None

    async def take(self, sequences: int) -> None:
        """Wait for so many of the request's places, first come, first served."""
        if self._free < sequences or self._takers:
            taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._takers.append((taker, sequences))
            await taker
        else:
            self._free -= sequences
            self._taken += sequences

    def give_back(self, sequences: int) -> None:
        """So many of those that were taken are done."""
        self._taken -= sequences
        self._admission._finished.count(sequences)
        self._admission._return_places(self.key, sequences)

    def release(self) -> None:
        """The request is over. Does nothing the second time."""
        left, self._free, self._taken, self._missing = self._free + self._taken, 0, 0, 0
        self._admission._close(self, left)

    def _grant(self, places: int) -> int:
        """Returns how many of them it needs, and keeps those."""
        granted = min(places, self._missing)
        self._missing -= granted
        self._free += granted
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)
        while self._takers and self._free >= self._takers[0][1]:
            taker, sequences = self._takers.popleft()
            if not taker.done():  # it may have been cancelled
                self._free -= sequences
                self._taken += sequences
                taker.set_result(None)
        return granted

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Grants free places to the first request in the queue until it has one for each of its sequences.

    A request is admitted with its first place; the next one only when it has all of its places. The queue decides who
    is first (`FairQueue`).
    """

    def __init__(self, max_sequences: int, max_waiting: int, queue_timeout_s: float) -> None:
        self.max_sequences = max_sequences
        self.max_waiting = max_waiting
        self.queue_timeout_s = queue_timeout_s
        self.admitted = 0
        self.not_ready = False  # readiness fails and connections close; requests are still accepted
        self.draining = False
        self.sleeping = False  # the engine gave its memory away: new requests are refused
        self._paused = False
        self._open: set[Permit] = set()
        self._queue: FairQueue[Permit] = FairQueue()  # those without a place
        self._filling: Permit | None = None  # the only one that has some of its places and misses others
        self._finished = FinishRate()
        self._empty = asyncio.Event()
        self._left = asyncio.Event()  # the last admitted sequence

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return len(self._queue)

    async def admit(self, sequences: int, key: Hashable = None) -> Permit:
        """Wait for room, and take it.

        Args:
            key: of the caller; keys share places and queue fairly.

        Raises:
            LimitExceeded: more than is ever admitted.
            Overloaded: the queue is full, or the wait too long.
            Draining: the server is stopping.
        """
        if sequences > self.max_sequences:
            raise LimitExceeded("body", sequences, self.max_sequences, "sequences (responses times critiques)")
        if self.draining:
            raise Draining("the server is draining: send the request to another server, or again after a restart")
        if self.sleeping:
            raise Sleeping("the engine sleeps; try again after /admin/wake")
        has_room = not (self._queue or self._filling or self._paused) and self.admitted < self.max_sequences
        if not has_room and self.waiting >= self.max_waiting and not self._make_waiting_place(key):
            raise self._overloaded(
                f"{self.admitted} sequences are in flight and {self.waiting} requests wait for admission; try again"
            )
        permit = Permit(self, sequences, key)
        if not self._open:
            self._finished.busy_since_now()
        self._open.add(permit)
        self._queue.add(key, permit)
        if has_room:
            self._admit_waiting()
            return permit
        try:
            await self._begins(permit)
        except BaseException as error:
            permit.release()  # with the room that may have come in the same moment
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"not admitted within {self.queue_timeout_s:g} s; try again") from error
            raise
        return permit

    def _make_waiting_place(self, key: Hashable) -> bool:
        """Refuse the newest waiting request of the key that waits with the most, for one that has its share to come."""
        for permit in self._queue.yielded_to(key, self.max_waiting):
            if permit._begun is not None and not permit._begun.done():
                self._queue.remove(permit.key, permit)
                permit._begun.set_exception(
                    self._overloaded("the queue is full, and this key has more than its share of it; try again")
                )
                return True
        return False

    def _overloaded(self, message: str) -> Overloaded:
        """With the time in which those that are waiting now will have begun, at the recent rate."""
        missing = sum(permit._missing for permit in self._queue) + (self._filling._missing if self._filling else 0)
        return Overloaded(message, self._finished.retry_after_s(missing + 1))

    @asynccontextmanager
    async def paused(self, patience_s: float) -> AsyncIterator[None]:
        """Hold new requests in the queue, wait until those that have begun are done, and go on afterwards.

        Raises:
            Busy: it is paused already, or what has begun takes longer than `patience_s`.
        """
        if self._paused:
            raise Busy("the weights are being changed, or the engine is being put to sleep or woken; try again")
        self._paused = True
        try:
            async with asyncio.timeout(patience_s):
                while self.admitted:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError as error:
            self._resume()
            raise Busy(f"{self.admitted} sequences were still in flight after {patience_s:g} s; try again") from error
        except BaseException:
            self._resume()
            raise
        try:
            yield
        finally:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._admit_waiting()

    async def _begins(self, permit: Permit) -> None:
        """Raises TimeoutError; while admission is paused no time passes."""
        while True:
            permit._begun = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self.queue_timeout_s):
                    return await permit._begun
            except TimeoutError:
                if not self._paused:
                    raise

    def mark_not_ready(self) -> None:
        """Fail readiness and end connections with their responses, so that callers go elsewhere before `drain`."""
        self.not_ready = True

    def fall_asleep(self) -> None:
        """Refuse new requests and those that wait, until `sleeping` is False again."""
        self.sleeping = True
        for permit in self._queue:
            if permit._begun is not None and not permit._begun.done():
                permit._begun.set_exception(Sleeping("the engine was put to sleep; send this again once it is awake"))

    def drain(self) -> None:
        """Refuse new requests from now on; those admitted or waiting go on."""
        self.not_ready = self.draining = True

    async def empty(self, timeout_s: float) -> bool:
        """Wait until no request is admitted or waits; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._open:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _return_places(self, key: Hashable, sequences: int) -> None:
        self.admitted -= sequences
        self._queue.use(key, -sequences)
        if not self.admitted:
            self._left.set()
        self._admit_waiting()

    def _close(self, permit: Permit, left: int) -> None:
        self._open.discard(permit)
        self._queue.remove(permit.key, permit)
        if self._filling is permit:
            self._filling = None
        self._return_places(permit.key, left)
        if not self._open:
            self._empty.set()

    def _admit_waiting(self) -> None:
        while self.admitted < self.max_sequences:
            if self._filling is None:
                if self._paused or not self._queue:
                    return
                self._filling = self._queue.pop()
            granted = self._filling._grant(self.max_sequences - self.admitted)
            self.admitted += granted
            self._queue.use(self._filling.key, granted)
            if not self._filling._missing:
                self._filling = None
