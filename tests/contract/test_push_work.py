"""No call of look and settle does more than so much, however many devices people have: Redis serves others beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import gatherResults

from notifier.core import keys
from notifier.core.devices import encode
from notifier.core.model import Verdict
from notifier.edge import push_store
from notifier.edge.push_store import LOOK_WORK, SETTLE_WORK, RedisPushes
from notifier.edge.redis import Connection, Script
from notifier.ports import Judged, Look, Settlement
from tests.contract.phones import APNS, phone
from tests.contract.world import Reader, RedisWorld, event, people

USERS, DEVICES = 30, 50
# What one entry alone may come to, with which a call may go over: its own reading, and each of its devices once.
WHOLE = 3 * DEVICES + 10
DONE, LATER = Verdict("done"), Verdict("later", 2**42, 1)
FORGET, BURY = Verdict("forget", before=99), Verdict("bury", reason="rejected")


class Counting:
    """A connection, and how many commands each script has given the server, by its own count."""

    def __init__(self, inner: Connection) -> None:
        self.inner, self.counts = inner, list[int]()

    def call(self, *args: Any) -> Any:
        return self.inner.call(*args)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        before = await self._given()
        answer = await self.inner.run(script, keys, args)
        self.counts.append(await self._given() - before)
        return answer

    async def _given(self) -> int:
        """Commands that scripts have called, and fields of hashes that they have read whole."""
        text = (await self.inner.call("INFO", "commandstats")).decode()
        calls = {
            line.partition(":")[0].removeprefix("cmdstat_"): int(line.partition("calls=")[2].partition(",")[0])
            for line in text.splitlines() if line.startswith("cmdstat_")
        }  # fmt: skip
        inside = (
            "hget",
            "hmget",
            "hset",
            "hdel",
            "zadd",
            "zrem",
            "xadd",
            "xack",
            "xdel",
            "xpending",
            "exists",
        )
        return sum(calls.get(name, 0) for name in inside) + (DEVICES + 1) * calls.get("hgetall", 0)


async def lane_of_many(world: RedisWorld) -> tuple[RedisPushes, Counting, Look]:
    """A batch for people who have many devices each."""
    users = people(USERS)
    asked = []
    for user in users:  # as they are stored: to register them would take most of the test's time
        mine = [phone(f"{user}-{n}", registered=n + 1) for n in range(DEVICES)]
        lines = [word for one in mine for word in (one.id, encode(one))]
        asked.append(world.calls.call("HSET", keys.devices(user, 1), "lanes", str(APNS), *lines))
        owners = [word for one in mine for word in (keys.owner(one.id, 1), f"1 {user} {one.registered} -")]
        asked.append(world.calls.call("MSET", *owners))
    await gatherResults(asked)
    await Reader(world).deliver(event("comment", to=users))
    log: Any = world.pushes(APNS)
    await log.create()
    counting = log.calls = Counting(world.calls)
    entries = (await log.read(100)).entries
    look = await log.look(entries)
    assert [len(one.devices) for one in look.found] == [DEVICES] * USERS
    return log, counting, look


async def test_a_look_stops_when_it_has_read_enough(real: RedisWorld) -> None:
    _, counting, _ = await lane_of_many(real)
    assert len(counting.counts) > 1
    assert max(counting.counts) <= LOOK_WORK + WHOLE
    assert sum(counting.counts) < 1.2 * USERS * WHOLE / 2, "nothing is read twice"


async def test_a_retry_reads_its_own_device_alone(real: RedisWorld) -> None:
    log, counting, look = await lane_of_many(real)
    named = [msgspec.structs.replace(one.entry, device=one.devices[7].id) for one in look.found]
    counting.counts.clear()
    again = await log.look(named)
    assert [one.devices for one in again.found] == [(one.devices[7],) for one in look.found]
    assert counting.counts == [USERS * 3], "state and place, record, device"


@pytest.mark.parametrize(
    ("verdict", "devices"),
    [(DONE, DEVICES), (LATER, DEVICES), (BURY, DEVICES), (FORGET, DEVICES), (FORGET, 1)],
    ids=lambda value: getattr(value, "kind", str(value)),
)
async def test_a_settlement_stops_when_it_has_done_enough(
    real: RedisWorld, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, devices: int
) -> None:
    monkeypatch.setattr(push_store, "SETTLE_PAGE", 10_000)  # or the arguments alone would be parted
    log, counting, look = await lane_of_many(real)
    counting.counts.clear()
    settlements = [
        Settlement(found.entry, look.run, tuple(
            Judged(found.entry.delivery(device, found.row.seq), verdict, "Unregistered")
            for device in found.devices[:devices]
        ))
        for found in look.found
    ]  # fmt: skip
    assert set((await log.settle(settlements)).states) == {"done"}
    settling = [count for count in counting.counts if count > 2]  # without the releases of owners
    assert max(settling) <= SETTLE_WORK + WHOLE
    assert len(settling) > 1
    assert (await log.depth()).entries == 0
    if verdict.kind == "forget":
        assert len(await real.dead_tokens()) == devices * USERS
        left = await real.devices().of(people(1)[0])
        assert len(left) == DEVICES - devices
        owned = await real.calls.call("KEYS", "owner:*")
        assert len(owned) == (DEVICES - devices) * USERS, "each of them is nobody's now"


async def test_what_cannot_be_done_in_one_call_is_done_in_more_than_one(
    real: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry a call is the least."""
    monkeypatch.setattr(push_store, "SETTLE_WORK", 0)
    monkeypatch.setattr(push_store, "LOOK_WORK", 0)
    log, counting, look = await lane_of_many(real)
    assert len(counting.counts) == USERS
    counting.counts.clear()
    states = (await log.settle([Settlement(one.entry, look.run) for one in look.found])).states
    assert (set(states), len(counting.counts)) == ({"done"}, USERS)
    await log.bury([(one.entry.id, b"x") for one in look.found[:3]])
