"""An inbox as it lies in Redis: what an error has left in it is never shown, and a form that is not ours is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from notifier.core import keys
from notifier.core.inbox import Join, Joined, Mark, Page, Place, parse
from notifier.edge.redis import ReplyError
from tests.contract.world import ISSUED, Reader, RedisWorld, event, load, people, place
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
