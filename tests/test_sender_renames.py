"""A gateway gives a device another token while pushes to it wait: they follow it."""

from __future__ import annotations

from notifier.core.model import Delivery, Outcome
from tests.contract.phones import FCM, OK, FakeProvider, phone
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
