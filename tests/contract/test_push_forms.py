"""What another version has written is left to it, counted and never lost; what nobody can read is buried."""

from __future__ import annotations

import msgspec
import pytest

from notifier.core import keys
from notifier.core.devices import encode
from notifier.core.lanes import PushEntry
from notifier.core.model import Verdict
from notifier.edge import device_store, push_store
from notifier.edge.device_store import RedisDevices
from notifier.edge.logs import Every
from notifier.edge.push_store import ABANDONED, FROM_THE_FIRST, RedisDue, RedisLanes
from notifier.edge.redis import ReplyError
from notifier.metrics import Metrics
from notifier.ports import Judged, Settlement
from tests.contract.phones import APNS, FCM, FakeProvider, Process, enlist, phone, steps
from tests.contract.test_push import judged, later, one_entry
from tests.contract.world import TAG, Reader, RedisWorld, event, pause, people

U, V = people(2)
NEWER = phone("newer", registered=5)
IN_FORM_2 = "2a demo 5 what only a newer process reads"
HOUR = 3_600_000


class Clock:
    """That of a process; it stands until a test sets it on."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def write_newer(world: RedisWorld, user: str = U) -> None:
    """A newer process has registered a device."""
    await steps(world).claim(user, NEWER.id, NEWER.registered)
    await steps(world).add(user, NEWER, stays=True)
    await world.calls.call("HSET", keys.devices(user, 1), NEWER.id, IN_FORM_2)


async def stored(world: RedisWorld, device: str = NEWER.id) -> str:
    return str((await world.calls.call("HGET", keys.devices(U, 1), device) or b"").decode())


# -- devices


async def test_a_push_for_a_device_of_a_newer_version_waits_for_who_can_read_it(real: RedisWorld) -> None:
    await enlist(real, U, [phone("ours")])
    await write_newer(real)
    await Reader(real).deliver(event("comment", to=U))
    provider = FakeProvider()
    process = Process(real, provider)
    await process.run()
    assert provider.told() == [phone("ours").id]
    assert process.metrics.push_newer == 1
    assert [name.split(" ")[2] for name in await real.waiting()] == [NEWER.id], "else it would hear nothing"
    # and comes round here again, for as long as nobody else takes it
    await real.hurry()
    await process.due.once()
    await process.run()
    assert (provider.told(), len(await real.waiting())) == ([], 1)
    # the newer process is there
    await real.calls.call("HSET", keys.devices(U, 1), NEWER.id, encode(NEWER))
    await real.hurry()
    await process.due.once()
    await process.run()
    assert provider.told() == [NEWER.id]
    assert await real.waiting() == {}


async def test_a_device_of_a_newer_version_alone_is_not_no_device(real: RedisWorld) -> None:
    await write_newer(real)
    await Reader(real).deliver(event("comment", to=U))
    process = Process(real, FakeProvider())
    await process.run()
    assert process.metrics.push_drops["demo apns no_device"] == 0
    assert len(await real.waiting()) == 1


async def test_what_only_a_newer_process_reads_is_buried_at_its_deadline(real: RedisWorld) -> None:
    await write_newer(real)
    await Reader(real).deliver(event("comment", to=U, eid="c", at=real.now()))
    log = real.pushes(APNS)
    await log.create()
    entry = PushEntry("", U, "c", real.now() + 30_000)
    await real.calls.call("DEL", keys.pushes(TAG, APNS))
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", entry.as_text())
    process = Process(real, FakeProvider())
    await process.run()
    (letter,) = await real.letters("expired")
    assert (letter.to, letter.device) == (U, NEWER.id)


async def test_nothing_of_ours_removes_a_device_of_a_newer_version(real: RedisWorld) -> None:
    """Neither for want of room, nor on a provider's word; the person and who gets the phone after them may."""
    real.use(devices=2)
    await enlist(real, U, [phone("a", registered=1)])
    log, found, run = await one_entry(real)
    await write_newer(real)
    for name in ("b", "c", "d"):
        await real.devices().register(U, phone(name))
    assert await stored(real) == IN_FORM_2
    assert len(await real.devices().of(U)) == 1
    delivery = msgspec.structs.replace(judged(found, later(1)).delivery, device=NEWER)
    forget = Judged(delivery, Verdict("forget", before=HOUR), "Unregistered")
    await log.settle([Settlement(found.entry, run, (forget,), (NEWER,))])
    assert await stored(real) == IN_FORM_2
    assert len(await real.waiting()) == 1, "it is tried again, by who can"
    assert await real.devices().unregister(U, NEWER.id)
    assert await stored(real) == ""
    assert await real.owner(NEWER.id) == ""


async def test_a_walk_through_all_devices_tells_of_those_it_cannot_read(real: RedisWorld) -> None:
    await enlist(real, U, [phone("ours")])
    await write_newer(real)
    await real.calls.call("SET", keys.devices(V, 1), "not a hash")
    page = await real.devices().page()
    assert [(user, one.id) for user, one in page.pairs] == [(U, phone("ours").id)]
    assert page.newer == (NEWER.id,)


async def test_a_token_leaves_a_list_in_whatever_form(real: RedisWorld) -> None:
    await write_newer(real)
    assert await real.devices().register(V, NEWER)
    assert await stored(real) == ""
    assert [one.id for one in await real.devices().of(V)] == [NEWER.id]


@pytest.mark.parametrize("line", ["", "nonsense", "1a demo", "a demo 5 []"])
async def test_a_damaged_device_costs_itself_alone(real: RedisWorld, line: str) -> None:
    await enlist(real, U, [phone("a"), phone("b")])
    await real.calls.call("HSET", keys.devices(U, 1), "x" * 22, line)
    await real.devices().register(U, phone("c", FCM))
    assert await real.calls.call("HGET", keys.devices(U, 1), "lanes") == b"demo:apns demo:fcm"
    await real.calls.call("SET", keys.owner("x" * 22, 1), f"1 {U} 5 -")
    log, found, run = await one_entry(real)
    assert {one.id for one in found.devices} == {phone("a").id, phone("b").id}
    assert found.damaged == ("x" * 22,)
    await log.settle([Settlement(found.entry, run, (), (phone("a"),))])
    assert [one.id for one in await real.devices().of(U)] == [phone("b").id, phone("c", FCM).id]
    assert await real.devices().unregister(U, "x" * 22), "its person may"


async def test_a_damaged_device_is_counted_at_every_look_and_told_now_and_then(
    real: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(device_store._log, "error", lambda words, **facts: told.append(words.format(**facts)))
    clock = Clock()
    monkeypatch.setattr(device_store, "_say", Every(60.0, clock))
    await enlist(real, U, [phone()])
    await real.calls.call("HSET", keys.devices(U, 1), "x" * 22, "damaged")
    await steps(real).claim(U, "x" * 22, None)
    metrics = Metrics({})
    devices = RedisDevices(real.calls, real.scripts, real.rules, metrics)
    for _ in range(2):
        assert [one.id for one in await devices.of(U)] == [phone().id]
        assert len((await devices.page()).pairs) == 1
    assert metrics.devices_unreadable == 4
    clock.now += 60
    await Reader(real).deliver(event("comment", to=U))
    process = Process(real, FakeProvider())
    await process.run()
    assert process.metrics.devices_unreadable == 1
    assert ["(0 more" in told[0], "(3 more" in told[1], len(told)] == [True, True, 2]


async def test_what_a_damaged_device_is_not_told_is_a_dead_letter(real: RedisWorld) -> None:
    """Once for each push, by its name; if it is this person's still."""
    await enlist(real, U, [phone("a"), phone("b"), phone("c")])
    for name in ("b", "c"):
        await real.calls.call("HSET", keys.devices(U, 1), phone(name).id, "nonsense")
    await steps(real).claim(V, phone("c").id, None)
    await Reader(real).deliver(event("comment", to=U))
    provider = FakeProvider()
    process = Process(real, provider)
    await process.run()
    assert provider.told() == [phone("a").id]
    (letter,) = await real.letters("unreadable")
    assert (letter.to, letter.device) == (U, phone("b").id)
    assert process.metrics.push_drops["demo apns no_device"] == 0
    assert (await process.log.depth()).entries == 0


async def test_an_owner_of_a_newer_version_is_an_owner(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    await real.calls.call("SET", keys.owner(phone().id, 1), f"2 {U} 1000 - and what a newer process adds")
    assert (await steps(real).owners([phone().id])) == [U]
    assert await real.devices().register(V, phone())
    assert await real.devices().of(U) == ()


# -- what is due


async def plan(world: RedisWorld, name: str, value: str, at: int = 1) -> str:
    """Something that waits: by its member of `due`, and what it stands for."""
    await world.calls.call("HSET", keys.later(TAG), name, value)
    await world.calls.call("ZADD", keys.due(TAG), at, name)
    return name


def due_by(world: RedisWorld, clock: Clock) -> RedisDue:
    return RedisDue(world.calls, world.scripts, world.rules, 0, pause, clock)


async def test_what_another_version_plans_is_left_where_it_is(real: RedisWorld) -> None:
    names = [
        await plan(real, f"r:{U}:n:{'d' * 22}", "2 something that a newer process can read"),
        await plan(real, f"e:{U}:n", "1 5 an escalation"),
        await plan(real, f"e:{U}:m", "2 5 an escalation"),
    ]
    names.append(f"t:{U}:scheduled")  # which may need no value
    await real.calls.call("ZADD", keys.due(TAG), 1, names[-1])
    before = await real.calls.call("HGETALL", keys.later(TAG))
    process = Process(real, FakeProvider())
    assert not await process.due.once()
    assert process.metrics.push_newer == 4
    assert await real.calls.call("HGETALL", keys.later(TAG)) == before
    assert set(await real.calls.call("ZRANGE", keys.due(TAG), 0, -1)) == {name.encode() for name in names}


async def test_what_is_left_to_others_is_in_nobodys_way(real: RedisWorld) -> None:
    """More of it than one look goes through, and all of it due before. Once it is known, it costs next to nothing."""
    for n in range(250):
        await plan(real, f"e:{U}:n{n}", "1 5 an escalation")
    clock = Clock()
    due = due_by(real, clock)
    for thing in "ab":
        for n in range(30):
            await plan(real, f"r:{U}:{thing}{n}:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0", at=2)
        woken = [await due.wake() for _ in range(5)]
        assert [one.moved for one in woken] == [0, 0, 30, 0, 0]
        assert [one.passed for one in woken] == [100, 100, 50, 0, 0]
        assert [one.more for one in woken] == [True, True, False, False, False]
        await plan(real, f"r:{U}:{thing}:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0", at=3)
        assert [(await due.wake()).moved for _ in range(2)] == [1, 0], "who comes due is seen at once"
        clock.now += FROM_THE_FIRST
    assert (await real.pushes(APNS).depth()).entries == 62


async def test_a_loop_comes_to_what_stands_behind_without_a_pause(real: RedisWorld) -> None:
    for n in range(250):
        await plan(real, f"e:{U}:n{n}", "1 5 an escalation")
    await plan(real, f"r:{U}:n:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0", at=2)
    process = Process(real, FakeProvider())
    assert [await process.due.once() for _ in range(4)] == [True, True, True, False]
    assert (process.metrics.push_woken, process.metrics.push_newer) == (1, 250)


async def test_a_long_look_at_what_is_left_to_others_is_seldom(real: RedisWorld) -> None:
    """As on a server that has very much of it, or that is slow."""
    for n in range(250):
        await plan(real, f"e:{U}:n{n}", "1 5 an escalation")
    clock = Clock()
    due = due_by(real, clock)
    passed = []
    for seconds in (2, 2, 0, 79, 1, 0):
        passed.append((await due.wake()).passed)
        clock.now += seconds
    assert passed == [100, 100, 50, 0, 0, 100]


async def test_what_comes_due_when_others_have_cleared_the_front_is_seen(real: RedisWorld) -> None:
    """Newer processes have come, done what was theirs, and gone again."""
    names = [await plan(real, f"e:{U}:n{n}", "1 5 an escalation") for n in range(150)]
    due = due_by(real, Clock())
    assert [(await due.wake()).passed for _ in range(3)] == [100, 50, 0]
    await real.calls.call("ZREM", keys.due(TAG), *names)
    for n in range(30):
        await plan(real, f"r:{U}:n{n}:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0", at=2)
    assert (await due.wake()).moved == 30


async def test_what_was_written_before_there_was_a_version_is_woken(real: RedisWorld) -> None:
    await plan(real, f"r:{U}:n:{phone().id}", f"{APNS} 5 {2**50} 3 2 1")
    assert (await real.due().wake()).moved == 1
    log = real.pushes(APNS)
    await log.create()
    (entry,) = (await log.read(2)).entries
    assert msgspec.structs.replace(entry, id="") == PushEntry("", U, "n", 2**50, phone().id, 3, 2, 1)


@pytest.mark.parametrize("value", ["", "nonsense", f"1 {APNS} five 1 2 3 4", f"1 {APNS} 5 1 2 3"])
async def test_what_nobody_can_read_is_buried_and_not_lost_without_a_word(
    real: RedisWorld, value: str
) -> None:
    await plan(real, f"r:{U}:n:{phone().id}", value)
    process = Process(real, FakeProvider())
    await process.due.once()
    (letter,) = await real.letters("unreadable")
    assert (letter.to, letter.source, letter.device, letter.raw) == (U, "n", phone().id, value.encode())
    assert process.metrics.dead_letters["unreadable"] == 1
    assert await real.waiting() == {}


async def test_a_member_that_stands_for_nothing_goes(real: RedisWorld) -> None:
    await real.calls.call("ZADD", keys.due(TAG), 1, f"r:{U}:n:{phone().id}")
    assert (await real.due().wake()).left == 0


async def test_a_lane_that_takes_nothing_holds_up_no_other(real: RedisWorld) -> None:
    await real.calls.call("SET", keys.pushes(TAG, APNS), "not a stream")
    for n in range(120):
        await plan(real, f"r:{U}:n{n:03}:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0")
    await plan(real, f"r:{U}:other:{phone('b', FCM).id}", f"1 {FCM} 5 {2**50} 1 0 0", at=2)
    clock = Clock()
    due = due_by(real, clock)
    assert [(await due.wake()).moved for _ in range(2)] == [0, 1]
    await real.calls.call("DEL", keys.pushes(TAG, APNS))
    clock.now += FROM_THE_FIRST
    assert [(await due.wake()).moved for _ in range(2)] == [100, 20]
    assert (await real.pushes(APNS).depth()).entries == 120
    assert (await real.pushes(FCM).depth()).entries == 1


async def test_a_retry_that_a_newer_process_has_planned_stays_as_it_is(real: RedisWorld) -> None:
    """It will say all there is to say; and it is in `due`, whatever an error has left."""
    await enlist(real, U, [phone()])
    log, found, run = await one_entry(real)
    name = f"r:{U}:{found.entry.notification}:{phone().id}"
    theirs = "2 what a newer process can read"
    await real.calls.call("HSET", keys.later(TAG), name, theirs)
    await log.settle([Settlement(found.entry, run, (judged(found, later(50)),))])
    assert await real.calls.call("HGET", keys.later(TAG), name) == theirs.encode()
    assert list(await real.waiting()) == [f"{U} {found.entry.notification} {phone().id}"]


async def test_what_cannot_even_be_buried_is_told_and_tried_again(real: RedisWorld) -> None:
    await enlist(real, U, [phone()])
    for raw in ("garbage", "1 not ours either"):
        await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", raw)
    await Reader(real).deliver(event("comment", to=U))
    letters = keys.dead_letters(TAG, "unreadable")
    await real.calls.call("SET", letters, "not a stream")
    provider = FakeProvider()
    process = Process(real, provider)
    await process.run()
    assert provider.told() == [phone().id], "the others go on"
    (line,) = process.reports
    assert "2 entries" in line
    assert "WRONGTYPE" in line
    assert (process.metrics.push_settle_failures, process.metrics.dead_letters["unreadable"]) == (2, 0)

    await real.calls.call("DEL", letters)
    another = Process(real, provider, name="another")
    await another.run()
    claimed = await another.log.claim(0, 10, "")
    assert len(claimed.broken) == 2, "they are still pending"
    another.sender.drop()
    await another.run()
    assert {letter.raw for letter in await real.letters("unreadable")} == {b"garbage", b"1 not ours either"}
    assert another.metrics.dead_letters["unreadable"] == 2
    assert (another.metrics.push_settle_failures, another.reports) == (0, [])
    assert (await another.log.depth()).entries == 0


async def test_entries_of_a_newer_version_are_counted(real: RedisWorld) -> None:
    await real.calls.call("XADD", keys.pushes(TAG, APNS), "*", "push", "2 of a newer version")
    process = Process(real, FakeProvider())
    await process.run()
    assert process.metrics.push_newer == 1
    assert (await process.log.depth()).entries == 1


# -- lanes that nobody reads


async def test_all_lanes_that_devices_have_are_known(real: RedisWorld) -> None:
    await enlist(real, U, [phone("a"), phone("b", FCM, app="gone")])
    await enlist(real, V, [phone("c", app="other")])
    await Reader(real).deliver(event("comment", to=[U, V]))
    await real.lapse(5)
    assert isinstance(real, RedisWorld)
    found = await RedisLanes(real.calls, real.rules).depths()
    assert {name: depth.entries for name, depth in found.items()} == {
        "demo:apns": 1,
        "gone:fcm": 1,
        "other:apns": 1,
    }
    assert all(depth.oldest >= 0.005 for depth in found.values())
    assert await real.devices().unregister(U, phone("b", FCM, app="gone").id)
    assert "gone:fcm" in await RedisLanes(real.calls, real.rules).depths(), (
        "what lies there is still to be told of"
    )


async def test_tidying_that_fails_holds_up_nothing_that_is_due(real: RedisWorld) -> None:
    await real.calls.call("SET", keys.lanes(TAG), "not a set")
    process = Process(real, FakeProvider())
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await process.due.once()
    await plan(real, f"r:{U}:n:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0")
    assert await process.due.once(), "the next try is in a minute"


async def test_a_lane_that_is_no_stream_holds_up_no_tidying(real: RedisWorld) -> None:
    await enlist(real, U, [phone("a"), phone("b", FCM)])
    await Reader(real).deliver(event("comment", to=U, eid="old", at=real.now()))
    await real.put(FCM, PushEntry("", U, "old", real.now() - ABANDONED - 1))
    await real.calls.call("SET", keys.pushes(TAG, APNS), "not a stream")
    assert (await real.due().tidy()).buried == ("expired",)


@pytest.mark.parametrize("value", [b"garbage", b"", b"1", b"1  5 -", b"\xff\xfe 1 2 3"], ids=repr)
async def test_a_damaged_owner_costs_its_device_alone(real: RedisWorld, value: bytes) -> None:
    """It is nobody's, until its app registers it again."""
    one, other = phone("a"), phone("b")
    await enlist(real, U, [one, other])
    await real.calls.call("SET", keys.owner(one.id, 1), value)
    await Reader(real).deliver(event("comment", to=U))
    provider = FakeProvider()
    process = Process(real, provider)
    await process.run()
    assert provider.told() == [other.id]
    assert (await process.log.depth()).entries == 0
    assert await real.devices().register(U, one)
    await Reader(real).deliver(event("comment", to=U, thing="2"))
    await process.run()
    assert set(provider.told()) == {one.id, other.id}


@pytest.mark.parametrize("where", ["record", "run"])
async def test_bytes_that_are_no_text_stop_nobody_elses_pushes(real: RedisWorld, where: str) -> None:
    await enlist(real, U, [phone("a")])
    await enlist(real, V, [phone("b")])
    await Reader(real).deliver(event("comment", to=[U, V], eid="c", at=real.now()))
    key = keys.inbox(U, 1)
    field = "state" if where == "run" else await real.calls.call("HGET", key, "n:c")
    stored = await real.calls.call("HGET", key, field)
    damaged = (
        b"1" + b"\xff" * 16 + stored[17:] if where == "run" else stored.replace(b"photo", b"ph\xff\xffo")
    )
    assert damaged != stored
    await real.calls.call("HSET", key, field, damaged)
    provider = FakeProvider()
    process = Process(real, provider)
    for _ in range(3):
        await process.run()
        process.sender.drop()
    assert provider.told() == [phone("b").id]
    (letter,) = await real.letters("unreadable")
    assert letter.to == U
    assert (await process.log.depth()).entries == 0


async def test_what_cannot_be_woken_is_told_and_not_at_every_look(
    real: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(push_store._log, "error", lambda words, **facts: told.append(words.format(**facts)))
    await real.calls.call("SET", keys.pushes(TAG, APNS), "not a stream")
    await plan(real, f"r:{U}:n:{phone().id}", f"1 {APNS} 5 {2**50} 1 0 0")
    due = real.due()
    for _ in range(5):
        await due.wake()
    (line,) = told
    assert "WRONGTYPE" in line
