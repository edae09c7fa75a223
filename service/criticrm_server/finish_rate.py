"""How fast sequences have finished lately, for `Retry-After`."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 30
_LONGEST_S = 60


class FinishRate:
    """Counts finished sequences by the second, over the last half minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: deque[tuple[int, int]] = deque()  # second, sequences

    def count(self, sequences: int) -> None:
        second = int(self._clock())
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1] = (second, self._counts[-1][1] + sequences)
        else:
            self._forget(second)
            self._counts.append((second, sequences))

    def busy_since_now(self) -> None:
        """The server was idle until now: what finished before says nothing of how long a queue takes."""
        self._began = self._clock()
        self._counts.clear()

    def retry_after_s(self, sequences: int) -> int:
        """Whole seconds until so many more have finished at the recent rate, from 1 to 60.

        Where none has finished yet, the first is expected to take as long again as has passed.
        """
        now = self._clock()
        self._forget(int(now))
        elapsed = min(now - self._began, _WINDOW_S)
        finished = max(sum(count for _, count in self._counts), 1)
        return min(max(math.ceil(sequences * elapsed / finished), 1), _LONGEST_S)

    def _forget(self, second: int) -> None:
        while self._counts and self._counts[0][0] <= second - _WINDOW_S:
            self._counts.popleft()
