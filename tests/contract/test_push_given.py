"""What a handover gives to senders of its own process: as they would have read it, and seen it, right behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import pytest
from msgspec.structs import replace

from notifier.core import keys
from notifier.core.devices import encode
from notifier.core.inbox import Mark, parse
from notifier.core.lanes import Lane, PushEntry
from notifier.core.push import notification
from notifier.edge import push_store
from notifier.edge.bus import RedisBus
from notifier.edge.doorbells import Doorbells
from notifier.edge.loop import Loop
from notifier.edge.push_store import RedisPushes
from notifier.edge.redis import ReplyError, Subscription, load_script
from notifier.edge.store import Scripts
from notifier.ports import Given, LeaseLost, Look, Looked
from tests.contract.injection import inject
from tests.contract.phones import APNS, FCM, FakeProvider, Process, enlist, phone, steps
from tests.contract.test_push_forms import IN_FORM_2, NEWER
from tests.contract.world import METRICS, TAG, Reader, RedisWorld, World, backlog, event, load, pause, people

U, V, W = people(3)


class Taking:
    """A sender that takes so many entries, and does nothing with them."""

    def __init__(self, room: int = 100) -> None:
        self.room, self.drops, self.gifts = room, 0, list[Given]()

    def offer(self) -> int:
        return self.room

    def given(self, given: Given, asked: float) -> None:
        self.gifts.append(given)

    def drop(self) -> None:
        self.drops += 1

    @property
    def given_now(self) -> Given:
        """What it was given in all, by one handover."""
        (given,) = self.gifts
        return given

    @property
    def seen(self) -> list[str]:
        """Notifications that came with what stands behind them."""
        return [one.entry.notification for one in self.given_now.seen.found.values()]


async def opened(world: World, *lanes: Lane) -> None:
    for lane in lanes or (APNS,):
        await world.pushes(lane).create()


def bare(found: Iterable[Looked]) -> list[Looked]:
    """Without what need not be read again, which is what would be read."""
    bared = []
    for one in found:
        row = one.row
        if row.told is not None:
            assert row.told == notification(parse(row.record), row.epoch, row.seq)
        bared.append(replace(one, row=replace(row, told=None)))
    return bared


async def compared(world: World, taking: Taking, lane: Lane = APNS) -> Look:
    """What was seen is what a look finds."""
    given, log = taking.given_now, world.pushes(lane)
    fresh = await log.look(given.read.entries)
    told = await log.look(given.read.entries, given.seen)
    assert bare(told.found) == list(fresh.found)
    assert told.run == fresh.run
    assert 0 <= fresh.now - told.now < 60_000
    return told


def comments(*names: str, to: str = U, at: int = 0) -> list[bytes]:
    return [event("comment", to=to, eid=name, at=at, thing=name) for name in names]


async def test_entries_come_with_what_stands_behind_them(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b"), phone("c", FCM)])
    await enlist(world, V, [phone("v")])
    await opened(world)
    taking = Taking()
    at = world.now()
    await Reader(world, outlets={str(APNS): taking}).deliver(
        *comments("c", "d", at=at), *comments("v", to=V, at=at), *comments("w", to=W, at=at)
    )
    look = await compared(world, taking)
    assert taking.seen == ["c", "d", "v"]
    assert [one.row.unread for one in look.found] == [2, 2, 1], "as it is at the end"
    assert [len(one.devices) for one in look.found] == [2, 2, 1]
    assert not taking.given_now.more


async def test_they_are_this_processs_to_settle(world: World) -> None:
    await enlist(world, U, [phone()])
    await opened(world)
    taking = Taking()
    await Reader(world, outlets={str(APNS): taking}).deliver(*comments("c", at=world.now()))
    assert (await world.pushes(APNS, "two").read(10)).entries == ()
    assert (await world.pushes(APNS, "two").history(10, "")).entries == ()
    (mine,) = (await world.pushes(APNS).history(10, "")).entries
    assert (mine,) == taking.given_now.read.entries


# by name: how many rows an inbox keeps; what is published, given the time; whose looks come with the entries
Published = Callable[[int], list[bytes]]
BATCHES: dict[str, tuple[int, Published, list[str]]] = {
    "taken back in the same batch": (
        100,
        lambda at: [*comments("c", "d", at=at), event("uncomment", to=U, eid="x", at=at + 1, thing="c")],
        ["d"],
    ),
    "trimmed in the same batch": (2, lambda at: comments("a", "b", "c", "d", at=at), ["c", "d"]),
    "the same twice": (100, lambda at: [*comments("c", at=at), *comments("c", at=at)], ["c"]),
    "taken back, all of it": (
        100,
        lambda at: [
            *comments("c", "d", at=at),
            *(event("uncomment", to=U, eid=f"x{name}", at=at + 1, thing=name) for name in "cd"),
        ],
        [],
    ),
    "taken back and made again": (
        100,
        lambda at: [
            *comments("c", at=at),
            event("uncomment", to=U, eid="x", at=at + 1, thing="c"),
            event("comment", to=U, eid="d", at=at + 2, thing="c"),
        ],
        ["d"],
    ),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_it_is_the_end_of_the_batch_that_counts(world: World, name: str) -> None:
    cap, published, seen = BATCHES[name]
    world.use(cap=cap)
    await enlist(world, U, [phone()])
    await opened(world)
    taking, at = Taking(), world.now()
    await Reader(world, outlets={str(APNS): taking}).deliver(*published(at - 10))
    await compared(world, taking)
    assert taking.seen == seen
    assert {one.notification for one in taking.given_now.read.entries} >= set(seen)


async def test_an_inbox_that_was_there_before(world: World) -> None:
    """With rows that were read, seen and made under another run of the server."""
    await enlist(world, U, [phone()])
    await Reader(world).deliver(*comments("old", "older", at=world.now()))
    here = await load(world, U)
    await world.inbox().mark([Mark(U, "seen", str(here.birth), here.run, here.seq, ())])
    await world.inbox().mark([Mark(U, "read", "", "0", 0, ("old",))])
    await world.new_run(U)
    await opened(world)
    taking = Taking()
    reader = Reader(world, outlets={str(APNS): taking})
    await reader.deliver(*comments("c", at=world.now()))
    assert [one.notification for one in taking.given_now.read.entries] == ["old", "older", "c"]
    look = await compared(world, taking)
    assert taking.seen == ["c"], "what others have appended is looked at by who sends it"
    assert look.found[-1].row.unread == 2


async def test_where_the_room_ends_the_rest_is_read_by_others(world: World) -> None:
    await enlist(world, U, [phone()])
    await opened(world)
    await world.put(APNS, PushEntry("", U, "other", 2**42))
    taking = Taking(3)
    await Reader(world, outlets={str(APNS): taking}).deliver(*comments("a", "b", "c", "d", at=world.now()))
    assert [one.notification for one in taking.given_now.read.entries] == ["other", "a", "b"]
    assert taking.given_now.more
    await compared(world, taking)
    assert taking.seen == ["a", "b"]
    rest = await world.pushes(APNS, "two").read(10)
    assert [one.notification for one in rest.entries] == ["c", "d"]


async def test_a_lane_without_room_is_left_alone(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b", FCM)])
    await opened(world, APNS, FCM)
    apple, google = Taking(), Taking(0)
    outlets = {str(APNS): apple, str(FCM): google}
    await Reader(world, outlets=outlets).deliver(*comments("c", at=world.now()))
    assert google.gifts == []
    assert [one.provider for one in (await compared(world, apple)).found[0].devices] == ["apns"]
    assert len((await world.pushes(FCM).read(10)).entries) == 1


async def test_two_lanes_in_one_answer(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b", FCM)])
    await opened(world, APNS, FCM)
    apple, google = Taking(), Taking()
    outlets = {str(APNS): apple, str(FCM): google}
    await Reader(world, outlets=outlets).deliver(*comments("c", at=world.now()))
    for lane, taking in ((APNS, apple), (FCM, google)):
        (found,) = (await compared(world, taking, lane)).found
        assert [one.provider for one in found.devices] == [lane.provider]


async def test_what_nothing_was_appended_to_is_not_read(world: World) -> None:
    await enlist(world, U, [phone()])
    await opened(world)
    await world.put(APNS, PushEntry("", U, "other", 2**42))
    taking = Taking()
    await Reader(world, outlets={str(APNS): taking}).deliver(event("like", to=U), event("comment", to=W))
    assert (taking.gifts, taking.drops) == ([], 0)
    assert len((await world.pushes(APNS).read(10)).entries) == 1


async def test_a_lane_without_a_group_costs_the_batch_nothing(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b", FCM)])
    await opened(world, FCM)
    apple, google = Taking(), Taking()
    outlets = {str(APNS): apple, str(FCM): google}
    reader = Reader(world, outlets=outlets)
    await reader.deliver(*comments("c", at=world.now()))
    assert (apple.gifts, apple.drops, len(google.gifts)) == ([], 1, 1)
    assert (reader.reports, (await load(world, U)).seq) == ([], 1)
    await opened(world)
    assert len((await world.pushes(APNS).read(10)).entries) == 1


async def test_without_the_lease_nothing_is_given(world: World) -> None:
    await enlist(world, U, [phone()])
    await opened(world)
    log, todo = world.log("one"), backlog(world)
    await log.take()
    await world.append(*comments("c", at=world.now()))
    todo.add(await log.read(10))
    batch = todo.next()
    assert batch is not None
    await log.give()
    assert await world.log("two").take()
    with pytest.raises(LeaseLost):
        await log.handover(batch, 10, {str(APNS): 100})
    assert (await world.pushes(APNS).depth()).entries == 0


async def test_a_group_of_events_that_is_gone_loses_what_was_given_but_not_for_long(world: World) -> None:
    await enlist(world, U, [phone()])
    await opened(world)
    taking = Taking()
    reader = Reader(world, outlets={str(APNS): taking})
    await reader.run()
    await world.append(*comments("c", at=world.now()))
    while not reader.fanout.backlog:
        await reader.fanout.once()
    await world.drop_group()
    await reader.run()
    assert "consumer group was gone" in reader.reports[0]
    assert (taking.gifts, taking.drops) == ([], 1)
    assert len((await world.pushes(APNS).history(10, "")).entries) == 1


async def test_whose_a_device_is_is_asked_when_it_is_sent_to(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b")])
    await opened(world)
    taking = Taking()
    await Reader(world, outlets={str(APNS): taking}).deliver(*comments("c", at=world.now()))
    await steps(world).claim(V, phone("a").id, None)
    (found,) = (await world.pushes(APNS).look(taking.given_now.read.entries, taking.given_now.seen)).found
    assert [one.id for one in found.devices] == [phone("b").id]
    assert [one.id for one in found.strangers] == [phone("a").id]


async def renamed(world: World) -> None:
    assert await world.devices().rename(U, phone("a").id, phone("new"), 60_000)


async def replaced(world: World) -> None:
    assert await world.devices().register(U, phone("new"))
    assert await world.devices().unregister(U, phone("a").id)


@pytest.mark.parametrize("change", [renamed, replaced], ids=["by the provider", "by its app"])
async def test_a_phone_that_has_another_token_meanwhile_is_told(
    world: World, change: Callable[[World], Awaitable[None]]
) -> None:
    await enlist(world, U, [phone("a"), phone("b")])
    await opened(world)
    taking = Taking()
    await Reader(world, outlets={str(APNS): taking}).deliver(*comments("c", at=world.now()))
    await change(world)
    look = await compared(world, taking)
    assert {one.id for one in look.found[0].devices} == {phone("new").id, phone("b").id}


async def test_a_persons_failed_change_leaves_the_look_to_the_sender(world: World) -> None:
    """Its inbox may be in any state."""
    await enlist(world, U, [phone()])
    await enlist(world, V, [phone("v")])
    await opened(world)
    await world.spoil(U)
    taking = Taking()
    await Reader(world, outlets={str(APNS): taking}).deliver(
        *comments("c", at=world.now()), *comments("v", to=V, at=world.now())
    )
    assert [one.entry.notification for gift in taking.gifts for one in gift.seen.found.values()] == ["v"]


# -- over a real server


async def test_whatever_fails_in_a_batch_what_is_told_is_what_stands(real: RedisWorld) -> None:
    """An error after each call of the script: what is told is what a look finds right behind."""
    real.use(cap=3)
    at, after, told, came = real.now() - 60_000, 0, 0, True
    real.scripts = Scripts()  # of its own: others' are shared
    real.scripts.handover = load_script("handover", inject)
    while came:
        after += 1
        await real.calls.call("FLUSHALL")
        await enlist(real, U, [phone("a"), phone("b")])
        await opened(real)
        taking = Taking()
        reader = Reader(real, outlets={str(APNS): taking})
        for one in (
            *comments("a", "b", "c", "d", at=at), event("uncomment", to=U, eid="x", at=at + 1, thing="c"),
            *comments("e", "f", at=at),
        ):  # fmt: skip
            await real.append(one)
        while not reader.fanout.backlog:
            await reader.fanout.once()
        await real.calls.call("SET", "fault", after)
        for _ in range(6):
            try:
                await reader.fanout.once()
            except ReplyError as error:
                assert "injected" in str(error)
                reader.fanout.drop()
            for given in taking.gifts:
                told += len(given.seen.found)
                log = real.pushes(APNS)
                fresh = await log.look(given.read.entries)
                known = await log.look(given.read.entries, given.seen)
                assert (after, bare(known.found)) == (after, list(fresh.found))
            taking.gifts.clear()
        came = not await real.calls.call("DEL", "fault")
    assert (after > 60, told > 60) == (True, True)


async def test_devices_in_other_forms(real: RedisWorld) -> None:
    await enlist(real, U, [phone("a"), phone("b", FCM)])
    await real.calls.call("HSET", keys.devices(U, 1), NEWER.id, IN_FORM_2, "x" * 22, "nonsense")
    for name in (NEWER.id, "x" * 22):
        await real.calls.call("SET", keys.owner(name, 1), f"1 {U} 5 -")
    await opened(real)
    taking = Taking()
    await Reader(real, outlets={str(APNS): taking}).deliver(*comments("c", at=real.now()))
    (found,) = (await compared(real, taking)).found
    assert [one.id for one in found.devices] == [phone("a").id]
    assert (len(found.newer), found.damaged) == (1, ("x" * 22,))


async def test_a_place_that_is_no_number_is_none_with_room_for_pushes_too(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await opened(real)
    await Reader(real).deliver(*comments("a", at=real.now()))
    await real.calls.call("HSET", keys.inbox(U, 1), "n:c", "nonsense")
    taking = Taking()
    reader = Reader(real, outlets={str(APNS): taking})
    await reader.deliver(*comments("c", at=real.now()))
    assert reader.reports == []
    await compared(real, taking)
    assert taking.seen == ["c"]


async def test_entries_in_other_forms(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await opened(real)
    for text in ("nonsense", "2 what a newer process writes"):
        await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", text)
    provider = FakeProvider()
    process = Process(real, provider)
    log = process.log
    await process.run()
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", "more nonsense")
    assert len(await real.letters("unreadable")) == 1
    await Reader(real, outlets={str(APNS): process.sender}).deliver(*comments("c", at=real.now()))
    await process.run()
    assert len(await real.letters("unreadable")) == 2
    assert [one.notification for one in provider.sent] == ["c"]
    assert (await log.depth()).entries == 1, "the newer one"


@pytest.mark.parametrize(("name", "most"), [("LOOK_BYTES", 300), ("LOOK_WORK", 5)])
async def test_only_so_much_is_seen_in_one_call(
    real: RedisWorld, name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in (U, V, W):
        mine = [phone(f"{user}{n}", registered=n + 1) for n in range(4)]
        lines = [word for one in mine for word in (one.id, encode(one))]
        await real.calls.call("HSET", keys.devices(user, 1), "lanes", str(APNS), *lines)
        await real.calls.call("MSET", *(x for one in mine for x in (keys.owner(one.id, 1), f"1 {user} 1 -")))
    await opened(real)
    monkeypatch.setattr(push_store, name, most)
    taking = Taking()
    await Reader(real, outlets={str(APNS): taking}).deliver(
        *(one for user in (U, V, W) for one in comments(f"c{user}", to=user, at=real.now()))
    )
    assert len(taking.given_now.read.entries) == 3
    assert 1 <= len(taking.seen) < 3
    look = await compared(real, taking)
    assert [len(one.devices) for one in look.found] == [4, 4, 4]


async def test_who_has_nothing_more_to_read_is_not_rung(real: RedisWorld) -> None:
    heard: list[bytes] = []
    subscription = real._connect(Subscription, "bell")
    bus = RedisBus(subscription, 1, "one", METRICS, lambda shard, lanes: heard.append(lanes))
    await subscription.ready()
    while not bus.heard:
        await pause(0.001)
    await enlist(real, U, [phone("a"), phone("b", FCM)])
    await opened(real, APNS)
    taking = Taking(2)
    reader = Reader(real, outlets={str(APNS): taking, str(FCM): taking})
    at = real.now()
    for names, told in (
        (("a", "b"), {FCM}),  # all given; the other lane has no group
        (("c", "d", "e"), {APNS, FCM}),  # more than there was room for
    ):
        heard.clear()
        await reader.deliver(*comments(*names, at=at))
        await subscription.call("PING")
        assert {lane for message in heard for lane in message.decode().split()} == {str(x) for x in told}


async def test_what_is_given_wakes_who_sleeps(real: RedisWorld) -> None:
    from twisted.internet import reactor

    bells = Doorbells(reactor)
    await enlist(real, U, [phone()])
    provider = FakeProvider()
    process = Process(real, provider)
    log = process.log
    assert isinstance(log, RedisPushes)
    log.wait, log.ring = partial(bells.wait, 0, str(APNS)), partial(bells.ring, 0, str(APNS))
    loops = [Loop(reactor, process.sender, f"{APNS} {n}", 600.0) for n in range(2)]
    for loop in loops:
        loop.start()
    while not process.sender.offer():
        await pause(0.005)
    reader = Reader(real, outlets={str(APNS): process.sender})
    reader.fanout.clock = process.clock
    await reader.deliver(*comments("c", at=real.now()))
    while not provider.sent:
        await pause(0.005)
    while (await log.depth()).entries:
        await pause(0.005)
    for loop in loops:
        loop.halt()
    bells.wake_all()
    for loop in loops:
        await loop.stop()
    assert [one.notification for one in provider.sent] == ["c"]
    assert process.metrics.push_entries["demo apns"] == 1
