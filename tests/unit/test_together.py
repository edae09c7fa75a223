"""Several coroutines at once: who fails takes the others along, and none is left running."""

from __future__ import annotations

import asyncio

import pytest

from criticrm_server.together import together


async def one(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_the_outputs_are_in_order() -> None:
    assert await together([one(2), one(1)]) == [2, 1]
    assert await together([]) == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_others_have_ended_before_the_error_is_raised(cancelled: bool) -> None:
    ended: list[bool] = []

    async def slow() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # an engine takes its time to abort
            ended.append(True)
        return 0

    async def failing() -> int:
        await asyncio.sleep(0)
        if cancelled:
            await asyncio.Event().wait()
        raise ValueError("no")

    running = asyncio.ensure_future(together([slow(), failing(), slow()]))
    if cancelled:
        await asyncio.sleep(0.01)
        running.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
        await running
    assert ended == [True, True]
