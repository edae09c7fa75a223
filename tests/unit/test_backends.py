"""Which server gets a job."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress

from criticrm_server.engines.backends import Backend, Backends

URLS = [f"http://s{number}:8001" for number in range(4)]


def all_up(urls: list[str] = URLS) -> Backends:
    servers = Backends(urls)
    for server in servers.all:
        server.up = True
    return servers


def place(servers: Backends, group: int, jobs: int = 1, n: int = 1, work: ExitStack | None = None) -> Counter[str]:
    """Send jobs of one group, which stay in work as long as `work` is open; where they went."""
    at: Counter[str] = Counter()
    for _ in range(jobs):
        server = servers.choose(group)
        assert server is not None
        at[server.name] += 1
        if work is not None:
            work.enter_context(servers.working(server, group, n))
    return at


def test_a_prompts_responses_go_to_one_server_whatever_else_comes_between() -> None:
    servers = all_up()
    where: dict[int, Counter[str]] = {group: Counter() for group in range(40)}
    with ExitStack() as work:
        for _ in range(8):
            for group, at in where.items():
                at.update(place(servers, group, work=work))
    assert {len(at) for at in where.values()} == {1}
    assert all(server.sequences == 0 for server in servers.all)


def test_load_is_even() -> None:
    servers = all_up()
    with ExitStack() as work:
        for group in range(200):
            place(servers, group, jobs=4, work=work)
        loads = [server.sequences for server in servers.all]
        assert max(loads) <= 1.25 * sum(loads) / len(loads) + 4
        assert min(loads) >= 0.5 * sum(loads) / len(loads)


def test_two_gateways_agree_and_a_lost_server_moves_only_its_own_groups() -> None:
    one, other = all_up(), all_up(URLS[::-1])
    homes = {group: place(one, group) for group in range(200)}
    assert {group: place(other, group) for group in homes} == homes
    one.all[0].up = False
    for group, home in homes.items():
        if one.all[0].name not in home:
            assert place(one, group) == home
    moved = sum((place(one, group) for group, home in homes.items() if one.all[0].name in home), Counter())
    assert set(moved) == {server.name for server in one.all[1:]}


def test_a_large_group_is_split_before_one_server_has_far_more_than_the_others() -> None:
    servers = all_up(URLS[:2])
    with ExitStack() as work:
        at = place(servers, group=1, jobs=8, n=2, work=work)
        assert len(at) == 1
        at += place(servers, group=1, jobs=200, n=2, work=work)
        loads = sorted(server.sequences for server in servers.all)
        assert loads[0] >= 0.5 * loads[1]


def test_a_new_group_is_not_sent_to_a_busy_server() -> None:
    servers = all_up(URLS[:2])
    with ExitStack() as work:
        busy = place(servers, group=1, n=64, work=work)
        for group in range(2, 50):
            assert place(servers, group) != busy


def test_what_is_down_or_was_tried_is_passed_over() -> None:
    servers = all_up(URLS[:3])
    seen: list[Backend] = []
    for _ in range(3):
        server = servers.choose(7, tried=seen)
        assert server is not None
        assert server not in seen
        seen.append(server)
    assert servers.choose(7, tried=seen) is None
    for server in servers.all:
        server.up = False
    assert servers.choose(7) is None


def test_a_group_in_work_follows_to_where_it_was_sent_last() -> None:
    servers = all_up(URLS[:2])
    with ExitStack() as work:
        first = servers.choose(1)
        assert first is not None
        work.enter_context(servers.working(first, 1, 1))
        first.up = False
        second = servers.choose(1)
        assert second is not None
        work.enter_context(servers.working(second, 1, 1))
        first.up = True
        assert servers.choose(1) is second


def test_a_job_that_raises_is_counted_off() -> None:
    servers = all_up()
    server = servers.all[0]
    with suppress(ZeroDivisionError), servers.working(server, 1, 5):
        assert server.sequences == 5
        raise ZeroDivisionError
    assert server.sequences == 0
    assert servers._at == {}
