"""What a sender has in hand: whether it is its own still, and that nobody takes over what is kept."""

from __future__ import annotations

from notifier.ports import PushLog, Settlement
from tests.contract.phones import APNS, enlist, phone
from tests.contract.test_push import DONE, judged
from tests.contract.world import Reader, World, event, people

(U,) = people(1)
AGE = 400  # ms; well beyond what clocks may differ by


async def held(world: World, count: int = 3) -> tuple[PushLog, list[str]]:
    """A process with so many entries in hand."""
    await enlist(world, U, [phone()])
    await Reader(world).deliver(*(event("comment", to=U, thing=str(n)) for n in range(count)))
    log = world.pushes(APNS)
    await log.create()
    return log, [entry.id for entry in (await log.read(100)).entries]


async def test_what_nobody_has_taken_is_ours(world: World) -> None:
    log, ids = await held(world)
    await world.lapse(AGE)
    assert await log.keep(dict.fromkeys(ids, AGE)) == set(ids)
    assert await log.keep({}) == set()
    assert await world.pushes(APNS, "two").keep(dict.fromkeys(ids, 0)) == set()


async def test_what_is_kept_is_not_taken_over(world: World) -> None:
    log, (first, *others) = await held(world)
    await world.lapse(AGE)
    await log.keep({first: AGE})
    claimed = await world.pushes(APNS, "two").claim(AGE // 2, 100, "")
    assert [entry.id for entry in claimed.entries] == others
    assert await log.keep(dict.fromkeys([first, *others], 0)) == {first}


async def test_what_was_taken_over_is_not_ours_and_stays_theirs(world: World) -> None:
    log, ids = await held(world)
    await world.lapse(AGE)
    other = world.pushes(APNS, "two")
    await other.claim(AGE // 2, 100, "")
    assert await log.keep(dict.fromkeys(ids, AGE)) == set()
    assert await other.keep(dict.fromkeys(ids, 0)) == set(ids)


async def test_what_somebody_else_was_given_under_our_name_is_not_ours(world: World) -> None:
    """We were stopped for so long that another process has taken our slot, and what was pending under it."""
    log, ids = await held(world)
    await world.lapse(2 * AGE)
    await world.pushes(APNS).history(100, "")
    assert await log.keep(dict.fromkeys(ids, 2 * AGE)) == set()


async def test_what_is_settled_is_not_ours(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U), event("comment", to=U, thing="2"))
    log = world.pushes(APNS)
    await log.create()
    first, second = (await log.read(100)).entries
    look = await log.look([first])
    await log.settle([Settlement(first, look.run, (judged(look.found[0], DONE),))])
    assert await log.keep({first.id: 0, second.id: 0}) == {second.id}
