"""A gateway gives a device another token while pushes to it wait: they follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from notifier.core.model import Delivery, Device, Outcome
from notifier.edge.device_store import RENAMES
from notifier.edge.memory_push import MemoryDevices
from notifier.ports import Unavailable
from notifier.sending import RENAMING, Sender
from tests.contract.phones import FCM, OK, FakeProvider, begin, phone
from tests.contract.world import people
from tests.test_pipeline import now
from tests.test_sender import House, U, V, turn

BUSY = Outcome("retry", "gcm", 200, "DeviceMessageRateExceeded", 60, "token")


def renames(to: str) -> Outcome:
    token = phone(to, FCM).token
    return Outcome("delivered", "gcm", 200, "", action="replace", replacement_token=token)


def waiting_house() -> tuple[House, FakeProvider]:
    """Two pushes to the device "a" wait."""
    house = House()
    house.enlist(U, phone("a", FCM), phone("other", FCM))
    for thing in "12":
        house.comment(U, thing=thing)
    provider = FakeProvider(lambda delivery: BUSY if delivery.device.id == phone("a", FCM).id else OK)
    turn(house.sender(provider, FCM))
    assert len(house.waiting()) == 2
    provider.told()
    return house, provider


def rename(house: House, old: str, new: str) -> None:
    """What the gateway says to one more push."""
    house.comment(U, thing=f"{old}{new}")

    def answer(delivery: Delivery) -> Outcome:
        return renames(new) if delivery.device.id == phone(old, FCM).id else OK

    turn(house.sender(FakeProvider(answer), FCM))


def test_what_waits_follows_its_device_through_several_names() -> None:
    house, provider = waiting_house()
    rename(house, "a", "b")
    rename(house, "b", "c")
    provider.answer = lambda _: OK
    house.pass_(120)
    turn(house.due)
    turn(house.sender(provider, FCM))
    assert provider.told() == [phone("c", FCM).id] * 2
    assert house.metrics.push_drops["demo fcm no_device"] == 0
    assert (house.left(FCM), house.waiting()) == (0, [])


def test_what_fails_again_waits_under_the_new_name() -> None:
    house, provider = waiting_house()
    rename(house, "a", "b")
    provider.answer = lambda _: BUSY
    house.pass_(120)
    turn(house.due)
    turn(house.sender(provider, FCM))
    names = {key[3] for key in house.server.waiting}
    assert names == {phone("b", FCM).id}


def test_a_device_that_went_or_is_anothers_is_not_followed() -> None:
    house, provider = waiting_house()
    assert now(house.world.devices().unregister(U, phone("a", FCM).id))
    house.pass_(120)
    turn(house.due)
    turn(house.sender(provider, FCM))
    assert provider.told() == []
    assert house.metrics.push_drops["demo fcm no_device"] == 2

    house, provider = waiting_house()
    rename(house, "a", "b")
    house.pass_(1)
    assert now(house.world.devices().register(V, phone("b", FCM)))
    house.pass_(120)
    turn(house.due)
    turn(house.sender(provider, FCM))
    assert provider.told() == []


def test_a_name_is_known_for_as_long_as_a_push_may_wait() -> None:
    house, _ = waiting_house()
    rename(house, "a", "b")
    devices = house.world.devices()
    assert now(devices.renamed(U, phone("a", FCM).id)) == phone("b", FCM).id
    house.pass_(90_000)
    assert now(devices.renamed(U, phone("a", FCM).id)) == ""


class Slow(MemoryDevices):
    """Redis answers the renames when it is told to. `time`: that of the process."""

    def __init__(self, house: House) -> None:
        self.time: Any = Clock()
        super().__init__(house.server, house.world.rules, lambda s: deferLater(self.time, s, lambda: None))
        self.asked: list[Deferred[None]] = []
        self.names: list[str] = []

    async def rename(self, user: str, old: str, device: Device, ms: int) -> bool:
        answer: Deferred[None] = Deferred()
        self.asked.append(answer)
        await answer
        self.names.append(old)
        return await super().rename(user, old, device, ms)


FORTY = people(40)


def slow_house(whose: Sequence[str] = FORTY) -> tuple[House, Slow, Sender]:
    """A batch for forty phones, each of which has another token now. `whose`: each of them."""
    house = House()
    phones = [phone(f"p{n:02}", FCM) for n in range(40)]
    for user, one in zip(whose, phones, strict=True):
        house.enlist(user, one)
    house.comment(*dict.fromkeys(whose))
    names = {one.id: f"new{n:02}" for n, one in enumerate(phones)}
    sender = house.sender(FakeProvider(lambda one: renames(names[one.device.id])), FCM)
    slow = sender.devices = Slow(house)
    return house, slow, sender


def test_renames_go_side_by_side_and_not_all_at_once() -> None:
    house, slow, sender = slow_house()
    under_way = begin(sender.once())
    assert len(slow.asked) == RENAMES
    for answered in range(40):
        slow.asked[answered].callback(None)
        assert len(slow.asked) == min(40, answered + 1 + RENAMES)
    assert under_way.called
    for n, user in enumerate(FORTY):
        assert [one.token for one in now(slow.of(user))] == [phone(f"new{n:02}", FCM).token]
    assert (house.left(FCM), house.said) == (0, [])
    assert slow.time.getDelayedCalls() == []


def test_the_renames_of_one_person_go_one_after_the_other() -> None:
    house, slow, sender = slow_house([U] * 39 + [V])
    under_way = begin(sender.once())
    assert len(slow.asked) == 2, "one of each"
    for answered in range(40):
        slow.asked[answered].callback(None)
    assert under_way.called
    assert {one.token for one in now(slow.of(U))} == {phone(f"new{n:02}", FCM).token for n in range(39)}
    assert (house.left(FCM), house.said) == (0, [])


def test_what_is_left_of_one_person_is_not_begun_when_the_time_is_over() -> None:
    house, slow, sender = slow_house([U] * 40)
    under_way = begin(sender.once())
    slow.asked[0].callback(None)
    slow.time.advance(RENAMING)
    assert under_way.called
    (line,) = house.said
    assert "39 of 40 devices could not be renamed" in line
    slow.asked[1].callback(None)
    assert len(slow.names) == len(slow.asked) == 2


def test_slow_renames_do_not_hold_a_batch_until_others_take_it_over() -> None:
    house, slow, sender = slow_house()
    under_way = begin(sender.once())
    for answered in range(5):
        slow.asked[answered].callback(None)
    slow.time.advance(RENAMING)
    assert under_way.called
    assert house.left(FCM) == 0, "what was sent is settled"
    (line,) = house.said
    assert "35 of 40 devices could not be renamed" in line
    assert len(slow.asked) == 5 + RENAMES
    for late in slow.asked[5:]:
        late.callback(None)
    assert len(slow.names) == len(slow.asked) == 5 + RENAMES, "what was begun is ended, the rest is not begun"


def test_one_rename_that_fails_stops_no_other() -> None:
    house, slow, sender = slow_house()
    begin(sender.once())
    slow.asked[0].errback(Unavailable("Redis is away"))
    for answered in range(1, 40):
        slow.asked[answered].callback(None)
    assert len(slow.names) == 39
    (line,) = house.said
    assert "1 of 40 devices could not be renamed: Unavailable: Redis is away" in line


def test_a_device_is_renamed_once_for_all_pushes_of_a_batch() -> None:
    house = House()
    house.enlist(U, phone("a", FCM))
    for thing in "123":
        house.comment(U, thing=thing)
    sender = house.sender(FakeProvider(lambda _: renames("b")), FCM)
    slow = sender.devices = Slow(house)
    begin(sender.once())
    assert len(slow.asked) == 1
