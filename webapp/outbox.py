"""The transactional outbox: what has to follow a change is written in the transaction of the change.

The relay (webapp/relay.py) does it once that has committed, at least once, in the order of the ids for each key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import redis
from django.db import connections
from msgspec import Struct

from webapp import redis_clients, shards

Kind = Literal["event", "edge", "fanout", "withdraw", "clear"]

CHANNEL: Final = "webapp:outbox"
"""A message on it wakes the relays: "events" or "tasks". It may be lost."""
STREAM: Final = "notifier:events"
LANES: Final = 16
"""Events go by lanes 0 to 15, tasks by 16 to 31: a long fan-out, or feeds that are down, hold no event up."""
FILES: Final = 32
"""The lane of rows whose photo is out of the feeds, and whose files are still to be deleted: a storage that refuses
that, or is down, holds nothing else up."""
CLEARING: Final = 33
"""The lane of photos that are gone and have likes or comments left: many hundred thousand hold nothing else up."""
LATER: Final = 34
"""The lane of rows whose files are deleted later, once nobody is shown them any more (webapp/tidying.py)."""
PARKED: Final = -1
"""The lane of rows that nobody can make sense of. They are kept for whoever finds out why."""

_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads ids, whose last bits are mostly zeros
_LOCKS: Final = 0x6F757462  # "outb": advisory locks of ours
_SILENCE: Final = 1.0  # s without a wake-up after one failed
_log: Final = logging.getLogger(__name__)

# The lock makes the order of the ids of a key the order of its commits, so that a relay that sees one row has seen
# all before it. It is held until the transaction ends, hence: put last, when all rows are locked that ever will be.
_PUT: Final = (
    "WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(%s, %s)) "
    "INSERT INTO outbox (id, lane, kind, payload, created) "
    "SELECT next_id(), %s, %s, one.payload, clock_timestamp() "
    "FROM held, unnest(%s::text[]) WITH ORDINALITY AS one(payload, place) ORDER BY place RETURNING id"
)


class Edge(Struct, frozen=True):
    """Task "edge": `follower` follows `followee` from now on, or does so no more (`active` False)."""

    follower: int
    followee: int
    active: bool


class Fanout(Struct, frozen=True):
    """Task "fanout": a photo was posted."""

    photo: int
    owner: int


class Withdraw(Struct, frozen=True):
    """Task "withdraw": a photo is gone. It leaves the feeds; then, in the lane `FILES`, its files leave the storage.

    In the lane `LATER` `photo` is 0: only the files are to be deleted, once their time has come.
    """

    photo: int
    owner: int
    files: tuple[str, ...] = ()


class Clear(Struct, frozen=True):
    """Task "clear": a photo is gone, some of its likes and comments are left. `image`: the address of its picture."""

    photo: int
    owner: int
    image: str


def put(kind: Kind, key: int, payload: Mapping[str, Any] | Struct, *, lane: int | None = None) -> int:
    """Writes a row on the current shard, in the transaction under way, and wakes the relays when that commits.

    key      what is kept in order: the photo's id; for a follow the follower's
    lane     where to, if not where the others of the kind go
    payload  kind "event": an event of docs/events.md without `id` and `time`; else the task's struct, as `Edge`

    Returns the id of the row: the event's id, and its time. Call it last in the transaction, after all other writes.
    Raises RuntimeError outside a transaction.
    """
    return put_all(kind, key, [payload], lane=lane)[0]


def put_all(
    kind: Kind, key: int, payloads: Sequence[Mapping[str, Any] | Struct], *, lane: int | None = None
) -> list[int]:
    """As `put`, for any number of rows of one key in one round trip. Returns their ids, in order."""
    if not connections[shards.current_node().primary].in_atomic_block:
        raise RuntimeError("outbox.put() outside a transaction: the row would stand without its change")
    if not payloads:
        return []
    texts = [msgspec.json.encode(payload).decode() for payload in payloads]
    with shards.write_cursor() as cursor:
        place = lane_of(kind, key) if lane is None else lane
        cursor.execute(_PUT, (_LOCKS, _spread(key) >> 33, place, kind, texts))
        rows = cursor.fetchall()
    announce(kind)
    return [int(number) for (number,) in rows]


def announce(kind: Kind) -> None:
    """Wakes the relays when the transaction under way has committed; once, however often it is called."""
    wake = _wake_for_events if kind == "event" else _wake_for_tasks
    waiting = connections[shards.current_node().primary].run_on_commit
    if not any(function is wake for _, function, _ in waiting):
        shards.on_commit(wake)


def lane_of(kind: Kind, key: int) -> int:
    """The lane of a row: rows of one key, and either events or tasks, share one."""
    if kind == "clear":
        return CLEARING
    return (_spread(key) >> 60) + (0 if kind == "event" else LANES)


def time_of(row: int) -> str:
    """The time in a row's id, RFC 3339 with milliseconds."""
    return shards.datetime_of(row).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def event(row: int, payload: str) -> bytes:
    """The event of a row as it goes to the stream: the same bytes however often it is sent."""
    return b'{"id":"%d","time":"%s",%s' % (row, time_of(row).encode(), payload.lstrip()[1:].encode())


def _spread(key: int) -> int:
    return (key * _GOLDEN) & 0xFFFF_FFFF_FFFF_FFFF


_silent_until = 0.0


def _wake_for_events() -> None:
    _wake(b"events")


def _wake_for_tasks() -> None:
    _wake(b"tasks")


def _wake(what: bytes) -> None:
    """A lost wake-up costs a second, a request that waits for a dead Redis costs more: so one try a second."""
    global _silent_until
    if time.monotonic() < _silent_until:
        return
    try:
        redis_clients.client("events").publish(CHANNEL, what)
    except redis.RedisError as failure:
        _silent_until = time.monotonic() + _SILENCE
        _log.warning("the relays are not woken, they look themselves: %s", failure)
