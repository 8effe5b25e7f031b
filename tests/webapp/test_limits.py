"""Rate limits: counted in Redis, per person and address, and what happens when it cannot count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import Valkey
from webapp import config
from webapp.limits import Count, Limits, address_of, networks
from webapp.problems import Problem

SETTINGS = config.Limits(address="1000/day", reads="5/day", writes="2/day", log_ins="3/second")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("limits"), aof=False) as running:
        yield running


@pytest.fixture
def client(server: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as made:
        made.flushall()
        yield made


@pytest.fixture
def limits(client: redis.Redis) -> Limits:
    return Limits(client, SETTINGS)


def wait_of(limits: Limits, *counts: Count) -> float | None:
    """Seconds to wait; None when it was let in."""
    try:
        limits.take(*counts)
    except Problem as problem:
        assert (problem.kind, problem.status) == ("too-many-requests", 429)
        return problem.wait
    return None


def test_as_many_as_the_rate_says_at_once(limits: Limits) -> None:
    ana = Count("reads", "1")
    assert [wait_of(limits, ana) for _ in range(5)] == [None] * 5
    wait = wait_of(limits, ana)
    assert wait is not None
    assert 86_400 / 5 - 600 < wait <= 86_400 / 5


def test_each_has_its_own(limits: Limits) -> None:
    for _ in range(2):
        assert wait_of(limits, Count("writes", "1")) is None
    assert wait_of(limits, Count("writes", "1")) is not None
    assert wait_of(limits, Count("writes", "2")) is None
    assert wait_of(limits, Count("reads", "1")) is None


def test_all_or_nothing(limits: Limits) -> None:
    """What one rate refuses is not counted against the others."""
    for _ in range(2):
        limits.take(Count("writes", "1"), Count("reads", "1"))
    for _ in range(10):
        assert wait_of(limits, Count("writes", "1"), Count("reads", "1")) is not None
    assert [wait_of(limits, Count("reads", "1")) is None for _ in range(4)] == [True, True, True, False]


def test_it_comes_back_with_time(limits: Limits, client: redis.Redis) -> None:
    """The key is moved into the past instead of waiting."""
    for _ in range(2):
        limits.take(Count("writes", "1"))
    assert wait_of(limits, Count("writes", "1")) is not None
    unused = int(client.get("limit:writes:1") or 0)
    client.set("limit:writes:1", unused - 43_200 * 1_000_000)  # half a day: one of two
    assert wait_of(limits, Count("writes", "1")) is None
    assert wait_of(limits, Count("writes", "1")) is not None


def test_a_clock_that_was_set_back_locks_nobody_out(limits: Limits, client: redis.Redis) -> None:
    client.set("limit:writes:1", 10**17)  # the year 5138
    wait = wait_of(limits, Count("writes", "1"))
    assert wait is not None
    assert wait <= 86_400


def test_what_is_full_again_is_forgotten(limits: Limits, client: redis.Redis) -> None:
    limits.take(Count("writes", "1"))
    left = client.pttl("limit:writes:1")
    assert 0 < left <= 43_200_001


def test_what_is_given_back_may_be_taken_again(limits: Limits, client: redis.Redis) -> None:
    ana = Count("writes", "1")
    for _ in range(2):
        limits.take(ana)
    limits.give_back(ana)
    assert wait_of(limits, ana) is None
    assert wait_of(limits, ana) is not None
    for _ in range(5):
        limits.give_back(ana)
    assert client.keys() == []
    assert [wait_of(limits, ana) is None for _ in range(3)] == [True, True, False]


def test_together_no_more_come_in(limits: Limits) -> None:
    """Sixteen threads, each trying often: five in all are let in."""
    let_in: list[None] = []

    def try_often() -> None:
        let_in.extend(None for _ in range(10) if wait_of(limits, Count("reads", "1")) is None)

    threads = [threading.Thread(target=try_often) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 5


def test_without_redis_people_come_in_and_guesses_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Valkey(tmp_path, aof=False) as server:
        port = server.port
    limits = Limits(redis.Redis(port=port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)), SETTINGS)
    for _ in range(3):
        limits.take(Count("reads", "1"))
    with pytest.raises(Problem) as caught:
        limits.take(Count("log_ins", "ana"), must=True)
    assert caught.value.kind == "unavailable"
    assert len(caplog.records) == 1


PROXIES = networks(["127.0.0.0/8", "::1/128", "10.0.0.0/8"])


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not from a proxy of ours: a lie
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"),  # what it was told itself is not believed
        ("127.0.0.1", "1.2.3.4, 198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, <script>", "127.0.0.1"),
        ("127.0.0.1", ", ,", "127.0.0.1"),
        ("", "198.51.100.1", "198.51.100.1"),  # a Unix socket
        ("", "", "None"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "", "203.0.113.9"),
        ("::ffff:127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fe80::1%eth0", "", "fe80::/64"),
    ],
)
def test_where_a_request_comes_from(remote: str, forwarded: str, address: str) -> None:
    assert address_of({"REMOTE_ADDR": remote, "HTTP_X_FORWARDED_FOR": forwarded}, PROXIES) == address
