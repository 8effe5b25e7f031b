"""An error after every call of every script, then the same again without: the end is as if nothing had happened.
Lua is not rolled back, so this is what a script that dies half-way leaves behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from notifier.core import keys
from notifier.core.inbox import DELETED, NOTIFICATION, READ, RETRACTED, SEEN, Join, Mark, Place, parse
from notifier.core.intake import REASONS
from notifier.edge.letters import Letters
from notifier.edge.redis import load_script
from notifier.edge.store import Scripts
from notifier.ports import Letter
from tests import reactor
from tests.contract.conftest import opened
from tests.contract.injection import Arm, Run, again, inject, interrupted, interrupted_everywhere
from tests.contract.world import ISSUED, NOWHERE, TAG, Reader, RedisWorld, event, ids, load, people, place
from tests.servers import Valkey
from tests.stored import State

U, V, W = people(3)


class Fragile(RedisWorld):
    """base: when the events of all runs happened, ms; reader: who did what was there before."""

    base = 0
    reader: Reader


@pytest.fixture
def fragile(valkey: Valkey) -> Iterator[Fragile]:
    world = opened(valkey, Fragile)
    yield world
    reactor.run(world.close())


# -- what is compared


async def inbox_of(world: RedisWorld, user: str) -> dict[str, Any]:
    """What stands in an inbox, without seqs; on the way, everything that must hold in any inbox is held."""
    flat = await world.calls.call("HGETALL", keys.inbox(user, 1))
    if not flat:
        return {}
    stored = dict(zip(flat[::2], flat[1::2], strict=True))
    stands = State.parse(stored.pop(b"state"))
    fields = {name.decode(): value.decode() for name, value in stored.items()}
    # What lies up to the floor is no part of the inbox: an error may have kept it from being removed.
    lines = sorted((int(name), line) for name, line in fields.items() if name.isdigit() and line)
    found = [(seq, parse(line)) for seq, line in lines if seq > stands.floor]
    assert len({record.id for _, record in found}) == len(found), "two records of one id"
    for seq, record in found:
        assert fields["n:" + record.id] == str(seq)
        assert seq <= stands.seq
        assert record.kind not in (RETRACTED, DELETED) or seq > stands.past
    rows = [record for _, record in found if record.kind == NOTIFICATION]
    alive = {row.id for row in rows}
    tombs = [record.id for _, record in found if record.kind in (RETRACTED, DELETED)]
    assert [row.id for row in rows] == ids(await load(world, user)), "what is shown is not what is stored"
    assert stands.live == len(rows)
    assert stands.unread == sum(not row.read for row in rows)
    assert stands.tombs == len(tombs)
    assert stands.floor <= stands.past
    assert await world.calls.call("PTTL", keys.inbox(user, 1)) > 0, "an inbox that never expires"
    return {
        "rows": [(row.id, row.read, row.time, row.group, row.body) for row in rows],
        "tombs": tombs,
        # A read mark that is made again after a deletion no longer names what is deleted.
        "read": [sorted(alive & set(record.body.split())) for _, record in found if record.kind == READ],
        "seen": [record.id for _, record in found if record.kind == SEEN],
        "unread": stands.unread,
        "birth": stands.birth > 0,
    }


async def state(world: RedisWorld) -> dict[str, Any]:
    """All that a run leaves behind, in a form that two runs can be compared in."""
    registers = {}
    for key in sorted(await world.calls.call("KEYS", "grp:*")):
        flat = await world.calls.call("HGETALL", key)
        registers[key] = flat
        assert await world.calls.call("PTTL", key) > 0, "a register that never expires"
    pending = await world.calls.call("XPENDING", world.stream, keys.GROUP)
    letters = {
        reason: {x.raw for x in await world.letters(reason)} for reason in (*REASONS, "no_event", "handover")
    }
    return {
        "inboxes": {user: await inbox_of(world, user) for user in (U, V, W)},
        "registers": registers,
        "marks": await world.marks(),
        "letters": letters,
        "pending": pending[0],
        "left": await world.calls.call("XLEN", world.stream),
        "present": {user: await world.present(user) for user in (U, V, W)},
    }


# -- what is done


async def prepare(world: Fragile) -> None:
    """Inboxes with rows, tombstones and marks, at their cap, from an older run; a process that lives, one that died."""
    world.use(cap=3)
    reader, at = Reader(world), world.base
    await reader.deliver(
        *(event(to=U, eid=f"old{n}", at=at + n, thing=f"old{n}") for n in range(3)),
        *(event(to=V, eid=f"v{n}", at=at + n, thing="v") for n in range(2)),
    )
    inbox = world.inbox()
    await inbox.mark([Mark(U, "read", "", "0", 0, ("old1",))])
    for n in range(3):
        await reader.deliver(event(to=V, eid=f"w{n}", at=at, thing=f"w{n}"))
        await inbox.mark([Mark(V, "delete", "", "0", 0, (f"w{n}",))])
    await inbox.join(U, Join("fresh", NOWHERE, 1), ISSUED)
    await world.inbox("dead").join(U, Join("fresh", NOWHERE, 1), ISSUED)
    await world.die("dead")
    await world.new_run(U)
    await world.new_run(V)
    world.reader = reader


async def hand_over(world: Fragile, arm: Arm) -> object:
    reader, at = Reader(world, "two"), world.base
    await world.log("one").give()
    for raw in (
        event(to=(U, W), eid="new", at=at + 10, thing="new"),
        b"nonsense",
        event("unlike", to=V, eid="back", at=at + 10, thing="v"),
        event(to=U, eid="old2", at=at + 2, thing="old2"),
        event("unlike", to=U, eid="off", at=at + 11, thing="new"),
        event("unlike", to=W, eid="before", at=at + 20, thing="later"),
        event(to=W, eid="later", at=at + 19, thing="later"),
        event(to=(U, W), eid="last", at=at + 12, thing="last"),
    ):
        await world.append(raw)
    while await reader.fanout.once() and not reader.fanout.backlog:
        pass
    await arm()
    await reader.run()
    return reader.fanout.owned


async def mark(world: Fragile, arm: Arm) -> object:
    place_of = place(await load(world, U))
    by_seq = str(place_of.birth), place_of.run, place_of.seq
    marks = [
        Mark(U, "ack", *by_seq, ()), Mark(U, "seen", *by_seq, ()), Mark(U, "read", *by_seq, ("old0",)),
        Mark(U, "delete", "", "0", 0, ("old0", "old1")), Mark(V, "delete", "", "0", 0, ("v0", "v1")),
        Mark(W, "read", "", "0", 0, ("none",)),
    ]  # fmt: skip
    await arm()
    await again(lambda: world.inbox().mark(marks))
    return None  # how many changes were made the second time depends on the first


async def join(world: Fragile, arm: Arm) -> object:
    await arm()
    known = await again(lambda: world.inbox().join(U, Join("resume", Place(1, "0", 0), 100), ISSUED))
    await again(lambda: world.inbox().join(W, Join("fresh", NOWHERE, 1), ISSUED))
    return known.result, len(known.records)  # type: ignore[attr-defined]


async def page(world: Fragile, arm: Arm) -> object:
    await arm()
    found = await again(lambda: world.inbox().page(U, 0, 2, ISSUED))
    return len(found.records)  # type: ignore[attr-defined]


async def refresh(world: Fragile, arm: Arm) -> object:
    await arm()
    found: Any = await again(lambda: world.inbox().refresh([U, V, W]))
    faults = [stands.fault for stands in found.values() if stands.fault]
    if faults:  # of one person: the hub's next sweep comes to them again
        assert len(faults) == 1 and "injected" in faults[0]
        found = await world.inbox().refresh([U, V, W])
    return {user: (stands.seq, stands.revoked, stands.fault) for user, stands in found.items()}


async def leave(world: Fragile, arm: Arm) -> object:
    await arm()
    await again(lambda: world.inbox().leave([U, V]))
    return await world.present(U)


async def lease(world: Fragile, arm: Arm) -> object:
    await world.log("one").give()
    log = world.log("two")
    await arm()
    taken = await again(log.take)
    other = await world.log("three").take()
    await again(log.give)
    return taken, other, await world.log("three").take()


async def read(world: Fragile, arm: Arm) -> object:
    log = world.reader.log
    sent = [await world.append(event(to=U)) for _ in range(3)]
    await arm()
    await again(lambda: log.read(2))
    # as a reader does after an error: what it was given may not have arrived
    claimed: Any = await log.claim(0, "")
    more = await log.read(2)
    await log.acknowledge(sent, [])
    return len(claimed.entries) + len(more)


async def claim(world: Fragile, arm: Arm) -> object:
    log = world.reader.log
    for _ in range(3):
        await world.append(event(to=U))
    await log.read(3)
    await arm()
    claimed: Any = await again(lambda: log.claim(0, ""))
    await log.acknowledge([entry.id for entry in claimed.entries], [])
    return len(claimed.entries), claimed.lost, claimed.after


async def acknowledge(world: Fragile, arm: Arm) -> object:
    log = world.reader.log
    sent = [await world.append(b"{") for _ in range(3)]
    await log.read(3)
    await arm()
    await again(lambda: log.acknowledge(sent, [Letter("schema", "d", sent[0], sent[0], b"raw")]))
    # as a router does after an error: it begins with a takeover
    claimed: Any = await log.claim(0, "")
    await log.acknowledge([entry.id for entry in claimed.entries], [])
    return None


async def sweep(world: Fragile, arm: Arm) -> object:
    world.use(window=0)
    hour, now, log = 3_600_000, world.now(), world.log("one")
    for back in (2, 4, 6):
        await world.calls.call("SADD", keys.marks(TAG, (now - back * hour) // hour, 1), "1", "2")
    await world.swept_from(now - 7 * hour)
    await arm()
    while await again(log.sweep):
        pass
    return await world.marks()


async def retry(world: Fragile, arm: Arm) -> object:
    """Letters for one person, whose event has an id, and one that is no event: it comes back."""
    at = world.base
    await world.spoil(U)
    await world.reader.deliver(
        event(to=(U, W), eid="lost", at=at + 10, thing="lost"),
        b"nonsense",
        event("unlike", to=U, eid="off", at=at + 10, thing="old0"),
    )
    await world.mend(U)
    letters = Letters(world.calls.call, 1, world.rules.buckets, inject)
    found = [letter async for letter in letters.oldest()]
    assert sorted(letter.name.reason for letter in found) == ["handover", "handover", "not_json"]
    await arm()
    await again(lambda: letters.retry(found))
    await world.reader.run()
    # Not how many: an append that is repeated is absorbed by the marks, but what is no event has none.
    return sorted(await letters.counts())


ACTS: dict[str, tuple[Callable[[Fragile, Arm], Awaitable[object]], int]] = {
    "handover": (hand_over, 79),
    "mark": (mark, 24),
    "join": (join, 6),
    "page": (page, 4),
    "refresh": (refresh, 13),
    "leave": (leave, 2),
    "lease": (lease, 2),
    "read": (read, 3),
    "claim": (claim, 3),
    "ack": (acknowledge, 8),
    "sweep": (sweep, 5),
    "retry": (retry, 11),
}


async def run(world: Fragile, name: str, after: int) -> Run:
    """One run with an error after so many calls (0: none). The answer, what is left, and whether the error came."""
    await world.calls.call("FLUSHALL")
    world.scripts = Scripts()
    await prepare(world)
    if hasattr(world.scripts, name):
        setattr(world.scripts, name, load_script(name, inject))
    answer, came = await interrupted(world, ACTS[name][0], after)
    return answer, await state(world), came


@pytest.mark.parametrize("name", ACTS)
async def test_an_error_anywhere_leaves_what_a_repeat_completes(fragile: Fragile, name: str) -> None:
    fragile.base = fragile.now() - 60_000
    after = await interrupted_everywhere(lambda after: run(fragile, name, after))
    assert after >= ACTS[name][1], f"only {after} calls were reached"
