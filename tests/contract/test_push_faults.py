"""An error after every call of every script of phones, then the same again without: nothing is lost, nothing sent twice
that was settled, and the end is as if nothing had happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

from notifier.core import keys
from notifier.core.lanes import BURIALS, Lane, PushEntry
from notifier.core.model import Delivery, Outcome, Verdict
from notifier.edge.device_store import Listed
from notifier.edge.push_store import ABANDONED
from notifier.edge.redis import ReplyError, load_script
from notifier.edge.store import Scripts
from notifier.ports import Judged, Settlement
from tests import reactor
from tests.contract.conftest import opened
from tests.contract.injection import Arm, Run, again, inject, interrupted, interrupted_everywhere
from tests.contract.phones import (
    APNS,
    DOWN,
    FCM,
    GONE,
    OK,
    WRONG,
    FakeProvider,
    Process,
    enlist,
    phone,
    steps,
)
from tests.contract.world import TAG, Reader, RedisWorld, event, people
from tests.servers import Valkey

U, V = people(2)
FINE, BUSY, DEAD, BAD, MOVED, OTHER = (
    *(phone(name, registered=n) for n, name in enumerate(("fine", "busy", "dead", "bad", "moved"), 1)),
    phone("other", FCM),
)
LEFT = Lane("left", "apns")  # of an app that nobody configures any more
ANSWERS = {FINE.id: OK, BUSY.id: DOWN, DEAD.id: GONE, BAD.id: WRONG}


class Fragile(RedisWorld):
    """at: when the events of all runs happened, ms."""

    at = 0
    provider: FakeProvider


@pytest.fixture
def fragile(valkey: Valkey) -> Iterator[Fragile]:
    world = opened(valkey, Fragile)
    yield world
    reactor.run(world.close())


async def state(world: Fragile) -> dict[str, Any]:
    """All that a run leaves behind, in a form that two runs can be compared in. Doubles are one: see wake.lua."""
    lanes = {}
    for lane in (APNS, FCM):
        log = world.pushes(lane, "afterwards")
        await log.create()
        left = (await log.claim(0, 100, "")).entries + (await log.read(100)).entries
        lanes[str(lane)] = {msgspec.structs.replace(one, id="", deadline=0) for one in left}
    devices = {user: await world.calls.call("HGETALL", keys.devices(user, 1)) for user in (U, V)}
    every = (FINE, BUSY, DEAD, BAD, MOVED, OTHER)
    return {
        "lanes": lanes,
        "devices": {user: sorted(zip(flat[::2], flat[1::2], strict=True)) for user, flat in devices.items()},
        "owners": [await world.owner(one.id) for one in every],
        "waiting": set(await world.waiting()),
        "letters": {
            reason: {(x.to, x.source, x.device) for x in await world.letters(reason)} for reason in BURIALS
        },
        "known": await world.calls.call("SMEMBERS", keys.lanes(TAG)),
        "dead": {one.device.id for one in await world.dead_tokens()},
    }


def answer(delivery: Delivery) -> Outcome:
    return ANSWERS[delivery.device.id]


async def prepare(world: Fragile) -> None:
    await enlist(world, U, [FINE, BUSY, DEAD, BAD, MOVED, OTHER])
    world.provider = FakeProvider(lambda one: ANSWERS[one.device.id])


async def to_rest(process: Process) -> None:
    """A loop that goes on after an error, as edge.loop does. What could not be settled is so without its pause."""
    still = 0
    for _ in range(50):
        try:
            still = 0 if await process.sender.once() else still + 1
            await process.sender.release()
            if still == 2:
                return
        except ReplyError as error:
            assert "injected" in str(error)
            process.sender.drop()
    raise AssertionError("the sender does not come to rest")


async def hand_over(world: Fragile, arm: Arm) -> object:
    await arm()
    await Reader(world).deliver(
        event("comment", to=[U, V], eid="c", at=world.at),
        event("follow", to=U, eid="f", at=world.at),
        event("like", to=U, eid="l", at=world.at),
    )
    return await world.calls.call("XPENDING", world.stream, keys.GROUP)


async def give(world: Fragile, arm: Arm) -> object:
    """A handover, its own process sending: rows that stand, one that is gone at its end, one that was taken back."""
    world.use(cap=2)
    await steps(world).claim(V, MOVED.id, None)
    process = Process(world, world.provider)
    await to_rest(process)
    await arm()
    await Reader(world, outlets={str(APNS): process.sender}).deliver(
        *(event("comment", to=U, eid=name, at=world.at, thing=name) for name in ("gone", "back", "c", "d")),
        event("uncomment", to=U, eid="x", at=world.at + 1, thing="d"),
        event("comment", to=V, eid="v", at=world.at),
    )
    await to_rest(process)
    pending = await world.calls.call("XPENDING", keys.pushes(TAG, APNS), keys.GROUP)
    return pending[0], {(one.notification, one.device.id) for one in world.provider.sent if one.tries == 0}


async def send(world: Fragile, arm: Arm) -> object:
    """One entry whose devices fare each in its own way, one that was retracted, one whose row is gone."""
    world.use(cap=2)
    await Reader(world).deliver(
        event("comment", to=U, eid="gone", at=world.at, thing="1"),
        event("comment", to=U, eid="back", at=world.at, thing="2"),
        event("comment", to=U, eid="c", at=world.at, thing="3"),
        event("comment", to=U, eid="d", at=world.at, thing="4"),
        event("uncomment", to=U, eid="x", at=world.at + 1, thing="4"),
    )
    await steps(world).claim(V, MOVED.id, None)
    for device in (FINE, OTHER):  # somebody else has planned these: one arrives now
        await world.calls.call("HSET", f"later:{TAG}", f"r:{U}:c:{device.id}", f"1 {APNS} 1 {2**42} 1 0 0")
        await world.calls.call("ZADD", f"due:{TAG}", 2**42, f"r:{U}:c:{device.id}")
    process = Process(world, world.provider)
    await arm()
    await to_rest(process)
    pending = await world.calls.call("XPENDING", keys.pushes(TAG, APNS), keys.GROUP)
    return pending[0], sorted(world.provider.told())


async def wake(world: Fragile, arm: Arm) -> object:
    await Reader(world).deliver(event("comment", to=U, eid="c", at=world.at))
    world.provider.answer = lambda _: DOWN
    await to_rest(Process(world, world.provider))
    await world.hurry()
    await arm()
    await again(world.due().wake)
    return (await world.due().wake()).left


async def tidy(world: Fragile, arm: Arm) -> object:
    """Two pushes on a lane that nobody reads: one long after its deadline, one not."""
    await enlist(world, U, [phone("left", LEFT)])
    await Reader(world).deliver(event("comment", to=U, eid="c", at=world.at))
    late = PushEntry("", U, "late", world.at - ABANDONED)
    for entry in (late, msgspec.structs.replace(late, notification="fresh", deadline=world.at)):
        await world.calls.call("XADD", keys.pushes(TAG, LEFT), "*", "push", entry.as_text())
    await arm()
    for _ in range(2):
        await again(world.due().tidy)
    return await world.calls.call("XLEN", keys.pushes(TAG, LEFT))


async def claim(world: Fragile, arm: Arm) -> object:
    await arm()
    return await again(lambda: steps(world).claim(V, FINE.id, 99))


async def add(world: Fragile, arm: Arm) -> object:
    world.use(devices=3)
    await arm()
    await again(lambda: steps(world).add(U, phone("new", registered=99), stays=True))
    return sorted(one.id for one in await world.devices().of(U))


async def remove(world: Fragile, arm: Arm) -> object:
    await arm()
    await again(lambda: steps(world).remove(U, OTHER.id))  # the only one of its lane
    return [one.id for one in await world.devices().of(U)]


async def release(world: Fragile, arm: Arm) -> object:
    await arm()
    return await again(lambda: steps(world).release(U, [Listed(FINE.id, FINE.registered)]))


# by name: which script fails, in what, and how many calls of it there are at least
ACTS: dict[str, tuple[str, Callable[[Fragile, Arm], Awaitable[object]], int]] = {
    "handover": ("handover", hand_over, 29),
    "give": ("handover", give, 60),
    "look": ("look", send, 7),
    "settle": ("settle", send, 23),
    "wake": ("wake", wake, 10),
    "tidy": ("tidy", tidy, 4),
    "claim": ("device", claim, 2),
    "add": ("device", add, 3),
    "remove": ("device", remove, 4),
    "release": ("device", release, 2),
}


async def run(world: Fragile, name: str, after: int) -> Run:
    """One run with an error after so many calls (0: none). The answer, what is left, and whether the error came."""
    await world.calls.call("FLUSHALL")
    world.use(cap=100, devices=50)
    world.scripts = Scripts()
    await prepare(world)
    script, act, _ = ACTS[name]
    setattr(world.scripts, script, load_script(script, inject))
    done, came = await interrupted(world, act, after)
    return done, await state(world), came


@pytest.mark.parametrize("name", ACTS)
async def test_an_error_anywhere_leaves_what_a_repeat_completes(fragile: Fragile, name: str) -> None:
    fragile.at = fragile.now() - 60_000
    after = await interrupted_everywhere(lambda after: run(fragile, name, after))
    assert after >= ACTS[name][2], f"only {after} calls were reached"


async def test_what_cannot_be_acknowledged_is_told_and_settled_once_more(fragile: Fragile) -> None:
    fragile.scripts = Scripts()
    await enlist(fragile, U, [FINE])
    await Reader(fragile).deliver(event("comment", to=U))
    log: Any = fragile.pushes(APNS)
    await log.create()
    look = await log.look((await log.read(10)).entries)
    (found,) = look.found
    done = Judged(found.entry.delivery(FINE, found.row.seq), Verdict("done"))
    fragile.scripts.settle = load_script(
        "settle", lambda text: text.replace("pcall(call, 'XACK'", "pcall(error, {err = 'no'}) --")
    )
    (state,) = (await log.settle([Settlement(found.entry, look.run, (done,))])).states
    assert state == "no"
    assert (await log.history(10, "")).entries == (found.entry,)
    fragile.scripts.settle = load_script("settle")
    assert (await log.settle([Settlement(found.entry, look.run, (done,))])).states == ("done",)
    assert (await log.depth()).entries == 0
