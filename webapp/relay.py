"""The relay: takes what stands in the outboxes, brings events to the notifier and does tasks, and deletes the rows.

Any number run side by side. What one was doing when it died is done again by the next, with the same ids and times.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import psycopg2
import redis
from django.db import Error as DatabaseError
from msgspec import Struct

from webapp.claims import Batch, Row
from webapp.outbox import CLEARING as CLEARING_LANE
from webapp.outbox import FILES as FILES_LANE
from webapp.outbox import LANES, STREAM, event
from webapp.shards import milliseconds_of
from webapp.tasks import Result

PRESSURE: Final = "notifier:pressure"

EVENTS: Final = range(LANES)
TASKS: Final = range(LANES, 2 * LANES)
FILES: Final = range(FILES_LANE, FILES_LANE + 1)
CLEARING: Final = range(CLEARING_LANE, CLEARING_LANE + 1)
ALL: Final = (EVENTS, TASKS, FILES, CLEARING)
OUTAGES: Final = (redis.RedisError, psycopg2.Error, DatabaseError)

_NAMES: Final = {EVENTS: "events", TASKS: "tasks", FILES: "files to delete", CLEARING: "photos to clear"}
_log: Final = logging.getLogger(__name__)


class Queue(Protocol):
    """The outbox of one node; see webapp/claims.py."""

    def take(self, lanes: range) -> Batch: ...

    def finish(self, done: Sequence[Row], parked: Sequence[Row] = (), files: Sequence[Row] = ()) -> None: ...

    def release(self) -> None: ...

    def close(self) -> None: ...


class Events(Protocol):
    """Where events go."""

    def append(self, events: Sequence[bytes]) -> None:
        """All of them, in order. After an error any part may have arrived. Raises redis.RedisError."""
        ...

    def pressed(self) -> bool:
        """Whether the notifier asks to hold back. Raises redis.RedisError."""
        ...


class Doer(Protocol):
    """Does tasks; see webapp/tasks.py."""

    def run(self, rows: Sequence[Row]) -> Result: ...

    def delete_files(self, rows: Sequence[Row]) -> Result: ...

    def clear(self, rows: Sequence[Row]) -> Result: ...


class Stream(Events):
    """The notifier's stream. `clock` gives seconds."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client
        self._clock = clock
        self._look_at = 0.0
        self._pressed = False

    def append(self, events: Sequence[bytes]) -> None:
        """One round trip for all."""
        with self._redis.pipeline(transaction=False) as batch:
            for one in events:
                batch.xadd(STREAM, {"event": one})
            batch.execute()

    def pressed(self) -> bool:
        """Asks once a second, as docs/events.md ("Slowing down") wants it."""
        if self._clock() >= self._look_at:
            self._pressed = bool(self._redis.exists(PRESSURE))
            self._look_at = self._clock() + 1.0
        return self._pressed


class Backoff:
    """When to try again what failed: after 0.1 s, doubled with each failure up to `most`, less up to half by chance."""

    FIRST: Final = 0.1
    MOST: Final = 5.0
    MOST_FILES: Final = 300.0

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float], most: float = MOST) -> None:
        self._clock = clock
        self._chance = chance
        self._most = most
        self.failures = 0
        self.until = 0.0

    @property
    def over(self) -> bool:
        """Whether it is time."""
        return self._clock() >= self.until

    def failed(self) -> None:
        """Once more."""
        delay = min(self._most, self.FIRST * 2.0 ** min(self.failures, 16))
        self.failures += 1
        self.until = self._clock() + delay * (1.0 - self._chance() / 2)

    def worked(self) -> None:
        """All is well again."""
        self.failures, self.until = 0, 0.0


class Figures(Struct):
    """What a relay has done since it last told."""

    counts: Counter[str]
    lag_ms: int = 0


Outcome = tuple[bool, Exception | None] | None
"""Whether there may be more, and what failed; None: nothing was tried."""


class Relay:
    """Moves what is in the outboxes of all nodes.

    nodes   by name; events, tasks, files of each are taken in turn and wait for nobody else's trouble
    clock   seconds, monotonic
    now     milliseconds since 1970, to tell how late rows are
    chance  0 to 1, for the jitter
    """

    def __init__(
        self,
        nodes: Mapping[str, Queue],
        events: Events,
        tasks: Doer,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = lambda: time.time() * 1000,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._nodes = nodes
        self._events = events
        self._tasks = tasks
        self._now = now
        self._parts = {
            (name, lanes): Backoff(clock, chance, Backoff.MOST_FILES if lanes == FILES else Backoff.MOST)
            for name in nodes
            for lanes in ALL
        }
        self._steps = {
            EVENTS: self._move_events,
            TASKS: self._do_tasks,
            FILES: self._delete_files,
            CLEARING: self._clear,
        }
        self.figures = Figures(Counter())

    def once(self, which: Collection[range] = ALL) -> set[range]:
        """One batch of `which` from every node. Returns those of which there may be more; raises no outage."""
        return {lanes for name, lanes in self._parts if lanes in which and self._turn(name, lanes)}

    def close(self) -> None:
        """Ends the connections to the nodes."""
        for queue in self._nodes.values():
            queue.close()

    def _turn(self, name: str, lanes: range) -> bool:
        backoff, queue = self._parts[name, lanes], self._nodes[name]
        if not backoff.over:
            return False
        try:
            outcome = self._steps[lanes](queue)
        except OUTAGES as outage:
            queue.release()
            outcome = False, outage
        except BaseException:
            queue.release()
            raise
        if outcome is None:
            return False
        more, failure = outcome
        self._note(name, lanes, backoff, failure)
        return more and failure is None

    def _move_events(self, queue: Queue) -> Outcome:
        if self._events.pressed():
            self.figures.counts["held back"] += 1
            return False, None
        batch = queue.take(EVENTS)
        rows = batch.rows
        if not rows:
            return batch.more, None
        known: list[Row] = []
        strange: list[Row] = []
        for row in rows:
            (known if row.kind == "event" and row.payload.startswith('{"') else strange).append(row)
        for row in strange:
            _log.error("outbox row %d of shard %d is no event: kind %r", row.id, row.shard, row.kind)
        self._events.append([event(row.id, row.payload) for row in known])
        queue.finish(known, strange)
        self._count(known, len(strange))
        return batch.more, None

    def _do_tasks(self, queue: Queue) -> Outcome:
        batch = queue.take(TASKS)
        if not batch.rows:
            return batch.more, None
        result = self._tasks.run(batch.rows)
        queue.finish(result.done, result.parked, result.files)
        self._count([*result.done, *result.files], len(result.parked))
        moved = result.done or result.parked or result.files
        return bool(result.more or (batch.more and moved)), result.failure

    def _delete_files(self, queue: Queue) -> Outcome:
        rows = queue.take(FILES).rows
        if not rows:
            return None  # or another relay has them: that tells nothing of the storage
        result = self._tasks.delete_files(rows)
        queue.finish(result.done, (), result.files)
        for what, found in (("files deleted", result.done), ("files kept", result.files)):
            if found:
                self.figures.counts[what] += len(found)
        return False, result.failure  # what is left can wait for the next look

    def _clear(self, queue: Queue) -> Outcome:
        if self._events.pressed():
            return False, None  # each slice is as many events, which would wait here instead
        batch = queue.take(CLEARING)
        if not batch.rows:
            return batch.more, None
        result = self._tasks.clear(batch.rows)
        queue.finish(result.done, result.parked)
        self._count(result.done, len(result.parked))
        return bool(result.more or (batch.more and (result.done or result.parked))), result.failure

    def _count(self, rows: Sequence[Row], parked: int) -> None:
        counts = self.figures.counts
        counts.update(row.kind for row in rows)
        if parked:
            counts["parked"] += parked
        if rows:
            oldest = min(row.id for row in rows)
            self.figures.lag_ms = max(self.figures.lag_ms, int(self._now()) - milliseconds_of(oldest))

    def _note(self, name: str, lanes: range, backoff: Backoff, failure: Exception | None) -> None:
        what = f"{_NAMES[lanes]} of {name}"
        if failure is None:
            if backoff.failures:
                _log.warning("%s: they move again", what)
                backoff.worked()
            return
        if not backoff.failures:
            _log.warning("%s: kept, and tried again: %s: %s", what, type(failure).__name__, failure)
        self.figures.counts["failures"] += 1
        backoff.failed()
        if isinstance(failure, psycopg2.Error) and lanes != FILES:  # whose pauses are too long for others
            # The node itself: nothing of it can be had.
            for other in (self._parts[name, others] for others in ALL):
                other.until = max(other.until, backoff.until)
