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

    `work` runs in the current task. In a separate task a result that arrives during a cancellation would be lost, and
    its permit never released.

    Raises:
        ClientDisconnect: nobody is left to answer.
    """
    try:
        async with asyncio.timeout(None) as disconnected:

            async def wait_for_disconnect() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                disconnected.reschedule(asyncio.get_running_loop().time())

            watching = asyncio.create_task(wait_for_disconnect())
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError as error:
        if disconnected.expired():
            raise ClientDisconnect from error
        raise
