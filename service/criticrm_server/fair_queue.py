"""Waiting requests by the key of their caller: whose turn is next, and who yields a waiting place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """First come, first served within a key.

    Between keys, the next is the one with the fewest places in use; of those with equally many, the one that was served
    longest ago. With one key it is a plain queue.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, dict[T, None]] = {}  # by key, in order of arrival; no empty ones
        self._in_use: Counter[Hashable] = Counter()
        self._served_at: dict[Hashable, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[T]:
        for requests in self._waiting.values():
            yield from requests

    def add(self, key: Hashable, request: T) -> None:
        self._waiting.setdefault(key, {})[request] = None

    def remove(self, key: Hashable, request: T) -> None:
        """Does nothing if it does not wait."""
        requests = self._waiting.get(key, {})
        requests.pop(request, None)
        if not requests:
            self._waiting.pop(key, None)

    def use(self, key: Hashable, places: int) -> None:
        """Count places that a key takes, or gives back where `places` is negative."""
        self._in_use[key] += places

    def pop(self) -> T:
        """The next request, which waits no longer. Raises ValueError if none waits."""
        key = min(self._waiting, key=lambda key: (self._in_use[key], self._served_at.get(key, -1)))
        self._turn += 1
        self._served_at[key] = self._turn
        request = next(iter(self._waiting[key]))
        self.remove(key, request)
        return request

    def yielded_to(self, key: Hashable, places: int) -> list[T]:
        """The requests that may yield a waiting place to a new one of this key when all are taken.

        Those of the key that waits with the most, the newest first. None unless the new request is within its key's
        share.

        Args:
            places: waiting places, of which each key that waits has an equal share.
        """
        share = places // len(self._waiting.keys() | {key})
        if len(self._waiting.get(key, ())) >= share:
            return []
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]))
        return list(reversed(self._waiting[longest]))
