"""From a row in an inbox to a phone, in memory and over real servers: handover, look, settle, wake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from notifier.core import keys
from notifier.core.inbox import Join, Mark
from notifier.core.lanes import Lane, PushEntry
from notifier.core.model import Verdict
from notifier.edge.device_store import Listed
from notifier.edge.push_store import ABANDONED, RedisPushes
from notifier.edge.redis import Connection
from notifier.ports import GroupLost, Judged, Looked, PushLog, Settlement
from tests.contract.phones import (
    APNS,
    DOWN,
    FCM,
    GONE,
    OK,
    WRONG,
    FakeProvider,
    Process,
    begin,
    enlist,
    phone,
    steps,
)
from tests.contract.world import (
    ISSUED,
    NOWHERE,
    TAG,
    Reader,
    RedisWorld,
    World,
    event,
    load,
    pause,
    people,
    place,
)

U, V = people(2)
HOUR = 3_600_000


async def entries(world: World, lane: object = APNS) -> list[PushEntry]:
    """What lies in a lane, taken by a process that does nothing with it."""
    log = world.pushes(lane, "idle")  # type: ignore[arg-type]
    await log.create()
    return list((await log.read(100)).entries)


async def one_entry(world: World, user: str = U) -> tuple[PushLog, Looked, str]:
    """A comment on its way to the phones of U, which has some; what stands behind it, and the run of the server."""
    await Reader(world).deliver(event("comment", to=user))
    log = world.pushes(APNS)
    await log.create()
    (entry,) = (await log.read(10)).entries
    look = await log.look([entry])
    return log, look.found[0], look.run


def judged(found: Looked, verdict: Verdict, which: int = 0, seq: int | None = None) -> Judged:
    delivery = found.entry.delivery(found.devices[which], found.row.seq if seq is None else seq)
    return Judged(delivery, verdict, "Unregistered")


def later(at: int, tries: int = 1) -> Verdict:
    return Verdict("later", at, tries)


DONE = Verdict("done")


# -- handover


async def test_a_push_for_each_lane_of_the_person(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b"), phone("c", FCM)])
    await Reader(world).deliver(event("comment", to=[U, V], at=world.now(), eid="e1"))
    (one,), (two,) = await entries(world), await entries(world, FCM)
    assert (one.user, one.notification, one.device, one.tries, one.free, one.doubts) == (U, "e1", "", 0, 0, 0)
    assert one.deadline == two.deadline == one.deadline
    assert 0 < one.deadline - world.now() <= HOUR


async def test_types_that_ask_nothing_make_no_push(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("like", to=U), event("unlike", to=U))
    assert await entries(world) == []


@pytest.mark.parametrize("here", [True, False])
async def test_offline_pushes_only_to_who_has_no_socket(world: World, here: bool) -> None:
    await enlist(world, U, [phone()])
    await world.inbox("there").join(U, Join("fresh", NOWHERE, 1), ISSUED)
    if not here:
        await world.die("there")
    await Reader(world).deliver(event("follow", to=U), event("comment", to=U, eid="c", at=world.now()))
    found = [entry.notification for entry in await entries(world)]
    assert len(found) == (1 if here else 2)
    assert found[-1] == "c", "always means always"


async def test_a_repeat_and_what_was_taken_back_make_no_push(world: World) -> None:
    await enlist(world, U, [phone()])
    at = world.now()
    same = event("comment", to=U, eid="c", at=at)
    await Reader(world).deliver(same, same, event("uncomment", to=U, eid="x", at=at + 2, thing="2"))
    await Reader(world, "one").deliver(event("comment", to=U, eid="y", at=at + 1, thing="2"))
    assert [entry.notification for entry in await entries(world)] == ["c"]


# -- look


async def test_what_a_push_finds(world: World) -> None:
    one, other, android = phone("a", registered=2), phone("b", registered=1), phone("c", FCM)
    await enlist(world, U, [one, other, android])
    _, found, run = await one_entry(world)
    joined = await load(world, U)
    assert found.row.standing == "row"
    assert found.row.seq == joined.seq
    assert found.row.epoch == place(joined).epoch
    assert found.row.unread == 1
    assert found.row.record == joined.records[0][1]
    assert found.devices == (other, one)
    assert found.strangers == ()
    assert run == joined.run


async def test_a_retry_finds_its_device_alone(world: World) -> None:
    one, other = phone("a"), phone("b")
    await enlist(world, U, [one, other])
    log, found, _ = await one_entry(world)
    again = msgspec.structs.replace(found.entry, device=other.id)
    gone = msgspec.structs.replace(found.entry, device=phone("c").id)
    look = await log.look([again, gone])
    assert [each.devices for each in look.found] == [(other,), ()]


async def test_each_entry_of_a_batch_finds_its_devices_once(world: World) -> None:
    """Whatever was asked for before it: an entry for all, retries for one, another retry for the same."""
    one, other = phone("a", registered=1), phone("b", registered=2)
    await enlist(world, U, [one, other])
    log, found, _ = await one_entry(world)
    whole = found.entry
    named = [msgspec.structs.replace(whole, device=device.id) for device in (one, other)]
    asked = [named[0], named[0], named[1], whole, named[1], whole]
    look = await log.look(asked)
    assert [each.devices for each in look.found] == [
        (one,), (one,), (other,), (one, other), (other,), (one, other),
    ]  # fmt: skip
    assert [each.devices for each in (await log.look(asked[:3])).found] == [(one,), (one,), (other,)]


@pytest.mark.parametrize(
    ("kind", "standing"), [("seen", "seen"), ("read", "read"), ("delete", "retracted"), ("ack", "row")]
)
async def test_what_somebody_did_with_the_row(world: World, kind: str, standing: str) -> None:
    await enlist(world, U, [phone()])
    log, found, _ = await one_entry(world)
    where = place(await load(world, U))
    ids = (found.entry.notification,) if kind in ("read", "delete") else ()
    await world.inbox().mark([Mark(U, kind, str(where.birth), where.run, where.seq, ids)])  # type: ignore[arg-type]
    look = await log.look([found.entry])
    assert look.found[0].row.standing == standing


async def test_rows_that_are_gone(world: World) -> None:
    world.use(cap=1)
    await enlist(world, U, [phone()])
    log, found, _ = await one_entry(world)
    await Reader(world).deliver(event("comment", to=U, thing="2"), event("uncomment", to=U, thing="2"))
    assert (await log.look([found.entry])).found[0].row.standing == "trimmed"
    nobody = msgspec.structs.replace(found.entry, user=people(3)[2])
    assert (await log.look([nobody])).found[0].row.standing == "forgotten"


async def test_what_lies_below_the_floor_is_gone_though_it_is_still_there(real: RedisWorld) -> None:
    """An error in the middle of a trim may leave fields behind."""
    real.use(cap=1)
    await enlist(real, U, [phone()])
    log, found, _ = await one_entry(real)
    await Reader(real).deliver(event("comment", to=U, thing="2"))
    key = keys.inbox(U, 1)
    await real.calls.call("HSET", key, f"n:{found.entry.notification}", found.row.seq)
    await real.calls.call("HSET", key, found.row.seq, found.row.record)
    assert (await log.look([found.entry])).found[0].row.standing == "trimmed"


class Restarting:
    """A connection whose server is another one from the second call on."""

    def __init__(self, inner: Connection) -> None:
        self.inner, self.calls = inner, 0

    def call(self, *args: Any) -> Any:
        return self.inner.call(*args)

    async def run(self, *args: Any) -> Any:
        answer = await self.inner.run(*args)
        self.calls += 1
        return answer if self.calls == 1 else [answer[0], b"f" * 16, *answer[2:]]


async def test_of_an_answer_in_parts_the_oldest_run_counts(
    real: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.edge.push_store.LOOK_BYTES", 1)
    await enlist(real, U, [phone()])
    log, found, run = await one_entry(real)
    assert isinstance(log, RedisPushes)
    restarting: Any = Restarting(real.calls)
    log.calls = restarting
    assert (await log.look([found.entry] * 3)).run == run
    assert restarting.calls == 3


async def test_many_entries_and_devices_are_all_looked_at(world: World) -> None:
    users = people(30)
    for user in users:
        await enlist(world, user, [phone(f"{user}-{n}", FCM) for n in range(4)])
    await Reader(world).deliver(event("comment", to=users))
    log = world.pushes(FCM)
    await log.create()
    found = (await log.read(100)).entries
    looks = await log.look([*found, *found])
    assert [each.entry for each in looks.found] == [*found, *found]
    assert all(len(each.devices) == 4 for each in looks.found)


async def test_a_long_answer_comes_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.edge.push_store.LOOK_BYTES", 1)
    await test_many_entries_and_devices_are_all_looked_at(world)


async def test_a_device_of_another_is_not_sent_to(world: World) -> None:
    mine, moved, lost = phone("a"), phone("b"), phone("c")
    await enlist(world, U, [mine, moved, lost])
    log, found, run = await one_entry(world)
    await steps(world).claim(V, moved.id, None)  # V's process has died behind its first step
    await steps(world).release(U, [Listed(lost.id, lost.registered)])
    (after,) = (await log.look([found.entry])).found
    assert (after.devices, after.strangers) == ((mine,), (moved,))
    settled = await log.settle([Settlement(found.entry, run, (judged(after, DONE),), (moved,))])
    assert settled.states == ("done",)
    assert set(await world.devices().of(U)) == {mine, lost}
    assert await world.dead_tokens() == []
    assert await world.owner(moved.id) == V


async def test_a_stranger_who_came_back_meanwhile_stays(world: World) -> None:
    await enlist(world, U, [phone(registered=1)])
    log, found, run = await one_entry(world)
    await enlist(world, U, [phone(registered=2)])
    await log.settle([Settlement(found.entry, run, (judged(found, DONE),), (phone(registered=1),))])
    assert await world.devices().of(U) == (phone(registered=2),)


# -- settle


async def test_what_was_delivered_leaves_the_lane(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    settled = await log.settle([Settlement(found.entry, run, (judged(found, DONE),))])
    assert settled.states == ("done",)
    assert (await log.depth()).entries == 0
    assert (await log.history(10, "")).entries == ()
    again = await log.settle([Settlement(found.entry, run, (judged(found, later(9)),))])
    assert again.states == ("gone",)
    assert await world.waiting() == {}


async def test_what_comes_later_waits_and_names_its_device(world: World) -> None:
    one, other = phone("a"), phone("b")
    await enlist(world, U, [one, other])
    log, found, run = await one_entry(world)
    at = world.now() - 1
    results = (judged(found, DONE), judged(found, Verdict("later", at, 3, 2, 1), 1))
    assert (await log.settle([Settlement(found.entry, run, results)])).states == ("done",)
    named = found.devices[1]
    assert await world.waiting() == {f"{U} {found.entry.notification} {named.id}": at}
    woken = await world.due().wake()
    assert (woken.moved, woken.left) == (1, 0)
    assert await world.waiting() == {}
    (again,) = (await log.read(10)).entries
    assert msgspec.structs.replace(again, id="") == PushEntry(
        "", U, found.entry.notification, found.entry.deadline, named.id, 3, 2, 1
    )


async def test_nothing_wakes_before_its_time(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    await log.settle([Settlement(found.entry, run, (judged(found, later(world.now() + HOUR)),))])
    woken = await world.due().wake()
    assert (woken.moved, woken.left) == (0, 1)


async def test_ids_with_colons_come_back_whole(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U, eid="like:42:photo:99", at=world.now()))
    log = world.pushes(APNS)
    await log.create()
    (entry,) = (await log.read(1)).entries
    look = await log.look([entry])
    await log.settle([Settlement(entry, look.run, (judged(look.found[0], later(1)),))])
    await world.due().wake()
    assert (await log.read(1)).entries[0].notification == "like:42:photo:99"


async def test_many_that_are_due_come_a_part_at_a_time(world: World) -> None:
    await enlist(world, U, [phone(f"p{n}") for n in range(40)])
    log = world.pushes(APNS)
    await log.create()
    await Reader(world).deliver(*(event("comment", to=U, thing=f"{n}") for n in range(3)))
    look = await log.look((await log.read(3)).entries)
    await log.settle(
        [
            Settlement(found.entry, look.run, tuple(judged(found, later(1), n) for n in range(40)))
            for found in look.found
        ]
    )
    woken = [await world.due().wake() for _ in range(3)]
    assert [(one.moved, one.left) for one in woken] == [(100, 20), (20, 0), (0, 0)]
    assert (await log.depth()).entries == 120


@pytest.mark.parametrize("first", ["claimant", "slow"])
async def test_a_slow_sender_and_a_claimant_agree(world: World, first: str) -> None:
    """One of them has delivered, the other was refused: in both orders nothing is sent once more."""
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    other = world.pushes(APNS, "two")
    claimed = await other.claim(0, 10, "")
    assert claimed.entries == (found.entry,)
    delivered = Settlement(found.entry, run, (judged(found, DONE),))
    refused = Settlement(found.entry, run, (judged(found, later(1)),))
    if first == "claimant":
        assert (await other.settle([refused])).states == ("done",)
        assert (await log.settle([delivered])).states == ("gone",)
    else:
        assert (await log.settle([delivered])).states == ("done",)
        assert (await other.settle([refused])).states == ("gone",)
    assert await world.waiting() == {}
    assert (await log.depth()).entries == 0


async def test_a_retry_for_a_newer_row_outlives_what_was_sent_of_an_older_one(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    seq = found.row.seq
    other = world.pushes(APNS, "two")
    await other.claim(0, 10, "")
    await other.settle([Settlement(found.entry, run, (judged(found, later(50), seq=seq + 2),))])
    await log.settle([Settlement(found.entry, run, (judged(found, DONE),))])
    assert list((await world.waiting()).values()) == [50]
    await log.settle([Settlement(found.entry, run, (judged(found, DONE, seq=seq + 2),))])
    assert await world.waiting() == {}


async def test_of_two_retries_the_one_for_the_newer_row_stays(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    await Reader(world).deliver(event("comment", to=U, thing="2"))
    (second,) = (await log.read(10)).entries
    same = msgspec.structs.replace(second, notification=found.entry.notification)
    newer = Judged(msgspec.structs.replace(judged(found, DONE).delivery, seq=9), later(90))
    await log.settle([Settlement(same, run, (newer,))])
    await log.settle([Settlement(found.entry, run, (judged(found, later(10)),))])
    assert list((await world.waiting()).values()) == [90]


async def test_one_batch_plans_and_takes_back(world: World) -> None:
    """Of one device, told twice: the second finds what the first has written."""
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    await Reader(world).deliver(event("comment", to=U, thing="2"))
    (second,) = (await log.read(10)).entries
    same = msgspec.structs.replace(second, notification=found.entry.notification)
    refused = Settlement(same, run, (judged(found, later(1)),))
    delivered = Settlement(found.entry, run, (judged(found, DONE),))
    assert (await log.settle([refused, delivered])).states == ("done", "done")
    assert await world.waiting() == {}
    assert (await log.depth()).entries == 0


async def test_what_waits_for_others_stays_when_one_arrives(world: World) -> None:
    await enlist(world, U, [phone("a"), phone("b")])
    log, found, run = await one_entry(world)
    await Reader(world).deliver(event("comment", to=U, thing="2"))
    (second,) = (await log.read(10)).entries
    both = tuple(judged(found, later(7), which) for which in (0, 1))
    await log.settle([Settlement(msgspec.structs.replace(found.entry, id=second.id), run, both)])
    one = Settlement(found.entry, run, (judged(found, DONE),))
    assert (await log.settle([one])).states == ("done",)
    other = found.devices[1].id
    assert await world.waiting() == {f"{U} {found.entry.notification} {other}": 7}


async def test_an_entry_is_settled_once_wherever_it_stands_in_a_batch(world: World) -> None:
    """In any order, twice in one batch, with what others hold in between, and what is settled already."""
    await enlist(world, U, [phone()])
    log, other = world.pushes(APNS), world.pushes(APNS, "two")
    await log.create()
    await Reader(world).deliver(*(event("comment", to=U, thing=f"{n}") for n in range(12)))
    mine: list[PushEntry] = []
    for _ in range(3):
        mine += (await log.read(1)).entries
        await other.read(3)
    look = await log.look(mine)
    one, two, three = (Settlement(found.entry, look.run, (judged(found, DONE),)) for found in look.found)
    assert (await log.settle([two])).states == ("done",)
    states = (await log.settle([three, two, one, three, one])).states
    assert states == ("done", "gone", "done", "gone", "gone")
    assert (await log.history(10, "")).entries == ()
    assert len((await other.history(100, "")).entries) == (await log.depth()).entries == 9


async def test_what_has_arrived_does_not_come_again_though_the_group_is_gone(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(*(event("comment", to=U, thing=f"{n}") for n in range(2)))
    log = world.pushes(APNS)
    await log.create()
    look = await log.look((await log.read(2)).entries)
    await world.drop_group(APNS)
    arrived, refused = look.found
    settlements = (
        Settlement(arrived.entry, look.run, (judged(arrived, DONE),)),
        Settlement(refused.entry, look.run, (judged(refused, later(1)),)),
    )
    assert (await log.settle(settlements)).states == ("done", "gone")
    assert (await log.settle(settlements)).states == ("gone", "gone")
    assert await world.waiting() == {}
    await log.create()
    assert (await log.read(10)).entries == (refused.entry,)


async def test_what_has_arrived_does_not_come_again_though_redis_forgot_that_it_was_read(
    world: World,
) -> None:
    """It was restarted with data of a moment before, or the group was made again: nobody has been given the entries."""
    await enlist(world, U, [phone()])
    await Reader(world).deliver(*(event("comment", to=U, thing=f"{n}") for n in range(2)))
    log = world.pushes(APNS)
    await log.create()
    look = await log.look((await log.read(2)).entries)
    await world.drop_group(APNS)
    await log.create()
    arrived, refused = look.found
    settlements = (
        Settlement(arrived.entry, look.run, (judged(arrived, DONE),)),
        Settlement(refused.entry, look.run, (judged(refused, later(1)),)),
    )
    assert (await log.settle([*settlements, settlements[0]])).states == ("done", "gone", "gone")
    assert (await log.settle(settlements)).states == ("gone", "gone")
    assert await world.waiting() == {}
    assert (await log.read(10)).entries == (refused.entry,)


async def test_a_drop_under_another_run_changes_nothing(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, _ = await one_entry(world)
    old = "0123456789abcdef"
    for settlement in (
        Settlement(found.entry, old),
        Settlement(found.entry, old, buried="trimmed", detail="d"),
        Settlement(found.entry, old, (judged(found, later(1)),)),
        Settlement(found.entry, old, (judged(found, Verdict("forget", before=HOUR)),)),
    ):
        assert (await log.settle([settlement])).states == ("again",)
    assert await world.waiting() == {}
    assert await world.letters("trimmed") == []
    assert len(await world.devices().of(U)) == 1
    assert (await log.history(10, "")).entries == (found.entry,)
    assert (await log.settle([Settlement(found.entry, old, (judged(found, DONE),))])).states == ("done",)
    assert (await log.depth()).entries == 0, "what has arrived has arrived"


async def test_burials_say_what_and_why(world: World) -> None:
    await enlist(world, U, [phone()])
    log, found, run = await one_entry(world)
    verdict = Verdict("bury", reason="rejected", detail="apns 400 PayloadEmpty")
    await log.settle([Settlement(found.entry, run, (judged(found, verdict),))])
    (letter,) = await world.letters("rejected")
    assert (letter.to, letter.source, letter.entry, letter.lane, letter.device, letter.detail) == (
        U, found.entry.notification, found.entry.id, "demo:apns", found.devices[0].id, verdict.detail,
    )  # fmt: skip
    assert letter.raw == found.entry.as_text().encode()


async def test_a_device_that_is_forgotten_is_told_of_once(world: World) -> None:
    dead, alive = phone("a", registered=1), phone("b", registered=2)
    await enlist(world, U, [dead, alive])
    log, found, run = await one_entry(world)
    results = (judged(found, Verdict("forget", before=2)), judged(found, Verdict("forget", before=2), 1))
    assert [one.delivery.device for one in results] == [dead, alive]
    await log.settle([Settlement(found.entry, run, results)])
    assert await world.devices().of(U) == (alive,), "the other has registered since"
    (told,) = await world.dead_tokens()
    assert (told.user, told.device, told.reason) == (U, dead, "Unregistered")
    assert await world.owner(dead.id) == ""
    assert await world.owner(alive.id) == U
    await world.due().wake()
    (again,) = (await log.read(10)).entries
    assert (again.device, again.tries) == (alive.id, 1), "which has not got this one yet"


async def test_with_the_last_device_of_a_lane_the_pushes_end(world: World) -> None:
    one, android = phone("a"), phone("b", FCM)
    await enlist(world, U, [one, android])
    log, found, run = await one_entry(world)
    await log.settle([Settlement(found.entry, run, (judged(found, Verdict("forget", before=HOUR)),))])
    await Reader(world).deliver(event("comment", to=U))
    assert await entries(world) == []
    assert len(await entries(world, FCM)) == 2


async def test_how_much_lies_in_a_lane(world: World) -> None:
    log = world.pushes(APNS)
    await log.create()
    assert ((await log.depth()).entries, (await log.depth()).oldest) == (0, 0)
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U), event("comment", to=U, thing="2"))
    await world.lapse(20)
    depth = await log.depth()
    assert depth.entries == 2
    assert depth.oldest >= 0.02
    assert depth.accepted <= world.now() - 20


async def test_a_group_that_is_gone_is_told(world: World) -> None:
    log = world.pushes(APNS)
    for call in (log.read(1), log.history(1, ""), log.claim(0, 1, "")):
        with pytest.raises(GroupLost):
            await call
    await log.create()
    await log.create()
    assert (await log.read(1)).entries == ()


async def test_history_comes_in_pages_and_is_ones_own(world: World) -> None:
    await enlist(world, U, [phone()])
    log, other = world.pushes(APNS), world.pushes(APNS, "two")
    await log.create()
    await Reader(world).deliver(*(event("comment", to=U, thing=f"{n}") for n in range(5)))
    mine = (await log.read(3)).entries
    theirs = (await other.read(3)).entries
    assert (len(mine), len(theirs)) == (3, 2)
    first = await log.history(2, "")
    second = await log.history(2, first.after)
    third = await log.history(2, second.after)
    assert first.entries + second.entries == mine
    assert third.after == ""
    claimed = await log.claim(0, 100, "")
    assert claimed.entries == mine + theirs


# -- the whole way


async def test_a_comment_reaches_the_phones(world: World) -> None:
    one, other = phone("a"), phone("b")
    await enlist(world, U, [one, other])
    await Reader(world).deliver(event("comment", to=U, text="hello"))
    provider = FakeProvider()
    process = Process(world, provider)
    await process.run()
    assert {request.delivery.device for request in provider.requests} == {one, other}
    assert [request.push.words for request in provider.requests] == ["Somebody commented: hello"] * 2
    assert provider.requests[0].push is provider.requests[1].push
    assert provider.requests[0].push.badge == 1
    assert process.metrics.push_outcomes["demo apns delivered"] == 2
    assert (await process.log.depth()).entries == 0
    assert not await process.sender.once()


async def test_a_provider_that_is_down_is_asked_again(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    provider = FakeProvider(lambda _: DOWN)
    process = Process(world, provider)
    await process.run()
    assert len(await world.waiting()) == 1
    provider.answer = lambda _: OK
    await world.hurry()
    assert await process.due.once()
    await process.run()
    assert [delivery.tries for delivery in provider.sent] == [0, 1]
    assert await world.waiting() == {}
    assert (await process.log.depth()).entries == 0


async def test_an_answer_that_condemns_the_message_buries_it(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    process = Process(world, FakeProvider(lambda _: WRONG))
    await process.run()
    (letter,) = await world.letters("rejected")
    assert letter.to == U
    assert process.metrics.dead_letters["rejected"] == 1


async def test_a_token_that_died_is_forgotten(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    gone = msgspec.structs.replace(GONE, dead_since_ms=world.now())
    process = Process(world, FakeProvider(lambda _: gone))
    await process.run()
    assert await world.devices().of(U) == ()
    assert len(await world.dead_tokens()) == 1
    assert process.metrics.push_forgotten["demo apns"] == 1


async def test_the_process_that_died_is_followed_by_one_of_its_name(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    dying = FakeProvider()
    dying.gate = lambda: Deferred()  # it hangs for ever
    first = Process(world, dying)
    begin(first.sender.once())
    await world_turns(lambda: bool(dying.sent))
    provider = FakeProvider()
    second = Process(world, provider)  # the same slot name: its own history
    await second.run()
    assert provider.told() == dying.told()
    assert (await second.log.depth()).entries == 0


async def world_turns(until: Callable[[], object]) -> None:
    while not until():
        await pause(0.001)


async def test_what_is_in_hand_is_not_taken_twice(world: World) -> None:
    """Several loops drive one sender: what one of them is sending, the history does not give to another."""
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    provider, held = FakeProvider(), Deferred[None]()
    provider.gate = lambda: held
    process = Process(world, provider)
    one = begin(process.sender.once())
    await world_turns(lambda: bool(provider.sent))
    process.sender.drop()
    for _ in range(3):
        await process.sender.once()
    assert len(provider.sent) == 1
    held.callback(None)
    await one
    assert (await process.log.depth()).entries == 0


async def test_what_nobody_can_read_is_buried(real: RedisWorld) -> None:
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", b"\xff nonsense")
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "other", b"x")
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", b"7 of a newer version")
    process = Process(real, FakeProvider())
    await process.run()
    letters = await real.letters("unreadable")
    assert [letter.raw for letter in letters] == [b"\xff nonsense", b""]
    assert (await process.log.depth()).entries == 1, "a newer process will know what to do with it"


async def test_a_settlement_that_fails_is_done_again_without_sending_again(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await Reader(real).deliver(event("comment", to=U))
    provider = FakeProvider(lambda _: DOWN)
    process = Process(real, provider)
    await real.calls.call("SET", keys.later(TAG), "not a hash")
    await process.sender.once()
    assert process.metrics.push_settle_failures == 1
    assert "WRONGTYPE" in process.reports[0]
    await real.calls.call("DEL", keys.later(TAG))
    await process.run()
    await process.sender.release()  # without the pause between two tries
    assert len(provider.sent) == 1
    assert len(await real.waiting()) == 1


async def test_a_sender_without_redis_says_so_and_loses_nothing(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await Reader(real).deliver(event("comment", to=U))
    provider = FakeProvider()
    process = Process(real, provider)
    await real.calls.call("SET", keys.devices(U, 1) + "x", "1")
    await real.calls.call("RENAME", keys.devices(U, 1), "aside")
    await real.calls.call("SET", keys.devices(U, 1), "not a hash")
    await process.run()
    assert provider.sent == []
    assert "WRONGTYPE" in process.reports[0]
    assert (await process.log.depth()).entries == 1
    process.sender.drop()
    await real.calls.call("RENAME", "aside", keys.devices(U, 1))
    await process.run()
    assert len(provider.sent) == 1


# -- what cannot be read, and what nobody reads


async def test_an_inbox_that_cannot_be_read_stops_nobody_elses_pushes(world: World) -> None:
    await enlist(world, U, [phone("a")])
    await enlist(world, V, [phone("b")])
    await Reader(world).deliver(event("comment", to=[U, V]))
    await world.spoil(U)
    provider = FakeProvider()
    process = Process(world, provider)
    await process.run()
    assert provider.told() == [phone("b").id]
    assert (await process.log.depth()).entries == 1, "it may be mended"
    await world.mend(U)
    process.sender.drop()
    await process.run()
    assert provider.told() == [phone("a").id]


async def test_devices_that_cannot_be_read_stop_nobody_elses_pushes(world: World) -> None:
    await enlist(world, U, [phone("a")])
    await enlist(world, V, [phone("b")])
    log, found, _ = await one_entry(world, V)
    await Reader(world).deliver(event("comment", to=U))
    (entry,) = (await log.read(10)).entries
    await world.spoil_devices(U)
    look = await log.look([entry, found.entry])
    assert [one.row.standing for one in look.found] == ["broken", "row"]
    assert look.found[0].row.record
    assert (look.found[0].devices, len(look.found[1].devices)) == ((), 1)


async def test_what_cannot_be_read_three_times_is_buried(world: World) -> None:
    await enlist(world, U, [phone()])
    await Reader(world).deliver(event("comment", to=U))
    await world.spoil_devices(U)
    process = Process(world, FakeProvider())
    for _ in range(3):
        await process.run()
        process.sender.drop()
    (letter,) = await world.letters("unreadable")
    assert letter.to == U
    assert (await process.log.depth()).entries == 0


LEFT = Lane("left", "apns")  # of an app that is configured nowhere any more


async def abandoned(world: World, name: str = "old", user: str = U) -> PushEntry:
    """A push for a row that is there, as it lies in a lane long after its deadline."""
    await Reader(world).deliver(event("comment", to=user, eid=name, at=world.now(), thing=name))
    return PushEntry("", user, name, world.now() - ABANDONED - 1)


async def test_a_lane_that_nobody_reads_holds_what_may_still_be_sent_and_no_more(world: World) -> None:
    await enlist(world, U, [phone("a", LEFT), phone("b")])
    late = await abandoned(world)
    await world.put(LEFT, msgspec.structs.replace(late, deadline=world.now() - ABANDONED + HOUR), late)
    await world.put(APNS, late)
    process = Process(world, FakeProvider())
    await process.due.once()
    letters = await world.letters("expired")
    assert {(letter.lane, letter.source, letter.to, letter.device) for letter in letters} == {
        ("left:apns", "old", U, "-"), ("demo:apns", "old", U, "-"),
    }  # fmt: skip
    assert letters[0].raw == late.as_text().encode()
    assert process.metrics.dead_letters["expired"] == 2
    assert (await world.pushes(LEFT).depth()).entries == 2
    assert (await world.pushes(APNS).depth()).entries == 1


async def test_what_is_abandoned_but_was_seen_is_no_dead_letter(world: World) -> None:
    """A lane may lie there for days while its provider is down; who read the rest meanwhile misses nothing."""
    world.use(cap=2)
    await enlist(world, U, [phone("a", LEFT)])
    gone, old, late = [await abandoned(world, name) for name in ("gone", "old", "late")]
    where = place(await load(world, U))
    await world.inbox().mark([Mark(U, "seen", str(where.birth), where.run, 2, ())])
    await Reader(world).deliver(event("uncomment", to=U, eid="x", at=world.now() + 1, thing="late"))
    await enlist(world, V, [phone("b", LEFT)])
    broken = await abandoned(world, "broken", V)
    await world.spoil(V)
    nobody = msgspec.structs.replace(late, user=people(3)[2])
    await world.put(LEFT, gone, old, late, broken, nobody)
    await world.put(LEFT, msgspec.structs.replace(broken, deadline=world.now() - 24 * HOUR))
    tidied = await world.due().tidy()
    assert sorted(tidied.buried) == ["forgotten", "trimmed", "unreadable"]
    for reason, entry in (("trimmed", gone), ("unreadable", broken), ("forgotten", nobody)):
        (letter,) = await world.letters(reason)
        assert (letter.source, letter.to, letter.detail != "") == (entry.notification, entry.user, True)
    assert await world.letters("expired") == []
    assert (await world.due().tidy()).buried == (), "what cannot be read may be mended, for a day"
    await world.mend(V)
    assert len((await world.due().tidy()).buried) == 1


async def test_what_is_abandoned_by_all_devices_is_no_dead_letter(world: World) -> None:
    """What it says of itself is of no use to anybody: nobody would have got it."""
    other = Lane("left", "fcm")
    await enlist(world, U, [phone("a", LEFT), phone("b", other)])
    late = await abandoned(world)
    await world.devices().unregister(U, phone("a", LEFT).id)
    for lane in (LEFT, other):
        await world.put(lane, late, msgspec.structs.replace(late, device=phone("a", LEFT).id))
    assert (await world.due().tidy()).buried == ("expired", "expired")
    assert {letter.lane for letter in await world.letters("expired")} == {"left:fcm"}
    assert [(await world.pushes(lane).depth()).entries for lane in (LEFT, other)] == [1, 1], "the young stay"


async def test_what_is_abandoned_in_mass_goes_a_part_at_a_time(world: World) -> None:
    await enlist(world, U, [phone("a", LEFT), phone("b", FCM)])
    late = await abandoned(world)
    await world.put(LEFT, *[late] * 150)
    await world.put(FCM, *[late] * 20)
    due = world.due()
    tidied = [await due.tidy() for _ in range(3)]
    assert [one.more for one in tidied] == [True, False, False]
    assert len(tidied[0].buried) <= 100
    assert sum(len(one.buried) for one in tidied) == len(await world.letters("expired")) == 170
    assert [(await world.pushes(lane).depth()).entries for lane in (LEFT, FCM)] == [1, 1], (
        "what is young stays"
    )


async def test_what_is_abandoned_in_a_readers_hand_is_gone_for_it(world: World) -> None:
    """It has hung for an hour behind the deadline; what it says then changes nothing."""
    await enlist(world, U, [phone()])
    late = await abandoned(world)
    log = world.pushes(APNS)
    await log.create()
    await log.read(1)
    await world.put(APNS, late)
    (entry,) = (await log.read(1)).entries
    await world.due().tidy()
    look = await log.look([entry])
    assert (await log.settle([Settlement(entry, look.run)])).states == ("gone",)
    assert (await log.claim(0, 10, "")).lost == ()


async def test_tidying_goes_on_while_there_is_more_and_then_rests(world: World) -> None:
    await enlist(world, U, [phone("a", LEFT)])
    await world.put(LEFT, *[await abandoned(world)] * 150)
    process = Process(world, FakeProvider())
    assert [await process.due.once() for _ in range(3)] == [True, False, False]
    assert process.metrics.dead_letters["expired"] == 150
    await world.put(LEFT, await abandoned(world, "another"))
    await process.due.once()
    assert process.metrics.dead_letters["expired"] == 150, "not before a minute has passed"
