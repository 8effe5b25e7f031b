"""Whose a token is, in memory and over real servers; on four shards too, where its keys lie in other slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec
import pytest

from notifier.core import keys
from notifier.core.model import Device
from notifier.edge.device_store import DeviceMoves, DeviceSteps, Listed
from notifier.ports import Unavailable
from tests.contract.phones import FCM, FakeProvider, Process, enlist, phone, steps
from tests.contract.world import MemoryWorld, Reader, RedisWorld, World, event, people

U, V = people(2)
ANA = next(name for n in count() if keys.shard_of(name := f"ana{n}", 4) == 1)
BEN = next(name for n in count() if keys.shard_of(name := f"ben{n}", 4) == 2)


class Crash(Exception):
    """The process ends here."""


class Crashing:
    """The steps of a process that dies before its nth one."""

    def __init__(self, inner: DeviceSteps, after: int) -> None:
        self.inner, self.left = inner, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.left -= 1
        if self.left < 0:
            raise Crash
        return getattr(self.inner, name)  # type: ignore[no-any-return]


def later(device: Device, by: int = 1) -> Device:
    return msgspec.structs.replace(device, registered=device.registered + by)


async def test_a_device_is_kept_as_it_was_registered(world: World) -> None:
    full = msgspec.structs.replace(
        phone(), environment="sandbox", locale="pt-BR", time_zone="Europe/Berlin", app_version="1.0 (7)"
    )
    assert await world.devices().restore(U, full)
    assert await world.devices().of(U) == (full,)
    assert await world.devices().of(V) == ()


@pytest.mark.parametrize("told", [0, 1, 2**52])
async def test_when_it_is_registered_the_server_says(world: World, told: int) -> None:
    """Hosts of the API may be an hour apart; a token that a provider calls dead is judged by one clock."""
    before = world.now() - 1
    assert await world.devices().register(U, phone(registered=told))
    (one,) = await world.devices().of(U)
    assert before <= one.registered <= world.now() + 1
    assert await world.owner(one.id) == U


async def test_nothing_was_registered_in_the_future(world: World) -> None:
    """Out of a file of a host whose clock was ahead: it would outlive every word of a provider."""
    assert await world.devices().restore(U, phone(registered=2**52))
    (one,) = await world.devices().of(U)
    assert one.registered <= world.now() + 1


async def test_of_two_registrations_the_later_one_is_later(world: World) -> None:
    """Also within one millisecond, and after a clock that was set back: what its app says last, counts."""
    times = []
    for locale in ("de", "en", "fr"):
        assert await world.devices().register(U, msgspec.structs.replace(phone(), locale=locale))
        (one,) = await world.devices().of(U)
        assert one.locale == locale
        times.append(one.registered)
    assert times == sorted(set(times))


async def test_of_two_that_overtake_each_other_the_later_one_counts(world: World) -> None:
    claims = [await steps(world).claim(U, phone().id, None) for _ in range(2)]
    for locale, claim in reversed(list(zip(("de", "en"), claims, strict=True))):
        said = msgspec.structs.replace(phone(), locale=locale, registered=claim.registered)
        await steps(world).add(U, said, stays=True)
    assert [one.locale for one in await world.devices().of(U)] == ["en"]


async def test_a_clock_that_was_set_back_does_not_take_a_phone_away() -> None:
    world = MemoryWorld()
    await world.devices().register(U, phone())
    world.server.now -= 3_600_000
    for user in (U, V):
        renewed = msgspec.structs.replace(phone(), locale=user)
        assert await world.devices().register(user, renewed)
        assert [one.locale for one in await world.devices().of(user)] == [user]
    assert await world.devices().of(U) == ()


async def test_to_register_again_renews(world: World) -> None:
    await enlist(world, U, [phone(), later(phone())])
    assert await world.devices().of(U) == (later(phone()),)
    await enlist(world, U, [phone()])
    assert await world.devices().of(U) == (later(phone()),), "of two on their way the later one counts"
    assert await world.owner(phone().id) == U


async def test_unregister_is_idempotent_and_takes_nobody_elses(world: World) -> None:
    devices, one = world.devices(), phone()
    await enlist(world, U, [one])
    assert not await devices.unregister(V, one.id)
    assert await devices.of(U) == (one,)
    assert await devices.unregister(U, one.id)
    assert not await devices.unregister(U, one.id)
    assert await devices.of(U) == ()
    assert await world.owner(one.id) == ""


async def test_a_token_belongs_to_one_person(spread: World) -> None:
    one, other = phone("a"), phone("b", FCM)
    await enlist(spread, ANA, [one, other])
    await enlist(spread, BEN, [later(one)])
    assert await spread.devices().of(ANA) == (other,)
    assert await spread.devices().of(BEN) == (later(one),)
    assert await spread.owner(one.id) == BEN
    assert await spread.devices().unregister(BEN, one.id)
    await enlist(spread, ANA, [one])
    assert await spread.owner(one.id) == ANA


@pytest.mark.parametrize("after", range(5))
async def test_a_crash_on_the_way_ends_in_silence_never_with_another(spread: World, after: int) -> None:
    """ANA's phone becomes BEN's; the process dies before each step. Whose it is not, gets nothing on it."""
    one = phone()
    await enlist(spread, ANA, [one])
    dying = DeviceMoves(Crashing(steps(spread), after))
    with pytest.raises(Crash):
        await dying.register(BEN, one)
    owner = await spread.owner(one.id)
    for user in (ANA, BEN):
        provider = FakeProvider()
        shard = keys.shard_of(user, spread.rules.shards)
        process = Process(spread, provider, shard=shard)
        reader = Reader(spread, "one", shard=shard)
        await reader.deliver(event("comment", to=user))
        await process.run()
        if provider.sent:
            assert user == owner, "it appeared on somebody else's screen"
        assert (await process.log.depth()).entries == 0
    assert await spread.devices().register(BEN, one)
    assert await spread.devices().of(ANA) == ()
    assert [each.id for each in await spread.devices().of(BEN)] == [one.id]


async def test_of_two_at_the_same_time_the_last_claim_wins(spread: World) -> None:
    one, overtaken = phone(), steps(spread)

    class Interrupted(Crashing):
        """Before it adds, somebody else registers the same phone."""

        async def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> list[Listed]:
            assert await spread.devices().register(BEN, one)
            return await overtaken.add(user, device, stays=stays)

    assert not await DeviceMoves(Interrupted(overtaken, 99)).register(ANA, one)
    assert await spread.devices().of(ANA) == ()
    assert [each.id for each in await spread.devices().of(BEN)] == [one.id]
    assert await spread.owner(one.id) == BEN


async def test_who_gets_a_phone_back_keeps_it_though_another_is_slow(spread: World) -> None:
    """BEN's process has claimed ANA's phone and halts; she registers it again; it goes on and takes it off her list."""
    one, overtaken = phone(), steps(spread)
    await enlist(spread, ANA, [one])

    class Halting(Crashing):
        """Behind its first step."""

        async def remove(self, user: str, device: str, before: int = 2**53) -> list[Listed]:
            if user == ANA:
                assert await spread.devices().register(ANA, one)
            return await overtaken.remove(user, device, before)

    assert not await DeviceMoves(Halting(overtaken, 99)).register(BEN, one)
    assert await spread.owner(one.id) == ANA
    assert [each.id for each in await spread.devices().of(ANA)] == [one.id]
    assert await spread.devices().of(BEN) == ()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_device_whose_owner_vanishes_meanwhile_is_registered_again(spread: World, times: int) -> None:
    """Redis lost the key: a device that is nobody's would hear nothing."""
    one, inner = phone(), steps(spread)

    class Forgetful(Crashing):
        async def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> list[Listed]:
            gone = await inner.add(user, device, stays=stays)
            self.left -= 1
            if self.left >= 0:
                await inner.release(user, [Listed(device.id, device.registered)])
            return gone

        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(self.inner, name)  # type: ignore[no-any-return]

    assert await DeviceMoves(Forgetful(inner, times)).register(ANA, one)
    assert await spread.owner(one.id) == ANA
    assert len(await spread.devices().of(ANA)) == 1


async def test_who_signs_out_meanwhile_is_not_registered_again(spread: World) -> None:
    one, inner = phone(), steps(spread)

    class Overtaken(Crashing):
        async def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> list[Listed]:
            gone = await inner.add(user, device, stays=stays)
            assert await spread.devices().unregister(user, device.id)
            return gone

    assert not await DeviceMoves(Overtaken(inner, 99)).register(ANA, one)
    assert await spread.devices().of(ANA) == ()
    assert await spread.owner(one.id) == ""


async def test_a_device_that_stays_nobodys_is_no_success(spread: World) -> None:
    class Nobodys(Crashing):
        async def owners(self, devices: Sequence[str]) -> list[str]:
            return [""] * len(devices)

    with pytest.raises(Unavailable, match="forgets whose it is"):
        await DeviceMoves(Nobodys(steps(spread), 99)).register(ANA, phone())
    assert await spread.devices().of(ANA) == ()


async def test_a_release_that_comes_late_releases_nothing(world: World) -> None:
    await enlist(world, U, [phone(), later(phone())])
    await steps(world).release(U, [Listed(phone().id, phone().registered)])
    assert await world.owner(phone().id) == U


async def test_above_the_limit_the_oldest_go(world: World) -> None:
    world.use(devices=3)
    every = [phone(f"p{n}", registered=10 - n % 4) for n in range(6)]
    for one in every:
        await world.devices().restore(U, one)
    left = await world.devices().of(U)
    assert left == tuple(sorted(every, key=lambda one: (one.registered, one.id))[-3:])
    for one in every:
        assert await world.owner(one.id) == (U if one in left else "")


async def test_who_registers_now_is_never_the_one_that_goes(world: World) -> None:
    """Not even where the others seem to have come later, for the clock has been set back."""
    world.use(devices=2)
    ahead = [phone(f"p{n}", registered=2**50 + n) for n in range(2)]
    for one in ahead:
        await steps(world).add(U, one, stays=True)
    assert await world.devices().register(U, phone("new"))
    assert {one.id for one in await world.devices().of(U)} == {phone("new").id, ahead[1].id}
    world.use(devices=1)
    assert await world.devices().register(U, phone("newer"))
    assert [one.id for one in await world.devices().of(U)] == [phone("newer").id]


async def test_what_comes_from_a_file_may_be_the_oldest_of_those_that_go(world: World) -> None:
    world.use(devices=4)
    every = [phone(f"p{n}", registered=10 * (n + 2)) for n in range(4)]
    await enlist(world, U, every)
    world.use(devices=2)
    assert not await world.devices().restore(U, phone("newcomer", registered=10)), "it was not taken"
    left = await world.devices().of(U)
    assert left == tuple(every[2:])
    for one in (phone("newcomer"), *every):
        assert await world.owner(one.id) == (U if one in left else "")


async def test_a_file_does_not_take_a_phone_back(world: World) -> None:
    old, new = phone(registered=5), phone(registered=7)
    await enlist(world, V, [new])
    assert not await world.devices().restore(U, old)
    assert await world.devices().of(V) == (new,)
    assert await world.devices().of(U) == ()
    stale = msgspec.structs.replace(old, locale="en")
    assert await world.devices().restore(V, stale)
    assert await world.devices().of(V) == (new,), "what its app has said since is kept"
    assert await world.devices().restore(U, later(new))
    assert await world.devices().of(V) == ()
    assert await world.devices().of(U) == (later(new),)
    assert await world.devices().restore(U, new)
    assert await world.devices().unregister(U, new.id)
    assert await world.owner(new.id) == "", "its time was not set back"


async def test_all_devices_can_be_walked_through(spread: World) -> None:
    wanted = set()
    for n in range(60):
        device = phone(f"p{n}", registered=n)
        await enlist(spread, f"u{n % 40}", [device])
        wanted.add((f"u{n % 40}", device))
    found: list[tuple[str, Device]] = []
    page = await spread.devices().page()
    found += page.pairs
    while page.after:
        page = await spread.devices().page(page.after)
        found += page.pairs
    assert set(found) == wanted


async def test_lanes_are_those_of_the_devices_and_a_newer_version_is_left_alone(real: RedisWorld) -> None:
    newer = "2f other 5 something that only a newer process reads"
    await real.calls.call("HSET", keys.devices(U, 1), "x" * 22, newer)
    await enlist(real, U, [phone("a"), phone("b", FCM), phone("c")])
    lanes = await real.calls.call("HGET", keys.devices(U, 1), "lanes")
    assert lanes == b"demo:apns demo:fcm other:fcm"
    assert len(await real.devices().of(U)) == 3
    for name in ("a", "c"):
        await real.devices().unregister(U, phone(name).id)
    assert await real.calls.call("HGET", keys.devices(U, 1), "lanes") == b"demo:fcm other:fcm"
    assert await real.calls.call("HGET", keys.devices(U, 1), "x" * 22) == newer.encode()


async def test_no_device_leaves_no_key(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await real.devices().unregister(U, phone().id)
    assert await real.calls.call("KEYS", "*") == [keys.lanes("{0}").encode()], "which is one for all people"
