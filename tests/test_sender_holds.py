"""What a sender has in hand for longer than a batch: answers that Redis does not take, entries that wait for a lane to
open, looks that have become old. Nothing is sent a second time for them, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from notifier.core.lanes import PushEntry
from notifier.core.model import Verdict
from notifier.edge.memory_state import ItemError
from notifier.ports import FRESH, Look, PushesSettled, Seen, Settlement, Unavailable
from notifier.sending import BATCH, OTHERS_FIRST, Sender
from tests.contract.phones import OK, FakeProvider, phone
from tests.test_pipeline import now
from tests.test_sender import BAD, House, U, turn

FAR = 100_000  # s: longer than any life of a push in these tests


def house_with_a_phone(comments: int = 1) -> House:
    house = House()
    house.enlist(U, phone())
    for n in range(comments):
        house.comment(U, thing=str(n))
    return house


def refuse(house: House, *events: str) -> None:
    """Redis takes no settlement of these events, none at all without a name."""

    def hazard(stage: str, user: str, nid: str) -> None:
        if stage == "settle" and (not events or any(nid.startswith(event) for event in events)):
            raise ItemError("ERR something is damaged")

    house.server.hazard = hazard


def heal(house: House) -> None:
    house.server.hazard = lambda stage, user, nid: None


def rest(house: House, *senders: Sender, seconds: int = 70) -> None:
    for _ in range(seconds):
        for sender in senders:
            turn(sender)
        house.pass_(1)


def test_what_cannot_be_settled_is_sent_once_however_long_it_takes() -> None:
    house = house_with_a_phone()
    refuse(house)
    mine, theirs = FakeProvider(), FakeProvider()
    sender, other = house.sender(mine, name="p"), house.sender(theirs, name="q")
    turn(sender)
    rest(house, other, sender, seconds=3_500)
    assert (len(mine.sent), len(theirs.sent)) == (1, 0), "nobody takes it over meanwhile"
    turn(sender)
    assert house.metrics.push_unsettled["demo apns"] == 1
    assert 50 < house.metrics.push_settle_failures < 100, "with pauses"
    assert len(house.said) < 10
    heal(house)
    rest(house, sender, other)
    assert (len(mine.sent), len(theirs.sent), house.left()) == (1, 0, 0)
    turn(sender)
    assert house.metrics.push_unsettled["demo apns"] == 0


def test_what_cannot_be_settled_holds_up_nobody_else() -> None:
    house = house_with_a_phone(5)
    entries = list(house.server.lane("push:{0}:demo:apns").entries.values())
    refuse(house, entries[2].notification)
    provider = FakeProvider()
    sender = house.sender(provider)
    turn(sender)
    assert (len(provider.sent), house.left()) == (5, 1)
    house.comment(U, thing="later")
    turn(sender)
    assert (len(provider.sent), house.left()) == (6, 1)


def test_one_settlement_that_breaks_its_whole_call_holds_up_nobody_else() -> None:
    house = house_with_a_phone(5)
    provider = FakeProvider()
    sender = house.sender(provider)
    settle = sender.log.settle
    first = next(iter(house.server.lane("push:{0}:demo:apns").entries.values()))

    async def picky(settlements: Sequence[Settlement]) -> PushesSettled:
        if any(one.entry.id == first.id for one in settlements):
            raise ValueError("settle: bad result of entry 1")
        return await settle(settlements)

    sender.log.settle = picky  # type: ignore[method-assign]
    turn(sender)
    assert (len(provider.sent), house.left()) == (5, 1)
    sender.log.settle = settle  # type: ignore[method-assign]
    rest(house, sender)
    assert (len(provider.sent), house.left()) == (5, 0)


def test_with_too_much_unsettled_nothing_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2 * BATCH
    monkeypatch.setattr("notifier.sending.MOST_UNSETTLED", most)
    house = house_with_a_phone(most + 3 * BATCH)
    refuse(house)
    provider = FakeProvider()
    sender = house.sender(provider)
    rest(house, sender, seconds=5)
    assert len(provider.sent) == most
    heal(house)
    rest(house, sender)
    assert len(provider.sent) == most + 3 * BATCH
    assert house.left() == 0


def test_a_stop_writes_down_what_is_answered() -> None:
    house = house_with_a_phone()
    refuse(house)
    sender = house.sender(FakeProvider())
    rest(house, sender, seconds=20)
    heal(house)
    now(sender.release())
    assert house.left() == 0


def test_after_an_outage_of_redis_who_was_cut_off_settles_before_anybody_takes_over() -> None:
    house = house_with_a_phone()
    mine, theirs = FakeProvider(), FakeProvider()
    sender, other = house.sender(mine, name="p"), house.sender(theirs, name="q")
    answered = Deferred[None]()
    mine.gate = lambda: answered
    batch = Deferred.fromCoroutine(sender.once())
    house.server.down = True
    answered.callback(None)
    with pytest.raises(Unavailable):
        now(_of(batch))
    for _ in range(300):
        house.pass_(1)
        with pytest.raises(Unavailable):
            now(other.once())
    house.server.down = False
    turn(other)
    assert theirs.sent == []
    turn(sender)
    house.pass_(OTHERS_FIRST + 300)
    turn(other)
    assert (len(mine.sent), theirs.sent, house.left()) == (1, [], 0)


def test_who_starts_after_an_outage_takes_nothing_over_at_once() -> None:
    house = house_with_a_phone()
    mine, theirs = FakeProvider(), FakeProvider()
    answered = Deferred[None]()
    mine.gate = lambda: answered
    sender = house.sender(mine)
    batch = Deferred.fromCoroutine(sender.once())
    house.server.down = True
    house.pass_(300)
    answered.callback(None)
    with pytest.raises(Unavailable):
        now(_of(batch))
    house.server.down = False
    other = house.sender(theirs, name="q")
    turn(other)
    turn(sender)
    rest(house, other)
    assert (len(mine.sent), theirs.sent, house.left()) == (1, [], 0)


def test_what_was_to_be_looked_at_again_and_is_anothers_now_is_left_to_them() -> None:
    """A batch is decided anew, but its lane has closed: it lies for so long that another process takes it over."""
    house = house_with_a_phone(20)
    provider = FakeProvider(lambda _: BAD[0])
    sender = house.sender(provider)

    async def restart() -> None:
        house.server.restart()

    provider.gate = restart
    now(sender.once())  # nothing can be settled under the new run; the breaker is open
    assert house.left() == 20
    assert len(provider.told()) == 20
    theirs = FakeProvider()
    other = house.sender(theirs, name="q")
    for way in sender.gate.ways.values():
        way.breaker.trip(FAR, house.clock())
    for _ in range(20):
        house.pass_(20)
        turn(sender)
        turn(other)
    assert len(theirs.sent) == 20
    provider.gate, provider.answer = None, lambda _: OK
    sender.gate.renew(house.clock())
    rest(house, sender, other)
    assert (provider.told(), house.left()) == ([], 0)


def test_what_is_looked_at_again_in_time_is_sent() -> None:
    house = house_with_a_phone(20)
    provider = FakeProvider(lambda _: BAD[0])
    sender = house.sender(provider)

    async def restart() -> None:
        provider.gate = None
        house.server.restart()

    provider.gate = restart
    now(sender.once())
    provider.told()
    provider.answer = lambda _: OK
    sender.gate.renew(house.clock())
    turn(sender)
    assert len(provider.told()) == 20
    assert house.left() == 0


def slow(house: House, sender: Sender, seconds: float, per_entry: float = 0.0) -> list[int]:
    """Looking takes so long; how many were looked at."""
    look, looked = sender.log.look, list[int]()

    async def late(entries: Sequence[PushEntry], seen: Seen | None = None) -> Look:
        found = await look(entries, seen)
        looked.append(len(entries))
        house.pass_(seconds + per_entry * len(entries))
        return found

    sender.log.look = late  # type: ignore[method-assign]
    return looked


def test_by_what_was_seen_long_ago_nothing_is_sent() -> None:
    house = house_with_a_phone()
    provider = FakeProvider()
    sender = house.sender(provider)
    look = sender.log.look
    slow(house, sender, FRESH + 1)  # as when the process was stopped in between
    with pytest.raises(Unavailable, match="looked at again"):
        now(sender.once())
    assert provider.sent == []
    assert now(house.world.devices().unregister(U, phone().id))
    sender.log.look = look  # type: ignore[method-assign]
    sender.drop()
    turn(sender)
    assert provider.sent == []
    assert house.metrics.push_drops["demo apns no_device"] == 1


def test_where_looking_is_slow_fewer_are_looked_at() -> None:
    house = house_with_a_phone(BATCH)
    provider = FakeProvider()
    sender = house.sender(provider)
    looked = slow(house, sender, 0.0, per_entry=0.1)
    for _ in range(100):
        try:
            if not now(sender.once()):
                break
        except Unavailable:
            sender.drop()
    assert looked[:3] == [100, 50, 50]
    assert house.left() == 0
    assert len({one.notification for one in provider.sent}) == len(provider.sent) == BATCH


def test_a_bug_behind_an_answer_sends_nothing_again() -> None:
    house = house_with_a_phone(3)
    provider = FakeProvider()
    sender = house.sender(provider)

    def judge(*_: object) -> Verdict:
        raise KeyError("a bug")

    sender.gate.judge = sender.gate.arrived = judge  # type: ignore[method-assign, assignment]
    turn(sender)
    assert (len(provider.sent), house.left(), house.waiting()) == (3, 0, [])
    assert house.metrics.push_bugs == 1, "those that were accepted in a row are judged together"
    assert house.metrics.push_outcomes["demo apns delivered"] == 3
    provider.answer = lambda _: BAD[0]
    house.comment(U, thing="bad")
    turn(sender)
    assert house.waiting() == [60]


def test_what_is_given_to_us_once_more_is_ours_still() -> None:
    """An error makes the sender read what is its own again, with entries in hand."""
    house = house_with_a_phone(3)
    provider = FakeProvider(lambda _: BAD[0])
    sender = house.sender(provider)

    async def restart() -> None:
        provider.gate = None
        house.server.restart()

    provider.gate = restart
    now(sender.once())
    provider.told()
    house.pass_(30)
    sender.drop()
    now(sender._received(now(sender.log.history(100, ""))))
    provider.answer = lambda _: OK
    turn(sender)
    assert (len(provider.told()), house.left()) == (3, 0)


async def _of(batch: Deferred[bool]) -> bool:
    return await batch
