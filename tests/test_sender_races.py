"""What comes between two steps of a sender: a phone that registers while its push is under way, a reading that begins
anew, a provider that is exchanged, and devices of one app that are reached by different hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from notifier.core.lanes import PushEntry
from notifier.core.model import Outcome
from notifier.ports import Look, PushesRead, Seen
from tests.contract.phones import FCM, OK, FakeProvider, phone
from tests.test_pipeline import now
from tests.test_sender import WRONG_KEY, House, U, V, turn

UNREGISTERED = Outcome("drop_token", "fcm", 404, "UNREGISTERED", None, "token", "forget")


class Slow:
    """A log whose looks take long to be asked for."""

    def __init__(self, log: Any, pause: Callable[[], None]) -> None:
        self._log, self._pause = log, pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def look(self, entries: Sequence[PushEntry], seen: Seen | None = None) -> Look:
        self._pause()
        found: Look = await self._log.look(entries, seen)
        return found


def test_who_registers_after_the_request_has_left_is_kept_however_slow_the_look_was() -> None:
    house = House()
    house.enlist(U, phone("a", FCM))
    house.comment(U)

    def answer(_: object) -> Outcome:
        house.pass_(1)
        assert now(house.world.devices().register(U, phone("a", FCM)))  # its app has come back meanwhile
        return UNREGISTERED

    sender = house.sender(FakeProvider(answer), FCM)
    slow: Any = Slow(sender.log, lambda: house.pass_(4))
    sender.log = slow
    now(sender.once())
    assert len(now(house.world.devices().of(U))) == 1
    assert [one.entry.device for one in house.server.waiting.values()] == [phone("a", FCM).id], (
        "it is tried again"
    )


class Paged:
    """A log whose second reading of what is ours waits until it is told to go on."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.held: Deferred[None] = Deferred()
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def history(self, want: int, after: str) -> PushesRead:
        self.asked.append(after)
        read: PushesRead = await self._log.history(1, after)
        if len(self.asked) == 2:
            await self.held
        return read


def begun(work: Awaitable[Any]) -> Deferred[Any]:
    async def run() -> Any:
        return await work

    return Deferred.fromCoroutine(run())


def test_what_falls_out_of_hand_during_a_reading_is_read_again_from_the_first_on() -> None:
    house = House()
    house.enlist(U, phone())
    for n in range(3):
        house.comment(U, thing=str(n))
    given = house.sender(FakeProvider())
    now(given.log.create())
    now(given.log.read(3))  # by the same process before, which has lost the answer
    provider = FakeProvider()
    sender = house.sender(provider)
    log: Any = Paged(sender.log)
    sender.log = log
    assert now(sender.once())
    under_way = begun(sender.once())
    assert not under_way.called
    sender.drop()  # another loop has met a failure: what it had in hand is to be read again
    log.held.callback(None)
    assert under_way.result
    assert now(sender.once())
    assert log.asked == ["", log.asked[1], ""]
    turn(sender)
    assert (len(provider.sent), house.left()) == (3, 0)


def test_what_is_idle_for_others_follows_from_the_provider_of_now() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    held = house.sender(FakeProvider(), name="dead")
    now(held.log.create())
    now(held.log.read(1))
    quick, slow = FakeProvider(), FakeProvider()
    quick.longest, slow.longest = 1.0, 300.0
    sender = house.sender(quick)
    sender.provider = slow  # by a reload
    for _ in range(12):
        turn(sender)
        house.pass_(30)
    assert slow.sent == [], "its holder may still wait for an answer"
    for _ in range(12):
        turn(sender)
        house.pass_(30)
    assert len(slow.sent) == 1


def test_a_host_that_refuses_us_keeps_nothing_from_who_is_reached_by_another() -> None:
    """Developers' phones are many pushes, all refused for the key is not for their host; a single other one comes."""
    house = House()
    house.enlist(V, msgspec.structs.replace(phone("dev"), environment="sandbox"))
    house.enlist(U, phone("user"))
    provider = FakeProvider(lambda one: WRONG_KEY if one.device.environment == "sandbox" else OK)
    sender = house.sender(provider)
    for n in range(500):
        house.comment(V, thing=str(n))
        turn(house.due)
        turn(sender)
        house.pass_(2)
    mine = house.comment(U)
    waited = 0
    while mine not in {one.notification for one in provider.sent}:
        turn(house.due)
        turn(sender)
        house.pass_(1)
        waited += 1
        assert waited <= 20, "it waits behind those that nobody can be sent"
