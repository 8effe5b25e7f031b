"""Bus and presence: who is told of a change, what they are told, and who counts as being there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from notifier.core import canary
from notifier.core.inbox import NOTIFICATION, READ, RETRACTED, SEEN, Join, Mark, parse
from notifier.core.keys import shard_of, tag
from notifier.core.payload import iso
from notifier.edge.redis import Connection, ReplyError, Script
from notifier.ports import GroupLost, Inbox, Unavailable
from tests.contract.world import (
    ISSUED,
    NOWHERE,
    Reader,
    RedisWorld,
    World,
    backlog,
    event,
    load,
    people,
    place,
    since,
)

U, V = people(2)
FRESH = Join("fresh", NOWHERE, 1)


async def join(inbox: Inbox, *users: str) -> None:
    for user in users:
        await inbox.join(user, FRESH, ISSUED)


async def test_a_bell_says_what_a_join_would(world: World) -> None:
    ear, reader, inbox, now = await world.ear(), Reader(world), world.inbox(), world.now() - 500
    at = place(await inbox.join(U, FRESH, ISSUED))
    entry = await world.append(event(to=U, eid="a", at=now, thing="a"))
    await reader.deliver(
        event(to=U, eid="b", at=now, thing="b"),
        event(to=U, eid="c", at=now, thing="c"),
        event("unlike", to=U, eid="d", at=now + 1, thing="b"),
    )
    await inbox.mark([Mark(U, "seen", str(at.birth), at.run, 3, ()), Mark(U, "read", "", "0", 0, ("a",))])
    await inbox.mark([Mark(U, "ack", str(at.birth), at.run, 3, ()), Mark(U, "delete", "", "0", 0, ("c",))])
    bells = await ear.bells()
    assert [(bell.user, bell.birth, bell.run, bell.floor) for bell in bells] == [(U, at.birth, at.run, 0)] * 7
    assert [bell.seq for bell in bells] == [1, 2, 3, 4, 5, 6, 7]
    assert [bell.unread for bell in bells] == [1, 2, 3, 2, 2, 1, 0]
    assert (
        "".join(parse(bell.record).kind for bell in bells) == NOTIFICATION * 3 + RETRACTED + SEEN + READ + "x"
    )
    assert bells[0].accepted == int(entry.partition("-")[0])
    assert all(now <= bell.accepted <= world.now() for bell in bells)
    kept = {bell.seq: bell.record for bell in bells if bell.seq in (4, 5, 6, 7)}
    answer = await since(world, U, at)
    assert {seq: line for seq, line in answer.records if seq > 1} == kept


async def test_a_bell_carries_the_floor(world: World) -> None:
    world.use(cap=2)
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    await join(inbox, U)
    await reader.deliver(*(event(to=U, thing=str(n)) for n in range(4)))
    assert [(bell.seq, bell.floor, bell.unread) for bell in await ear.bells()] == [
        (1, 0, 1),
        (2, 0, 2),
        (3, 1, 2),
        (4, 2, 2),
    ]


async def test_one_message_a_process_and_batch(world: World) -> None:
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    users = people(20)
    await join(inbox, *users)
    await world.append(event(to=users))
    await world.append(event(to=users[0]))
    await reader.run()
    await ear.barrier()
    assert [[bell.user for bell in message] for message in ear.messages] == [[*users, users[0]]]


async def test_each_process_hears_of_its_own_people(world: World) -> None:
    one, two, reader = await world.ear("one"), await world.ear("two"), Reader(world)
    await join(world.inbox("one"), U)
    await join(world.inbox("two"), U, V)
    await join(world.inbox("three"), V)  # nobody listens there
    await reader.deliver(event(to=(U, V)))
    assert [bell.user for bell in await one.bells()] == [U]
    assert [bell.user for bell in await two.bells()] == [U, V]
    assert await world.present(U) == {"one", "two"}
    assert (one.subscribed, two.subscribed) == (list(range(world.rules.shards)),) * 2


async def test_who_reads_is_told_of_its_own_people_with_the_answer(world: World) -> None:
    one, two, reader = await world.ear("one"), await world.ear("two"), Reader(world, "one")
    await join(world.inbox("one"), U)
    await join(world.inbox("two"), U, V)
    await world.deafen(one)
    await reader.deliver(event(to=(U, V), thing="1"), event("unlike", to=(U, V), thing="1"), event(to=V))
    heard = [bell for message in one.messages for bell in message]
    assert [(bell.user, parse(bell.record).kind) for bell in heard] == [(U, NOTIFICATION), (U, RETRACTED)]
    others = await two.bells()
    assert [bell.user for bell in others] == [U, V, U, V, V]
    assert heard == [bell for bell in others if bell.user == U], "the same, whichever way it comes"
    assert one.missed == two.missed == []


async def test_a_canary_goes_over_the_bus_also_to_who_reads(world: World) -> None:
    """It is sent to prove that the bus is heard. What else is in its batch is told with the answer."""
    ear, reader = await world.ear("one"), Reader(world, "one")
    bird = canary.users(world.rules.shards)[0]
    await join(world.inbox("one"), U, bird)
    raw = canary.event("like", "n", "x", iso(world.now()), (bird,))
    await world.append(event(to=U))
    await world.append(raw)
    await reader.run()
    assert sorted(bell.user for bell in await ear.bells()) == sorted([U, bird])
    await world.deafen(ear)
    await world.append(event(to=U))
    await world.append(raw)
    await reader.run()
    assert [bell.user for message in ear.messages for bell in message] == [U]


async def test_what_was_applied_is_told_also_when_the_group_has_gone(world: World) -> None:
    ear, log = await world.ear("one"), world.log("one")
    await join(world.inbox("one"), U)
    await log.take()
    held = backlog(world)
    await world.append(event(to=U))
    held.add(await log.read(10))
    await world.drop_group()
    batch = held.next()
    assert batch is not None
    with pytest.raises(GroupLost):
        await log.handover(batch, 10)
    assert [bell.user for message in ear.messages for bell in message] == [U]


class Silent:
    """A connection that breaks when handovers have run: their answers are lost."""

    def __init__(self, calls: Connection) -> None:
        self.calls, self.call = calls, calls.call

    async def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
        answer = await self.calls.run(script, names, args)
        if script.name == "handover":
            raise Unavailable("lost before an answer")
        return answer


async def test_whose_bells_a_lost_answer_may_have_had_is_told(real: RedisWorld) -> None:
    one, two = await real.ear("one"), await real.ear("two")
    await join(real.inbox("one"), U)
    await join(real.inbox("two"), V)
    reader: Any = Reader(real, "one")
    calls = reader.log.calls
    reader.log.calls = Silent(calls)
    await real.append(event(to=(U, V)))
    await real.append(b"{")  # a burial of a whole entry is for nobody
    with pytest.raises(Unavailable):
        await reader.run()
    assert (one.messages, one.missed) == ([], [{U, V}])
    assert ([bell.user for bell in await two.bells()], two.missed) == ([V], [])
    reader.log.calls = calls
    reader.fanout.drop()
    await reader.run()
    assert one.messages == [], "it was applied before: nobody says it again"


async def test_nobody_there_nobody_told(world: World) -> None:
    ear, reader = await world.ear(), Reader(world)
    await world.inbox().sync(U, FRESH, ISSUED)
    await world.inbox().page(U, 0, 10, ISSUED)
    await reader.deliver(event(to=U))
    assert await world.present(U) == set()
    assert await ear.bells() == []


async def test_who_leaves_hears_no_more(world: World) -> None:
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    await join(inbox, U, V)
    await join(world.inbox("two"), U)
    await inbox.leave([U, "stranger"])
    assert await world.present(U) == {"two"}
    await reader.deliver(event(to=(U, V)))
    assert [bell.user for bell in await ear.bells()] == [V]
    await inbox.leave([])


async def test_a_process_that_died_is_forgotten(world: World) -> None:
    ear, other, reader = await world.ear("one"), await world.ear("two"), Reader(world)
    await join(world.inbox("one"), U)
    await join(world.inbox("two"), U, V)
    await world.die("two")
    await reader.deliver(event(to=(U, V)))
    assert [bell.user for bell in await ear.bells()] == [U]
    assert await other.bells() == []
    assert (await world.present(U), await world.present(V)) == ({"one"}, set())


async def test_a_refresh_brings_everybody_back(world: World) -> None:
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    await join(inbox, U)
    await reader.deliver(event(to=U), event(to=V))
    await inbox.leave([U])
    await world.die("one")
    await ear.bells()
    standings = await inbox.refresh([U, V, "stranger"])
    for user in (U, V):
        joined = await load(world, user)
        assert standings[user].birth == joined.birth > 0
        assert (standings[user].run, standings[user].seq, standings[user].revoked) == (joined.run, 1, -1)
    assert (standings["stranger"].birth, standings["stranger"].seq) == (0, 0)
    assert standings["stranger"].run == standings[U].run
    await reader.deliver(event(to=(U, V)))
    assert [bell.user for bell in await ear.bells()] == [U, V]
    # the shard of the stranger has been told that this process lives; the inbox was not made
    assert (await load(world, "stranger")).birth == 0


async def test_a_refresh_of_nobody_says_that_the_process_lives(world: World) -> None:
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    await join(inbox, U)
    await world.die("one")
    assert await inbox.refresh([]) == {}
    await reader.deliver(event(to=U))
    assert len(await ear.bells()) == 1


async def test_a_refresh_of_many(world: World) -> None:
    inbox = world.inbox()
    users = [f"someone{n}" for n in range(450)]
    await inbox.join(users[449], FRESH, ISSUED)
    standings = await inbox.refresh(users)
    assert sorted(standings) == sorted(users)
    assert standings[users[449]].birth > 0
    assert await world.present(users[17]) == {"one"}


async def test_a_refresh_hears_of_a_run(world: World) -> None:
    inbox, reader = world.inbox(), Reader(world)
    await reader.deliver(event(to=U))
    before = (await inbox.refresh([U]))[U]
    await world.new_run(U)
    await reader.deliver(event(to=U))
    after = (await inbox.refresh([U]))[U]
    assert (before.birth, before.seq, after.seq) == (after.birth, 1, 2)
    joined = await load(world, U)
    assert (joined.run, joined.seq) == (after.run, 2)


async def test_a_revocation_is_heard_everywhere(world: World) -> None:
    one, two, inbox = await world.ear("one"), await world.ear("two"), world.inbox()
    now = world.now() // 1000
    await inbox.revoke(U)
    for ear in (one, two):
        await ear.bells()
        assert ear.revoked == [U]
    standing = (await inbox.refresh([U]))[U]
    assert now <= standing.revoked <= now + 5


async def test_bells_of_what_succeeded_go_out(world: World) -> None:
    ear, reader, inbox = await world.ear(), Reader(world), world.inbox()
    await join(inbox, U, V)
    await world.spoil(U)
    await world.append(event(to=(U, V)))
    await reader.fanout.once()
    await reader.fanout.once()
    await reader.fanout.once()
    assert [bell.user for bell in await ear.bells()] == [V]


async def test_an_inbox_that_cannot_be_read_is_nobody_elses_affair(world: World) -> None:
    """The sweep hears of the others, keeps everybody present, and still learns whose tokens are void."""
    (w,) = people(3)[2:]
    inbox = world.inbox()
    await join(inbox, U, V, w)
    before = await inbox.refresh([U, V, w])
    await inbox.leave([U, V, w])
    await inbox.revoke(V)
    await world.spoil(V)
    found = await inbox.refresh([U, V, w])
    assert (found[U], found[w]) == (before[U], before[w])
    assert [bool(found[user].fault) for user in (U, V, w)] == [False, True, False]
    assert (found[V].birth, found[V].seq) == (0, 0)
    assert found[V].revoked > 0
    assert [await world.present(user) for user in (U, V, w)] == [{"one"}] * 3
    await world.mend(V)
    assert (await inbox.refresh([V]))[V].fault == ""


class Refusing:
    """A connection on which the scripts of some shards are refused."""

    def __init__(self, calls: Connection, *shards: int) -> None:
        self.calls, self.keys = calls, [f"alive:{tag(shard)}" for shard in shards]

    async def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
        if names[0] in self.keys:
            raise ReplyError("ERR refused")
        return await self.calls.run(script, names, args)


async def test_what_one_shard_refuses_the_others_still_hear(spread: World) -> None:
    if not isinstance(spread, RedisWorld):
        return  # in memory a call is one for all shards
    users = [f"p{n}" for n in range(40)]
    inbox: Any = spread.inbox()
    await join(inbox, *users)
    calls = inbox.calls
    inbox.calls = Refusing(calls, 1)
    found = await inbox.refresh(users)
    assert {user for user in users if found[user].fault} == {user for user in users if shard_of(user, 4) == 1}
    assert {found[user].fault for user in users if shard_of(user, 4) == 1} == {"ERR refused"}
    assert all(found[user].birth > 0 for user in users if shard_of(user, 4) != 1)
    inbox.calls = Refusing(calls, 0, 1, 2, 3)
    with pytest.raises(ReplyError, match="refused"):
        await inbox.refresh(users)


async def test_people_of_all_shards(spread: World) -> None:
    """Joined, told, marked, refreshed: each where they live."""
    ear, inbox = await spread.ear(), spread.inbox()
    users = [f"p{n}" for n in range(40)]
    assert {shard_of(user, 4) for user in users} == {0, 1, 2, 3}
    await join(inbox, *users)
    standings = await inbox.refresh(users)
    assert all(standings[user].birth > 0 for user in users)
    await inbox.mark([Mark(user, "read", "", "0", 0, ("x",)) for user in users])
    await inbox.leave(users[:20])
    assert [await spread.present(user) for user in users] == [set()] * 20 + [{"one"}] * 20
    await inbox.revoke(users[7])
    await ear.bells()
    assert ear.revoked == [users[7]]
