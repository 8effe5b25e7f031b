"""Whose a token is, in memory and over real servers; on four shards too, where its keys lie in other slots."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest

from notifier.core import keys
from notifier.core.model import Device
from notifier.edge.push_store import DeviceMoves, DeviceSteps
from tests.contract.phones import FCM, FakeProvider, Process, enlist, phone, steps
from tests.contract.world import Reader, RedisWorld, World, event, people

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
    assert await world.devices().register(U, full)
    assert await world.devices().of(U) == (full,)
    assert await world.devices().of(V) == ()


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
        await dying.register(BEN, later(one))
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
    await enlist(spread, BEN, [later(one, 2)])
    assert await spread.devices().of(ANA) == ()
    assert await spread.devices().of(BEN) == (later(one, 2),)


async def test_of_two_at_the_same_time_the_last_claim_wins(spread: World) -> None:
    one, overtaken = phone(), steps(spread)

    class Interrupted(Crashing):
        """Before it adds, somebody else registers the same phone."""

        async def add(self, user: str, device: Device) -> list[Device]:
            await enlist(spread, BEN, [later(one)])
            return await overtaken.add(user, device)

    assert not await DeviceMoves(Interrupted(overtaken, 99)).register(ANA, one)
    assert await spread.devices().of(ANA) == ()
    assert await spread.devices().of(BEN) == (later(one),)
    assert await spread.owner(one.id) == BEN


async def test_a_release_that_comes_late_releases_nothing(world: World) -> None:
    await enlist(world, U, [phone(), later(phone())])
    await steps(world).release(U, [phone()])
    assert await world.owner(phone().id) == U


async def test_above_the_limit_the_oldest_go(world: World) -> None:
    world.use(devices=3)
    every = [phone(f"p{n}", registered=10 - n % 4) for n in range(6)]
    await enlist(world, U, every)
    left = await world.devices().of(U)
    assert left == tuple(sorted(every, key=lambda one: (one.registered, one.id))[-3:])
    for one in every:
        assert await world.owner(one.id) == (U if one in left else "")


async def test_a_newcomer_may_be_the_oldest_of_those_that_go(world: World) -> None:
    world.use(devices=4)
    every = [phone(f"p{n}", registered=10 * (n + 2)) for n in range(4)]
    await enlist(world, U, every)
    world.use(devices=2)
    assert await world.devices().register(U, phone("newcomer", registered=10))
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
    assert await world.devices().restore(V, old)
    assert await world.devices().of(V) == (new,)
    assert await world.devices().restore(U, later(new))
    assert await world.devices().of(V) == ()
    assert await world.devices().of(U) == (later(new),)


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
    assert await real.calls.call("KEYS", "*") == []
