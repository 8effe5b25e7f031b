"""Inbox: what stands in it after events and marks, and what follows a place."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from notifier.core.inbox import (
    DELETED,
    NOTIFICATION,
    READ,
    RETRACTED,
    SEEN,
    Join,
    Joined,
    JoinMode,
    Mark,
    Place,
)
from notifier.core.session import LIVE, Session, Start
from notifier.edge.memory import JOIN_BYTES
from notifier.ports import Unavailable
from tests.contract.world import (
    ISSUED,
    NOWHERE,
    Reader,
    World,
    event,
    ids,
    load,
    people,
    place,
    records,
    since,
)

U, V = people(2)


def like(eid: str, at: int, to: str = U, thing: str = "1", kind: str = "like") -> bytes:
    return event(kind, to, eid=eid, at=at, thing=thing)


def kinds(joined: Joined) -> list[tuple[int, str, str]]:
    return [(seq, record.kind, record.id) for seq, record in records(joined)]


async def start(world: World, user: str = U) -> Place:
    """A place from which to follow everything."""
    return place(await world.inbox().join(user, Join("fresh", NOWHERE, 1), ISSUED))


def mark(kind: str, at: Place, *names: str, user: str = U) -> Mark:
    return Mark(user, kind, str(at.birth), at.run, at.seq, names)  # type: ignore[arg-type]


def named(kind: str, *names: str, user: str = U) -> Mark:
    return Mark(user, kind, "", "0", 0, names)  # type: ignore[arg-type]


# -- rows


async def test_rows_follow_the_order_of_the_stream(world: World) -> None:
    reader, now = Reader(world, most=7), world.now()
    names = [f"e{n}" for n in range(30)]
    await reader.deliver(*(like(name, now - n * 1000, thing=name) for n, name in enumerate(names)))
    joined = await load(world, U)
    assert kinds(joined) == [(n + 1, NOTIFICATION, name) for n, name in enumerate(names)]
    assert (joined.result, joined.seq, joined.floor, joined.seen, joined.unread) == ("load", 30, 0, 0, 30)
    assert (joined.more, joined.birth > now - 10_000) == (False, True)
    assert abs(joined.now - world.now()) < 5_000


async def test_a_row_holds_what_the_client_is_shown(world: World) -> None:
    now = world.now() - 12_345
    await Reader(world).deliver(event("comment", U, eid="c", at=now, text='"Grüße" \u2028 \\ a b'))
    ((seq, record),) = records(await load(world, U))
    assert (seq, record.kind, record.read, record.time, record.id) == (1, NOTIFICATION, False, now, "c")
    shown = json.loads("{" + record.body + "}")
    assert shown["text"] == '"Grüße" \u2028 \\ a b'
    assert (shown["id"], shown["kind"], shown["actors"]) == ("c", "comment", [{"id": "ana"}])


# -- retractions


async def test_likes_and_unlikes_commute(world: World) -> None:
    """Every order of like, unlike, like again, with repeats, ends with the second like alone."""
    now, reader = world.now(), Reader(world)
    acts = [("like", "a", now - 3), ("unlike", "b", now - 2), ("like", "c", now - 1)]
    orders = [*permutations(acts), *((*some, *some[:2]) for some in permutations(acts))]
    users = people(len(orders))
    for user, order in zip(users, orders, strict=True):
        for kind, eid, at in order:
            await world.append(like(eid, at, user, kind=kind))
    await reader.run()
    for user in users:
        joined = await load(world, user)
        assert (ids(joined), joined.unread) == (["c"], 1)
    assert reader.metrics.events_duplicate == 12


async def test_the_last_word_is_the_unlike(world: World) -> None:
    now, reader = world.now(), Reader(world)
    acts = [
        ("like", "a", now - 4),
        ("unlike", "b", now - 3),
        ("like", "c", now - 2),
        ("unlike", "d", now - 1),
    ]
    orders = list(permutations(acts))
    users = people(len(orders))
    for user, order in zip(users, orders, strict=True):
        await reader.deliver(*(like(eid, at, user, kind=kind) for kind, eid, at in order))
    for user in users:
        joined = await load(world, user)
        assert (ids(joined), joined.unread) == ([], 0)


async def test_at_the_same_moment_the_id_decides(world: World) -> None:
    now, reader = world.now(), Reader(world)
    await reader.deliver(like("b", now), like("c", now, kind="unlike"), like("d", now))
    await reader.deliver(like("d", now, V), like("c", now, V, kind="unlike"), like("b", now, V))
    assert ids(await load(world, U)) == ids(await load(world, V)) == ["d"]


async def test_ids_made_from_stream_ids_are_numbers(world: World) -> None:
    """x:<ms>-9 was before x:<ms>-10, though not in the alphabet."""
    now, reader = world.now(), Reader(world)
    for number, kind in ((9, "like"), (10, "unlike"), (11, "like"), (100, "unlike")):
        await world.append(event(kind, U, thing=str(number > 10)), entry_id=f"{now}-{number}")
    for number, kind in ((1000, "unlike"), (2000, "like")):
        await world.append(event(kind, U, thing="x"), entry_id=f"{now}-{number}")
    await reader.run()
    assert ids(await load(world, U)) == [f"x:{now}-2000"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("x:5-1", "x:05-2"), ("x:5-1", "x:5-002"), ("x:9007199254740992-2", "x:9007199254740993-1"), ("x:0-0", "x:00-1")],
)  # fmt: skip
async def test_numbers_in_ids_are_compared_whole(world: World, first: str, second: str) -> None:
    """With leading zeros too, and beyond what a double can hold."""
    now, reader = world.now(), Reader(world)
    await reader.deliver(like(first, now), like(second, now, kind="unlike"))
    assert ids(await load(world, U)) == [], "the unlike is later"
    await reader.deliver(like(second, now, V), like(first, now, V, kind="unlike"))
    assert ids(await load(world, V)) == [second], "the unlike is earlier"


async def test_an_unlike_takes_only_its_own(world: World) -> None:
    now, reader = world.now(), Reader(world)
    at = await start(world)
    await reader.deliver(
        event("like", U, eid="other-actor", at=now - 5, actor="bob"),
        event("like", U, eid="other-thing", at=now - 5, thing="2"),
        event("comment", U, eid="other-kind", at=now - 5),
        like("first", now - 5), like("second", now - 4), like("later", now),
        like("other-person", now - 5, V),
        like("back", now - 3, kind="unlike"),
    )  # fmt: skip
    assert ids(await load(world, U)) == ["other-actor", "other-thing", "other-kind", "later"]
    assert ids(await load(world, V)) == ["other-person"]
    assert kinds(await since(world, U, at))[-3:] == [
        (6, NOTIFICATION, "later"),
        (7, RETRACTED, "first"),
        (8, RETRACTED, "second"),
    ]


async def test_an_unlike_of_nothing_makes_no_change(world: World) -> None:
    now, reader = world.now(), Reader(world)
    await reader.deliver(like("back", now, kind="unlike"))
    assert (await load(world, U)).birth == 0
    await reader.deliver(like("late", now - 5))
    assert (await load(world, U)).seq == 0
    await reader.deliver(like("anew", now + 5))
    assert kinds(await load(world, U)) == [(1, NOTIFICATION, "anew")]


# -- caps


async def test_the_cap_counts_live_rows(world: World) -> None:
    world.use(cap=3)
    now, reader = world.now(), Reader(world)
    at = await start(world)
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(5)))
    joined = await load(world, U)
    assert kinds(joined) == [(seq, NOTIFICATION, f"e{seq - 1}") for seq in (3, 4, 5)]
    assert (joined.floor, joined.unread, joined.seq) == (2, 3, 5)
    assert (await since(world, U, at)).result == "resync"
    assert (await since(world, U, Place(at.birth, at.run, 1))).result == "resync"
    assert (await since(world, U, Place(at.birth, at.run, 2))).result == "resume"


async def test_fifty_rows_survive_two_hundred_changes_of_one(world: World) -> None:
    world.use(cap=51)
    now, reader = world.now() - 1_000, Reader(world)
    await reader.deliver(*(like(f"e{n}", now, thing=f"t{n}") for n in range(50)))
    for n in range(100):
        await world.append(like(f"on{n}", now + 2 * n, thing="viral"))
        await world.append(like(f"off{n}", now + 2 * n + 1, thing="viral", kind="unlike"))
    await reader.run()
    joined = await load(world, U)
    assert ids(joined) == [f"e{n}" for n in range(50)]
    assert (joined.seq, joined.unread, joined.floor) == (250, 50, 0)


async def test_fifty_rows_survive_two_hundred_marks(world: World) -> None:
    world.use(cap=50)
    now, reader, inbox = world.now(), Reader(world), world.inbox()
    await reader.deliver(*(like(f"e{n}", now, thing=f"t{n}") for n in range(50)))
    for n in range(200):
        await inbox.mark([named("read", f"e{n % 50}")])
    joined = await load(world, U)
    assert ids(joined) == [f"e{n}" for n in range(50)]
    assert (joined.seq, joined.unread) == (100, 0)


async def test_tombstones_are_capped_and_take_no_row_with_them(world: World) -> None:
    world.use(cap=3)
    now, reader, inbox = world.now(), Reader(world), world.inbox()
    at = await start(world)
    await reader.deliver(like("old", now - 1000, thing="old"))
    for n in range(6):
        await reader.deliver(like(f"e{n}", now, thing=str(n)))
        assert await inbox.mark([named("delete", f"e{n}")]) == [1]
    joined = await load(world, U)
    assert (ids(joined), joined.floor, joined.seq, joined.unread) == (["old"], 0, 13, 1)
    # the tombstones of seq 3, 5 and 7 are gone: who stands before 7 has missed one
    for seq, result in ((0, "resync"), (6, "resync"), (7, "resume"), (13, "resume")):
        answer = await since(world, U, Place(at.birth, at.run, seq))
        assert (seq, answer.result) == (seq, result)
        if result == "resync":
            assert kinds(answer) == [(1, NOTIFICATION, "old")]
    assert kinds(await since(world, U, Place(at.birth, at.run, 7))) == [
        (9, DELETED, "e3"),
        (11, DELETED, "e4"),
        (13, DELETED, "e5"),
    ]
    assert (await inbox.sync(U, Join("resume", NOWHERE, 100), ISSUED)).result == "resync"


async def test_a_trim_drops_a_bounded_number(world: World) -> None:
    """Rows beyond the cap lie behind 70 tombstones: the first write drops 64 of these, the second goes on."""
    now, reader, inbox = world.now(), Reader(world), world.inbox()
    await reader.deliver(*(like(f"a{n}", now, thing=f"a{n}") for n in range(70)))
    await inbox.mark([named("delete", *(f"a{n}" for n in range(70)))])
    await reader.deliver(*(like(f"b{n}", now, thing=f"b{n}") for n in range(5)))
    assert (await load(world, U)).seq == 145
    world.use(cap=3)
    await reader.log.give()
    assert await rows_after_each(world, "c", 5) == [6, 3, 3, 3, 3]
    joined = await load(world, U)
    assert (ids(joined), joined.floor) == (["c2", "c3", "c4"], 147)


async def test_a_trim_finds_what_lies_behind_many_holes(world: World) -> None:
    """Rows beyond the cap lie behind 540 superseded changes: more than one write looks at one by one."""
    world.use(cap=3)
    now, reader = world.now() - 1_000, Reader(world)
    await reader.deliver(like("a0", now, thing="a0"), like("a1", now, thing="a1"))
    for n in range(270):
        await world.append(like(f"on{n}", now + 2 * n, thing="viral"))
        await world.append(like(f"off{n}", now + 2 * n + 1, thing="viral", kind="unlike"))
    await reader.run()
    assert (await load(world, U)).seq == 542
    await reader.log.give()
    assert await rows_after_each(world, "c", 5) == [3, 3, 3, 3, 3]
    assert ids(await load(world, U)) == ["c2", "c3", "c4"]


async def rows_after_each(world: World, name: str, count: int) -> list[int]:
    reader, live = Reader(world, "two"), []
    for n in range(count):
        await reader.deliver(like(f"{name}{n}", world.now(), thing=f"{name}{n}"))
        live.append(len((await load(world, U)).records))
    return live


# -- how long it lives

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("days", "left", "renewed"),
    [(1, 0.49, True), (1, 0.51, False), (2, 0.99, True), (2, 1.01, False), (90, 88.9, True), (90, 89.1, False)],
)  # fmt: skip
async def test_a_change_prolongs_the_life_of_an_inbox(
    world: World, days: int, left: float, renewed: bool
) -> None:
    """Not each one, but so that what is left is never less than half of it, or than all but a day."""
    world.use(retention=days * DAY_MS)
    reader = Reader(world)
    await reader.deliver(event(to=U))
    await world.set_life(U, int(left * DAY_MS))
    await reader.deliver(event(to=U, thing="2"))
    assert await world.life_left(U) > (days - 0.005 if renewed else left - 0.005) * DAY_MS
    assert await world.life_left(U) <= (days if renewed else left) * DAY_MS


# -- joining


async def test_a_join_makes_the_inbox_and_a_sync_does_not(world: World) -> None:
    inbox = world.inbox()
    answer = await inbox.sync(U, Join("resume", NOWHERE, 10), ISSUED)
    assert (answer.result, answer.birth, answer.seq, answer.records) == ("resume", 0, 0, ())
    assert (await inbox.sync(U, Join("resume", Place(5, "a", 0), 10), ISSUED)).result == "resync"
    joined = await inbox.join(U, Join("fresh", NOWHERE, 1), ISSUED)
    assert (joined.result, joined.seq, joined.birth > 0, len(joined.run)) == ("fresh", 0, True, 16)
    again = await inbox.join(U, Join("resume", place(joined), 10), ISSUED)
    assert (again.result, again.birth, again.run) == ("resume", joined.birth, joined.run)
    await Reader(world).deliver(like("a", world.now()))
    assert kinds(await since(world, U, place(joined))) == [(1, NOTIFICATION, "a")]


@pytest.mark.parametrize("mode", ["fresh", "load"])
async def test_who_begins_anew_needs_rows_only(world: World, mode: JoinMode) -> None:
    now, reader, inbox = world.now(), Reader(world), world.inbox()
    await reader.deliver(like("a", now, thing="a"), like("b", now, thing="b"), like("c", now, thing="c"))
    await inbox.mark([named("read", "a"), named("delete", "b")])
    answer = await inbox.join(U, Join(mode, NOWHERE, 100), ISSUED)
    assert (answer.result, answer.seq, answer.unread, answer.more) == (mode, 5, 1, False)
    assert kinds(answer) == ([] if mode == "fresh" else [(1, NOTIFICATION, "a"), (3, NOTIFICATION, "c")])


async def test_a_place_is_known_or_not(world: World) -> None:
    reader, now = Reader(world), world.now()
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(4)))
    joined = await load(world, U)
    birth, run = joined.birth, joined.run
    table = {
        Place(birth, run, 0): ("resume", 4),
        Place(birth, run, 2): ("resume", 2),
        Place(birth, run, 4): ("resume", 0),
        Place(birth, run, 5): ("resync", 4),  # it saw a change that is lost
        Place(birth, "0" * 16, 2): ("resync", 4),
        Place(birth, "0", 1): ("resync", 4),
        Place(birth + 1, run, 2): ("resync", 4),
        Place(-1, "0", 0): ("resync", 4),
        Place(0, "0", 0): ("resume", 4),
        Place(0, "0", 1): ("resync", 4),
    }
    found = {}
    for at in table:
        answer = await since(world, U, at)
        found[at] = answer.result, len(answer.records)
    assert found == table


async def test_another_run_goes_on_from_what_it_found(world: World) -> None:
    """Before the crash the client had seen 5 changes, the server came back with 3 and made two others."""
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(3)))
    await world.new_run(U)
    old = place(await load(world, U))  # nothing was written in the new run yet: the old one still stands
    assert old.seq == 3
    await reader.deliver(*(like(f"f{n}", now, thing=str(n)) for n in range(2)))
    new = place(await load(world, U))
    assert (new.run != old.run, new.birth == old.birth, new.seq) == (True, True, 5)
    for seq, result in ((5, "resync"), (4, "resync"), (3, "resume"), (1, "resume")):
        assert (await since(world, U, Place(old.birth, old.run, seq))).result == result
    assert kinds(await since(world, U, old)) == [(4, NOTIFICATION, "f0"), (5, NOTIFICATION, "f1")]
    # marks made under the old run reach as far as the old run did
    await inbox.mark([mark("seen", Place(old.birth, old.run, 5))])
    assert (await load(world, U)).seen == 3
    await inbox.mark([mark("seen", Place(old.birth, "0" * 16, 5))])
    assert (await load(world, U)).seen == 3
    await world.new_run(U)
    await inbox.mark([named("read", "e0")])
    assert (await since(world, U, old)).result == "resync"  # two runs ago
    assert (await since(world, U, new)).result == "resume"


async def test_history_comes_in_pages(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    at = await start(world)
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(10)))
    await inbox.mark([named("delete", "e1", "e5"), named("read", "e9")])
    found: list[tuple[int, str, str]] = []
    pages = 0
    while True:
        answer = await since(world, U, at, most=3)
        assert (answer.result, answer.seq) == ("resume", 13)
        found += kinds(answer)
        pages += 1
        if not answer.more:
            break
        assert len(answer.records) == 3
        at = place(answer, answer.records[-1][0])
    assert [seq for seq, _, _ in found] == [1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13]
    assert pages == 4
    answer = await inbox.sync(U, Join("load", NOWHERE, 8), ISSUED)
    assert (len(answer.records), answer.more) == (8, False)
    answer = await inbox.sync(U, Join("load", NOWHERE, 7), ISSUED)
    assert (len(answer.records), answer.more) == (7, True)


async def test_a_page_is_bounded_in_bytes(world: World) -> None:
    reader, now = Reader(world), world.now()
    at = await start(world)
    text = "é" * 4_000
    await reader.deliver(
        *(event("comment", U, eid=f"e{n}", at=now, thing=str(n), text=text) for n in range(40))
    )
    answer = await since(world, U, at)
    size = sum(len(line.encode()) for _, line in answer.records)
    assert answer.more
    assert JOIN_BYTES - 9_000 < size <= JOIN_BYTES
    rest = await since(world, U, place(answer, answer.records[-1][0]))
    assert (rest.more, len(answer.records) + len(rest.records)) == (False, 40)


async def test_a_load_in_pages_comes_to_an_end(world: World) -> None:
    """Old rows, then more deletions than tombstones are kept: `past` lies behind the last row of the first page."""
    world.use(cap=3)
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    await reader.deliver(like("old1", now, thing="old1"), like("old2", now, thing="old2"))
    for n in range(6):
        await reader.deliver(like(f"e{n}", now, thing=str(n)))
        await inbox.mark([named("delete", f"e{n}")])
    session = Session(U, Start(True, NOWHERE), window=256)
    texts: list[bytes] = []
    for _ in range(10):
        texts += session.joined(await inbox.join(U, session.want(1), ISSUED))
        if session.state == LIVE:
            break
    assert session.state == LIVE
    kinds_sent = [json.loads(text)["type"] for text in texts]
    assert (kinds_sent.count("resync"), kinds_sent.count("notification"), kinds_sent[-1]) == (0, 2, "upto")


async def test_a_long_absence(world: World) -> None:
    """More than 500 changes behind, most of them superseded."""
    world.use(cap=800)
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    at = await start(world)
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(700)))
    await reader.deliver(like("off", now, thing="3", kind="unlike"))
    await inbox.mark([mark("seen", Place(at.birth, at.run, 650)), named("read", "e699")])
    answer = await since(world, U, at)
    assert [seq for seq, _ in answer.records] == [*range(1, 4), *range(5, 704)]
    assert [kind for _, kind, _ in kinds(answer)][-4:] == [NOTIFICATION, RETRACTED, SEEN, READ]
    assert (answer.seen, answer.unread) == (650, 698)
    page = await inbox.page(U, 0, 2, ISSUED)
    assert page is not None
    assert [seq for seq, _ in page.records] == [700, 699]
    assert await inbox.mark([mark("read", place(answer, 600))]) == [1]
    assert (await load(world, U)).unread == 99


async def test_a_page_shows_rows_newest_first(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    empty = await inbox.page(U, 0, 5, ISSUED)
    assert empty is not None
    assert (empty.birth, empty.seq, empty.records, empty.more) == (0, 0, (), False)
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(6)))
    await inbox.mark([named("delete", "e3"), named("read", "e0")])
    first = await inbox.page(U, 0, 3, ISSUED)
    assert first is not None
    assert [seq for seq, _ in first.records] == [6, 5, 3]
    assert (first.more, first.unread, first.seq, first.seen) == (True, 4, 8, 0)
    rest = await inbox.page(U, 3, 3, ISSUED)
    assert rest is not None
    assert ([seq for seq, _ in rest.records], rest.more) == ([2, 1], False)
    assert rest.records[1][1].startswith("1n1 ")
    last = await inbox.page(U, 3, 2, ISSUED)
    assert last is not None
    assert not last.more


# -- marks


async def test_unread_counts_live_rows_that_are_not_read(world: World) -> None:
    world.use(cap=4)
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    seen: list[int] = []

    async def note() -> None:
        seen.append((await load(world, U)).unread)

    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(4)))
    await note()
    await inbox.mark([named("read", "e0", "e2", "nobody")])
    await note()
    await inbox.mark([named("read", "e0", "e2")])
    await note()
    await reader.deliver(like("off2", now, thing="2", kind="unlike"))  # it was read
    await note()
    await reader.deliver(like("off3", now, thing="3", kind="unlike"))  # it was not
    await note()
    await inbox.mark([named("delete", "e0")])  # read
    await note()
    await inbox.mark([named("delete", "e1", "e1", "e2", "nobody")])  # not read, once
    await note()
    await reader.deliver(*(like(f"f{n}", now, thing=f"f{n}") for n in range(4)))
    await inbox.mark([named("read", "f0")])
    await note()
    await reader.deliver(like("g0", now, thing="g0"))  # drops f0, read
    await note()
    await reader.deliver(like("g1", now, thing="g1"))  # drops f1, unread
    await note()
    assert seen == [4, 2, 2, 2, 1, 1, 0, 3, 4, 4]


async def test_a_mark_takes_a_seq_only_if_it_changes_a_row(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    assert await inbox.mark([named("read", "a"), mark("seen", NOWHERE)]) == [0, 0]
    await reader.deliver(like("a", now, thing="a"), like("b", now, thing="b"))
    at = place(await load(world, U))
    marks = [
        (mark("ack", at), 0),
        (mark("seen", at), 1),
        (mark("seen", at), 0),
        (mark("seen", Place(at.birth, at.run, 3)), 0),  # the mark itself is nothing to be seen
        (named("read", "a"), 1),
        (named("read", "a"), 0),
        (mark("read", at), 1),
        (mark("read", at), 0),
        (named("delete", "b"), 1),
        (named("delete", "b"), 0),
        (named("read", "b"), 0),
    ]
    assert await inbox.mark([one for one, _ in marks]) == [changes for _, changes in marks]
    joined = await load(world, U)
    # the seen mark at 3, the read mark moved from 4 to 5, the deletion at 6; the place moved on to 3
    assert (joined.seq, joined.seen, joined.unread) == (6, 3, 0)
    answer = await since(world, U, Place(at.birth, at.run, 0))
    assert [
        (seq, record.kind, record.body) for seq, record in records(answer) if record.kind != NOTIFICATION
    ] == [
        (3, SEEN, "2"),
        (5, READ, "a b"),
        (6, DELETED, ""),
    ]


async def test_the_read_record_holds_all_that_is_read(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(4)))
    at = place(await load(world, U))
    await inbox.mark([named("read", "e2")])
    await inbox.mark([named("read", "e0"), named("delete", "e2"), named("read", "e3")])
    answer = await since(world, U, at)
    assert [(seq, record.kind, record.body) for seq, record in records(answer)] == [
        (7, DELETED, ""),
        (8, READ, "e0 e3"),
    ]
    assert [record.read for _, record in records(await load(world, U))] == [True, False, True]


async def test_very_many_rows_are_read_in_several_changes(world: World) -> None:
    """What one HSET can take is bounded; at the end all are read, and the newest record names them all."""
    world.use(cap=1_100, page_bytes=10_000_000)
    now, reader, inbox = world.now(), Reader(world), world.inbox()
    await start(world)
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(1_000)))
    at = place(await load(world, U))
    assert await inbox.mark([mark("read", Place(at.birth, at.run, 990))]) == [2]
    joined = await load(world, U)
    assert (joined.seq, joined.unread) == (1_002, 10)
    assert [record.read for _, record in records(joined)] == [True] * 990 + [False] * 10
    ((seq, record),) = records(await since(world, U, at))
    assert (seq, record.kind, record.body.split(" ")) == (1_002, READ, [f"e{n}" for n in range(990)])


async def test_marks_by_seq_mean_what_they_meant_when_given(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    await reader.deliver(*(like(f"e{n}", now, thing=str(n)) for n in range(4)))
    at = place(await load(world, U))
    unknown = [
        Place(at.birth + 1, at.run, 4),
        Place(at.birth, "0" * 16, 4),
        Place(0, "0", 4),
        Place(at.birth, at.run, -1),
    ]
    for kind in ("ack", "seen", "read"):
        assert await inbox.mark([mark(kind, one) for one in unknown]) == [0] * 4
    assert await inbox.mark([Mark(U, "read", "", at.run, 4, ())]) == [0]  # a seq without a place
    joined = await load(world, U)
    assert (joined.seq, joined.seen, joined.unread) == (4, 0, 4)
    assert await inbox.mark([mark("seen", Place(at.birth, at.run, 1_000))]) == [1]
    assert (await load(world, U)).seen == 4  # no further than there is anything
    await reader.deliver(like("new", now, thing="new"))
    assert await inbox.mark([mark("seen", Place(at.birth, at.run, 6))]) == [1]
    assert await inbox.mark([mark("read", Place(at.birth, at.run, 2), "e3")]) == [1]
    assert [record.read for _, record in records(await load(world, U))] == [True, True, False, True, False]


async def test_marks_of_many_people_answer_in_their_order(world: World) -> None:
    reader, now, inbox = Reader(world), world.now(), world.inbox()
    users = people(120)
    await reader.deliver(event(to=users, eid="e", at=now))
    marks = [named("read", "e" if n % 3 else "other", user=user) for n, user in enumerate(users)]
    assert await inbox.mark(marks) == [min(1, n % 3) for n in range(120)]
    assert (await load(world, users[1])).unread == 0
    assert (await load(world, users[3])).unread == 1


# -- revocation and absence


async def test_void_tokens_open_nothing(world: World) -> None:
    inbox, now = world.inbox(), world.now() // 1000
    await Reader(world).deliver(like("a", world.now()))
    await inbox.revoke(U)
    for issued in (0, now - 1, now):
        answer = await inbox.join(U, Join("load", NOWHERE, 10), issued)
        assert (answer.result, answer.records, answer.birth, answer.seq) == ("revoked", (), 0, 0)
        assert (await inbox.sync(U, Join("load", NOWHERE, 10), issued)).result == "revoked"
        assert await inbox.page(U, 0, 10, issued) is None
    assert await world.present(U) == set()
    later = now + 60
    assert (await inbox.join(U, Join("load", NOWHERE, 10), later)).result == "load"
    assert await inbox.page(U, 0, 10, later) is not None
    assert (await inbox.join(V, Join("fresh", NOWHERE, 10), 0)).result == "fresh"


async def test_an_inbox_that_is_away_is_said_to_be(world: World) -> None:
    inbox = world.inbox()
    await world.cut()
    for call in (
        lambda: inbox.join(U, Join("fresh", NOWHERE, 1), ISSUED),
        lambda: inbox.sync(U, Join("fresh", NOWHERE, 1), ISSUED),
        lambda: inbox.page(U, 0, 1, ISSUED),
        lambda: inbox.mark([named("read", "a")]),
        lambda: inbox.refresh([U]),
        lambda: inbox.leave([U]),
        lambda: inbox.revoke(U),
    ):
        with pytest.raises(Unavailable):
            await call()
