"""What a handover brings to the sender of its own process: sent without another look while it is fresh, never lost, and
never sent twice, whatever comes in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from notifier.core import keys
from notifier.core.backlog import Batch
from notifier.core.gate import GateRule
from notifier.core.guard import GuardRule
from notifier.core.lanes import PushEntry
from notifier.core.model import Outcome
from notifier.edge.loop import Loop
from notifier.edge.memory import MemoryLog
from notifier.ports import FRESH, Handed, PushesRead, PushesSettled, Seen, Settlement, Unavailable
from notifier.sending import BATCH, GIFTS_LIE, MOST_GIFTS, MOST_UNSETTLED, Sender
from tests.contract.phones import APNS, DOWN, FCM, OK, FakeProvider, phone
from tests.test_pipeline import now
from tests.test_sender import SUSPECT, House, U, V, turn


class Watched:
    """A lane's log that counts what is asked of Redis."""

    def __init__(self, log: Any) -> None:
        self._log, self.calls = log, list[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._log, name)
        if name in ("read", "history", "claim", "keep"):
            self.calls.append(name)
        return found

    async def look(self, entries: Any, seen: Seen | None = None) -> Any:
        known = seen.found if seen is not None else {}
        if any(one.id not in known for one in entries):
            self.calls.append("look")
        return await self._log.look(entries, seen)


class Together(House):
    """One process that hands over and sends; its sender has come to rest, and takes what handovers bring."""

    def __init__(self, provider: FakeProvider | None = None, rule: GateRule | None = None) -> None:
        super().__init__()
        self.enlist(U, phone())
        self.provider = provider or FakeProvider()
        self.sending = self.sender(self.provider, rule=rule)
        self.log = Watched(self.sending.log)
        self.sending.log = self.log
        self.fanout = self.reader.fanout
        self.fanout.clock = self.clock
        self.fanout.outlets = {str(APNS): self.sending}
        self.mine.consumer = lambda: "p"
        turn(self.sending)
        self.log.calls.clear()

    @property
    def mine(self) -> MemoryLog:
        assert isinstance(self.reader.log, MemoryLog)
        return self.reader.log

    def asked(self) -> list[str]:
        """What Redis was asked for since the last call."""
        found, self.log.calls = self.log.calls, []
        return found

    def sent(self) -> list[str]:
        """Notifications that were sent since the last call."""
        found, self.provider.sent = self.provider.sent, []
        return [one.notification for one in found]


def test_what_a_handover_brings_is_sent_without_reading_or_looking() -> None:
    house = Together()
    first, second = house.comment(U), house.comment(U, thing="2")
    assert now(house.sending.once()), "the second waits"
    assert not now(house.sending.once())
    assert house.asked() == []
    assert house.sent() == [first, second]
    assert house.left() == 0


def test_of_two_lanes_each_gets_its_own() -> None:
    house = Together()
    house.enlist(U, phone("other", FCM))
    google = FakeProvider()
    other = house.sender(google, FCM)
    turn(other)
    house.fanout.outlets = {str(APNS): house.sending, str(FCM): other}
    name = house.comment(U)
    for sender in (house.sending, other):
        now(sender.once())
    assert (house.sent(), [one.notification for one in google.sent]) == ([name], [name])
    assert {one.device.provider for one in google.sent} == {"fcm"}
    assert (house.left(), house.left(FCM)) == (0, 0)


# -- when nothing is taken


def unsettled(house: Together) -> None:
    for n in range(MOST_UNSETTLED):
        house.sending._unsettled._waiting[str(n)] = None  # type: ignore[assignment]


def waits_in_hand(house: Together) -> None:
    house.comment(U)
    house.pass_(GIFTS_LIE + 0.1)


def many_in_hand(house: Together) -> None:
    for _ in range(MOST_GIFTS):
        house.comment(U)


def behind(house: Together) -> None:
    house.fanout.outlets = {}
    for _ in range(BATCH + 1):
        house.comment(U)
    now(house.sending.once())


def failing(house: Together) -> None:
    house.provider.answer = lambda _: DOWN
    for n in range(5):
        house.comment(U, thing=str(n))
        now(house.sending.once())


def guarded(house: Together) -> None:
    house.enlist(V, *(phone(f"q{n}") for n in range(30)))
    house.provider.answer = lambda _: SUSPECT
    for _ in range(3):
        house.comment(V)
        turn(house.sending)


def broken_row(house: Together) -> None:
    house.world.spoiled.add(U)
    house.server.push(keys.pushes("{0}", APNS), PushEntry("", U, "n", house.server.now + 1000))
    now(house.sending.once())


def slow_redis(house: Together) -> None:
    house.enlist(V, phone("v"))
    look = house.log._log.look

    async def slow(entries: Any, seen: Seen | None = None) -> Any:
        found = await look(entries, seen)
        house.pass_(FRESH + 1)
        return found

    house.log._log.look = slow
    house.comment(U, V)
    with pytest.raises(Unavailable):
        now(house.sending.once())


def too_much(house: Together) -> None:
    for _ in range(2 * BATCH + 1):
        house.server.push(keys.pushes("{0}", APNS), PushEntry("", U, "n", house.server.now + 1000))
    house.comment(U)
    for _ in range(2):
        now(house.sending.once())
    assert not house.sending._gifts


REASONS: dict[str, Callable[[Together], object]] = {
    "history is to be read": lambda house: house.sending.drop(),
    "a claim is due": lambda house: house.pass_(60),
    "the process stops": lambda house: house.sending.halt(),
    "too much cannot be settled": unsettled,
    "what was brought lies for long": waits_in_hand,
    "much was brought": many_in_hand,
    "the lane has more than was read": behind,
    "the breaker is open": failing,
    "a guard holds": guarded,
    "something is to be looked at again": broken_row,
    "Redis is slow": slow_redis,
    "a handover could not bring all that lies in the lane": too_much,
}


@pytest.mark.parametrize("reason", REASONS)
def test_nothing_is_taken_while_something_else_comes_first(reason: str) -> None:
    house = Together(rule=GateRule(guard=GuardRule(least=20)))
    assert house.sending.offer() > 0
    REASONS[reason](house)
    assert house.sending.offer() == 0


def test_who_has_not_begun_takes_nothing() -> None:
    house = House()
    assert house.sender(FakeProvider()).offer() == 0


def test_while_what_was_given_before_is_being_read_nothing_is_taken() -> None:
    house = Together()
    held: Deferred[None] = Deferred()
    history = house.log._log.history

    async def slow(want: int, after: str) -> PushesRead:
        read: PushesRead = await history(want, after)
        await held
        return read

    house.log._log.history = slow
    house.sending.drop()
    reading = begun(house.sending.once())
    assert house.sending.offer() == 0
    held.callback(None)
    assert reading.called
    assert house.sending.offer() > 0


def begun(work: Awaitable[Any]) -> Deferred[Any]:
    async def run() -> Any:
        return await work

    return Deferred.fromCoroutine(run())


# -- what comes in between


class Lossy:
    """An event log whose handover happens, and whose answer is lost, or comes late."""

    def __init__(self, log: MemoryLog, between: Callable[[], Awaitable[object]]) -> None:
        self._log, self._between = log, between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Handed:
        handed = await self._log.handover(batch, want, rooms)
        if rooms:
            await self._between()
        return handed


async def lost() -> None:
    raise Unavailable("the answer is lost")


def test_an_answer_that_is_lost_loses_nothing() -> None:
    house = Together()
    house.fanout.log = Lossy(house.mine, lost)
    with pytest.raises(Unavailable):
        house.comment(U)
    house.fanout.drop()  # as its loop does
    house.fanout.log = house.mine
    assert house.left() == 1
    turn(house.sending)
    assert house.sent() == ["e1"]
    now(house.reader.run())
    turn(house.sending)
    assert (house.sent(), house.left()) == ([], 0)


def test_what_a_reading_overtakes_is_sent_once() -> None:
    """The answer of a handover is under way; meanwhile what this process was given is read, sent and settled."""
    house = Together()
    late: Deferred[None] = Deferred()
    house.fanout.log = Lossy(house.mine, lambda: late)
    house.server.append(
        "notifier:events", b"event", b'{"type":"comment","actor":{"id":"a"},"to":["%s"]}' % U.encode()
    )
    reading = begun(house.reader.run())
    assert house.left() == 1
    house.sending.drop()  # another loop has met a failure
    turn(house.sending)
    assert (len(house.sent()), house.left()) == (1, 0)
    late.callback(None)
    assert reading.called
    turn(house.sending)
    assert house.sent() == []


def test_what_no_reading_saw_is_not_lost_when_it_comes_after_one() -> None:
    """The reading came before the handover was done, its answer after the reading."""
    house = Together()
    handover = house.mine.handover

    async def after(batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Handed:
        if rooms:
            house.sending.drop()
            turn(house.sending)
        return await handover(batch, want, rooms)

    house.mine.handover = after  # type: ignore[method-assign]
    name = house.comment(U)
    turn(house.sending)
    assert (house.sent(), house.left()) == ([name], 0)


def test_what_is_left_to_a_reading_wakes_one_who_reads() -> None:
    house = Together()
    rings: list[str] = []
    house.log._log.ring = lambda: rings.append("rung")
    handover = house.mine.handover

    async def after(batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Handed:
        handed = await handover(batch, want, rooms)
        if rooms:
            house.sending.drop()  # another loop has met a failure
        return handed

    house.mine.handover = after  # type: ignore[method-assign]
    house.comment(U)
    assert (rings, house.left()) == (["rung"], 1)


def test_what_is_under_way_is_not_read_once_more() -> None:
    house = Together()
    name = house.comment(U)
    answered: Deferred[None] = Deferred()
    house.provider.gate = lambda: answered
    batch = begun(house.sending.once())
    house.sending.drop()  # another loop has met a failure
    turn(house.sending)
    answered.callback(None)
    assert batch.called
    assert (house.sent(), house.left()) == ([name], 0)


def test_what_nobody_has_begun_with_is_read_with_all_else() -> None:
    """That makes it younger for Redis than it would be by the time at which it was given."""
    house = Together()
    names = [house.comment(U), house.comment(U)]
    house.pass_(1)
    house.sending.drop()
    turn(house.sending)
    assert house.asked()[:2] == ["history", "look"]
    assert (house.sent(), house.left()) == (names, 0)


def test_a_group_that_goes_while_it_waits_costs_nothing() -> None:
    house = Together()
    name = house.comment(U)
    stream = house.server.lane(f"push:{{0}}:{APNS}")
    stream.ends.cut("read")
    for at in list(stream.pending):
        stream.pending.cut(at)
    house.sending.drop()
    turn(house.sending)
    assert (house.sent(), house.left()) == ([name], 0)


def test_how_old_it_is_counts_from_the_question() -> None:
    house = Together()

    async def slowly() -> None:
        house.pass_(FRESH / 2 + 0.1)

    house.fanout.log = Lossy(house.mine, slowly)
    name = house.comment(U)
    turn(house.sending)
    assert "look" in house.asked()
    assert (house.sent(), house.left()) == ([name], 0)


def test_a_group_that_is_gone_costs_nothing() -> None:
    house = Together()
    stream = house.server.lane(f"push:{{0}}:{APNS}")
    stream.ends.cut("read")
    name = house.comment(U)
    turn(house.sending)
    assert (house.sent(), house.left()) == ([name], 0)


def test_what_lies_too_long_is_looked_at_again_if_it_is_ours() -> None:
    house = Together()
    first = house.comment(U)
    house.pass_(FRESH / 2 + 0.1)
    turn(house.sending)
    assert house.asked()[:2] == ["keep", "look"]
    assert (house.sent(), house.left()) == ([first], 0)


def test_what_lies_until_a_claim_is_due_is_sent_at_once() -> None:
    """The breaker was open, or the process stopped, for longer than anybody may have an entry at hand."""
    house = Together()
    name = house.comment(U)
    house.pass_(600)
    turn(house.sending)
    assert house.asked()[:3] == ["keep", "look", "claim"]
    assert (house.sent(), house.left()) == ([name], 0)


def test_what_lies_too_long_and_is_anothers_is_theirs() -> None:
    house = Together()
    house.comment(U)
    house.pass_(600)
    theirs = FakeProvider()
    other = house.sender(theirs, name="q")
    now(other.log.create())
    now(other.log.claim(1000, 10, ""))
    house.sending._claim_at = float("inf")
    turn(house.sending)
    assert house.sent() == []


def test_by_what_a_slow_redis_saw_nothing_is_sent() -> None:
    """The owners of the devices are asked for last; that took so long that all of it is too old."""
    house = Together()
    look = house.log._log.look

    async def slow(entries: Any, seen: Seen | None = None) -> Any:
        found = await look(entries, seen)
        house.pass_(FRESH - 1)
        return found

    house.log._log.look = slow
    name = house.comment(U)
    house.pass_(2)
    with pytest.raises(Unavailable):
        now(house.sending.once())
    assert house.sent() == []
    house.sending.drop()
    house.log._log.look = look
    turn(house.sending)
    assert (house.sent(), house.left()) == ([name], 0)


def test_a_phone_that_has_changed_hands_meanwhile_is_not_told() -> None:
    house = Together()
    house.comment(U)
    house.pass_(0.1)
    assert now(house.world.devices().register(V, phone()))
    turn(house.sending)
    assert (house.sent(), house.left()) == ([], 0)


def test_a_phone_that_is_unregistered_meanwhile_is_not_told() -> None:
    house = Together()
    house.comment(U)
    assert now(house.world.devices().unregister(U, phone().id))
    turn(house.sending)
    assert (house.sent(), house.left()) == ([], 0)


def test_what_was_registered_after_the_look_is_not_forgotten_for_an_answer() -> None:
    house = Together()
    house.comment(U)
    house.pass_(0.2)
    assert now(house.world.devices().register(U, phone()))
    house.provider.answer = lambda _: Outcome(
        "drop_token", "apns", 410, "Unregistered", None, "token", "forget"
    )
    now(house.sending.once())
    assert len(now(house.world.devices().of(U))) == 1
    assert len(house.waiting()) == 1, "it is tried again"


def test_a_breaker_that_opens_meanwhile_holds_what_was_brought() -> None:
    house = Together()
    house.provider.answer = lambda _: DOWN
    names = [house.comment(U, thing=str(n)) for n in range(8)]
    for _ in range(8):
        now(house.sending.once())
    assert house.sent() == names[:5]
    house.provider.answer = lambda _: OK
    for _ in range(600):
        house.pass_(1)
        turn(house.due)
        turn(house.sending)
    assert sorted(house.sent()) == sorted(names)
    assert (house.left(), house.waiting(), house.letters()) == (0, [], [])


def test_a_process_that_stops_leaves_nothing_of_it_lying() -> None:
    house = Together()
    name = house.comment(U)
    house.sending.halt()
    now(house.sending.release())
    assert (house.sent(), house.left()) == ([name], 0)


def test_a_process_that_stops_sends_what_it_has_in_hand_before_its_sockets_have_drained() -> None:
    house = Together()
    names = [house.comment(U), house.comment(U)]
    answered: Deferred[None] = Deferred()
    house.provider.gate = lambda: answered
    loop = Loop(Clock(), house.sending, "lane", 1.0)
    loop.start()
    house.sending.halt()
    loop.halt()
    answered.callback(None)
    assert (house.sent(), house.left()) == (names, 0)
    now(loop.stop())


def test_a_process_that_stops_settles_what_it_has_sent_last_though_that_failed_once() -> None:
    house = Together()
    name = house.comment(U)
    settle, tries = house.log._log.settle, list[int]()

    async def failing(batch: Sequence[Settlement]) -> PushesSettled:
        tries.append(len(batch))
        if len(tries) == 1:
            raise ValueError("something in it is refused")
        settled: PushesSettled = await settle(batch)
        return settled

    house.log._log.settle = failing
    house.sending.halt()
    now(house.sending.release())
    assert (house.sent(), house.left(), tries) == ([name], 0, [1, 1])


def test_who_is_given_nothing_reads_as_ever() -> None:
    house = Together()
    house.sending.halt()
    name = house.comment(U)
    turn(house.sending)
    assert house.asked()[:2] == ["read", "look"]
    assert (house.sent(), house.left()) == ([name], 0)


def test_a_lane_that_had_more_than_was_read_is_read_to_its_end_before_more_is_taken() -> None:
    house = Together()
    outlets, house.fanout.outlets = house.fanout.outlets, {}
    for _ in range(3 * BATCH):
        house.comment(U)
    now(house.sending.once())
    house.fanout.outlets = outlets
    last = house.comment(U)
    assert house.asked() == ["read", "look"]
    turn(house.sending)
    assert house.sent()[-1] == last
    assert house.sending.offer() > 0
    assert house.left() == 0


def test_two_processes_share_what_one_hands_over() -> None:
    """Who hands over is at work with all of its loops; what is more than it takes is the other's."""
    house = Together()
    theirs = FakeProvider()
    other: Sender = house.sender(theirs, name="q")
    turn(other)
    busy: Deferred[None] = Deferred()
    house.provider.gate = lambda: busy
    house.comment(U)
    batch = begun(house.sending.once())
    assert not batch.called
    house.comment(U)
    house.pass_(GIFTS_LIE + 0.1)
    more = house.comment(U)
    turn(other)
    assert [one.notification for one in theirs.sent] == [more]
    house.provider.gate = None
    busy.callback(None)
    turn(house.sending)
    assert (len(house.sent()), house.left()) == (2, 0)
