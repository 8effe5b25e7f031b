"""The corridor in memory: leases, takeovers, failures, and what a reader does about each."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import succeed

from notifier.core import keys
from notifier.core.backlog import Backlog
from notifier.core.intake import REASONS, Intake, Rejected
from notifier.core.model import Event
from notifier.edge.memory import MemoryLog, MemoryShards
from notifier.edge.memory_state import ItemError, MemoryServer
from notifier.edge.store import Rules
from notifier.metrics import Metrics
from notifier.pipeline import Fanout, Reader, Router
from notifier.ports import Unavailable, Unburied


def now(work: Awaitable[Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        work.__await__().__next__()
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


class House:
    """One Redis in memory, and readers of it."""

    def __init__(self, shards: int = 1) -> None:
        self.server, self.rules = MemoryServer(), Rules(shards=shards, buckets=2)
        self.metrics = Metrics({"dead_letters": (*REASONS, "no_event", "handover", "bug")})
        self.said: list[str] = []

    def intake(self) -> Intake:
        return Intake(("like",), self.rules.window, 300_000, 16_384, 1000)

    def log(self, stream: str, tagged: str, name: str) -> MemoryLog:
        return MemoryLog(self.server, self.rules, stream, tagged, name, lambda stream, seconds: succeed(None))

    def clock(self) -> float:
        return self.server.now / 1000

    def fanout(self, name: str = "p", shard: int = 0) -> Fanout:
        stream, tagged = keys.events(shard, self.rules.shards), keys.tag(shard)
        backlog = Backlog(self.intake(), tagged, self.rules.buckets)
        return Fanout(
            self.log(stream, tagged, name), backlog, self.metrics, self.clock, self.said.append, 15.0
        )

    def router(self, name: str = "p") -> Router:
        shards, log = MemoryShards(self.server, self.rules), self.log(keys.FRONT_DOOR, keys.FRONT_TAG, name)
        count = self.rules.shards
        return Router(log, shards, count, self.intake(), self.metrics, self.clock, self.said.append, 15.0)

    def append(self, *to: str, actor: str = "a", entry_id: str = "") -> str:
        event = msgspec.json.encode({"type": "like", "actor": {"id": actor}, "to": list(to)})
        return self.server.append(keys.FRONT_DOOR, b"event", event, entry_id=entry_id)

    def rows(self, user: str) -> list[str]:
        box = self.server.box(user)
        return [record.id for _, record in box.rows(1, box.seq)] if box else []

    def left(self, stream: str = keys.FRONT_DOOR) -> int:
        return len(self.server.stream(stream).entries)

    def letters(self) -> list[str]:
        return [dead.reason for letters in self.server.letters.values() for dead in letters]


def turn(reader: Reader, times: int = 8) -> None:
    for _ in range(times):
        now(reader.once())


def test_events_reach_inboxes_in_order_and_leave_the_stream() -> None:
    house = House()
    first, second = house.append("u", "v"), house.append("u")
    turn(house.fanout())
    assert house.rows("u") == [f"x:{first}", f"x:{second}"]
    assert house.rows("v") == [f"x:{first}"]
    assert house.left() == 0
    assert house.metrics.events_handed_over == 2
    assert house.metrics.notifications["notification"] == 3


def test_an_event_for_its_actor_alone_leaves_the_stream() -> None:
    house = House()
    house.append("a")
    turn(house.fanout())
    assert house.left() == 0
    assert house.metrics.events_handed_over == 1
    assert house.metrics.self_recipients == 1


def test_a_thousand_recipients_are_acknowledged_with_the_last_chunk() -> None:
    house = House()
    house.append(*map(str, range(1000)))
    fanout = house.fanout()
    turn(fanout, 5)
    assert house.left() == 1
    assert house.rows("0")
    assert not house.rows("999")
    turn(fanout, 12)
    assert house.left() == 0
    assert house.rows("999")


def test_a_killed_reader_is_taken_over_without_a_gap_or_a_repeat() -> None:
    house = House()
    ids = [f"x:{house.append('u')}" for _ in range(300)]
    turn(house.fanout("killed"), 3)
    done = len(house.rows("u"))
    assert 0 < done < 300
    house.server.now += house.rules.lease + 1
    turn(house.fanout("next"), 12)
    box = house.server.box("u")
    assert box is not None
    assert box.seq == 300, "each once"
    assert house.rows("u") == ids[-100:]
    assert house.metrics.entries_lost == 0


def test_who_has_lost_the_lease_drops_what_it_holds() -> None:
    house = House()
    stale, fresh = house.fanout("stale"), house.fanout("fresh")
    turn(stale, 1)
    for _ in range(5):
        house.append("u")
    now(stale.once())  # read, not handed over
    house.server.now += house.rules.lease + 1
    turn(fresh, 4)
    now(stale.once())
    assert not stale.owned
    assert len(stale.backlog) == 0
    assert any("lease lost" in line for line in house.said)
    assert len(house.rows("u")) == 5


def test_a_lost_group_is_made_anew_and_all_that_is_left_comes_again() -> None:
    house = House()
    fanout = house.fanout()
    turn(fanout, 2)
    house.append("u")
    dict.clear(house.server.stream(keys.FRONT_DOOR).ends)
    turn(fanout)
    assert len(house.rows("u")) == 1
    assert house.metrics.group_recreated == 1


def test_a_pair_that_fails_holds_up_only_its_person_and_is_buried_in_the_end() -> None:
    house = House()
    bad = house.append("u", "v")
    good, other = house.append("u"), house.append("w")

    def hazard(stage: str, user: str, event: str) -> None:
        if stage == "item" and user == "u" and event == f"x:{bad}":
            raise ItemError("no")

    house.server.hazard = hazard
    turn(house.fanout(), 12)
    assert house.rows("u") == [f"x:{good}"]
    assert house.rows("v") == [f"x:{bad}"]
    assert house.rows("w") == [f"x:{other}"]
    assert house.letters() == ["handover"]
    assert house.left() == 0


def test_an_id_set_by_hand_far_ahead_is_told_and_stops_nobody() -> None:
    house = House()
    house.append("u", entry_id=f"{10**15}-1")  # no calendar has that time
    house.append("v")
    turn(house.fanout())
    assert house.letters() == ["future", "future"], "ids only grow: the stream needs an XSETID, and says so"
    assert house.left() == 0


def test_what_cannot_even_be_buried_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.server.append(keys.FRONT_DOOR, b"event", b"{")
    fanout = house.fanout()
    turn(fanout, 2)
    with pytest.raises(Unburied, match="cannot be buried"), monkeypatch.context() as patch:
        patch.setattr(house.server, "bury", _refuse)
        now(fanout.once())
    fanout.drop()  # as the loop does
    turn(fanout)
    assert house.letters() == ["not_json"]
    assert house.left() == 0


def _refuse(*_: object) -> None:
    raise ItemError("WRONGTYPE")


def test_a_server_that_is_away_raises_and_nothing_is_lost() -> None:
    house = House()
    fanout = house.fanout()
    turn(fanout, 2)
    house.append("u")
    house.server.down = True
    with pytest.raises(Unavailable):
        now(fanout.once())
    fanout.drop()
    house.server.down = False
    turn(fanout)
    assert len(house.rows("u")) == 1


def test_a_router_spreads_people_over_shards_and_marks_absorb_its_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(shards=4)
    people = [str(number) for number in range(250)]
    house.append(*people)
    house.server.append(keys.FRONT_DOOR, b"event", b"{")
    router = house.router()
    turn(router, 1)
    acknowledge = router.log.acknowledge
    monkeypatch.setattr(router.log, "acknowledge", _killed)
    with pytest.raises(Unavailable):
        turn(router, 2)
    monkeypatch.setattr(router.log, "acknowledge", acknowledge)
    router.drop()
    turn(router, 3)
    assert house.left() == 0
    assert house.letters() == ["not_json"]
    for shard in range(4):
        turn(house.fanout(shard=shard), 12)
        assert house.left(keys.events(shard, 4)) == 0
    for user in people:
        box = house.server.box(user)
        assert box is not None
        assert box.seq == 1, "once, though it was routed twice"
    assert house.metrics.events_duplicate == 250


def _killed(*_: object) -> Awaitable[None]:
    raise Unavailable("killed between append and ack")


class Spoiled(Intake):
    """Has a bug that one actor brings out."""

    def decode(self, raw: bytes, entry_id: str) -> Event | Rejected:
        if b'"boom"' in raw:
            raise KeyError("boom")
        return super().decode(raw, entry_id)


@pytest.mark.parametrize("shards", [1, 4])
def test_an_entry_that_brings_out_a_bug_is_buried_and_the_others_go_on(shards: int) -> None:
    house = House(shards=shards)
    house.intake = lambda: Spoiled(("like",), house.rules.window, 300_000, 16_384, 1000)  # type: ignore[method-assign]
    house.append("u")
    bad = house.append("u", "v", actor="boom")
    house.append("u", "w")
    first = house.router() if shards > 1 else house.fanout()
    turn(first)
    assert house.left() == 0
    assert house.letters() == ["bug"]
    ((letter,),) = house.server.letters.values()
    assert (letter.entry, letter.detail) == (bad, "KeyError: 'boom'")
    assert b'"boom"' in letter.raw
    assert house.metrics.dead_letters["bug"] == 1
    for shard in range(shards if shards > 1 else 0):
        turn(house.fanout(shard=shard))
    assert (len(house.rows("u")), house.rows("v"), len(house.rows("w"))) == (2, [], 1)
