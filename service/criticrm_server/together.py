"""Several coroutines at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

T = TypeVar("T")


async def together(runs: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """The outputs of all, in order. If one fails, the others are cancelled and ended before its error is raised."""
    running = [asyncio.create_task(one) for one in runs]
    try:
        return await asyncio.gather(*running)
    finally:
        for one in running:
            if not one.cancelling():  # a second time would cut off what it does to end
                one.cancel()  # of no effect on those that are done
        if not all(one.done() for one in running):
            await asyncio.gather(*running, return_exceptions=True)
