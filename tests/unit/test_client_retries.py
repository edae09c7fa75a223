"""How long the client waits, and whom it asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from criticrm_client.retries import Retries, Servers, retry_after_s


def test_waits_double_with_jitter_up_to_the_longest() -> None:
    retries = Retries(first_wait_s=1, longest_wait_s=8)
    waits = [[retries.wait_s(attempt, None) for _ in range(50)] for attempt in range(1, 6)]
    for doubled, several in zip((1, 2, 4, 8, 16), waits, strict=True):
        assert all(doubled / 2 <= wait <= min(doubled, 8) for wait in several)
        assert len(set(several)) > 10 or doubled == 16
    assert retries.wait_s(1000, None) == 8  # no overflow


def test_retry_after_is_heard_but_not_for_ever() -> None:
    retries = Retries(first_wait_s=0.1, longest_wait_s=8)
    assert retries.wait_s(1, 3.0) == 3.0
    assert retries.wait_s(1, 3600.0) == 8


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), ("", None), ("soon", None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert retry_after_s(httpx.Response(503, headers={"Retry-After": header})) == seconds


def test_retry_after_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = retry_after_s(httpx.Response(503, headers={"Retry-After": date}))
    assert found is not None
    assert 50 < found <= 60


def test_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="attempts: 0"):
        Retries(attempts=0)


def test_one_that_failed_is_asked_by_one_request_at_a_time() -> None:
    servers = Servers(["http://a/", "http://b"])
    bad = servers.choose()
    assert servers.failed(bad, wait_s=0)
    assert servers.choose().url in ("http://a", "http://b")
    bad.in_flight = 1
    assert all(servers.choose() is not bad for _ in range(4))
    servers.worked(bad)
    bad.in_flight = 0
    assert {servers.choose().url for _ in range(4)} == {"http://a", "http://b"}


def test_one_on_trial_is_asked_rather_than_one_that_is_away() -> None:
    """A has come back and has its first request in work; B begins to drain."""
    servers = Servers(["http://a", "http://b"])
    a, b = servers.choose(), servers.choose()
    assert a is not b
    servers.failed(a, wait_s=0)
    a.in_flight = 1
    assert servers.failed(b, wait_s=60)
    assert all(servers.choose() is a for _ in range(4))


def test_where_all_are_away_one_is_asked_all_the_same() -> None:
    servers = Servers(["http://a"])
    only = servers.choose()
    assert not servers.failed(only, wait_s=60)
    assert servers.choose() is only
    with pytest.raises(ValueError, match="at least one URL"):
        Servers([])
