"""Room in the house: who gets it, who waits, who is refused."""

from __future__ import annotations

import asyncio

import pytest

from criticrm_server.admission import Admission, Permit
from criticrm_server.errors import Draining, LimitExceeded, Overloaded


def admission(max_sequences: int = 10, max_waiting: int = 100, queue_timeout_s: float = 5.0) -> Admission:
    return Admission(max_sequences, max_waiting, queue_timeout_s)


async def waiting(house: Admission, sequences: int) -> asyncio.Task[Permit]:
    """A task that has got as far as it can without room."""
    task = asyncio.create_task(house.admit(sequences))
    await asyncio.sleep(0)
    return task


async def test_a_permit_is_given_back_once() -> None:
    house = admission()
    with await house.admit(4) as permit:
        assert house.in_house == 4
        permit.release()
        assert house.in_house == 0
    assert house.in_house == 0


async def test_first_come_first_served() -> None:
    house = admission()
    first = await house.admit(8)
    large = await waiting(house, 9)
    small = await waiting(house, 1)  # there is room for it, but it came later
    assert not small.done()
    first.release()
    assert (await large).sequences == 9
    assert (await small).sequences == 1
    assert house.in_house == 10


async def test_a_request_larger_than_the_house_is_refused_at_once() -> None:
    with pytest.raises(LimitExceeded) as caught:
        await admission().admit(11)
    assert caught.value.details[0]["limit"] == 10


async def test_a_full_queue_is_refused_at_once() -> None:
    house = admission(max_waiting=1)
    permit = await house.admit(10)
    queued = await waiting(house, 1)
    with pytest.raises(Overloaded):
        await house.admit(1)
    permit.release()
    await queued


async def test_waiting_too_long_is_refused_and_lets_others_in() -> None:
    house = admission(queue_timeout_s=0.05)
    permit = await house.admit(5)
    with pytest.raises(Overloaded, match=r"within 0\.05 s"):
        await house.admit(10)
    assert house.waiting == 0
    assert (await house.admit(5)).sequences == 5
    permit.release()


async def test_who_leaves_the_queue_does_not_block_it() -> None:
    house = admission()
    permit = await house.admit(5)
    large = await waiting(house, 10)
    small = await waiting(house, 5)
    large.cancel()
    assert (await small).sequences == 5
    assert house.in_house == 10
    permit.release()
    assert house.in_house == 5


async def test_cancelled_in_the_moment_room_came() -> None:
    house = admission()
    permit = await house.admit(10)
    task = await waiting(house, 10)
    permit.release()  # the place is the task's now, but it has not run yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.in_house == 0
    assert (await house.admit(10)).sequences == 10


async def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    house = admission()
    permit = await house.admit(10)
    queued = await waiting(house, 3)
    house.drain()
    with pytest.raises(Draining):
        await house.admit(1)
    assert not await house.empty(timeout_s=0.01)
    permit.release()
    (await queued).release()
    assert await house.empty(timeout_s=0.01)


async def test_empty_waits_for_the_last_one() -> None:
    house = admission()
    permit = await house.admit(1)
    emptied = asyncio.create_task(house.empty(timeout_s=5))
    await asyncio.sleep(0)
    assert not emptied.done()
    permit.release()
    assert await emptied


async def test_the_house_is_never_overfull() -> None:
    house = admission(max_sequences=7, max_waiting=200)
    seen: list[int] = []

    async def one(sequences: int) -> None:
        with await house.admit(sequences):
            seen.append(house.in_house)
            await asyncio.sleep(0.001 * (sequences % 3))

    await asyncio.gather(*(one(1 + i % 7) for i in range(200)))
    assert len(seen) == 200
    assert max(seen) == 7
    assert house.in_house == house.waiting == 0
