"""The outbox: a row with the change it follows from, or neither; in order for each key; and the event made of it."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
import redis

from tests.servers import Valkey
from tests.webapp.stack import Stack
from webapp import outbox
from webapp.models import Outbox
from webapp.shards import atomic, shard, shard_of

KEY = 3 << 10  # a photo of shard 3
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "event.schema.json").read_text())
LIKE = {
    "type": "like",
    "actor": {"id": "42", "name": "ana"},
    "to": ["7"],
    "object": {"type": "photo", "id": "99", "url": "/p/99", "image": "/media/p/ab/cd-square.jpg"},
}


def rows(number: int) -> list[Outbox]:
    with shard(number):
        return list(Outbox.objects.order_by("id"))


def test_a_row_stands_when_its_transaction_does(db: Stack) -> None:
    with shard(3), atomic():
        kept = outbox.put("event", KEY, LIKE)
    with pytest.raises(ZeroDivisionError), shard(3), atomic():
        outbox.put("event", KEY, LIKE)
        raise ZeroDivisionError
    (row,) = rows(3)
    assert (row.id, row.kind, json.loads(row.payload)) == (kept, "event", LIKE)
    assert shard_of(row.id) == 3
    assert row.lane == outbox.lane_of("event", KEY)


def test_outside_a_transaction_nothing_is_put(db: Stack) -> None:
    with pytest.raises(RuntimeError, match="outside a transaction"), shard(3):
        outbox.put("event", KEY, LIKE)
    assert rows(3) == []


def test_an_event_is_what_the_notifier_takes_and_the_same_each_time(db: Stack) -> None:
    with shard(3), atomic():
        number = outbox.put("event", KEY, LIKE | {"text": 'déjà vu "\u2028'})
    (row,) = rows(3)
    sent = outbox.event(row.id, row.payload)
    event = json.loads(sent)
    jsonschema.Draft202012Validator(SCHEMA).validate(event)
    assert event == LIKE | {"text": 'déjà vu "\u2028', "id": str(number), "time": event["time"]}
    assert sent == outbox.event(row.id, row.payload)


@pytest.mark.parametrize(
    ("milliseconds", "time"),
    [
        (0, "2024-01-01T00:00:00.000Z"),
        (1, "2024-01-01T00:00:00.001Z"),
        (91_238_400_000 + 999, "2026-11-22T00:00:00.999Z"),
    ],
)
def test_the_time_is_that_of_the_id(milliseconds: int, time: str) -> None:
    assert outbox.time_of(milliseconds << 23 | 5 << 10 | 77) == time


def test_like_unlike_and_like_again_are_three_events_in_order(db: Stack) -> None:
    for kind in ("like", "unlike", "like"):
        with shard(3), atomic():
            outbox.put("event", KEY, LIKE | {"type": kind})
    events = [json.loads(outbox.event(row.id, row.payload)) for row in rows(3)]
    assert [event["type"] for event in events] == ["like", "unlike", "like"]
    order = [(event["time"], int(event["id"])) for event in events]
    assert order == sorted(set(order))
    assert len({event["id"] for event in events}) == 3


def test_many_rows_of_a_key_are_put_at_once_and_in_order(db: Stack) -> None:
    with shard(3), atomic():
        assert outbox.put_all("event", KEY, []) == []
        numbers = outbox.put_all("event", KEY, [LIKE | {"text": str(turn)} for turn in range(3000)])
    found = rows(3)
    assert [row.id for row in found] == numbers == sorted(set(numbers))
    assert [json.loads(row.payload)["text"] for row in found] == [str(turn) for turn in range(3000)]


def test_tasks_keep_their_form(db: Stack) -> None:
    with shard(3), atomic():
        outbox.put("edge", 5, outbox.Edge(5, 6, active=True))
        outbox.put("withdraw", KEY, outbox.Withdraw(KEY, 5, ("a.jpg", "b.jpg")))
    assert [json.loads(row.payload) for row in rows(3)] == [
        {"follower": 5, "followee": 6, "active": True},
        {"photo": KEY, "owner": 5, "files": ["a.jpg", "b.jpg"]},
    ]


def test_the_ids_of_a_key_are_in_the_order_of_its_commits(db: Stack) -> None:
    """Two writers of one photo: the one that has its id first has committed before the other gets one."""
    first_has_id, second_waits, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with shard(3), atomic():
            order.append(outbox.put("event", KEY, LIKE))
            first_has_id.set()
            # The second cannot get so far; were it not held up, it would be done within this time.
            assert not second_waits.wait(0.3)

    def second() -> None:
        assert first_has_id.wait(20)
        with shard(3), atomic():
            order.append(outbox.put("event", KEY, LIKE))
            second_waits.set()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(30)
    assert second_waits.is_set()
    assert order == sorted(order)


def test_lanes_are_used_alike_and_events_and_tasks_share_none() -> None:
    # Ids of quiet times end in zeros: milliseconds, shard, 0.
    keys = [(90_000_000_000 + 1000 * turn) << 23 | 3 << 10 for turn in range(1600)]
    lanes = Counter(outbox.lane_of("event", key) for key in keys)
    assert set(lanes) == set(range(16))
    assert min(lanes.values()) > 50
    tasks: tuple[outbox.Kind, ...] = ("edge", "fanout", "withdraw")
    for key, kind in itertools.product(keys, tasks):
        assert outbox.lane_of(kind, key) == outbox.lane_of("event", key) + 16


@pytest.fixture
def bell(redis_url: str) -> Iterator[redis.client.PubSub]:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe(outbox.CHANNEL)
        assert channel.get_message(timeout=30)
        yield channel


def test_a_commit_wakes_the_relays_once(db: Stack, bell: redis.client.PubSub) -> None:
    with shard(3), atomic():
        for _ in range(3):
            outbox.put("event", KEY, LIKE)
        assert bell.get_message(timeout=0.05) is None
    assert bell.get_message(timeout=30) is not None
    assert bell.get_message(timeout=0.05) is None


def test_nobody_is_woken_for_what_did_not_happen(db: Stack, bell: redis.client.PubSub) -> None:
    with pytest.raises(ZeroDivisionError), shard(3), atomic():
        outbox.put("event", KEY, LIKE)
        raise ZeroDivisionError
    assert bell.get_message(timeout=0.05) is None


def test_without_redis_the_change_stands(db: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Valkey(tmp_path, aof=False) as server:
        dead = redis.Redis.from_url(server.url)
    monkeypatch.setattr("webapp.redis_clients.client", lambda _purpose: dead)
    monkeypatch.setattr("webapp.outbox._silent_until", 0.0)
    with shard(3), atomic():
        outbox.put("event", KEY, LIKE)
    assert len(rows(3)) == 1
