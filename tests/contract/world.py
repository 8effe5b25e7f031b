"""Two worlds for one contract: the ports in memory, and the same ports over a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from zlib import crc32

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from notifier.core import keys
from notifier.core.backlog import Backlog
from notifier.core.inbox import Bell, Join, Joined, Place, Record, parse
from notifier.core.intake import REASONS, Intake
from notifier.core.lanes import Lane, PushEntry, Rule
from notifier.core.model import Device
from notifier.edge.bus import RedisBus
from notifier.edge.device_store import RedisDevices
from notifier.edge.memory import (
    Dead,
    ItemError,
    MemoryBus,
    MemoryInbox,
    MemoryLog,
    MemoryServer,
    MemoryShards,
)
from notifier.edge.memory_push import MemoryDevices, MemoryDue, MemoryPushes
from notifier.edge.memory_state import DeadToken, Stream
from notifier.edge.push_store import PushGifts, RedisDue, RedisPushes
from notifier.edge.redis import Address, Connection, ReplyError, Subscription
from notifier.edge.store import RedisInbox, RedisLog, RedisShards, Rules, Scripts
from notifier.metrics import Metrics
from notifier.pipeline import Fanout
from notifier.ports import Bus, Devices, DueLog, EventLog, Inbox, Outlet, PushLog, Shards, Unburied
from tests.stored import State

TAG = keys.tag(0)
ISSUED = 2_000_000_000  # s: tokens of these tests were made after any revocation
NOWHERE = Place(0, "0", 0)
SCRIPTS = Scripts()
METRICS = Metrics()


def people(count: int, prefix: str = "u") -> list[str]:
    """User ids that live on shard 0, be there one shard or four."""
    found = (name for n in range(count * 20) if crc32((name := f"{prefix}{n}").encode()) % 4 == 0)
    return [next(found) for _ in range(count)]


def event(
    kind: str = "like", to: str | Iterable[str] = (), *, actor: str = "ana", thing: str = "1",
    eid: str | None = None, at: int | None = None, text: str | None = None,
) -> bytes:  # fmt: skip
    """An event as a producer writes it; `at`: ms."""
    value: dict[str, Any] = {
        "type": kind,
        "actor": {"id": actor},
        "to": [to] if isinstance(to, str) else list(to),
    }
    value["object"] = {"type": "photo", "id": thing}
    if eid is not None:
        value["id"] = eid
    if at is not None:
        value["time"] = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
    if text is not None:
        value["text"] = text
    return json.dumps(value, ensure_ascii=False).encode()


class Ear:
    """A process's bus, and what it has heard: messages of bells, shards subscribed to, people whose tokens are void."""

    def __init__(self, bus: Bus, barrier: Callable[[], Awaitable[Any]]) -> None:
        self.bus, self.barrier = bus, barrier
        self.messages: list[list[Bell]] = []
        self.subscribed: list[int] = []
        self.revoked: list[str] = []
        self.missed: list[set[str]] = []
        bus.listen(
            self.messages.append,
            self.subscribed.append,
            self.revoked.append,
            lambda users: self.missed.append(set(users)),
        )

    async def bells(self) -> list[Bell]:
        """All bells since the last call."""
        await self.barrier()
        heard = [bell for message in self.messages for bell in message]
        self.messages.clear()
        return heard


class World(Protocol):
    """What the contract needs besides the ports: a hand in the store, and the passing of time."""

    rules: Rules

    def use(self, **rules: Any) -> None:
        """Other rules for the ports that are made from now on."""
        self.rules = msgspec.structs.replace(self.rules, **rules)

    @property
    def stream(self) -> str:
        return keys.events(0, self.rules.shards)

    def log(self, incarnation: str = "one", stream: str = "", tagged: str = TAG) -> EventLog: ...
    def inbox(self, incarnation: str = "one") -> Inbox: ...
    def shards(self) -> Shards: ...
    async def ear(self, incarnation: str = "one") -> Ear: ...
    async def deafen(self, ear: Ear) -> None: ...
    def pushes(self, lane: Lane, incarnation: str = "one", shard: int = 0) -> PushLog: ...
    def due(self, shard: int = 0) -> DueLog: ...
    def devices(self) -> Devices: ...
    async def waiting(self) -> dict[str, int]: ...
    async def hurry(self) -> None: ...
    async def dead_tokens(self) -> list[DeadToken]: ...
    async def owner(self, device: str) -> str: ...
    def now(self) -> int: ...
    async def lapse(self, ms: int) -> None: ...
    async def append(self, *fields: bytes, stream: str = "", entry_id: str = "") -> str: ...
    async def remove(self, entry: str) -> None: ...
    async def strand(self, entry: str) -> None: ...
    async def rewind(self) -> None: ...
    async def drop_group(self, lane: Lane | None = None) -> None: ...
    async def drop_stream(self) -> None: ...
    async def set_lease(self, ms: int) -> None: ...
    async def lease_left(self) -> int: ...
    async def set_life(self, user: str, ms: int) -> None: ...
    async def life_left(self, user: str) -> int: ...
    async def spoil(self, user: str) -> None: ...
    async def mend(self, user: str) -> None: ...
    async def spoil_devices(self, user: str) -> None: ...
    async def put(self, lane: Lane, *entries: PushEntry) -> None: ...
    async def die(self, incarnation: str) -> None: ...
    async def present(self, user: str) -> set[str]: ...
    async def new_run(self, user: str) -> None: ...
    async def letters(self, reason: str, tagged: str = TAG) -> list[Dead]: ...
    async def marks(self) -> int: ...
    async def swept_from(self, ms: int) -> None: ...
    async def cut(self) -> None: ...
    async def close(self) -> None: ...


class MemoryWorld(World):
    def __init__(self, shards: int = 1) -> None:
        self.rules = Rules(shards=shards, buckets=4)
        self.server = MemoryServer(int(time.time() * 1000))
        self.spoiled: set[str] = set()
        self.without_devices: set[str] = set()
        self.server.hazard = self._hazard

    def _hazard(self, stage: str, user: str, event_id: str) -> None:
        if stage in ("item", "look") and user in self.spoiled:
            raise ItemError(f"{user} is spoiled")
        if stage == "devices" and user in self.without_devices:
            raise ItemError(f"the devices of {user} are spoiled")

    def log(self, incarnation: str = "one", stream: str = "", tagged: str = TAG) -> EventLog:
        return MemoryLog(
            self.server, self.rules, stream or self.stream, tagged, incarnation, self._wait,
            lambda: f"slot-{incarnation}",
        )  # fmt: skip

    async def _wait(self, stream: str, seconds: float) -> None:
        woken: Deferred[None] = Deferred()
        timer = pause(seconds).addCallback(woken.callback)
        forget = self.server.watch(stream, lambda: woken.callback(None))
        await woken
        forget()
        timer.addErrback(lambda _: None).cancel()

    def inbox(self, incarnation: str = "one") -> Inbox:
        return MemoryInbox(self.server, self.rules, incarnation)

    def shards(self) -> Shards:
        return MemoryShards(self.server, self.rules)

    def pushes(self, lane: Lane, incarnation: str = "one", shard: int = 0) -> PushLog:
        return MemoryPushes(self.server, self.rules, shard, lane, lambda: f"slot-{incarnation}", self._wait)

    def due(self, shard: int = 0) -> DueLog:
        return MemoryDue(self.server, shard, pause, self.rules)

    def devices(self) -> Devices:
        return MemoryDevices(self.server, self.rules)

    async def waiting(self) -> dict[str, int]:
        """What waits to be sent later, as "user notification device" -> when (ms)."""
        return {" ".join(key[1:]): one.at for key, one in self.server.waiting.items()}

    async def hurry(self) -> None:
        """All that waits is due now."""
        for key, one in list(self.server.waiting.items()):
            self.server.waiting.put(key, msgspec.structs.replace(one, at=self.server.now))

    async def dead_tokens(self) -> list[DeadToken]:
        return list(self.server.dead_tokens.get(TAG, ()))

    async def owner(self, device: str) -> str:
        return self.server.owners.get(device, ("", 0, ""))[0]

    async def ear(self, incarnation: str = "one") -> Ear:
        bus = MemoryBus(self.server, self.rules.shards, incarnation)
        ear = Ear(bus, lambda: pause(0))
        bus.start()
        return ear

    async def deafen(self, ear: Ear) -> None:
        """This process hears nothing off the bus any more."""
        bus: Any = ear.bus
        bus.stop()

    def now(self) -> int:
        return self.server.now

    async def lapse(self, ms: int) -> None:
        self.server.now += ms

    async def append(self, *fields: bytes, stream: str = "", entry_id: str = "") -> str:
        return self.server.append(stream or self.stream, *_fields(fields), entry_id=entry_id)

    async def remove(self, entry: str) -> None:
        ms, _, number = entry.partition("-")
        self.server.stream(self.stream).entries.cut((int(ms), int(number)))

    async def strand(self, entry: str) -> None:
        """Acknowledged, but not deleted."""
        ms, _, number = entry.partition("-")
        self.server.stream(self.stream).pending.cut((int(ms), int(number)))

    async def rewind(self) -> None:
        """The group has been given nothing; what is pending stays so."""
        self.server.stream(self.stream).ends.put("read", (0, 0))

    async def drop_group(self, lane: Lane | None = None) -> None:
        """Of the events, or of a lane."""
        stream: Stream[Any] = self.server.stream(self.stream)
        if lane is not None:
            stream = self.server.lane(keys.pushes(TAG, lane))
        stream.ends.cut("read")
        for at in list(stream.pending):
            stream.pending.cut(at)

    async def drop_stream(self) -> None:
        await self.drop_group()
        for at in list(self.server.stream(self.stream).entries):
            self.server.stream(self.stream).entries.cut(at)

    async def set_lease(self, ms: int) -> None:
        lease = self.server.leases[TAG]
        self.server.leases.put(TAG, msgspec.structs.replace(lease, until=self.server.now + ms))

    async def lease_left(self) -> int:
        return self.server.leases[TAG].until - self.server.now

    async def set_life(self, user: str, ms: int) -> None:
        """As if an inbox had been told long ago to live until then."""
        box = msgspec.structs.replace(self.server.boxes[user], until=self.server.now + ms)
        self.server.boxes.put(user, box)

    async def life_left(self, user: str) -> int:
        return self.server.boxes[user].until - self.server.now

    async def spoil(self, user: str) -> None:
        self.spoiled.add(user)

    async def mend(self, user: str) -> None:
        self.spoiled.discard(user)

    async def spoil_devices(self, user: str) -> None:
        self.without_devices.add(user)

    async def put(self, lane: Lane, *entries: PushEntry) -> None:
        for entry in entries:
            self.server.push(keys.pushes(TAG, lane), entry)

    async def die(self, incarnation: str) -> None:
        self.server.alive.cut((0, incarnation))

    async def present(self, user: str) -> set[str]:
        return set(self.server.get(self.server.present, user) or ())

    async def new_run(self, user: str) -> None:
        self.server._runs += 1

    async def letters(self, reason: str, tagged: str = TAG) -> list[Dead]:
        return list(self.server.letters.get((tagged, reason), ()))

    async def marks(self) -> int:
        return len(self.server.marks)

    async def swept_from(self, ms: int) -> None:
        """Nothing to do: a sweep in memory looks at everything."""

    async def cut(self) -> None:
        """The server cannot be reached any more."""
        self.server.down = True

    async def close(self) -> None:
        """Nothing is open."""


class Ears:
    """What a reader is told with its answers, brought to the bus of its process if that has one."""

    def __init__(self, buses: dict[str, RedisBus], incarnation: str) -> None:
        self.buses, self.incarnation = buses, incarnation

    def hear(self, message: bytes) -> None:
        if self.incarnation in self.buses:
            self.buses[self.incarnation].hear(message)

    def missed(self, users: Iterable[str]) -> None:
        if self.incarnation in self.buses:
            self.buses[self.incarnation].missed(users)


class RedisWorld(World):
    """The shared server, emptied, with connections of one test."""

    def __init__(self, url: str, shards: int = 1, scripts: Scripts = SCRIPTS) -> None:
        self.rules = Rules(shards=shards, buckets=4)
        self.scripts = scripts
        self.address = Address.parse(url)
        self._connections: list[Connection] = []
        self._buses: dict[str, RedisBus] = {}
        self._runs = 0
        self.calls = self._connect(Connection, "commands")

    def _connect(self, kind: type[Connection], name: str) -> Any:
        from twisted.internet import reactor

        connection = kind(reactor, self.address, name, METRICS, _ignore)
        connection.start()
        self._connections.append(connection)
        return connection

    async def open(self) -> None:
        await self.calls.ready()

    async def cut(self) -> None:
        await self.close()

    async def close(self) -> None:
        while self._connections:
            await self._connections.pop().stop()

    def log(self, incarnation: str = "one", stream: str = "", tagged: str = TAG) -> EventLog:
        return RedisLog(
            self.calls, self.scripts, self.rules, stream or self.stream, tagged, incarnation,
            lambda: f"slot-{incarnation}", self._wait, Ears(self._buses, incarnation), PushGifts(),
        )  # fmt: skip

    async def _wait(self, stream: str, last: str, seconds: float) -> None:
        doorbell = self._connect(Connection, "doorbell")
        await doorbell.ready()
        await doorbell.call("XREAD", "COUNT", 1, "BLOCK", int(seconds * 1000), "STREAMS", stream, last)

    def inbox(self, incarnation: str = "one") -> Inbox:
        return RedisInbox(self.calls, self.scripts, self.rules, incarnation)

    def shards(self) -> Shards:
        return RedisShards(self.calls, self.rules)

    def pushes(self, lane: Lane, incarnation: str = "one", shard: int = 0) -> PushLog:
        return RedisPushes(
            self.calls,
            self.scripts,
            self.rules,
            shard,
            lane,
            lambda: f"slot-{incarnation}",
            pause,
            lambda: None,
        )

    def due(self, shard: int = 0) -> DueLog:
        return RedisDue(self.calls, self.scripts, self.rules, shard, pause)

    def devices(self) -> Devices:
        return RedisDevices(self.calls, self.scripts, self.rules)

    async def waiting(self) -> dict[str, int]:
        flat = await self.calls.call("ZRANGE", keys.due(TAG), 0, -1, "WITHSCORES")
        meant = await self.calls.call("HGETALL", keys.later(TAG))
        assert set(flat[::2]) == set(meant[::2]), "due and later do not name the same"
        found = {}
        for name, at in zip(flat[::2], flat[1::2], strict=True):
            _, user, rest = name.decode().split(":", 2)
            nid, _, device = rest.rpartition(":")
            found[f"{user} {nid} {device}"] = int(at)
        return found

    async def hurry(self) -> None:
        for name in await self.calls.call("ZRANGE", keys.due(TAG), 0, -1):
            await self.calls.call("ZADD", keys.due(TAG), 1, name)

    async def dead_tokens(self) -> list[DeadToken]:
        found = []
        for at, flat in await self.calls.call("XRANGE", keys.dead_tokens(TAG), "-", "+"):
            told: dict[str, Any] = {
                name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)
            }
            assert told["v"] == "1"
            device = Device(
                told["device"],
                told["provider"],
                told["app"],
                told["token"],
                int(told["registered"]),
            )
            found.append(DeadToken(int(at.split(b"-")[0]), told["user"], device, told["reason"]))
        return found

    async def owner(self, device: str) -> str:
        value = await self.calls.call("GET", keys.owner(device, self.rules.shards))
        return value.decode().split(" ")[1] if value else ""

    async def ear(self, incarnation: str = "one") -> Ear:
        subscription = self._connect(Subscription, "bell")
        # What a script has published is on its way before the script has answered: a PING comes after it.
        bus = self._buses[incarnation] = RedisBus(subscription, self.rules.shards, incarnation, METRICS)
        ear = Ear(bus, lambda: subscription.call("PING"))
        await subscription.ready()
        while len(ear.bus.heard) < self.rules.shards:
            await pause(0.001)
        return ear

    async def deafen(self, ear: Ear) -> None:
        bus: Any = ear.bus
        await bus.subscription.stop()

    def now(self) -> int:
        return int(time.time() * 1000)

    async def lapse(self, ms: int) -> None:
        await pause(ms / 1000)

    async def append(self, *fields: bytes, stream: str = "", entry_id: str = "") -> str:
        answer = await self.calls.call("XADD", stream or self.stream, entry_id or "*", *_fields(fields))
        return str(answer.decode())

    async def remove(self, entry: str) -> None:
        await self.calls.call("XDEL", self.stream, entry)

    async def strand(self, entry: str) -> None:
        await self.calls.call("XACK", self.stream, keys.GROUP, entry)

    async def rewind(self) -> None:
        await self.calls.call("XGROUP", "SETID", self.stream, keys.GROUP, "0")

    async def drop_group(self, lane: Lane | None = None) -> None:
        stream = self.stream if lane is None else keys.pushes(TAG, lane)
        await self.calls.call("XGROUP", "DESTROY", stream, keys.GROUP)

    async def drop_stream(self) -> None:
        await self.calls.call("DEL", self.stream)

    async def set_lease(self, ms: int) -> None:
        await self.calls.call("PEXPIRE", keys.lease(TAG), ms)

    async def lease_left(self) -> int:
        return int(await self.calls.call("PTTL", keys.lease(TAG)))

    async def set_life(self, user: str, ms: int) -> None:
        key = keys.inbox(user, self.rules.shards)
        state = State.parse(await self.calls.call("HGET", key, "state"))
        await self.calls.call(
            "HSET", key, "state", msgspec.structs.replace(state, till=self.now() + ms).packed()
        )
        await self.calls.call("PEXPIRE", key, ms)

    async def life_left(self, user: str) -> int:
        return int(await self.calls.call("PTTL", keys.inbox(user, self.rules.shards)))

    async def spoil(self, user: str) -> None:
        key = keys.inbox(user, self.rules.shards)
        if await self.calls.call("EXISTS", key):
            await self.calls.call("RENAME", key, f"aside:{key}")
        await self.calls.call("SET", key, "not a hash")

    async def mend(self, user: str) -> None:
        key = keys.inbox(user, self.rules.shards)
        await self.calls.call("DEL", key)
        if await self.calls.call("EXISTS", f"aside:{key}"):
            await self.calls.call("RENAME", f"aside:{key}", key)

    async def spoil_devices(self, user: str) -> None:
        await self.calls.call("DEL", keys.devices(user, self.rules.shards))
        await self.calls.call("SET", keys.devices(user, self.rules.shards), "not a hash")

    async def put(self, lane: Lane, *entries: PushEntry) -> None:
        for entry in entries:
            await self.calls.call("XADD", keys.pushes(TAG, lane), "*", "push", entry.as_text())

    async def die(self, incarnation: str) -> None:
        await self.calls.call("DEL", f"alive:{TAG}:{incarnation}")

    async def present(self, user: str) -> set[str]:
        tagged = keys.tag(keys.shard_of(user, self.rules.shards))
        return {member.decode() for member in await self.calls.call("SMEMBERS", f"on:{tagged}:{user}")}

    async def new_run(self, user: str) -> None:
        """As if all that was written for this person had been written before the server was started."""
        self._runs += 1
        key = keys.inbox(user, self.rules.shards)
        if await self.calls.call("EXISTS", key):
            state = State.parse(await self.calls.call("HGET", key, "state"))
            state = msgspec.structs.replace(state, run=f"feed{self._runs:012x}")
            await self.calls.call("HSET", key, "state", state.packed())

    async def letters(self, reason: str, tagged: str = TAG) -> list[Dead]:
        found = []
        for at, flat in await self.calls.call("XRANGE", keys.dead_letters(tagged, reason), "-", "+"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            raw = fields.pop(b"raw")
            assert fields.pop(b"v") == b"1"
            text = {name.decode(): value.decode() for name, value in fields.items()}
            found.append(Dead(int(at.split(b"-")[0]), raw=raw, **text))
        return found

    async def marks(self) -> int:
        found = await self.calls.call("KEYS", "seen:*")
        return sum(await gatherResults([self.calls.call("SCARD", key) for key in found]))

    async def swept_from(self, ms: int) -> None:
        """Sweeps of this shard have come as far as this time."""
        await self.calls.call("SET", f"swept:{TAG}", f"{ms // 3_600_000} {self.rules.buckets}")


def _fields(fields: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return fields if len(fields) > 1 else (b"event", *fields)


def _ignore(line: str) -> None:
    """What a connection has to say is not for the log of a test."""


def pause(seconds: float) -> Deferred[None]:
    """Real time passes."""
    from twisted.internet import reactor

    return deferLater(reactor, seconds, lambda: None)


def intake() -> Intake:
    return Intake(("follow", "like", "comment"), 86_400_000, 300_000, 16_384, 1_000)


PUSHES = {"comment": Rule("always", 3_600_000), "follow": Rule("offline", 3_600_000)}  # likes: no phone


def backlog(world: World, most: int = 100, tries: int = 3, shard: int = 0) -> Backlog:
    return Backlog(intake(), keys.tag(shard), world.rules.buckets, most=most, tries=tries, pushes=PUSHES)


class Reader:
    """A process that reads the shard, as the pipeline drives it."""

    def __init__(
        self, world: World, incarnation: str = "one", most: int = 100, tries: int = 3, shard: int = 0,
        outlets: Mapping[str, Outlet] | None = None,
    ) -> None:  # fmt: skip
        self.world, self.reports = world, list[str]()
        self.stream = keys.events(shard, world.rules.shards)
        self.log = world.log(incarnation, self.stream, keys.tag(shard))
        labels = {"dead_letters": (*REASONS, "no_event", "handover")}
        self.metrics = Metrics(labels)
        self.fanout = Fanout(
            self.log,
            backlog(world, most, tries, shard),
            self.metrics,
            time.monotonic,
            self.reports.append,
            15.0,
            outlets,
        )

    async def run(self) -> None:
        """Until nothing is left to do. A call that fails as a whole is begun again, as edge.loop does."""
        errors = 0
        while True:
            try:
                if not await self.fanout.once():
                    return
            except (ReplyError, Unburied) as error:
                errors += 1
                if errors > 3:
                    raise
                self.reports.append(str(error))
                self.fanout.drop()

    async def deliver(self, *events: bytes) -> None:
        """Append, and read until all is done."""
        for raw in events:
            await self.world.append(raw, stream=self.stream)
        await self.run()


async def load(world: World, user: str) -> Joined:
    """All rows of a person."""
    return await world.inbox().sync(user, Join("load", NOWHERE, 10_000), ISSUED)


async def since(world: World, user: str, place: Place, most: int = 10_000) -> Joined:
    """What follows a place."""
    return await world.inbox().sync(user, Join("resume", place, most), ISSUED)


def place(joined: Joined, seq: int | None = None) -> Place:
    return Place(joined.birth, joined.run, joined.seq if seq is None else seq)


def records(joined: Joined) -> list[tuple[int, Record]]:
    return [(seq, parse(line)) for seq, line in joined.records]


def ids(joined: Joined) -> list[str]:
    return [record.id for _, record in records(joined)]
