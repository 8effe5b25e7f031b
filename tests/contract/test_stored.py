"""An inbox as it lies in Redis: what an error has left in it is never shown, and a form that is not ours is refused."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import pytest

from notifier.core import keys
from notifier.core.inbox import Join, Joined, Mark, Page, Place, parse
from notifier.edge.redis import ReplyError
from notifier.edge.store import Scripts
from notifier.ports import NotMarked
from tests.contract.phones import APNS, FakeProvider, Process, enlist, phone
from tests.contract.world import ISSUED, NOWHERE, Reader, RedisWorld, event, ids, load, people, place
from tests.stored import State

U, V = people(2)


def shown(answer: Joined | Page | None) -> object:
    """What an answer says, without what differs from one inbox to the next."""
    assert answer is not None
    found = [(seq, parse(line)) for seq, line in answer.records]
    rows = [(seq, x.kind, x.read, x.id) for seq, x in found]
    return (
        getattr(answer, "result", ""),
        answer.seq,
        answer.floor,
        answer.seen,
        answer.unread,
        answer.more,
        rows,
    )


async def stands(world: RedisWorld, user: str) -> State:
    return State.parse(await world.calls.call("HGET", keys.inbox(user, 1), "state"))


async def play(world: RedisWorld, user: str, *, ghosts: bool) -> list[Any]:
    """Rows beyond the cap; with ghosts those that were dropped lie there again. All that can be asked and done."""
    reader, inbox, key, at = Reader(world), world.inbox(), keys.inbox(user, 1), world.now() - 1_000
    sent = [event(to=user, eid=name, at=at + n, thing=name) for n, name in enumerate("abcd")]
    await reader.deliver(*sent[:2])
    dropped = await world.calls.call("HMGET", key, "1", "n:a", "2", "n:b")
    assert all(dropped)
    await reader.deliver(*sent[2:])
    assert (await world.calls.call("HMGET", key, "1", "n:a", "2", "n:b")) == [None] * 4
    assert (await stands(world, user)).floor == 2
    if ghosts:
        await world.calls.call(
            "HSET", key, *(x for pair in zip(("1", "n:a", "2", "n:b"), dropped, strict=True) for x in pair)
        )
    now = place(await load(world, user))
    said: list[Any] = [
        shown(await load(world, user)),
        shown(await inbox.page(user, 0, 10, ISSUED)),
        shown(await inbox.page(user, 3, 10, ISSUED)),
        shown(await inbox.sync(user, Join("resume", Place(now.birth, now.run, 0), 10, 2), ISSUED)),
        await inbox.mark(
            [Mark(user, "delete", "", "0", 0, ("a",)), Mark(user, "read", "", "0", 0, ("a", "b"))]
        ),
        await inbox.mark([Mark(user, "seen", str(now.birth), now.run, 2, ())]),
    ]
    await reader.deliver(event("unlike", user, eid="off", at=at + 9, thing="b"))
    said.append(shown(await load(world, user)))
    # its mark is gone with its window, and it comes once more
    for marks in await world.calls.call("KEYS", "seen:*"):
        await world.calls.call("DEL", marks)
    await reader.deliver(sent[0])
    said.append(await inbox.mark([Mark(user, "read", str(now.birth), now.run, 9, ())]))
    said.append(shown(await load(world, user)))
    state = await stands(world, user)
    return [*said, msgspec.structs.replace(state, birth=0, till=0)]


async def test_what_was_dropped_but_not_removed_is_never_shown(real: RedisWorld) -> None:
    real.use(cap=2)
    assert await play(real, U, ghosts=True) == await play(real, V, ghosts=False)


async def test_an_inbox_of_another_version_is_left_alone(real: RedisWorld) -> None:
    """It is refused by name instead of read as what it is not; its events are buried, others' go on."""
    reader = Reader(real, tries=1)
    await reader.deliver(event(to=(U, V)))
    key = keys.inbox(U, 1)
    later = b"2" + await real.calls.call("HGET", key, "state") + b"more"
    await real.calls.call("HSET", key, "state", later)
    await reader.deliver(event(to=(U, V)))
    (letter,) = await real.letters("handover")
    assert f"the inbox of {U} has version 2, not 1" in letter.detail
    assert await real.calls.call("HGET", key, "state") == later
    assert (await load(real, V)).seq == 2
    with pytest.raises(ReplyError, match="version 2"):
        await load(real, U)


async def refused(world: RedisWorld, user: str, why: str) -> None:
    """Nothing reads this inbox or writes into it; whoever else is in the same call is served."""
    inbox, key, other = world.inbox(), keys.inbox(user, 1), f"{user}-other"
    stored = await world.calls.call("HGETALL", key)
    reader = Reader(world, tries=1)
    await reader.deliver(event(to=(user, other)), event("unlike", to=(user, other), thing="2"))
    letters = await world.letters("handover")
    assert [letter.to for letter in letters] == [user, user]
    assert all(why in letter.detail for letter in letters)
    for ask in (
        lambda: load(world, user),
        lambda: inbox.join(user, Join("fresh", NOWHERE, 1), ISSUED),
        lambda: inbox.sync(user, Join("resume", Place(1, "feed", 1), 10), ISSUED),
        lambda: inbox.page(user, 0, 10, ISSUED),
    ):
        with pytest.raises(ReplyError, match=re.escape(why)):
            await ask()
    with pytest.raises(NotMarked, match=re.escape(why)):
        await inbox.mark([Mark(user, "delete", "", "0", 0, ("x",)), Mark(other, "read", "", "0", 0, ("x",))])
    found = await inbox.refresh([other, user, other])
    assert why in found[user].fault
    assert (found[other].seq, found[other].fault) == (1, "")
    assert await world.calls.call("HGETALL", key) == stored
    assert len(ids(await load(world, other))) == 1


async def test_a_hash_without_a_state_is_not_taken_for_no_inbox(real: RedisWorld) -> None:
    """Another version wrote it, or it is damaged: it is not written over."""
    old = ("seq", "1", "floor", "0", "birth", "1795000000000", "1", "1n0 1 g e {}", "n:e", "1")
    await real.calls.call("HSET", keys.inbox(U, 1), *old)
    await refused(real, U, f"the inbox of {U} has no field `state`")


DAMAGED: dict[str, Any] = {
    "empty": lambda state: b"",
    "short": lambda state: state.packed()[:-1],
    "long": lambda state: state.packed() + b"x",
    "text": lambda state: b"1" + b"x" * 128,
    "birth before all time": lambda state: changed(state, birth=-1.0),
    "seq beyond what is exact": lambda state: changed(state, seq=2.0**53),
    "no seq": lambda state: changed(state, seq=math.nan),
    "seq without end": lambda state: changed(state, seq=math.inf),
    "floor above seq": lambda state: changed(state, floor=2.0, past=2.0),
    "floor below zero": lambda state: changed(state, floor=-1e300),
    "past below floor": lambda state: changed(state, past=-1e300),
    "tail below one": lambda state: changed(state, tail=-1e300),
    "no tail": lambda state: changed(state, tail=math.nan),
    "tail beyond the next": lambda state: changed(state, tail=1e300),
}


def changed(state: State, **numbers: float) -> bytes:
    return msgspec.structs.replace(state, **numbers).packed()


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_state_is_refused_before_anything_walks_along_it(real: RedisWorld, name: str) -> None:
    await Reader(real).deliver(event(to=U))
    await real.log().give()
    stored = DAMAGED[name](await stands(real, U))
    await real.calls.call("HSET", keys.inbox(U, 1), "state", stored)
    await refused(real, U, "version" if name == "empty" else f"the state of the inbox of {U} is damaged")


# -- how far a trim looks


async def looked(world: RedisWorld, *events: bytes) -> int:
    """How many seqs are looked at, of these events alone."""

    def counting(text: str) -> str:
        read = "local found, blanks = call('HMGET'"
        assert text.count(read) <= 1
        return text.replace(read, "redis.call('INCRBY', 'looked', #names)\n  " + read)

    world.scripts = Scripts(counting)
    await world.log().give()
    await world.calls.call("SET", "looked", 0)
    await Reader(world).deliver(*events)
    return int(await world.calls.call("GET", "looked"))


async def test_a_trim_looks_no_farther_than_to_the_next_row(real: RedisWorld) -> None:
    """Each row has a hole before it, where the mark was that the next look of its person has moved."""
    real.use(cap=60)
    reader, inbox = Reader(real), real.inbox()
    for n in range(80):
        await reader.deliver(event(to=U, thing=str(n)))
        at = place(await load(real, U))
        assert await inbox.mark([Mark(U, "seen", str(at.birth), at.run, at.seq, ())]) == [1]
    assert await looked(real, *(event(to=U, thing=f"t{n}") for n in range(20))) <= 20 * (1 + 8)
    assert len(ids(await load(real, U))) == 60


@pytest.mark.parametrize("seq", [700, 100_000, 2_000_000, 2**52])
async def test_a_trim_passes_over_any_number_of_holes_at_once(real: RedisWorld, seq: int) -> None:
    """As many likes and unlikes leave them behind a row that stays: the cap holds, and no call is long."""
    key, at = keys.inbox(U, 1), real.now()
    real.use(cap=1)
    await Reader(real).deliver(event(to=U, eid="gone", at=at, thing="gone"))
    gone = await real.calls.call("HGET", key, "1")
    await real.log().give()
    await Reader(real).deliver(event(to=U))
    real.use(cap=3)
    state = msgspec.structs.replace(await stands(real, U), seq=seq)
    assert (state.floor, state.live) == (1, 1)
    # and what errors have left there: a record that was dropped, one that was replaced
    await real.calls.call("HSET", key, "state", state.packed(), "1", gone, "n:gone", "1", "650", "")
    await real.log().give()
    assert await looked(real, *(event(to=U, thing=f"t{n}") for n in range(8))) <= 600
    joined = await load(real, U)
    assert [at for at, _ in joined.records] == [seq + 6, seq + 7, seq + 8]
    assert (joined.floor, joined.unread, (await stands(real, U)).live) == (seq + 5, 3, 3)
    fields = await real.calls.call("HKEYS", key)
    assert len(fields) == 1 + 3 * 2 + 3


async def test_what_is_damaged_stops_nobody_else_s_pushes(real: RedisWorld) -> None:
    """An inbox, which is looked at once more, and a device, whose part of the push is buried."""
    damages = (
        (keys.inbox(V, 1), "state", "1 damaged", 1),
        (keys.devices(V, 1), phone("b").id, "damaged", 0),
    )
    await enlist(real, U, [phone("a")])
    await enlist(real, V, [phone("b")])
    for n, (key, field, value, looks) in enumerate(damages):
        await Reader(real).deliver(event("comment", to=[V], thing=str(n)))
        await Reader(real).deliver(event("comment", to=[U], thing=str(n)))
        good = await real.calls.call("HGET", key, field)
        await real.calls.call("HSET", key, field, value)
        provider = FakeProvider()
        process = Process(real, provider)
        await process.run()
        assert [one.user for one in provider.sent] == [U]
        assert len(process.reports) == looks
        assert (await process.log.depth()).entries == looks
        process.sender.drop()
        await process.run()
        assert (await process.log.depth()).entries == 0
        assert process.metrics.dead_letters["unreadable"] == 1
        await real.calls.call("HSET", key, field, good)


async def test_a_device_that_cannot_be_read_costs_itself_alone(real: RedisWorld) -> None:
    await enlist(real, U, [phone("a"), phone("b")])
    await Reader(real).deliver(event("comment", to=[U]))
    await real.calls.call("HSET", keys.devices(U, 1), phone("b").id, '1a demo 12 ["tok","production"]')
    provider = FakeProvider()
    await Process(real, provider).run()
    assert provider.told() == [phone("a").id]
    (letter,) = await real.letters("unreadable")
    assert (letter.to, letter.device, letter.lane) == (U, phone("b").id, str(APNS))
