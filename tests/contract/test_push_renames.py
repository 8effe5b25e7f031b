"""A device whose token a gateway has renamed, in memory and over real servers."""

from __future__ import annotations

from notifier.ports import Rename
from tests.contract.phones import FCM, enlist, phone
from tests.contract.world import World, people

U, V = people(2)


async def test_a_renamed_device_is_found_by_its_old_name_for_a_while(world: World) -> None:
    old, new = phone("old", FCM), phone("new", FCM)
    await enlist(world, U, [old])
    devices = world.devices()
    assert await devices.rename(U, old.id, new, 300)
    assert [one.id for one in await devices.of(U)] == [new.id]
    assert await devices.renamed(U, old.id) == new.id
    assert await devices.renamed(V, old.id) == ""
    await world.lapse(400)
    assert await devices.renamed(U, old.id) == ""


async def test_a_name_that_is_anothers_renames_nothing(world: World) -> None:
    old, new = phone("old", FCM), phone("new", FCM, registered=2_000)
    await enlist(world, U, [old])
    await enlist(world, V, [new])
    devices = world.devices()
    assert not await devices.rename(U, old.id, phone("new", FCM, registered=1_000), 300)
    assert [one.id for one in await devices.of(U)] == [old.id]
    assert await devices.renamed(U, old.id) == ""


async def test_a_rename_needs_no_room(world: World) -> None:
    """Who has as many devices as may be has as many after it: none of the others goes for it, nor the device itself."""
    world.use(devices=3)
    every = [phone(f"p{n}", FCM, registered=n + 1) for n in range(3)]
    await enlist(world, U, every)
    for old in every:
        new = phone(f"{old.token}-new", FCM, registered=old.registered)
        assert await world.devices().rename(U, old.id, new, 60_000)
        assert await world.owner(old.id) == ""
        assert await world.owner(new.id) == U
    assert [one.registered for one in await world.devices().of(U)] == [1, 2, 3]
    assert all(one.token.endswith("-new") for one in await world.devices().of(U))


async def test_many_are_renamed_together_each_for_itself(world: World) -> None:
    olds = [phone(f"old{n:02}", FCM) for n in range(30)]
    news = [phone(f"new{n:02}", FCM) for n in range(30)]
    await enlist(world, U, olds)
    devices = world.devices()
    renames = [Rename(U, old.id, new, 60_000) for old, new in zip(olds, news, strict=True)]
    assert await devices.rename_all(renames, 60.0) == ()
    assert {one.id for one in await devices.of(U)} == {one.id for one in news}
    assert [await devices.renamed(U, old.id) for old in olds] == [one.id for one in news]


async def test_renames_together_need_no_room_either(world: World) -> None:
    """The new ones of a person come one after the other, each when the one before has its old one's place."""
    world.use(devices=4)
    every = [phone(f"p{n}", FCM, registered=n + 1) for n in range(4)]
    await enlist(world, U, every)
    devices = world.devices()
    renames = [
        Rename(U, old.id, phone(f"{old.token}-new", FCM, registered=old.registered), 60_000)
        for old in every[1:]
    ]
    assert await devices.rename_all(renames, 60.0) == ()
    assert [one.registered for one in await devices.of(U)] == [1, 2, 3, 4]
    assert await world.owner(every[0].id) == U


async def test_a_name_that_is_its_own_loses_nobody_a_device(world: World) -> None:
    """Some gateways say the token of every push that they took."""
    old = phone("old", FCM)
    await enlist(world, U, [old])
    devices = world.devices()
    assert await devices.rename(U, old.id, old, 300)
    assert await devices.of(U) == (old,)
    assert await world.owner(old.id) == U
    assert await devices.renamed(U, old.id) == ""


async def test_who_has_signed_out_meanwhile_is_not_signed_in_by_a_new_name(world: World) -> None:
    old, new = phone("old", FCM), phone("new", FCM)
    await enlist(world, U, [old])
    devices = world.devices()
    assert await devices.unregister(U, old.id)
    assert not await devices.rename(U, old.id, new, 300)
    assert await devices.of(U) == ()
    assert await world.owner(new.id) == ""


async def test_the_new_name_of_a_phone_that_is_anothers_now_is_not_its_last_owners(world: World) -> None:
    old, new = phone("old", FCM), phone("new", FCM)
    await enlist(world, U, [old])
    devices = world.devices()
    assert await devices.register(V, old)
    assert not await devices.rename(U, old.id, new, 300)
    assert await devices.of(U) == ()
    assert [one.id for one in await devices.of(V)] == [old.id]
    assert await world.owner(new.id) == ""
