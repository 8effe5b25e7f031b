"""What the relay does for rows that are no events: the reverse index of follows, and the feeds.

Each may be done any number of times. Rows that fail stay in the outbox, the others go on.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
import redis
from django.db import InterfaceError, close_old_connections
from django.db import OperationalError as DatabaseOutage
from redis import exceptions

from webapp import clearing
from webapp.claims import Row
from webapp.feeds import Feeds
from webapp.outbox import Clear, Edge, Fanout, Withdraw

BUDGET: Final = 2.0
"""Seconds for the photos of one batch: what is done must be deleted long before PostgreSQL gives up on us."""

FILES_BUDGET: Final = 0.5
"""Seconds for deleting files: a storage that is slow to refuse must not keep the relay from events."""
CLEAR_BUDGET: Final = 0.2
"""Seconds for taking back what photos have left behind, in which the relay moves no event."""
SILENCE: Final = 300.0
"""Seconds between two lines about files that cannot be deleted."""
REST: Final = 30.0
"""Seconds after which a photo's task is tried again that failed while others did not."""
MOST_RESTING: Final = 10_000

_log: Final = logging.getLogger(__name__)
OUTAGES: Final = (
    *(redis.ConnectionError, redis.TimeoutError, exceptions.OutOfMemoryError, redis.ReadOnlyError),
    *(exceptions.ClusterDownError, exceptions.TryAgainError),
    *(DatabaseOutage, InterfaceError),
)
# redis-py has no classes for some of them; and of what fails in a script Redis 6 tells in an ERR of its own.
_OUTAGE_CODES: Final = re.compile(r"\b(OOM|READONLY|LOADING|MISCONF|NOREPLICAS|MASTERDOWN)\b")
_TASKS: Final[dict[str, Any]] = {"edge": Edge, "fanout": Fanout, "withdraw": Withdraw}


class Change(msgspec.Struct, frozen=True):
    """An edge, and the id of the row that told of it: of two changes of one edge the greater stands."""

    id: int
    edge: Edge


class Edges(Protocol):
    """The reverse index: who follows somebody, on the shard of the one who is followed."""

    def shard_of(self, followee: int) -> int:
        """The shard of a person. Raises ValueError where there is no such shard."""
        ...

    def apply(self, shard: int, changes: Sequence[Change]) -> None:
        """Brings changes to a shard, whole and committed, whichever order they come in, and counts followers."""
        ...


class Result(msgspec.Struct):
    """What became of rows: those named nowhere stay. `failure` is why, if others would fail for it too.

    files  those of which only files are left to delete
    more   the time was up before all were tried
    """

    done: list[Row]
    parked: list[Row]
    failure: Exception | None = None
    more: bool = False
    files: list[Row] = msgspec.field(default_factory=list)


class Tasks:
    """Does tasks of the kinds edge, fanout and withdraw.

    delete_file  removes a file of the photo storage by name; one that is gone already is no error
    clock        seconds, monotonic
    clear        removes a slice of what a photo has left behind, committed; whether more may be left
    """

    def __init__(
        self,
        edges: Edges,
        feeds: Feeds,
        delete_file: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        clear: Callable[[Clear], bool] = lambda task: clearing.step(task),
    ) -> None:
        self._edges = edges
        self._feeds = feeds
        self._delete_file = delete_file
        self._clock = clock
        self._clear = clear
        self._resting: dict[int, float] = {}  # rows that failed for a reason of their own, and until when
        self._silent_until = 0.0

    def run(self, rows: Iterable[Row]) -> Result:
        """Does all it can within some seconds; what is left then stays without a failure."""
        until = self._clock() + BUDGET
        result = Result([], [])
        edges: dict[int, list[tuple[Row, Edge]]] = defaultdict(list)
        photos: list[tuple[Row, Fanout | Withdraw]] = []
        for row in rows:
            try:
                task = msgspec.json.decode(row.payload, type=_TASKS[row.kind])
                if isinstance(task, Edge):
                    edges[self._edges.shard_of(task.followee)].append((row, task))
                else:
                    photos.append((row, task))
            except (KeyError, ValueError) as fault:  # msgspec's errors are ValueErrors
                _log.error("outbox row %d of shard %d cannot be understood: %s", row.id, row.shard, fault)
                result.parked.append(row)
        for shard, follows in edges.items():
            self._follows(shard, follows, result)
        self._photos(photos, result, until)
        return result

    def delete_files(self, rows: Iterable[Row]) -> Result:
        """Deletes the files of rows of the lane `FILES`; `failure` is set when not one could be done with.

        Others that failed are in `files` again, and only that: their time comes when the storage is well.
        """
        until = self._clock() + FILES_BUDGET
        result = Result([], [])
        failure: Exception | None = None
        for row in rows:
            if self._clock() >= until:
                result.more = True
                break
            try:
                for name in msgspec.json.decode(row.payload, type=Withdraw).files:
                    self._delete_file(name)
            except Exception as refusal:  # each storage has its own
                failure = refusal
                result.files.append(row)
            else:
                result.done.append(row)
        if failure is not None:
            self._tell_of_files(len(result.files), failure)
        result.failure = None if result.done else failure
        return result

    def clear(self, rows: Iterable[Row]) -> Result:
        """Does rows of the lane `CLEARING`, slice by slice until the time is up; what is done of one stays done."""
        until = self._clock() + CLEAR_BUDGET
        result = Result([], [])
        for at, row in enumerate(rows):
            if at and self._clock() >= until:
                result.more = True
                return result
            try:
                task = msgspec.json.decode(row.payload, type=Clear)
                while self._clear(task):
                    if self._clock() >= until:
                        result.more = True
                        return result
            except msgspec.MsgspecError as fault:
                _log.error("outbox row %d of shard %d cannot be understood: %s", row.id, row.shard, fault)
                result.parked.append(row)
            except Exception as failure:
                result.failure = _told(failure)
                if _is_outage(failure):
                    return result
            else:
                result.done.append(row)
        return result

    def _tell_of_files(self, count: int, failure: Exception) -> None:
        if (now := self._clock()) < self._silent_until:
            return
        self._silent_until = now + SILENCE
        _log.warning(
            "the storage does not delete the files of %d deleted photos; they are tried again: %s: %s",
            *(count, type(failure).__name__, failure),
        )

    def _follows(self, shard: int, follows: Sequence[tuple[Row, Edge]], result: Result) -> None:
        """First the index, committed; then the feeds, so that no photo falls between the two.

        One posted before the commit is among the newest when the feed is written, one posted after it is fanned out
        to a follower who stands in the index.
        """
        last = {(edge.follower, edge.followee): (row, edge) for row, edge in follows}
        try:
            self._edges.apply(shard, [Change(row.id, edge) for row, edge in last.values()])
            there = self._feeds.existing({edge.follower for _, edge in last.values()})
            for _, edge in last.values():
                if edge.follower in there:
                    change = self._feeds.followed if edge.active else self._feeds.unfollowed
                    change(edge.follower, edge.followee)
        except Exception as failure:
            result.failure = _told(failure)
        else:
            result.done += (row for row, _ in follows)

    def _photos(self, photos: Sequence[tuple[Row, Fanout | Withdraw]], result: Result, until: float) -> None:
        failed: set[int] = set()
        for row, task in photos:
            if (now := self._clock()) >= until:
                result.more = True
                return
            if task.photo in failed or self._resting.get(row.id, 0.0) > now:
                failed.add(task.photo)  # a photo is not withdrawn before it was brought out
                continue
            try:
                self._photo(task)
            except Exception as failure:
                _told(failure)
                if _is_outage(failure):
                    result.failure = failure
                    return
                failed.add(task.photo)
                self._rest(row, now)
            else:
                (result.files if isinstance(task, Withdraw) and task.files else result.done).append(row)
                self._resting.pop(row.id, None)

    def _rest(self, row: Row, now: float) -> None:
        """A photo that cannot be brought out holds up nothing but itself."""
        if len(self._resting) >= MOST_RESTING:
            self._resting.clear()
        self._resting[row.id] = now + REST

    def _photo(self, task: Fanout | Withdraw) -> None:
        if isinstance(task, Fanout):
            self._feeds.fan_out(task.owner, task.photo)
        else:
            self._feeds.withdraw(task.owner, task.photo)


def _is_outage(failure: Exception) -> bool:
    """Whether other rows would fail for it too."""
    if isinstance(failure, redis.ResponseError) and _OUTAGE_CODES.search(str(failure)):
        return True
    return isinstance(failure, OUTAGES)


def _told(failure: Exception) -> Exception:
    """A failure that is no outage is a bug or a broken part: it is logged with its place."""
    close_old_connections()  # those that broke: Django does that between requests, and there are none here
    if not _is_outage(failure):
        _log.error("a task failed: %s", failure, exc_info=failure)
    return failure
