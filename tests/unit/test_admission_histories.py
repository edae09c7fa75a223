"""Admission against a model of it, over made-up histories: arrivals, departures, callers that give up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticrm_server.admission import Admission, Permit
from criticrm_server.errors import Draining, Overloaded

HOUSE, QUEUE = 8, 4
Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, HOUSE)),
        st.tuples(st.sampled_from(["leave", "give up"]), st.integers(0, 20)),
        # Both in one turn of the event loop: room comes to somebody who is giving up.
        st.tuples(st.just("leave and give up"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.just(0)),
    ),
    max_size=40,
)


@dataclass
class History:
    """What admission should look like, kept beside the real one."""

    admission: Admission
    tasks: dict[asyncio.Task[Permit], int] = field(default_factory=dict)  # in order of arrival

    def arrive(self, sequences: int) -> None:
        self.tasks[asyncio.create_task(self.admission.admit(sequences))] = sequences

    def inside(self) -> list[asyncio.Task[Permit]]:
        return [task for task in self.tasks if task.done()]

    def outside(self) -> list[asyncio.Task[Permit]]:
        return [task for task in self.tasks if not task.done()]

    def leave(self, which: int) -> None:
        if inside := self.inside():
            task = inside[which % len(inside)]
            del self.tasks[task]
            task.result().release()

    def give_up(self, which: int) -> None:
        if outside := self.outside():
            outside[which % len(outside)].cancel()

    async def settle(self) -> None:
        """Let everybody get as far as they can, and forget those who were refused or gave up."""
        for _ in range(8):
            await asyncio.sleep(0)
        for task in self.inside():
            if task.cancelled() or task.exception():
                assert task.cancelled() or isinstance(task.exception(), Overloaded)
                del self.tasks[task]

    def check(self) -> None:
        """In order of arrival each has what it needs; the first that has not has what is left, and others nothing."""
        inside = [self.tasks[task] for task in self.inside()]
        outside = self.outside()
        assert self.admission.admitted == min(sum(inside), HOUSE)
        assert self.admission.waiting == len(outside) <= QUEUE
        assert sum(inside[:-1]) < HOUSE or not inside  # only the last to begin can miss some
        if outside:  # nobody is kept waiting for nothing, and nobody overtakes
            assert self.admission.admitted == HOUSE
            order = list(self.tasks)
            assert all(order.index(task) < order.index(outside[0]) for task in self.inside())


async def _live(steps: list[Step]) -> None:
    history = History(Admission(HOUSE, QUEUE, queue_timeout_s=60))
    for kind, number in steps:
        if kind == "arrive":
            history.arrive(number)
        if kind.startswith("leave"):
            history.leave(number)
        if kind.endswith("give up"):
            history.give_up(number)
        await history.settle()
        history.check()
    # In the end all leave: all is as it was, and everybody who stayed got in.
    while history.tasks:
        history.leave(0)
        await history.settle()
        history.check()
    assert history.admission.admitted == history.admission.waiting == 0
    assert await history.admission.empty(timeout_s=0)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_history_keeps_the_house_in_order(steps: list[Step]) -> None:
    asyncio.run(_live(steps))


async def test_once_draining_only_those_before_the_door_come_in() -> None:
    history = History(Admission(HOUSE, QUEUE, queue_timeout_s=60))
    for sequences in (8, 3, 5):
        history.arrive(sequences)
    await history.settle()
    history.admission.drain()
    with pytest.raises(Draining):
        await history.admission.admit(1)
    while history.tasks:
        history.leave(0)
        await history.settle()
        history.check()
    assert history.admission.admitted == 0
