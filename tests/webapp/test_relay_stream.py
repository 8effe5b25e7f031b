"""Where the relay's events go, and what wakes it, on a real Valkey."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import Valkey
from webapp.outbox import CHANNEL, STREAM
from webapp.relay import ALL, CLEARING, EVENTS, PRESSURE, TASKS, Stream
from webapp.relay_process import Bell


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def bell(client: redis.Redis) -> Iterator[Bell]:
    made = Bell(client, threading.Event())
    assert made.wait(0.001) == set()  # it listens from now on
    yield made
    made.close()


def test_events_are_entries_of_the_stream_in_their_order(client: redis.Redis) -> None:
    events = [b'{"id":"%d"}' % number for number in range(1200)]
    Stream(client).append(events)
    entries: Any = client.xrange(STREAM)
    assert [fields for _, fields in entries] == [{b"event": event} for event in events]


def test_an_entry_that_redis_refuses_is_an_error(client: redis.Redis) -> None:
    client.set(STREAM, "no stream")
    with pytest.raises(redis.RedisError, match="WRONGTYPE"):
        Stream(client).append([b"{}"])


def test_it_asks_once_a_second_whether_to_hold_back(client: redis.Redis) -> None:
    now = [0.0]
    stream = Stream(client, lambda: now[0])
    client.config_resetstat()
    answers = []
    for tenth in range(30):
        now[0] = tenth / 10
        if tenth == 5:
            client.set(PRESSURE, "1")
        if tenth == 15:
            client.delete(PRESSURE)
        answers.append(stream.pressed())
    assert answers == [False] * 10 + [True] * 10 + [False] * 10
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    assert stats["cmdstat_exists"]["calls"] == 3


@pytest.mark.parametrize(
    ("messages", "heard"),
    [
        (["events"], {EVENTS}),
        (["tasks"], {TASKS, CLEARING}),
        (["tasks", "events", "events"], {EVENTS, TASKS, CLEARING}),
        (["something new"], set(ALL)),
    ],
    ids=["events", "tasks", "several", "unknown"],
)
def test_a_wake_up_tells_where_to_look(
    bell: Bell, client: redis.Redis, messages: list[str], heard: set[range]
) -> None:
    for message in messages:
        assert client.publish(CHANNEL, message) == 1
    assert bell.wait(20) == heard
    assert bell.wait(0.01) == set()


def test_who_shall_stop_does_not_wait(client: redis.Redis) -> None:
    stop = threading.Event()
    bell = Bell(client, stop)
    threading.Timer(0.05, stop.set).start()
    start = time.monotonic()
    assert bell.wait(60) == set()
    assert time.monotonic() - start < 30
    bell.close()


def test_a_bell_without_redis_is_a_clock_and_hears_again_when_it_is_back(tmp_path: Path) -> None:
    with Valkey(tmp_path, aof=False) as server:
        client = redis.Redis.from_url(server.url)
        bell = Bell(client, threading.Event())
        bell.wait(0.001)
        server.kill()
        assert bell.wait(0.05) == set()
        server.start()
        bell.wait(0.001)
        client.publish(CHANNEL, "tasks")
        assert bell.wait(20) == {TASKS, CLEARING}
        bell.close()
        client.close()
