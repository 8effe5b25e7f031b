"""EventLog: one reader at a time, in the order of the stream, and nothing lost or done twice."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from notifier.core import keys
from notifier.core.backlog import NOTHING
from notifier.ports import Claimed, EventLog, GroupLost, LeaseLost, Letter, Routed, Unavailable
from tests.contract.world import Reader, World, backlog, event, ids, load, pause, people

U, V = people(2)


# -- the lease


async def test_one_reader_at_a_time(world: World) -> None:
    one, two = world.log("one"), world.log("two")
    assert await one.take()
    assert not await two.take()
    assert await one.take()
    await two.give()  # not theirs to give
    assert not await two.take()
    await one.give()
    assert await two.take()
    assert not await one.take()


async def test_a_lease_that_is_not_kept_ends(world: World) -> None:
    world.use(lease=20)
    one, two = world.log("one"), world.log("two")
    assert await one.take()
    await world.lapse(40)
    assert await two.take()
    with pytest.raises(LeaseLost):
        await one.read(1)


Call = Callable[[EventLog], Awaitable[object]]
CALLS: dict[str, Call] = {
    "claim": lambda log: log.claim(0, ""),
    "handover": lambda log: log.handover(NOTHING, 1),
    "read": lambda log: log.read(1),
    "acknowledge": lambda log: log.acknowledge(["1-1"], []),
    "sweep": lambda log: log.sweep(),
}


@pytest.mark.parametrize("name", ["take", "claim", "handover", "read"])
async def test_work_keeps_the_lease(world: World, name: str) -> None:
    log = world.log()
    await log.take()
    await world.set_lease(500)
    await (log.take() if name == "take" else CALLS[name](log))
    assert 500 < await world.lease_left() <= 3_000


@pytest.mark.parametrize("name", CALLS)
async def test_without_the_lease_nothing_is_done(world: World, name: str) -> None:
    one, two = world.log("one"), world.log("two")
    await world.append(event(to=U))
    assert await one.take()
    await one.give()
    assert await two.take()
    with pytest.raises(LeaseLost):
        await CALLS[name](one)
    await world.lapse(5)
    assert await world.lease_left() <= 2_995  # and the other's is not kept for them
    assert len(await two.read(10)) == 1


async def test_a_stale_owner_changes_no_inbox(world: World) -> None:
    one, two, todo = world.log("one"), world.log("two"), backlog(world)
    await one.take()
    sent = await world.append(event(to=U))
    todo.add(await one.read(10))
    await one.give()
    await two.take()
    batch = todo.next()
    assert batch is not None
    with pytest.raises(LeaseLost):
        await one.handover(batch, 10)
    assert (await load(world, U)).seq == 0
    assert [entry.id for entry in (await two.claim(0, "")).entries] == [sent]


# -- takeover


async def test_a_new_owner_takes_over_in_order(world: World) -> None:
    one, two = world.log("one"), world.log("two")
    raw = [event(to=U, thing=str(n)) for n in range(5)]
    sent = [await world.append(one_event) for one_event in raw]
    await one.take()
    assert len(await one.read(2)) == 2
    assert len(await one.read(2)) == 2
    await one.give()
    await two.take()
    claimed = await two.claim(0, "")
    assert [entry.id for entry in claimed.entries] == sent[:4]
    assert [entry.event for entry in claimed.entries] == raw[:4]
    assert (claimed.lost, claimed.after) == ((), "")
    assert [entry.id for entry in await two.read(10)] == sent[4:]


async def test_what_was_read_just_now_is_left_to_its_reader(world: World) -> None:
    log = world.log()
    await log.take()
    await world.append(event(to=U))
    await log.read(1)
    assert await log.claim(60_000, "") == Claimed((), (), "")
    await world.lapse(20)
    assert len((await log.claim(10, "")).entries) == 1
    assert (await log.claim(10, "")).entries == ()  # claimed just now


async def test_a_takeover_comes_in_pages(world: World) -> None:
    log = world.log()
    sent = [await world.append(event(to=U)) for _ in range(450)]
    await log.take()
    await log.read(450)
    found, after, pages = [], "", 0
    while pages == 0 or after:
        claimed = await log.claim(0, after)
        found += [entry.id for entry in claimed.entries]
        after, pages = claimed.after, pages + 1
    assert found == sent
    assert pages == 3


async def test_entries_that_were_deleted_are_reported_once(world: World) -> None:
    log = world.log()
    sent = [await world.append(event(to=U)) for _ in range(4)]
    await log.take()
    await log.read(4)
    await world.remove(sent[1])
    await world.remove(sent[3])
    claimed = await log.claim(0, "")
    assert [entry.id for entry in claimed.entries] == [sent[0], sent[2]]
    assert claimed.lost == (sent[1], sent[3])
    assert (await log.claim(0, "")).lost == ()


# -- the group


async def test_the_group_begins_at_the_first_entry(world: World) -> None:
    sent = [await world.append(event(to=U)) for _ in range(3)]
    log = world.log()
    await log.take()
    await log.create()  # a second time changes nothing
    assert [entry.id for entry in await log.read(2)] == sent[:2]
    await log.create()
    assert [entry.id for entry in await log.read(2)] == sent[2:]
    assert await log.read(2) == ()


@pytest.mark.parametrize("name", ["claim", "handover", "read"])
@pytest.mark.parametrize("what", ["group", "stream"])
async def test_a_lost_group_is_noticed(world: World, name: str, what: str) -> None:
    log = world.log()
    await log.take()
    await world.append(event(to=U))
    assert len(await log.read(5)) == 1
    await (world.drop_group() if what == "group" else world.drop_stream())
    with pytest.raises(GroupLost):
        await CALLS[name](log)
    await log.create()
    assert len(await log.read(5)) == (1 if what == "group" else 0)


async def test_a_lost_group_loses_no_event(world: World) -> None:
    reader = Reader(world)
    await reader.deliver(event(to=U, eid="a", at=world.now()))
    await world.append(event(to=U, eid="b", at=world.now()))
    await reader.log.read(5)
    await world.drop_group()
    await reader.deliver(event(to=U, eid="c", at=world.now()))
    assert ids(await load(world, U)) == ["a", "b", "c"]
    assert reader.metrics.group_recreated == 1
    assert (await reader.log.depth()).entries == 0


# -- reading and acknowledging


async def test_handover_brings_the_next_entries(world: World) -> None:
    log, todo = world.log(), backlog(world)
    sent = [await world.append(event(to=U, thing=str(n))) for n in range(5)]
    await log.take()
    handed = await log.handover(NOTHING, 2)
    assert ([entry.id for entry in handed.entries], handed.failures, handed.duplicates) == (sent[:2], (), 0)
    todo.add(handed.entries)
    batch = todo.next()
    assert batch is not None
    handed = await log.handover(batch, 10)
    assert [entry.id for entry in handed.entries] == sent[2:]
    assert (await log.depth()).entries == 3
    assert (await log.handover(NOTHING, 0)).entries == ()


async def test_an_entry_goes_when_it_is_complete(world: World) -> None:
    log, todo = world.log(), backlog(world, most=2)
    users = people(3)
    await world.append(event(to=users))
    await log.take()
    todo.add(await log.read(10))
    for left in (1, 0):
        batch = todo.next()
        assert batch is not None
        handed = await log.handover(batch, 0)
        todo.settle(batch, handed.failures)
        assert (await log.depth()).entries == left
    for user in users:
        assert (await load(world, user)).seq == 1
    assert (await log.claim(0, "")).entries == ()


async def test_an_event_for_nobody_is_acknowledged(world: World) -> None:
    reader = Reader(world)
    await reader.deliver(event(to="ana", actor="ana"))
    assert (await reader.log.depth()).entries == 0
    assert (await reader.log.claim(0, "")).entries == ()


async def test_what_was_rolled_back_to_unread_is_not_deleted(world: World) -> None:
    """The read is lost with the server's last second, the acknowledgement comes after: the entry must come again."""
    log, todo = world.log(), backlog(world)
    await world.append(event(to=U, eid="a", at=world.now()))
    await log.take()
    todo.add(await log.read(10))
    await world.drop_group()
    await log.create()
    batch = todo.next()
    assert batch is not None
    await log.handover(batch, 0)
    assert (await log.depth()).entries == 1
    reader = Reader(world)
    await reader.run()
    assert reader.metrics.events_duplicate == 1
    assert (await reader.log.depth()).entries == 0


async def test_what_was_acknowledged_by_hand_goes_with_the_batch_that_applies_it(world: World) -> None:
    log, todo = world.log(), backlog(world)
    sent = [await world.append(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n))) for n in range(4)]
    await log.take()
    todo.add(await log.read(3))
    await world.strand(sent[1])
    batch = todo.next()
    assert batch is not None
    await log.handover(batch, 0)
    assert (await log.depth()).entries == 1, "what nobody has read"
    reader = Reader(world)
    await reader.run()
    assert (reader.metrics.events_duplicate, (await reader.log.depth()).entries) == (0, 0)
    assert ids(await load(world, U)) == ["e0", "e1", "e2", "e3"]


async def test_behind_a_group_that_was_moved_back_comes_again_what_was_acknowledged_by_hand(
    world: World,
) -> None:
    """Who has moved it back wants it so; the marks know that it was applied."""
    log, todo = world.log(), backlog(world)
    sent = [await world.append(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n))) for n in range(3)]
    await log.take()
    todo.add(await log.read(3))
    await world.strand(sent[0])
    await world.rewind()
    batch = todo.next()
    assert batch is not None
    await log.handover(batch, 0)
    assert (await log.depth()).entries == 3
    reader = Reader(world)
    await reader.run()
    assert (reader.metrics.events_duplicate, (await reader.log.depth()).entries) == (3, 0)
    assert ids(await load(world, U)) == ["e0", "e1", "e2"]


async def test_what_was_acknowledged_but_not_deleted_goes_with_a_takeover(world: World) -> None:
    """An error between the two, or an operator's XACK: it would stay for ever, and with it all marks."""
    log, todo = world.log(), backlog(world)
    sent = [await world.append(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n))) for n in range(4)]
    await log.take()
    todo.add(await log.read(3))
    batch = todo.next()
    assert batch is not None
    # applied, but nothing is said to be complete with it
    entries, _, items = msgspec.msgpack.decode(batch.payload)
    batch.payload = msgspec.msgpack.encode((entries, [1, 2, 3], items))
    await log.handover(batch, 0)
    await world.strand(sent[0])
    await world.strand(sent[2])
    await log.give()
    reader = Reader(world, "two")
    await reader.run()
    assert (reader.metrics.events_duplicate, (await reader.log.depth()).entries) == (3, 0)
    assert ids(await load(world, U)) == ["e0", "e1", "e2", "e3"]


async def test_what_was_passed_over_is_applied_in_its_place(world: World) -> None:
    """Acknowledged by hand before it was applied: nobody else could know that it was not."""
    log = world.log()
    sent = [await world.append(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n))) for n in range(5)]
    await log.take()
    await log.read(4)
    await world.strand(sent[1])
    await world.strand(sent[3])
    assert [entry.id for entry in (await log.claim(0, "")).entries] == sent[:4]
    await world.strand(sent[1])
    await log.give()
    reader = Reader(world, "two")
    await reader.run()
    assert ids(await load(world, U)) == [f"e{n}" for n in range(5)]
    assert (await reader.log.depth()).entries == 0


@pytest.mark.parametrize(
    "stranded", [slice(0, 450, 10), slice(0, 250), slice(0, 440), slice(0, 450), slice(200, 450)]
)
async def test_what_is_stranded_comes_in_pages_too(world: World, stranded: slice) -> None:
    log = world.log()
    sent = [await world.append(event(to=U)) for _ in range(460)]
    await log.take()
    await log.read(450)
    for entry in sent[stranded]:
        await world.strand(entry)
    found, after, first = [], "", True
    while first or after:
        claimed = await log.claim(0, after)
        found += [entry.id for entry in claimed.entries]
        after, first = claimed.after, False
    assert found == sent[:450]


async def test_what_is_pending_behind_a_group_that_was_moved_back_is_taken_over(world: World) -> None:
    log = world.log()
    sent = [await world.append(event(to=U, eid=f"e{n}", at=world.now(), thing=str(n))) for n in range(3)]
    await log.take()
    await log.read(3)
    await world.rewind()
    assert [entry.id for entry in (await log.claim(0, "")).entries] == sent
    await log.give()
    reader = Reader(world, "two")
    await reader.run()
    assert (ids(await load(world, U)), (await reader.log.depth()).entries) == (["e0", "e1", "e2"], 0)


# -- repeats


async def test_a_repeat_changes_nothing(world: World) -> None:
    reader, at = Reader(world), world.now()
    one = event(to=(U, V), eid="same", at=at)
    await reader.deliver(one, one)
    await reader.deliver(one, event(to=(V, U), eid="same", at=at, text="other words"))
    assert reader.metrics.events_duplicate == 6
    assert ((await load(world, U)).seq, (await load(world, V)).seq) == (1, 1)
    assert (await reader.log.depth()).entries == 0


async def test_without_an_id_every_entry_is_an_event(world: World) -> None:
    reader, one = Reader(world), event(to=U)
    await reader.deliver(one, one)
    sent = ids(await load(world, U))
    assert len(sent) == len(set(sent)) == 2
    assert all(name.startswith("x:") for name in sent)


# -- failures


async def test_behind_a_failure_only_its_person_waits(world: World) -> None:
    log, todo, at = world.log(), backlog(world), world.now()
    await world.spoil(U)
    for name, user in (("a", U), ("b", V), ("c", U), ("d", V)):
        await world.append(event(to=user, eid=name, at=at))
    await world.append(event(to=(V, U), eid="e", at=at))
    await log.take()
    todo.add(await log.read(10))
    batch = todo.next()
    assert batch is not None
    handed = await log.handover(batch, 0)
    failed = dict(handed.failures)
    assert [number for number in failed if failed[number] == "held"] == [3, 6]
    assert sorted(failed) == [1, 3, 6]
    assert failed[1] not in ("", "held")
    assert ids(await load(world, V)) == ["b", "d", "e"]
    assert (await log.depth()).entries == 3
    todo.settle(batch, handed.failures)
    await world.mend(U)
    while (batch := todo.next()) is not None:
        todo.settle(batch, (await log.handover(batch, 0)).failures)
    assert ids(await load(world, U)) == ["a", "c", "e"]
    assert ids(await load(world, V)) == ["b", "d", "e"]
    assert (await log.depth()).entries == 0


async def test_a_failure_between_two_keeps_what_was_there(world: World) -> None:
    reader, at = Reader(world), world.now()
    await reader.deliver(event(to=U, eid="a", at=at))
    await world.spoil(U)
    await world.append(event(to=U, eid="b", at=at))
    await reader.fanout.once()
    await reader.fanout.once()
    await world.mend(U)
    await reader.run()
    assert ids(await load(world, U)) == ["a", "b"]


async def test_after_three_tries_it_is_buried_and_the_others_go_on(world: World) -> None:
    reader, at = Reader(world, tries=3), world.now()
    await world.spoil(U)
    poison = event(to=(U, V), eid="a", at=at)
    await reader.deliver(poison, event(to=V, eid="b", at=at))
    (letter,) = await world.letters("handover")
    assert (letter.raw, letter.to, letter.reason) == (poison, U, "handover")
    assert letter.entry == letter.source
    assert U in letter.detail
    assert reader.metrics.handover_failures == 3
    await world.mend(U)
    await reader.deliver(event(to=U, eid="c", at=at))
    assert ids(await load(world, U)) == ["c"]
    assert ids(await load(world, V)) == ["a", "b"]
    assert (await reader.log.depth()).entries == 0


async def test_what_was_buried_for_one_person_stays_so(world: World) -> None:
    """Should the entry come once more, the pair is not applied behind what came later."""
    reader, at = Reader(world, tries=1), world.now()
    poison = event(to=(U, V), eid="a", at=at)
    await world.spoil(U)
    await reader.deliver(poison)
    await world.mend(U)
    await reader.deliver(event(to=U, eid="b", at=at), poison)
    assert ids(await load(world, U)) == ["b"]
    assert reader.metrics.events_duplicate == 2
    assert len(await world.letters("handover")) == 1


BAD = [
    (b"\xff\x00 not JSON", "not_json"),
    (b"", "not_json"),
    (b'{"type":"like"}', "schema"),
    (b'{"type":"poke","actor":{"id":"a"},"to":["b"]}', "unknown_type"),
]


async def test_what_is_no_event_is_buried_with_its_bytes(world: World) -> None:
    reader = Reader(world)
    sent = [await world.append(raw) for raw, _ in BAD]
    await reader.deliver(event(to=U, eid="good", at=world.now()))
    assert ids(await load(world, U)) == ["good"]
    for (raw, reason), entry in zip(BAD, sent, strict=True):
        (found,) = [letter for letter in await world.letters(reason) if letter.entry == entry]
        assert (found.raw, found.reason, found.source, found.to) == (raw, reason, entry, "")
        assert found.detail
        assert abs(found.at - world.now()) < 5_000
    assert (await reader.log.depth()).entries == 0


async def test_an_entry_without_an_event_is_buried(world: World) -> None:
    reader = Reader(world)
    await world.append(b"evnt", b"{}", b"n", b"\xff")
    await reader.run()
    (letter,) = await world.letters("no_event")
    assert letter.raw == b'["evnt","{}","n","\\\\xff"]'
    assert (await reader.log.depth()).entries == 0


async def test_further_fields_beside_the_event_do_not_matter(world: World) -> None:
    reader = Reader(world)
    await world.append(b"trace", b"1", b"event", event(to=U, eid="a", at=world.now()))
    await reader.run()
    assert ids(await load(world, U)) == ["a"]


async def test_letters_are_capped(world: World) -> None:
    world.use(letters=100)
    reader = Reader(world)
    await reader.deliver(*[b"{"] * 350)
    assert 100 <= len(await world.letters("not_json")) <= 200


# -- the router's side


async def test_acknowledge_takes_entries_and_leaves_letters(world: World) -> None:
    log = world.log()
    sent = [await world.append(event(to=U)) for _ in range(250)]
    await log.take()
    await log.read(250)
    letters = [Letter("schema", f"fault {n}", sent[n], sent[n], b"\xff%d" % n) for n in (0, 1, 150)]
    await log.acknowledge(sent[:-1], letters)
    assert (await log.depth()).entries == 1
    assert [entry.id for entry in (await log.claim(0, "")).entries] == sent[-1:]
    found = await world.letters("schema")
    assert [(x.detail, x.source, x.entry, x.to, x.raw) for x in found] == [
        ("fault 0", sent[0], sent[0], "", b"\xff0"),
        ("fault 1", sent[1], sent[1], "", b"\xff1"),
        ("fault 150", sent[150], sent[150], "", b"\xff150"),
    ]


async def test_what_a_router_appends_a_shard_reads(spread: World) -> None:
    raw, users = event(to=(U, V), eid="a", at=spread.now()), (U, V)
    await spread.shards().append([])
    await spread.shards().append([Routed(0, "1234-5", users, raw), Routed(3, "1234-6", ("z",), raw)])
    log, other = spread.log(), spread.log(stream=keys.events(3, 4), tagged=keys.tag(3))
    await log.take()
    await other.take()
    (entry,) = await log.read(10)
    assert (entry.event, entry.source, entry.to) == (raw, "1234-5", users)
    (entry,) = await other.read(10)
    assert (entry.source, entry.to) == ("1234-6", ("z",))


async def test_the_accept_time_is_that_of_the_front_door(spread: World) -> None:
    """An hour between the front door and the shard: the event counts as of then."""
    then = spread.now() - 3_600_000
    await spread.shards().append([Routed(0, f"{then}-7", (U,), event(to=U))])
    reader = Reader(spread)
    await reader.run()
    ((_, line),) = (await load(spread, U)).records
    assert line.split(" ")[1:4:2] == [str(then), f"x:{then}-7"]


FORGED = [
    (b"v", b"1", b"to", b"nobody-asked", b"event"),
    (b"v", b"1", b"id", b"nonsense", b"to", b"x", b"event"),
    (b"v", b"1", b"id", b"1-1", b"to", b"\xff\xfe", b"event"),
]


async def test_a_producer_cannot_pass_for_the_router(world: World) -> None:
    """At the front door an entry is a producer's, whatever its fields: it neither stops the reader nor picks people."""
    raw = event(to=U)
    for fields in FORGED:
        await world.append(*fields, raw, stream=keys.FRONT_DOOR)
    log = world.log(stream=keys.FRONT_DOOR, tagged=keys.FRONT_TAG)
    await log.take()
    entries = await log.read(10)
    assert [(entry.event, entry.source, entry.to) for entry in entries] == [(raw, "", ())] * 3


# -- waiting, depth, old marks


async def test_wait_ends_with_an_append(world: World) -> None:
    log = world.log()
    await log.take()
    began = time.monotonic()
    await log.wait(0.02)
    assert 0.015 < time.monotonic() - began < 1
    await world.append(event(to=U))
    began = time.monotonic()
    await log.wait(5)
    assert time.monotonic() - began < 1
    await log.read(1)
    began = time.monotonic()
    await log.wait(0.02)
    assert time.monotonic() - began > 0.015


async def test_wait_is_woken(world: World) -> None:
    from twisted.internet.defer import Deferred

    log = world.log()
    await log.take()
    began = time.monotonic()
    waiting = Deferred.fromCoroutine(_wait(log))
    await pause(0.03)
    assert not waiting.called
    await world.append(event(to=U))
    await waiting
    assert time.monotonic() - began < 2


async def _wait(log: EventLog) -> None:
    await log.wait(5)


async def test_depth_tells_how_many_and_how_old(world: World) -> None:
    log = world.log()
    depth = await log.depth()
    assert (depth.entries, depth.oldest) == (0, 0.0)
    now = world.now()
    await world.append(event(to=U), entry_id=f"{now - 90_000}-0")
    await world.append(event(to=U))
    await log.take()
    await log.read(1)
    depth = await log.depth()
    assert depth.entries == 2
    assert 89 < depth.oldest < 95


async def test_marks_go_only_when_nothing_left_can_need_them(world: World) -> None:
    world.use(window=1_000)
    hour, now = 3_600_000, world.now()
    reader = Reader(world)
    await world.swept_from(now - 8 * hour)
    old = await world.append(event(to=U, eid="old", at=now - 6 * hour), entry_id=f"{now - 5 * hour}-0")
    again = event(to=V, eid="again", at=now - 3 * hour)
    await reader.log.take()
    await reader.log.read(1)  # the old one is pending
    todo = backlog(world)
    await world.append(again)
    todo.add(await reader.log.read(1))
    batch = todo.next()
    assert batch is not None
    await reader.log.handover(batch, 0)
    assert await world.marks() == 1
    while await reader.log.sweep():
        pass
    assert await world.marks() == 1
    await reader.log.acknowledge([old], [])
    while await reader.log.sweep():
        pass
    assert await world.marks() == 0


async def test_a_copy_that_waited_at_the_front_door_is_a_repeat(spread: World) -> None:
    """Two copies were accepted 3 hours ago; one was routed at once, the other only now: the window had not ended."""
    spread.use(window=1_000)
    then = spread.now() - 3 * 3_600_000
    copy, reader = event(to=U, eid="a", at=then), Reader(spread)
    await spread.swept_from(then - 3_600_000)
    await spread.shards().append([Routed(0, f"{then}-0", (U,), copy)])
    await spread.append(copy, stream=keys.FRONT_DOOR, entry_id=f"{then}-1")
    await reader.run()
    door = await spread.log(stream=keys.FRONT_DOOR, tagged=keys.FRONT_TAG).depth()
    assert door.accepted == then
    while await reader.log.sweep(door.accepted):
        pass
    await spread.shards().append([Routed(0, f"{then}-1", (U,), copy)])
    await reader.run()
    assert reader.metrics.events_duplicate == 1


async def test_a_repeat_behind_a_newer_entry_is_a_repeat(spread: World) -> None:
    """A router has appended both, died, and its successor has appended both again; the shard has done the first."""
    spread.use(window=1_000)
    hour, now = 3_600_000, spread.now()
    then, reader = now - 5 * hour, Reader(spread)
    await spread.swept_from(then - hour)
    old = Routed(0, f"{then}-0", (U,), event(to=U, eid="a", at=then))
    new = Routed(0, f"{now}-0", (U,), event(to=U, eid="b", at=now))
    await spread.shards().append([old])
    await reader.run()
    await spread.shards().append([new, old, new])
    while await reader.log.sweep((await spread.log().depth()).accepted):
        pass
    await reader.run()
    assert reader.metrics.events_duplicate == 2


async def test_an_empty_stream_is_as_old_as_the_look_at_it(world: World) -> None:
    """An entry may come right after it: the sweep must not believe that none is older than its own moment."""
    before = world.now()
    depth = await world.log().depth()
    assert (depth.entries, depth.oldest) == (0, 0.0)
    assert before - 1 <= depth.accepted <= world.now()


async def test_marks_of_the_window_stay(world: World) -> None:
    hour, now = 3_600_000, world.now()
    reader = Reader(world)
    await world.swept_from(now - 30 * hour)
    await reader.deliver(*(event(to=U, eid=f"e{n}", at=now - n * hour) for n in range(24)))
    while await reader.log.sweep():
        pass
    assert await world.marks() == 24


ALL: dict[str, Call] = CALLS | {
    "take": lambda log: log.take(),
    "give": lambda log: log.give(),
    "create": lambda log: log.create(),
    "depth": lambda log: log.depth(),
}


async def test_a_store_that_is_away_is_said_to_be(world: World) -> None:
    log, shards = world.log(), world.shards()
    await log.take()
    await world.cut()
    for call in ALL.values():
        with pytest.raises(Unavailable):
            await call(log)
    with pytest.raises(Unavailable):
        await shards.append([Routed(0, "1-1", (U,), b"{}")])
