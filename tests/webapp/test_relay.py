"""What the relay decides, with driven clock and chance and no server: what it keeps, when it tries again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence

import psycopg2
import pytest
import redis
from msgspec import Struct

from webapp.claims import Batch, Row
from webapp.relay import CLEARING, EVENTS, FILES, TASKS, Backoff, Relay
from webapp.tasks import Result

MINUTE = 60.0


class Clock:
    """Seconds, which pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


KINDS = {"event": EVENTS, "odd": EVENTS, "withdraw": FILES, "clear": CLEARING}


class Rows:
    """The outbox of one node in memory: one lane of events, one of tasks, one of files, one of photos to clear."""

    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)
        self.parked: list[Row] = []
        self.failure: Exception | None = None
        self.looks: list[range] = []
        self.claimed = False
        self.most = 500

    def take(self, lanes: range) -> Batch:
        self.looks.append(lanes)
        if self.failure is not None:
            raise self.failure
        assert not self.claimed
        found = [row for row in self.rows if KINDS.get(row.kind, TASKS) == lanes]
        self.claimed = bool(found)
        return Batch(found[: self.most], more=len(found) >= self.most)

    def finish(self, done: Iterable[Row], parked: Iterable[Row] = (), files: Iterable[Row] = ()) -> None:
        assert self.claimed
        self.claimed = False
        self.parked += parked
        for row in files:
            self.rows.remove(row)
            self.rows.append(row)
        gone = {row.id for row in (*done, *self.parked)}
        self.rows = [row for row in self.rows if row.id not in gone]

    def release(self) -> None:
        self.claimed = False

    def close(self) -> None:
        self.release()


class Sink:
    """The stream in memory."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.tries: list[int] = []
        self.failure: Exception | None = None
        self.pressure = False

    def append(self, events: Sequence[bytes]) -> None:
        self.tries.append(len(events))
        if self.failure is not None:
            raise self.failure
        self.events += events

    def pressed(self) -> bool:
        return self.pressure


class Hands:
    """Does tasks; those named in `broken` fail."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.broken: set[int] = set()
        self.begun: set[int] = set()
        self.tries: list[int] = []
        self.most = 500

    def run(self, rows: Sequence[Row]) -> Result:
        well = [row for row in rows if row.id not in self.broken]
        failure = redis.ConnectionError("no feeds") if len(well) < len(rows) else None
        now = well[: self.most]
        self.done += [row.id for row in now]
        return Result(now, [], failure, more=len(now) < len(well))

    def delete_files(self, rows: Sequence[Row]) -> Result:
        self.tries.append(len(rows))
        well = [row for row in rows if row.id not in self.broken]
        left = [row for row in rows if row.id in self.broken]
        return Result(well, [], None if well else PermissionError("no"), files=left)

    def clear(self, rows: Sequence[Row]) -> Result:
        """Each takes two turns."""
        self.tries.append(len(rows))
        if self.broken:
            return Result([], [], psycopg2.OperationalError("away"))
        again = [row for row in rows if row.id in self.begun]
        self.begun |= {row.id for row in rows}
        return Result(again, [], None, more=len(again) < len(rows))


class Bench(Struct):
    """A relay and what it works with."""

    relay: Relay
    clock: Clock
    sink: Sink
    hands: Hands
    nodes: list[Rows]

    def wait(self, seconds: float, step: float = 0.01) -> None:
        """Time passes, and the relay looks all along."""
        for _ in range(round(seconds / step)):
            self.clock.now += step
            self.relay.once()


def bench(*nodes: Rows, chance: float = 0.0) -> Bench:
    clock, sink, hands = Clock(), Sink(), Hands()
    named = {f"node{number}": node for number, node in enumerate(nodes)}
    relay = Relay(
        named, sink, hands, clock=clock, now=lambda: 1_704_067_200_000 + 5000, chance=lambda: chance
    )
    return Bench(relay, clock, sink, hands, list(nodes))


def event(number: int, payload: str = '{"type":"like"}') -> Row:
    return Row(0, number << 23, "event", payload)


def task(number: int) -> Row:
    return Row(0, number << 23, "edge", "{}")


def ids(sink: Sink) -> list[int]:
    return [int(json.loads(one)["id"]) >> 23 for one in sink.events]


def test_events_and_tasks_of_all_nodes_are_done_and_deleted() -> None:
    it = bench(Rows(event(1), event(2), task(3)), Rows(task(4), event(5)))
    it.relay.once()
    assert ids(it.sink) == [1, 2, 5]
    assert it.hands.done == [3 << 23, 4 << 23]
    assert [node.rows for node in it.nodes] == [[], []]
    assert it.relay.figures.counts == {"event": 3, "edge": 2}
    assert it.relay.figures.lag_ms == 4999


def test_only_what_a_wake_up_told_of_is_looked_for() -> None:
    it = bench(Rows(event(1), task(2)))
    it.relay.once((TASKS,))
    assert it.nodes[0].looks == [TASKS]
    assert [row.kind for row in it.nodes[0].rows] == ["event"]


def test_it_knows_when_more_is_there() -> None:
    rows = Rows(event(1), event(2), event(3))
    rows.most = 2
    it = bench(rows)
    assert [it.relay.once() for _ in range(3)] == [{EVENTS}, set(), set()]
    assert ids(it.sink) == [1, 2, 3]


def test_it_goes_on_at_once_with_tasks_that_were_left() -> None:
    it = bench(Rows(task(1), task(2)))
    it.hands.most = 1
    assert [it.relay.once() for _ in range(2)] == [{TASKS}, set()]
    assert it.hands.done == [1 << 23, 2 << 23]


def test_without_redis_for_a_minute_nothing_is_lost_and_the_server_is_left_in_peace() -> None:
    it = bench(Rows(event(1), event(2)))
    it.sink.failure = redis.ConnectionError("refused")
    it.wait(MINUTE)
    assert len(it.nodes[0].rows) == 2
    # 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s, then every 5 s.
    assert 15 <= len(it.sink.tries) <= 18
    it.sink.failure = None
    it.wait(Backoff.MOST + 0.01)
    assert ids(it.sink) == [1, 2]
    assert it.nodes[0].rows == []
    it.nodes[0].rows = [event(3)]
    it.relay.once()  # without a pause from then on
    assert ids(it.sink) == [1, 2, 3]


def test_events_that_cannot_go_hold_no_task_up_nor_tasks_events() -> None:
    it = bench(Rows(event(1), task(2)))
    it.sink.failure = redis.TimeoutError("slow")
    it.relay.once()
    assert it.hands.done == [2 << 23]
    it = bench(Rows(event(1), task(2), task(3)))
    it.hands.broken = {2 << 23}
    it.relay.once()
    assert ids(it.sink) == [1]
    assert it.hands.done == [3 << 23]
    assert [row.id >> 23 for row in it.nodes[0].rows] == [2]
    it.hands.broken.clear()
    it.wait(0.2)
    assert it.nodes[0].rows == []


def test_a_node_that_is_away_holds_no_other_up() -> None:
    it = bench(Rows(event(1)), Rows(event(2)))
    it.nodes[0].failure = psycopg2.OperationalError("gone")
    it.wait(MINUTE)
    assert ids(it.sink) == [2]
    # One try for both of what is there: each may take as long as connecting may.
    assert len(it.nodes[0].looks) < 30
    it.nodes[0].failure = None
    it.wait(5.0)
    assert ids(it.sink) == [2, 1]


def test_files_that_cannot_be_deleted_are_counted_and_tried_ever_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [Row(0, number << 23, "withdraw", "{}") for number in (1, 2, 3)]
    it = bench(Rows(*files, task(4)))
    it.hands.broken = {files[0].id, files[1].id}
    it.relay.once()
    assert it.nodes[0].rows == files[:2]
    assert it.hands.done == [4 << 23]
    it.wait(10 * MINUTE, step=0.1)
    # 0.1, 0.2 and so on to 204.8 s
    assert 10 <= len(it.hands.tries) <= 15
    assert it.relay.figures.counts["files deleted"] == 1
    assert it.relay.figures.counts["files kept"] == 2 * len(it.hands.tries)
    assert len(caplog.records) == 1
    it.hands.broken.clear()
    it.wait(Backoff.MOST_FILES + 1, step=0.1)
    assert it.nodes[0].rows == []


def test_a_look_that_finds_no_files_tells_nothing_of_the_storage() -> None:
    row = Row(0, 1 << 23, "withdraw", "{}")
    it = bench(Rows(row))
    it.hands.broken = {row.id}
    it.wait(MINUTE, step=0.1)
    tried = len(it.hands.tries)
    it.nodes[0].rows = []  # another relay has claimed it
    it.wait(MINUTE, step=0.1)
    it.nodes[0].rows = [row]
    it.wait(MINUTE, step=0.1)
    assert len(it.hands.tries) == tried + 1


@pytest.mark.parametrize(("chance", "delays"), [(0.0, [0.1, 0.2, 0.4, 0.8]), (1.0, [0.05, 0.1, 0.2, 0.4])])
def test_relays_do_not_all_come_back_at_once(chance: float, delays: list[float]) -> None:
    clock = Clock()
    backoff = Backoff(clock, lambda: chance)
    found = []
    for _ in delays:
        backoff.failed()
        found.append(round(backoff.until - clock.now, 6))
    assert found == delays
    for _ in range(2000):
        backoff.failed()
    assert backoff.until - clock.now <= Backoff.MOST
    backoff.worked()
    assert backoff.over


def test_events_are_held_back_while_the_notifier_asks_for_it_and_tasks_are_not() -> None:
    it = bench(Rows(event(1), task(2)))
    it.sink.pressure = True
    it.wait(5.0)
    assert it.sink.events == []
    assert it.hands.done == [2 << 23]
    it.sink.pressure = False
    it.relay.once()
    assert ids(it.sink) == [1]


@pytest.mark.parametrize(
    "payload", ["", "no JSON", "[1]", '"{', "{}"], ids=["empty", "text", "list", "string", "nothing"]
)
def test_what_is_no_event_is_set_aside_and_blocks_nothing(
    payload: str, caplog: pytest.LogCaptureFixture
) -> None:
    strange = event(2, payload)
    it = bench(Rows(event(1), strange, event(3)))
    it.relay.once()
    assert ids(it.sink) == [1, 3]
    assert it.nodes[0].parked == [strange]
    assert it.relay.figures.counts["parked"] == 1
    assert str(strange.id) in caplog.text


def test_an_outage_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = bench(Rows(event(1)))
    it.sink.failure = redis.ConnectionError("refused")
    it.wait(MINUTE)
    it.sink.failure = None
    it.wait(6.0)
    assert [record.message for record in caplog.records] == [
        "events of node0: kept, and tried again: ConnectionError: refused",
        "events of node0: they move again",
    ]


def test_a_bug_is_no_outage_and_frees_the_lanes() -> None:
    it = bench(Rows(event(1)))
    it.sink.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        it.relay.once()
    assert not it.nodes[0].claimed
    assert len(it.nodes[0].rows) == 1


def gone_photo(number: int) -> Row:
    return Row(0, number << 23, "clear", "{}")


def test_what_photos_left_behind_is_taken_back_until_nothing_is_left() -> None:
    it = bench(Rows(gone_photo(1), gone_photo(2)))
    assert [it.relay.once() for _ in range(3)] == [{CLEARING}, set(), set()]
    assert it.nodes[0].rows == []
    assert it.relay.figures.counts["clear"] == 2
    assert not it.nodes[0].claimed


def test_nothing_is_taken_back_while_the_notifier_wants_a_pause() -> None:
    it = bench(Rows(gone_photo(1)))
    it.sink.pressure = True
    assert it.relay.once() == set()
    assert CLEARING not in it.nodes[0].looks
    it.sink.pressure = False
    it.wait(0.1)
    assert it.nodes[0].rows == []


def test_what_could_not_be_taken_back_is_tried_again_later() -> None:
    it = bench(Rows(gone_photo(1)))
    it.hands.broken = {1}
    it.wait(MINUTE, step=0.1)
    assert 10 < len(it.hands.tries) < 40
    it.hands.broken = set()
    it.wait(Backoff.MOST + 1)
    assert it.nodes[0].rows == []
