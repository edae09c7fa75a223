"""Work that ends when its caller hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the caller hangs up.

    In the caller's own task: in another, a result that comes in the moment of a cancellation would be lost, and
    with it the place that it holds.

    Raises:
        ClientDisconnect: nobody is left to answer.
    """

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            watching = asyncio.create_task(hung_up())
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError as error:
        if scope.expired():
            raise ClientDisconnect from error
        raise
