"""Room: who gets it, who waits, who is refused."""

from __future__ import annotations

import asyncio

import pytest

from criticrm_server.admission import Admission, Permit
from criticrm_server.errors import Draining, LimitExceeded, Overloaded


def make_admission(max_sequences: int = 10, max_waiting: int = 100, queue_timeout_s: float = 5.0) -> Admission:
    return Admission(max_sequences, max_waiting, queue_timeout_s)


async def waiting(admission: Admission, sequences: int) -> asyncio.Task[Permit]:
    """A task that has got as far as it can without room."""
    task = asyncio.create_task(admission.admit(sequences))
    await asyncio.sleep(0)
    return task


async def test_a_permit_is_given_back_once() -> None:
    admission = make_admission()
    with await admission.admit(4) as permit:
        assert admission.admitted == 4
        permit.release()
        assert admission.admitted == 0
    assert admission.admitted == 0


async def test_first_come_first_served() -> None:
    admission = make_admission()
    first = await admission.admit(8)
    large = await waiting(admission, 9)
    assert large.done()  # it begins with the two places that are left
    small = await waiting(admission, 1)
    assert not small.done()
    first.release()
    assert admission.admitted == 10
    assert (await small).sequences == 1
    (await large).release()
    assert admission.admitted == 1


async def test_places_come_back_one_by_one_and_go_to_the_first_in_the_queue() -> None:
    admission = make_admission(max_sequences=4)
    first = await admission.admit(4)
    await first.take(4)
    second, third = await waiting(admission, 4), await waiting(admission, 1)
    assert not second.done()
    first.give_back(1)
    permit = await second
    await asyncio.wait_for(permit.take(1), 1)
    taking = asyncio.create_task(permit.take(3))
    for _ in range(2):
        await asyncio.sleep(0)
        assert not taking.done()
        first.give_back(1)
    await asyncio.sleep(0)
    assert not taking.done()
    assert not third.done()
    assert admission.waiting == 1
    first.release()
    await asyncio.wait_for(taking, 1)
    permit.give_back(1)
    assert (await third).sequences == 1
    assert admission.admitted == 4
    permit.release()
    (await third).release()
    assert admission.admitted == 0


async def test_a_request_that_ends_gives_back_what_it_took_and_what_it_did_not() -> None:
    admission = make_admission()
    permit = await admission.admit(6)
    await permit.take(2)
    permit.give_back(1)
    assert admission.admitted == 5
    permit.release()
    permit.release()
    assert admission.admitted == 0


async def test_uneven_requests_take_no_longer_than_their_work() -> None:
    """Six requests of 64 with one slow sequence each: nobody waits for another's slow one."""
    admission = make_admission(max_sequences=64)
    steps = 0

    async def sequence(permit: Permit, length: int) -> None:
        await permit.take(1)
        begun = steps
        while steps < begun + length:
            await asyncio.sleep(0)
        permit.give_back(1)

    async def request() -> None:
        with await admission.admit(64) as permit:
            await asyncio.gather(*(sequence(permit, 200 if i == 0 else 10) for i in range(64)))

    requests = asyncio.gather(*(request() for _ in range(6)))
    while not requests.done():
        steps += 1
        await asyncio.sleep(0)
    assert steps < 450  # 1200 if each waited for the one before


async def test_a_request_for_more_than_is_ever_admitted_is_refused_at_once() -> None:
    with pytest.raises(LimitExceeded) as caught:
        await make_admission().admit(11)
    assert caught.value.details[0]["limit"] == 10


async def test_a_full_queue_is_refused_at_once() -> None:
    admission = make_admission(max_waiting=1)
    permit = await admission.admit(10)
    queued = await waiting(admission, 1)
    with pytest.raises(Overloaded):
        await admission.admit(1)
    permit.release()
    await queued


async def test_waiting_too_long_is_refused_and_lets_others_in() -> None:
    admission = make_admission(queue_timeout_s=0.05)
    permit = await admission.admit(5)
    other = await admission.admit(5)
    with pytest.raises(Overloaded, match=r"within 0\.05 s"):
        await admission.admit(10)
    assert admission.waiting == 0
    other.release()
    assert (await admission.admit(5)).sequences == 5
    permit.release()


async def test_who_leaves_the_queue_does_not_block_it() -> None:
    admission = make_admission()
    permit = await admission.admit(10)
    large = await waiting(admission, 10)
    small = await waiting(admission, 5)
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    permit.release()
    assert (await small).sequences == 5
    assert admission.admitted == 5


async def test_cancelled_in_the_moment_room_came() -> None:
    admission = make_admission()
    permit = await admission.admit(10)
    task = await waiting(admission, 10)
    permit.release()  # the place is the task's now, but it has not run yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert admission.admitted == 0
    assert (await admission.admit(10)).sequences == 10


async def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    admission = make_admission()
    permit = await admission.admit(10)
    queued = await waiting(admission, 3)
    admission.drain()
    with pytest.raises(Draining):
        await admission.admit(1)
    assert not await admission.empty(timeout_s=0.01)
    permit.release()
    (await queued).release()
    assert await admission.empty(timeout_s=0.01)


async def test_empty_waits_for_the_last_one() -> None:
    admission = make_admission()
    permit = await admission.admit(1)
    emptied = asyncio.create_task(admission.empty(timeout_s=5))
    await asyncio.sleep(0)
    assert not emptied.done()
    permit.release()
    assert await emptied


async def test_never_more_are_admitted_than_may_be() -> None:
    admission = make_admission(max_sequences=7, max_waiting=200)
    seen: list[int] = []

    async def one(sequences: int) -> None:
        with await admission.admit(sequences):
            seen.append(admission.admitted)
            await asyncio.sleep(0.001 * (sequences % 3))

    await asyncio.gather(*(one(1 + i % 7) for i in range(200)))
    assert len(seen) == 200
    assert max(seen) == 7
    assert admission.admitted == admission.waiting == 0
