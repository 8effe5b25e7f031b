"""Which replica may be read from: one that keeps up, and that has all that the acting person wrote.

After a request that wrote, Redis keeps the position of the primary's log under `wrote:{person}`, for each node.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections

from webapp.redis_clients import client
from webapp.shards.context import Scope, layout, on_alias, scope, wants_primary
from webapp.shards.layout import NodePlace

__all__ = ["down", "forget_all", "marks_key", "reading", "remember", "told"]

CHECK_SECONDS: Final = 2.0  # between looks at a replica
DOWN_SECONDS: Final = 10.0  # until a replica that could not be reached is tried again
BLIND_SECONDS: Final = 60.0  # reads from primaries after Redis could not be asked or told
MARK_SECONDS: Final = 3600  # no replica that lags for longer is read from anyway
# What is not flushed is not sent to replicas, and may stay so for a while: unless commits do not wait for their flush,
# nobody's write is in it.
WRITTEN_LSN: Final = """
SELECT (CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()
  ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint
"""
FLUSHED_LSN: Final = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"
REPLAYED_LSN: Final = "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint"
# Two requests of a person may end at the same time: the later position stays, and only what was read is removed.
MARK_LUA: Final = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old or tonumber(old:match('^%d+')) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
"""
DROP_LUA: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""
FAILURES: Final = (DatabaseError, InterfaceError)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Health:
    """What this process knows of one replica."""

    fit: bool = False
    look_at: float = 0.0  # monotonic time of the next look
    turn: threading.Lock = field(default_factory=threading.Lock)
    samples: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=64)
    )  # (when, primary's LSN)


_health: dict[str, _Health] = {}
_blind_until = 0.0


def forget_all() -> None:
    """Forgets what is known of all replicas: the next read looks anew."""
    global _blind_until
    _health.clear()
    _blind_until = 0.0


def reading(node: NodePlace) -> str:
    """The alias to read a node from, now: once chosen, the same for the rest of the request unless it writes."""
    if not node.replicas or wants_primary() or connections[node.primary].in_atomic_block:
        return node.primary
    found = scope()
    if found is None:
        return _choice(node, None)
    if node.number in found.wrote:
        return node.primary
    if node.number not in found.reads:
        found.reads[node.number] = _choice(node, found)
    return found.reads[node.number]


def down(alias: str, fault: Exception) -> None:
    """Nothing is read from a replica for a while, because of a failure just seen."""
    health = _health.setdefault(alias, _Health())
    if health.fit:
        log.warning("replica %s: %s; reading from the primary", alias, str(fault).strip())
    health.fit, health.look_at = False, time.monotonic() + DOWN_SECONDS
    found = scope()
    if found is not None:  # what was chosen for this request holds no more
        found.reads = {number: chosen for number, chosen in found.reads.items() if chosen != alias}


def remember(found: Scope) -> None:
    """Keeps how far the primaries are that the person of a request has written to."""
    nodes = [layout().nodes[number] for number in found.wrote if layout().nodes[number].replicas]
    if found.person is None or not nodes:
        return
    for node in nodes:
        try:
            _mark(found.person, node.number, _lsn(node.primary, WRITTEN_LSN))
        except (redis.RedisError, *FAILURES) as fault:
            _blind(f"a write of person {found.person} on {node.primary} could not be marked: {fault}")


def _choice(node: NodePlace, found: Scope | None) -> str:
    person = found.person if found is not None else None
    # The same replica for the same person: what they have seen once stays seen.
    index = random.randrange(len(node.replicas)) if person is None else person
    replica = node.replicas[index % len(node.replicas)]
    if not _fit(replica, node):
        return node.primary
    if person is None or found is None:
        return replica
    try:
        if found.marks is None:
            found.marks = _marks(person)
        mark = found.marks.get(node.number)
        seen = time.monotonic() >= _blind_until and (
            mark is None or _passed(person, node.number, mark, replica)
        )
    except redis.RedisError as fault:
        _blind(f"marks of writes could not be read: {fault}")
        return node.primary
    except FAILURES as fault:
        down(replica, fault)
        return node.primary
    return replica if seen else node.primary


def _passed(person: int, node: int, mark: tuple[int, int], replica: str) -> bool:
    """Has the replica all that the person wrote?"""
    lsn, written_ms = mark
    if time.time() * 1000 - written_ms < settings.CONFIG.shards.settle_seconds * 1000:
        return False
    if _lsn(replica, REPLAYED_LSN) < lsn:
        return False
    client("marks").eval(DROP_LUA, 1, marks_key(person), str(node), f"{lsn}:{written_ms}")
    return True


def _fit(replica: str, node: NodePlace) -> bool:
    """Does the replica answer, and keep up? Looked at every 2 s, by one thread at a time."""
    health = _health.setdefault(replica, _Health())
    now = time.monotonic()
    try:
        if now >= health.look_at and health.turn.acquire(blocking=False):
            try:
                health.look_at = now + CHECK_SECONDS
                health.fit = _keeps_up(replica, node, health.samples, now)
            finally:
                health.turn.release()
        if health.fit:
            connections[replica].ensure_connection()
    except FAILURES as fault:
        down(replica, fault)
    return health.fit


def _keeps_up(replica: str, node: NodePlace, samples: deque[tuple[float, int]], now: float) -> bool:
    """True if the replica has reached where the primary was at some time within the lag that is allowed."""
    try:
        samples.append((now, _lsn(node.primary, FLUSHED_LSN)))
    except FAILURES:
        return _lsn(replica, REPLAYED_LSN) > 0  # without its primary a replica is the best there is
    reached = _lsn(replica, REPLAYED_LSN)
    oldest = now - settings.CONFIG.shards.lag_seconds
    return any(when >= oldest and lsn <= reached for when, lsn in samples)


def _lsn(alias: str, question: str) -> int:
    with on_alias(alias), connections[alias].cursor() as cursor:
        cursor.execute(question)
        (found,) = cursor.fetchone()
        return int(found or 0)


def marks_key(person: int) -> str:
    """The key of what `told` takes, for whoever asks Redis about this person anyway."""
    return f"wrote:{person}"


def told(found: Scope, marks: Mapping[bytes, bytes]) -> None:
    """Takes what stands under `marks_key` of the acting person, which then is not asked for."""
    found.marks = _parsed(marks)


def _mark(person: int, node: int, lsn: int) -> None:
    now = int(time.time() * 1000)
    client("marks").eval(MARK_LUA, 1, marks_key(person), str(node), str(lsn), str(now), str(MARK_SECONDS))


def _marks(person: int) -> dict[int, tuple[int, int]]:
    found: Any = client("marks").hgetall(marks_key(person))
    return _parsed(found)


def _parsed(marks: Mapping[bytes, bytes]) -> dict[int, tuple[int, int]]:
    return {
        int(node): (int(lsn), int(when)) for node, text in marks.items() for lsn, when in [text.split(b":")]
    }


def _blind(why: str) -> None:
    """For a while nothing is read from replicas: a write may not have been marked."""
    global _blind_until
    log.warning("%s; reading from primaries for %d s", why, BLIND_SECONDS)
    _blind_until = time.monotonic() + BLIND_SECONDS
