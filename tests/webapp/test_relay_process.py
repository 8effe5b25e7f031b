"""Relays as processes on real servers: killed where it hurts, several at once, without Redis, told to stop."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.servers import Valkey
from tests.webapp.failpoints import POINTS
from tests.webapp.stack import Stack
from webapp import outbox
from webapp.models import Answered, Follower, Outbox, Person, Photo
from webapp.shards import all_shards, atomic, shard, shard_of

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0  # s for what takes a few


class Process:
    """A relay, or several one after the other."""

    def __init__(self, *words: str) -> None:
        self.lines: list[str] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        try:
            status = self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            raise
        finally:
            self._reader.join(10)
            assert self._popen.stdout is not None
            self._popen.stdout.close()
        return status


@contextmanager
def relays(count: int = 1) -> Iterator[Process]:
    """Relays at work; more than one are children of a process that has loaded all only once."""
    words = ("webapp", "relay") if count == 1 else ("tests.webapp.failpoints", "--count", str(count))
    running = Process(*words)
    try:
        until(lambda: running.ended or len(running.said("looking after")) == count, lambda: running.lines)
        assert not running.ended, running.lines
        yield running
    finally:
        running.stop()


def until(done: Callable[[], object], told: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def waiting() -> int:
    """Rows in the outboxes of all shards."""
    found = 0
    for number in all_shards():
        with shard(number):
            found += Outbox.objects.count()
    return found


class Writer:
    """Likes and unlikes of some photos in every shard, one transaction each; knows what must arrive."""

    def __init__(self, photos: int = 5) -> None:
        self.photos = [(7 + turn) << 23 | number << 10 for turn in range(photos) for number in all_shards()]
        self.events: dict[int, list[str]] = defaultdict(list)

    def write(self, count: int) -> None:
        turns = itertools.islice(itertools.cycle(self.photos), count)
        for photo in turns:
            with shard(shard_of(photo)), atomic():
                self.put(photo)

    def put(self, photo: int) -> None:
        kind = "unlike" if len(self.events[photo]) % 2 else "like"
        event = {
            "type": kind,
            "actor": {"id": "42"},
            "to": ["7"],
            "object": {"type": "photo", "id": str(photo)},
        }
        self.events[photo].append(str(outbox.put("event", photo, event)))

    def pour(self, each: int) -> None:
        """Many at once: `each` for every photo, a transaction for each photo."""
        for photo in self.photos:
            with shard(shard_of(photo)), atomic():
                for _ in range(each):
                    self.put(photo)


def arrived(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(fields[b"event"]) for _, fields in client.xrange(outbox.STREAM)]


def check(written: Writer, events: list[dict[str, Any]]) -> int:
    """All arrived, each the same however often, those of a photo in their order. Returns the number of repeats."""
    first: dict[str, dict[str, Any]] = {}
    order: dict[int, list[str]] = defaultdict(list)
    for event in events:
        assert first.setdefault(event["id"], event) == event
        if event["id"] not in order[int(event["object"]["id"])]:
            order[int(event["object"]["id"])].append(event["id"])
    assert order == written.events
    for photo, ids in order.items():
        assert [first[one]["type"] for one in ids] == (["like", "unlike"] * len(ids))[: len(ids)], photo
    return len(events) - len(first)


def test_an_event_goes_from_the_outbox_to_the_stream(db: Stack) -> None:
    writer = Writer()
    with relays():
        writer.write(1)
        until(lambda: not waiting())
    assert check(writer, arrived(db.redis_url)) == 0


def test_a_relay_deletes_old_answers(db: Stack) -> None:
    with shard(5):
        Answered.objects.create(person_id=1, about=0, key="k", id=1 << 23, content="", answer="{}")
    with relays(), shard(5):
        until(lambda: not Answered.objects.count())


@pytest.mark.parametrize("count", [2, 4])
def test_relays_side_by_side_lose_nothing_repeat_nothing_and_keep_the_order(db: Stack, count: int) -> None:
    writer = Writer()
    writer.pour(50)
    with relays(count) as running:
        writer.write(400)
        until(lambda: not waiting())
    assert check(writer, arrived(db.redis_url)) == 0
    # Each says what it has done, at the latest when it ends; not one of them did it all.
    figures = [json.loads(line) for line in running.said('"event"')]
    assert sum(one["event"] for one in figures) == 40 * 50 + 400
    assert len({one["relay"] for one in figures}) > 1


def test_killed_anywhere_nothing_is_lost_and_what_is_sent_again_is_the_same(db: Stack) -> None:
    people, photo = crowd()
    writer = Writer()
    mortals = Process("tests.webapp.failpoints", *POINTS, *POINTS)
    other = Process("webapp", "relay")
    try:
        follow = itertools.cycle(people[1:])
        while not mortals.said("died: committed")[1:]:
            assert not mortals.said("ended:"), mortals.lines
            writer.pour(2)
            one = next(follow)
            with shard(shard_of(one)), atomic():
                outbox.put("edge", one, outbox.Edge(one, people[0], active=True))
            with shard(shard_of(photo)), atomic():
                outbox.put("fanout", photo, outbox.Fanout(photo, people[0]))
        until(lambda: not waiting(), lambda: mortals.lines)
    finally:
        mortals.stop()
        other.stop()
    assert [line for line in mortals.lines if line.startswith("died")] == [
        f"died: {one}" for one in (*POINTS, *POINTS)
    ]
    assert check(writer, arrived(db.redis_url)) > 0  # or no death struck in the middle of anything
    with shard(shard_of(people[0])):
        followers = Follower.objects.filter(followee_id=people[0], active=True).count()
        assert Person.objects.get(id=people[0]).followers == followers > 0


def crowd() -> tuple[list[int], int]:
    """A few people, the first with a photo."""
    people = []
    for name in ("ana", "ben", "cleo", "dan", "eva", "finn"):
        with shard(0):
            people.append(Person.objects.create(name=name, password="x").id)
    with shard(0):
        return people, Photo.objects.create(owner_id=people[0], key="k", width=1, height=1).id


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.campaign)])
def test_without_redis_rows_wait_and_follow_when_it_is_back(
    db: Stack, own_server: Valkey, seconds: float
) -> None:
    db.sections["redis"] = {"url": db.redis_url, "events_url": own_server.url, "timeout_seconds": 0.5}
    db.write()
    try:
        writer = Writer()
        with relays(2) as running:
            writer.write(80)
            until(lambda: not waiting())
            own_server.kill()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                writer.write(40)
            until(lambda: len(running.said("events of node0: kept")) == 2)
            left = waiting()
            assert left > 0
            own_server.start()
            writer.write(40)
            until(lambda: not waiting())
            until(lambda: running.said("they move again"))
    finally:
        del db.sections["redis"]
        db.write()
    check(writer, arrived(own_server.url))


def backends(stack: Stack, signal_sql: str = "") -> list[int]:
    link = stack.primary.connect()
    with link, link.cursor() as cursor:
        cursor.execute(
            f"SELECT pid {signal_sql} FROM pg_stat_activity WHERE application_name LIKE 'webapp%%' AND pid <> ALL(%s)",
            [own_backends()],
        )
        found = [row[0] for row in cursor.fetchall()]
    link.close()
    return found


def own_backends() -> list[int]:
    with shard(0):
        from django.db import connections

        connection = connections["node0"]
        connection.ensure_connection()
        return [connection.connection.info.backend_pid]


def test_a_relay_whose_connections_break_makes_new_ones(db: Stack) -> None:
    people, photo = crowd()
    writer = Writer()

    def follow() -> None:
        with shard(shard_of(people[1])), atomic():
            outbox.put("edge", people[1], outbox.Edge(people[1], people[0], active=True))

    def post() -> None:
        with shard(shard_of(photo)), atomic():
            outbox.put("fanout", photo, outbox.Fanout(photo, people[0]))

    with relays() as one:
        post()
        until(lambda: not waiting())
        for task in (follow, post):  # which writes, and which only reads
            assert len(backends(db, ", pg_terminate_backend(pid)")) == 2
            writer.write(40)
            task()
            until(lambda: not waiting(), lambda: one.lines)
    check(writer, arrived(db.redis_url))


def test_lanes_of_a_relay_that_hangs_are_left_to_it_and_the_others_move(db: Stack) -> None:
    """Its claims are the server's: nobody else touches what it may be in the middle of."""
    writer = Writer()
    held = outbox.lane_of("event", writer.photos[0])
    link = db.primary.connect()
    with link.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_lock(%s, %s)", [0x72656C61, shard_of(writer.photos[0]) * 64 + held]
        )
    with relays():
        writer.pour(3)
        mine = sum(
            3
            for photo in writer.photos
            if shard_of(photo) == shard_of(writer.photos[0]) and outbox.lane_of("event", photo) == held
        )
        until(lambda: waiting() == mine)
        link.close()
        until(lambda: not waiting())
    assert check(writer, arrived(db.redis_url)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told(db: Stack, number: int) -> None:
    writer = Writer()
    with relays() as one:
        writer.write(3)
        until(lambda: not waiting())
        assert one.stop(number) == 0
    (line,) = one.said('"event"')
    told = json.loads(line)
    assert told["event"] == 3
    assert told["lag_ms"] >= 0


def test_it_ends_even_if_postgresql_does_not_answer(db: Stack) -> None:
    with relays() as one:
        until(lambda: len(backends(db)) == 2)  # one to claim with, one for what it does
        stopped = backends(db)
        for backend in stopped:
            os.kill(backend, signal.SIGSTOP)
        try:
            time.sleep(1.2)  # longer than its poll: it has asked, and hangs
            assert one.stop() == 0
        finally:
            for backend in stopped:
                os.kill(backend, signal.SIGCONT)
