"""Keys share places and waiting places: a key that floods does not keep another waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticrm_server.admission import Admission, Permit
from criticrm_server.errors import Overloaded
from criticrm_server.fair_queue import FairQueue
from criticrm_server.finish_rate import FinishRate

PLACES, WAITING = 6, 6
KEYS = ("a", "b", "c")
Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "release", "give up", "release and give up", "finish one"]),
        st.sampled_from(KEYS),
        st.integers(0, 20),
    ),
    max_size=60,
)


async def _turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def _wait(admission: Admission, key: str, sequences: int = 1) -> asyncio.Task[Permit]:
    task = asyncio.create_task(admission.admit(sequences, key))
    await _turns()
    return task


@dataclass
class History:
    """What admission should look like with several keys, kept beside the real one."""

    admission: Admission
    tasks: dict[asyncio.Task[Permit], tuple[str, int]] = field(default_factory=dict)  # in order of arrival
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))

    def admitted(self) -> list[asyncio.Task[Permit]]:
        return [task for task in self.tasks if task.done()]

    def waiting(self, key: str | None = None) -> list[asyncio.Task[Permit]]:
        return [task for task, (of, _) in self.tasks.items() if not task.done() and key in (None, of)]

    async def step(self, kind: str, key: str, number: int) -> None:
        if kind == "arrive":
            task = asyncio.create_task(self.admission.admit(1 + number % PLACES, key))
            self.tasks[task] = (key, 1 + number % PLACES)
        if kind.startswith("release") and (admitted := self.admitted()):
            task = admitted[number % len(admitted)]
            del self.tasks[task]
            task.result().release()
        if kind.endswith("give up") and (waiting := self.waiting(key)):
            waiting[number % len(waiting)].cancel()
        if kind == "finish one" and (admitted := self.admitted()):
            permit = admitted[number % len(admitted)].result()
            if permit._free:
                await permit.take(1)
                permit.give_back(1)
                task = next(task for task in admitted if task.result() is permit)
                of, sequences = self.tasks[task]
                self.tasks[task] = (of, sequences - 1)
        await _turns()
        for task in self.admitted():
            if task.cancelled() or task.exception():
                assert task.cancelled() or isinstance(task.exception(), Overloaded)
                del self.tasks[task]

    def check(self) -> None:
        needed = sum(sequences for task, (_, sequences) in self.tasks.items() if task.done())
        assert self.admission.admitted == min(needed, PLACES)
        assert self.admission.waiting == len(self.waiting()) <= WAITING
        if self.waiting():
            assert self.admission.admitted == PLACES
        # At most one has begun and misses places, so no two wait for each other.
        assert sum(task.result()._missing > 0 for task in self.admitted()) <= 1
        # Within a key nobody overtakes.
        for key in KEYS:
            begun = [task.done() for task, (of, _) in self.tasks.items() if of == key]
            assert begun == sorted(begun, reverse=True)


async def _live(steps: list[Step]) -> None:
    history = History(Admission(PLACES, WAITING, queue_timeout_s=60))
    for step in steps:
        await history.step(*step)
        history.check()
    while history.tasks:
        await history.step("release", "a", 0)
        history.check()
    assert history.admission.admitted == history.admission.waiting == 0
    assert all(history.admission._queue._in_use[key] == 0 for key in KEYS)
    assert await history.admission.empty(timeout_s=0)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_history_of_several_keys_keeps_what_admission_promises(steps: list[Step]) -> None:
    asyncio.run(_live(steps))


@given(keys=st.lists(st.sampled_from(KEYS), max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_key_below_its_share_is_never_refused_a_waiting_place(keys: list[str]) -> None:
    async def live() -> None:
        history = History(Admission(PLACES, WAITING, queue_timeout_s=60))
        await history.step("arrive", "a", PLACES - 1)  # all places
        for key in keys:
            before = len(history.waiting(key))
            others = {of for task, (of, _) in history.tasks.items() if not task.done()} | {key}
            await history.step("arrive", key, 0)
            if before < WAITING // len(others):
                assert len(history.waiting(key)) == before + 1
            history.check()
        while history.tasks:
            await history.step("release", "a", 0)

    asyncio.run(live())


async def test_keys_are_served_in_turn() -> None:
    admission = Admission(1, 100, queue_timeout_s=60)
    running = await admission.admit(1, "flood")
    order: list[str] = []

    async def one(key: str) -> None:
        with await admission.admit(1, key):
            order.append(key)
            await asyncio.sleep(0)

    work = asyncio.gather(*(one("flood") for _ in range(20)), *(one("small") for _ in range(4)))
    await _turns()
    running.release()
    await work
    assert order[:8] == ["small", "flood"] * 4
    assert order[8:] == ["flood"] * 16


async def test_a_key_with_places_in_use_waits_for_one_without() -> None:
    admission = Admission(4, 100, queue_timeout_s=60)
    held = [await admission.admit(1, "flood") for _ in range(4)]
    flood = [await _wait(admission, "flood") for _ in range(5)]
    small = [await _wait(admission, "small") for _ in range(2)]
    for permit in held[:2]:
        permit.release()
        await _turns()
    assert all(task.done() for task in small)
    assert not any(task.done() for task in flood)
    held[2].release()  # one place in use against two
    await _turns()
    assert [task.done() for task in flood] == [True, False, False, False, False]
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_full_queue_makes_a_place_for_a_key_below_its_share() -> None:
    admission = Admission(1, 4, queue_timeout_s=60)
    running = await admission.admit(1, "flood")
    flood = [await _wait(admission, "flood") for _ in range(4)]
    small = [await _wait(admission, "small") for _ in range(2)]
    assert [task.done() for task in flood] == [False, False, True, True]  # the newest made way
    for task in flood[2:]:
        assert isinstance(task.exception(), Overloaded)
    for key in ("small", "flood"):
        with pytest.raises(Overloaded):
            await admission.admit(1, key)
    running.release()
    for task in (small[0], flood[0], small[1], flood[1]):
        (await task).release()
    assert admission.admitted == admission.waiting == 0


async def test_without_waiting_places_nobody_yields() -> None:
    admission = Admission(1, 0, queue_timeout_s=60)
    with await admission.admit(1, "flood"), pytest.raises(Overloaded):
        await admission.admit(1, "small")


def test_one_key_is_a_plain_queue() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.add(None, number)
    queue.remove(None, 2)
    assert (len(queue), list(queue)) == (4, [0, 1, 3, 4])
    assert [queue.pop() for _ in range(4)] == [0, 1, 3, 4]
    assert not queue


def test_retry_after_follows_the_rate() -> None:
    now = 1000.0
    rate = FinishRate(lambda: now)
    rate.busy_since_now()
    assert rate.retry_after_s(1000) == 1  # nothing is known yet
    now += 5
    assert rate.retry_after_s(2) == 10  # none finished in 5 s
    for _ in range(10):
        now += 1
        rate.count(4)
    assert rate.retry_after_s(40) == 15  # 40 in 15 s
    assert rate.retry_after_s(1) == 1
    assert rate.retry_after_s(10**6) == 60
    now += 100  # stalled: what finished long ago does not count
    assert rate.retry_after_s(1) == 30
    rate.busy_since_now()
    assert rate.retry_after_s(40) == 1


async def test_a_refusal_says_when_there_may_be_room() -> None:
    now = 1000.0
    admission = Admission(10, 1, queue_timeout_s=60)
    admission._finished = FinishRate(lambda: now)
    permit = await admission.admit(10)
    await permit.take(10)
    waiting = await _wait(admission, "a", 9)
    now += 4
    permit.give_back(2)  # 0.5 a second; of the nine that wait seven are missing
    (await waiting).release()
    blocker = await _wait(admission, "a", 4)
    more = await _wait(admission, "a", 5)
    assert blocker.done()
    assert not more.done()
    with pytest.raises(Overloaded) as refused:
        await admission.admit(1, "a")
    # Missing: two of the four (two came free), five, and its own.
    assert refused.value.retry_after_s == 16
    more.cancel()
    (await blocker).release()
    permit.release()
