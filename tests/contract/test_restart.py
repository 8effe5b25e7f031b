"""A server that comes back without its last writes: places of before are known as far as they still mean the same."""

from __future__ import annotations

import pytest

from notifier.core.inbox import Join, Place
from notifier.edge.memory import ItemError, MemoryServer
from notifier.ports import LeaseLost
from tests import reactor
from tests.contract.world import (
    ISSUED,
    NOWHERE,
    TAG,
    MemoryWorld,
    Reader,
    RedisWorld,
    World,
    event,
    ids,
    load,
    people,
    place,
    since,
)
from tests.servers import Valkey

U, V = people(2)


async def before(world: World) -> Place:
    """Three changes that will last and two that will not; the client has seen all five."""
    reader = Reader(world, most=1)
    await reader.deliver(*(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n)) for n in range(3)))
    await world.append(event(to=(U,), eid="lost", at=world.now(), thing="lost"))
    await world.append(event(to=(U,), eid="gone", at=world.now(), thing="gone"))
    while await reader.fanout.once():
        pass
    return place(await load(world, U))


async def after(world: World, old: Place) -> None:
    """The inbox lost something; what comes next takes seqs that the client believes to have seen."""
    assert old.seq == 5
    left = await load(world, U)
    assert 0 < left.seq < 5
    assert (left.birth, left.run) == (old.birth, old.run)  # nothing was written since
    assert (await since(world, U, old)).result == "resync"
    reader = Reader(world, "next")
    await reader.deliver(*(event(to=U, eid=f"new{n}", at=world.now(), thing=f"new{n}") for n in range(5)))
    now = await load(world, U)
    assert now.seq >= 6
    assert now.run != old.run
    assert (await since(world, U, old)).result == "resync"
    known = await since(world, U, Place(old.birth, old.run, left.seq))
    assert known.result == "resume"
    # what was lost with the acknowledgement came again, what was lost with its entry did not
    assert set(ids(now)) >= {"e0", "e1", "e2", *(f"new{n}" for n in range(5))}
    assert ids(known)[-5:] == [f"new{n}" for n in range(5)]


async def test_memory_forgets_its_last_steps() -> None:
    world = MemoryWorld()
    old = await before(world)
    world.server.restart(lost=4)
    world.server.leases.cut(TAG)
    await after(world, old)


def test_a_server_that_lost_the_end_of_its_file(own_server: Valkey) -> None:
    async def first() -> Place:
        world = RedisWorld(own_server.url)
        await world.open()
        old = await before(world)
        await world.close()
        return old

    async def second(old: Place) -> None:
        world = RedisWorld(own_server.url)
        await world.open()
        await world.calls.call("DEL", f"lease:{TAG}")
        await after(world, old)
        await world.close()

    old = reactor.run(first())
    own_server.kill()
    # cut until the last change is lost, and with it some of what was written since
    own_server.truncate_aof(700)
    own_server.start()
    reactor.run(second(old))


@pytest.mark.parametrize("stage", ["item", "row", "register"])
async def test_an_error_in_memory_is_completed_by_a_repeat(stage: str) -> None:
    async def play(faulty: bool) -> list[object]:
        world = MemoryWorld()
        world.use(cap=3)
        failed: list[str] = []

        def hazard(at: str, user: str, event_id: str) -> None:
            if faulty and at == stage and event_id not in failed:
                failed.append(event_id)
                raise ItemError("once")

        world.server.hazard = hazard
        now, reader = world.now(), Reader(world, tries=5)
        await reader.deliver(
            *(event(to=U, eid=f"e{n}", at=now + n, thing=str(n)) for n in range(5)),
            event("unlike", to=U, eid="off", at=now + 9, thing="4"),
            event(to=V, eid="v", at=now + 9),
        )
        assert bool(failed) == faulty
        return [(ids(await load(world, user)), (await load(world, user)).unread) for user in (U, V)]

    assert await play(True) == await play(False)


async def test_a_restart_in_memory_silences_the_buses() -> None:
    world = MemoryWorld()
    ear, reader = await world.ear(), Reader(world, "another")
    await world.inbox().join(U, Join("fresh", NOWHERE, 1), ISSUED)
    run = world.server.run
    world.server.restart()
    assert ear.bus.heard == set()
    assert world.server.run != run
    await reader.deliver(event(to=U))
    await world.inbox().revoke(U)
    assert (await ear.bells(), ear.revoked) == ([], [])
    ear.bus.start()  # type: ignore[attr-defined]
    assert ear.bus.heard == {0}
    await reader.deliver(event(to=U))
    assert len(await ear.bells()) == 1


async def test_everything_in_memory_can_be_taken_back() -> None:
    world = MemoryWorld()
    reader = Reader(world)
    await reader.deliver(event(to=U), b"{", event("unlike", to=U))
    await world.inbox().revoke(V)
    world.server.restart(lost=1_000)
    assert (await load(world, U)).birth == 0
    assert (await world.letters("schema"), await world.marks()) == ([], 0)
    assert (await world.inbox().refresh([V]))[V].revoked == -1
    assert (await reader.log.depth()).entries == 0
    with pytest.raises(LeaseLost):
        await reader.log.read(1)


def test_an_id_in_memory_must_be_a_new_one() -> None:
    server = MemoryServer()
    assert server.append("s", b"event", b"{}", entry_id="5-1") == "5-1"
    with pytest.raises(ValueError, match="5-1 is not after 5-1"):
        server.append("s", b"event", b"{}", entry_id="5-1")
    assert server.append("s", b"event", b"{}") == f"{server.now}-0"
    assert server.append("s", b"event", b"{}") == f"{server.now}-1"
