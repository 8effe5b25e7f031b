"""Devices over Redis: whose a token is, and what a person's list holds. Person and token may live in different slots,
so a token changes hands in steps."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from notifier.core import devices as device_lines
from notifier.core import keys
from notifier.core.model import Device
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.edge.store import Rules, Scripts, first_fault
from notifier.metrics import Metrics
from notifier.ports import DevicePage, Rename, Unavailable

SCAN_PAGE: Final = 200
OWNER_PAGE: Final = 1_000  # owners in one call
RENAMES: Final = 10  # at the same time
TRIES: Final = 3  # of bringing a device to its person
FOREVER: Final = 2**53  # ms: no device was registered later

_log: Final = Logger()
_say: Final = Every(60.0)  # a damaged device is met at every look at its person's, which may be many a second


class Listed(NamedTuple):
    """A device as the list of its person had it: its id, and when it was registered (ms)."""

    device: str
    registered: int


class Claim(NamedTuple):
    """Whose a token was before ("" = nobody's), whether it is the user's now, and since when (ms)."""

    before: str
    won: bool
    registered: int


class DeviceSteps(Protocol):
    """The steps in which a token goes to a person: each is atomic, all together are not."""

    def claim(self, user: str, device: str, since: int | None) -> Awaitable[Claim]:
        """The token is this user's now. since: when it was registered (ms), if that was not now; then it is not
        claimed from somebody who has had it since."""

    def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> Awaitable[list[Listed]]:
        """Into the person's list; who had to go for it: itself, if it is the oldest one, unless it stays. `instead`: a
        device that will go for it, and needs no room of its own."""

    def remove(self, user: str, device: str, before: int = FOREVER) -> Awaitable[list[Listed]]:
        """Off the person's list, if it was registered before (ms); what was removed."""

    def release(self, user: str, devices: Sequence[Listed]) -> Awaitable[None]:
        """Tokens that this user had are nobody's, unless they have been claimed since."""

    def owners(self, devices: Sequence[str]) -> Awaitable[list[str]]:
        """Whose these devices are, "" = nobody's."""

    def note(self, user: str, old: str, new: str, ms: int) -> Awaitable[None]:
        """Known for so long: one device of this person is another now."""

    def renamed(self, user: str, device: str) -> Awaitable[str]:
        """What was noted of it, "" = nothing."""


class DeviceMoves:
    """What comes and goes in steps; whoever dies between two of them leaves a device that gets nothing until its app
    registers again, never one that gets what is another's: with the first step the token has left its last owner.
    `wait(seconds)` passes the time."""

    def __init__(
        self, steps: DeviceSteps, wait: Callable[[float], Deferred[None]] = lambda seconds: Deferred()
    ) -> None:
        self.steps, self._wait = steps, wait

    async def register(self, user: str, device: Device) -> bool:
        """The device is this person's from now on, and nobody else's; False: somebody else has registered it meanwhile,
        or it has been unregistered.

        When that was the server says, whatever `device.registered` is.
        """
        return await self._bring(user, device, None)

    async def restore(self, user: str, device: Device) -> bool:
        """The same for a device out of a file, which keeps its time; False too if somebody else has registered it
        since, or if its person has newer ones enough."""
        return await self._bring(user, device, device.registered)

    async def _bring(self, user: str, device: Device, since: int | None, instead: str = "") -> bool:
        for _ in range(TRIES):
            brought = await self._try(user, device, since, instead)
            if brought is not None:
                return brought
        raise Unavailable("a device does not stay with its person: Redis forgets whose it is")

    async def _try(self, user: str, device: Device, since: int | None, instead: str) -> bool | None:
        """None: Redis has lost whose it is, and it must be brought again."""
        steps = self.steps
        claim = await steps.claim(user, device.id, since)
        if not claim.won:
            return False
        device = msgspec.structs.replace(device, registered=claim.registered)
        if claim.before not in ("", user):
            # not what they have registered since: it is theirs again
            await steps.remove(claim.before, device.id, claim.registered)
        gone = await steps.add(user, device, stays=since is None, instead=instead)
        await steps.release(user, gone)
        if any(one.device == device.id for one in gone):
            return False
        (owner,) = await steps.owners([device.id])
        if owner == user:
            return True
        listed = await steps.remove(user, device.id, device.registered + 1)
        # Off the list as well: by an `unregister` in between, which is the last word, or a phone would ring on after
        # its person has signed out.
        return None if listed and not owner else False

    async def rename(self, user: str, old: str, device: Device, ms: int) -> bool:
        """The device `old` has another token now, and is `device`; for `ms` that is known. False: one of them is not
        this person's any more."""
        if device.id == old:
            return True  # a gateway has repeated the token that it was asked with: what goes for it would be itself
        (owner,) = await self.steps.owners([old])
        if owner != user:
            return False  # who has signed out since it was asked is not to be signed in by its answer
        if not await self._bring(user, device, device.registered, instead=old):
            return False
        # before the old one goes: whoever looks for it finds it or the note
        await self.steps.note(user, old, device.id, ms)
        await self.unregister(user, old)
        return True

    async def rename_all(self, renames: Sequence[Rename], seconds: float) -> tuple[str, ...]:
        """Some people's at a time, for so many seconds; why those failed, or were not finished, that did."""
        # One person's in a row: until an old device has gone, the new one takes room that another may have to make.
        rows: dict[str, deque[Rename]] = {}
        for one in renames:
            rows.setdefault(one.user, deque()).append(one)
        left, faults, ended = deque(rows.values()), list[str](), 0

        async def work() -> None:
            nonlocal ended
            while left:
                row = left.popleft()
                while row:
                    one = row.popleft()
                    try:
                        await self.rename(one.user, one.old, one.device, one.ms)
                    except Exception as error:  # each for itself
                        faults.append(f"{type(error).__name__}: {error}")
                    ended += 1

        works = [Deferred.fromCoroutine(work()) for _ in range(min(RENAMES, len(rows)))]
        over = self._wait(seconds)
        either: list[Deferred[Any]] = [gatherResults(works), over]
        await DeferredList(either, fireOnOneCallback=True, consumeErrors=True)
        over.cancel()
        # Not cancelled: cut between two steps, a device would get nothing until its app registers again.
        left.clear()
        for row in rows.values():
            row.clear()
        late = len(renames) - ended
        return (*faults, *[f"not done within {seconds:g} s"] * late)

    async def renamed(self, user: str, device: str) -> str:
        """What has become of a device by `rename`; "" = nothing."""
        return await self.steps.renamed(user, device)

    async def unregister(self, user: str, device: str) -> bool:
        """Take a device (by its id) off this person's list; False: it was not there. Another's stays."""
        gone = await self.steps.remove(user, device)
        await self.steps.release(user, gone)
        return bool(gone)


class RedisSteps:
    """The steps over Redis, each in the slot of its own keys (lua/device.lua)."""

    def __init__(self, calls: Connection, scripts: Scripts, rules: Rules) -> None:
        self.calls, self.scripts, self.rules = calls, scripts, rules

    def _run(self, key: str, *args: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.calls.run(self.scripts.device, (key,), args))

    def _list(self, user: str) -> str:
        return keys.devices(user, self.rules.shards)

    def _owner(self, device: str) -> str:
        return keys.owner(device, self.rules.shards)

    async def claim(self, user: str, device: str, since: int | None) -> Claim:
        """The token is this user's now, unless somebody has had it since."""
        told = "" if since is None else since
        before, won, registered = await self._run(self._owner(device), "claim", user, told)
        return Claim(before.decode(), bool(won), registered)

    async def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> list[Listed]:
        """Into the person's list; who had to go for it."""
        line, tagged = device_lines.encode(device), keys.tag(keys.shard_of(user, self.rules.shards))
        how = "stays" if stays else "goes"
        args = (device.id, line, self.rules.devices, how, tagged, instead)
        gone = await self._run(self._list(user), "add", *args)
        return [Listed(one.decode(), int(at)) for one, at in zip(gone[::2], gone[1::2], strict=True)]

    async def remove(self, user: str, device: str, before: int = FOREVER) -> list[Listed]:
        """Off the person's list, if it was registered before (ms); what was removed."""
        registered = await self._run(self._list(user), "remove", device, before)
        return [Listed(device, int(registered))] if registered else []

    async def release(self, user: str, devices: Sequence[Listed]) -> None:
        """Tokens that this user had are nobody's, unless they have been claimed since."""
        asked = [self._run(self._owner(one.device), "release", user, one.registered) for one in devices]
        await first_fault(gatherResults(asked, consumeErrors=True))

    async def note(self, user: str, old: str, new: str, ms: int) -> None:
        """Known for so long: one device of this person is another now."""
        await self.calls.call("SET", keys.renamed(user, old, self.rules.shards), new, "PX", max(1, ms))

    async def renamed(self, user: str, device: str) -> str:
        """What was noted of it, "" = nothing."""
        found = await self.calls.call("GET", keys.renamed(user, device, self.rules.shards))
        return found.decode() if found else ""

    async def owners(self, devices: Sequence[str]) -> list[str]:
        """Whose these devices are, "" = nobody's; in one pipelined call for each slot."""
        shards = self.rules.shards
        places: dict[int, list[str]] = {}
        if shards == 1:
            places[0] = list(devices)
        else:
            for device in devices:
                places.setdefault(keys.shard_of(device, shards), []).append(device)
        parts = [
            (shard, ids[at : at + OWNER_PAGE])
            for shard, ids in places.items() for at in range(0, len(ids), OWNER_PAGE)
        ]  # fmt: skip
        asked = [self.calls.call("MGET", *keys.owners(ids, shard)) for shard, ids in parts]
        found: dict[str, str] = {}
        for (_, ids), values in zip(
            parts, await first_fault(gatherResults(asked, consumeErrors=True)), strict=True
        ):
            found.update(zip(ids, map(device_lines.owner, values), strict=True))
        return [found[device] for device in devices]


class RedisDevices(DeviceMoves):
    """Everybody's devices (ports.Devices)."""

    def __init__(
        self, calls: Connection, scripts: Scripts, rules: Rules, metrics: Metrics | None = None
    ) -> None:
        super().__init__(
            RedisSteps(calls, scripts, rules), lambda seconds: deferLater(calls.reactor, seconds, _nothing)
        )
        self.calls, self.rules, self.metrics = calls, rules, metrics or Metrics()

    async def of(self, user: str) -> tuple[Device, ...]:
        """A person's devices, those registered longest ago first."""
        flat = await self.calls.call("HGETALL", keys.devices(user, self.rules.shards))
        return tuple(readable(self._read(flat)))

    async def page(self, after: str = "") -> DevicePage:
        """All devices, a page at a time."""
        asked = ("MATCH", "dev:{*", "COUNT", SCAN_PAGE)
        cursor, found = await self.calls.call("SCAN", after or "0", *asked)
        asking = [Deferred.fromCoroutine(self._list(key)) for key in found]
        pairs, newer = list[tuple[str, Device]](), list[str]()
        for key, devices in zip(
            found, await first_fault(gatherResults(asking, consumeErrors=True)), strict=True
        ):
            user = key.decode("utf-8", "replace").split(":", 2)[2]
            pairs += [(user, one) for one in readable(devices)]
            newer += [one.id for one in devices if not one.token]
        return DevicePage(tuple(pairs), "" if cursor == b"0" else cursor.decode(), tuple(newer))

    async def _list(self, key: bytes) -> list[Device]:
        try:
            return self._read(await self.calls.call("HGETALL", key))
        except ReplyError as error:  # a key of another type is nobody else's trouble
            _log.error("{key} cannot be read and is passed over: {error}", key=key, error=str(error))
            return []

    def _read(self, flat: Sequence[bytes]) -> list[Device]:
        devices, damaged = read_devices(flat)
        self.metrics.devices_unreadable += len(damaged)
        return devices


def read_devices(flat: Sequence[bytes]) -> tuple[list[Device], list[str]]:
    """Devices out of a hash, those registered longest ago first, and the ids of those that are damaged, which cost
    nobody else. A newer process's have no token here."""
    found: list[Device] = []
    damaged: list[str] = []
    each = iter(flat)
    for name, line in zip(each, each, strict=False):  # a hash has pairs; 0.17 us instead of 0.25
        if name == b"lanes":
            continue
        try:
            device = device_lines.decode(name.decode(), line.decode())
        except ValueError as error:
            if (suppressed := _say.due()) is not None:
                _log.error(
                    "device {device} cannot be read and is passed over: {error} ({suppressed} more like it)",
                    device=name, error=error, suppressed=suppressed,
                )  # fmt: skip
            damaged.append(name.decode("utf-8", "replace"))
            continue
        if device is not None:
            found.append(device)
    if len(found) > 1:
        found.sort(key=lambda one: (one.registered, one.id))
    return found, damaged


def _nothing() -> None:
    return None


def readable(devices: Iterable[Device]) -> list[Device]:
    """Without those that only a newer process can read."""
    return [one for one in devices if one.token]
