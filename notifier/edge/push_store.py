"""The ports of phones over Redis: lanes, what is due, devices. A lane's stream, its people's inboxes and devices lie in
one slot; whose a token is lies in the token's own, and is asked for in between."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from notifier.core import devices as device_lines
from notifier.core import keys
from notifier.core.lanes import ALL, Lane, PushEntry, Row, parse
from notifier.core.model import Device
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.edge.store import Rules, Scripts, depth_of, first_fault
from notifier.ports import (
    Depth,
    DevicePage,
    GroupLost,
    Judged,
    Look,
    Looked,
    PushesRead,
    PushesSettled,
    Settlement,
    Tidied,
    Unavailable,
    Woken,
)

LOOK_BYTES: Final = 262_144  # of devices and rows in one answer
# What one call may do, so that it holds up nobody else's for more than about 2 ms, whatever the number of devices a
# person has: fields read, or calls and devices. The first entry of a call is always done as a whole.
LOOK_WORK: Final = 1_000
SETTLE_WORK: Final = 1_000
SETTLE_PAGE: Final = 200  # results in one call, unless those of one entry are more
WAKE_PAGE: Final = 100
TIDY_PAGE: Final = 100
ABANDONED: Final = 3_600_000  # ms after its deadline that an entry may lie in its lane
SCAN_PAGE: Final = 200
OWNER_PAGE: Final = 1_000  # owners in one call
TRIES: Final = 3  # of bringing a device to its person
KEEP_SLACK: Final = 200  # ms by which our clock may go faster than the server's while an entry is held
FOREVER: Final = 2**53  # ms: no device was registered later

_log: Final = Logger()
_encode = msgspec.msgpack.Encoder().encode


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
    registers again, never one that gets what is another's: with the first step the token has left its last owner."""

    def __init__(self, steps: DeviceSteps) -> None:
        self.steps = steps

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
        """The device `old` has another token now, and is `device`; for `ms` that is known. False: it is another's."""
        if not await self._bring(user, device, device.registered, instead=old):
            return False
        # before the old one goes: whoever looks for it finds it or the note
        await self.steps.note(user, old, device.id, ms)
        await self.unregister(user, old)
        return True

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
        places: dict[int, list[str]] = {}
        for device in dict.fromkeys(devices):
            places.setdefault(keys.shard_of(device, self.rules.shards), []).append(device)
        parts = [
            ids[at : at + OWNER_PAGE] for ids in places.values() for at in range(0, len(ids), OWNER_PAGE)
        ]
        asked = [self.calls.call("MGET", *map(self._owner, ids)) for ids in parts]
        found: dict[str, str] = {}
        for ids, values in zip(
            parts, await first_fault(gatherResults(asked, consumeErrors=True)), strict=True
        ):
            found |= dict(zip(ids, map(device_lines.owner, values), strict=True))
        return [found[device] for device in devices]


class RedisDevices(DeviceMoves):
    """Everybody's devices (ports.Devices)."""

    def __init__(self, calls: Connection, scripts: Scripts, rules: Rules) -> None:
        super().__init__(RedisSteps(calls, scripts, rules))
        self.calls, self.rules = calls, rules

    async def of(self, user: str) -> tuple[Device, ...]:
        """A person's devices, those registered longest ago first."""
        flat = await self.calls.call("HGETALL", keys.devices(user, self.rules.shards))
        return tuple(_readable(_devices(flat)[0]))

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
            pairs += [(user, one) for one in _readable(devices)]
            newer += [one.id for one in devices if not one.token]
        return DevicePage(tuple(pairs), "" if cursor == b"0" else cursor.decode(), tuple(newer))

    async def _list(self, key: bytes) -> list[Device]:
        try:
            return _devices(await self.calls.call("HGETALL", key))[0]
        except ReplyError as error:  # a key of another type is nobody else's trouble
            _log.error("{key} cannot be read and is passed over: {error}", key=key, error=str(error))
            return []


class RedisPushes:
    """The stream of one lane on one shard (ports.PushLog). `consumer`: this process's slot; `wait(seconds)` passes
    the time until the lane's doorbell rings, `ring()` rings it for one who waits."""

    def __init__(
        self, calls: Connection, scripts: Scripts, rules: Rules, shard: int, lane: Lane,
        consumer: Callable[[], str], wait: Callable[[float], Awaitable[None]], ring: Callable[[], None],
    ) -> None:  # fmt: skip
        self.calls, self.scripts, self.rules = calls, scripts, rules
        self.tagged, self.lane, self.consumer = keys.tag(shard), lane, consumer
        self.stream = keys.pushes(self.tagged, lane)
        self.steps = RedisSteps(calls, scripts, rules)
        self.wait, self.ring = wait, ring

    async def create(self) -> None:
        """Make the consumer group at 0, never at $: what was appended before it counts too."""
        try:
            await self.calls.call("XGROUP", "CREATE", self.stream, keys.GROUP, "0", "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":
                raise

    async def history(self, want: int, after: str) -> PushesRead:
        """What this process was given before and has not settled."""
        found = await self._read(want, after or "0")
        last = found[-1][0].decode() if found else ""
        # one that was deleted meanwhile has no fields: a claim will find and count it
        return _pushes([entry for entry in found if entry[1] is not None], (), last)

    async def read(self, want: int) -> PushesRead:
        """The next entries."""
        return _pushes(await self._read(want, ">"), (), "")

    async def _read(self, want: int, after: str) -> list[Any]:
        command = ("XREADGROUP", "GROUP", keys.GROUP, self.consumer(), "COUNT", want)
        answer = await self._of_group(*command, "STREAMS", self.stream, after)
        return answer[0][1] if answer else []

    async def claim(self, idle_ms: int, want: int, after: str) -> PushesRead:
        """Take over what nobody has settled for idle_ms."""
        command = ("XAUTOCLAIM", self.stream, keys.GROUP, self.consumer(), idle_ms, after or "0-0")
        upto, entries, lost = await self._of_group(*command, "COUNT", want)
        following = upto.decode()
        return _pushes(list(filter(None, entries)), lost, "" if following == "0-0" else following)

    async def keep(self, held: Mapping[str, int]) -> frozenset[str]:
        """Entries in hand, each with the ms since it was read or kept: those that are still this process's."""
        args = (keys.GROUP, self.consumer(), KEEP_SLACK, *(word for pair in held.items() for word in pair))
        kept = await self.calls.run(self.scripts.keep, (self.stream,), args)
        return frozenset(entry.decode() for entry in kept)

    async def _of_group(self, *command: Any) -> Any:
        try:
            return await self.calls.call(*command)
        except ReplyError as error:
            if error.code == "NOGROUP":
                raise GroupLost from None
            raise

    async def look(self, entries: Sequence[PushEntry]) -> Look:
        """What stands behind entries; in order, all of them."""
        found: list[tuple[PushEntry, Row, list[Device], list[str]]] = []
        now, run = 0, b""
        while not found or len(found) < len(entries):
            part = entries[len(found) :]
            flat = [x for one in part for x in (one.user, one.notification, one.device or ALL)]
            args = (self.tagged, str(self.lane), LOOK_BYTES, LOOK_WORK, _encode(flat))
            key = keys.inbox(part[0].user, self.rules.shards)
            now, ran, people, answers = await self.calls.run(self.scripts.look, (key,), args)
            run = run or ran  # the oldest one counts: what was read under it may be gone
            found += [_looked(one, answer, people) for one, answer in zip(part, answers, strict=False)]
        ids = {one for _, _, devices, damaged in found for one in (*(x.id for x in devices), *damaged)}
        owners = dict(zip(ids, await self.steps.owners(list(ids)), strict=True))
        return Look(now, run.decode(), tuple(_whose(*one, owners) for one in found))

    async def settle(self, settlements: Sequence[Settlement]) -> PushesSettled:
        """Write down what became of entries and acknowledge them."""
        states: list[str] = []
        for part in _parts(settlements):
            states += await self._settle(part)
        return PushesSettled(tuple(states))

    async def _settle(self, part: Sequence[Settlement]) -> list[str]:
        packed = [
            [
                one.entry.id,
                one.entry.user,
                one.entry.notification,
                one.run,
                one.entry.as_text(),
                _results(one),
            ]
            for one in part
        ]
        return [state.decode("utf-8", "replace") for state in await self._run_settle(packed)]

    async def bury(self, broken: Sequence[tuple[str, bytes]]) -> None:
        """To the dead letters with entries that nobody can read."""
        why = ["b", ALL, "unreadable", "the field `push` is not what we write"]
        packed = [[entry, "", "", "", at, [why]] for at, (entry, _) in enumerate(broken, 1)]
        await self._run_settle(packed, [raw for _, raw in broken])

    async def _run_settle(self, packed: list[list[Any]], raws: Sequence[bytes] = ()) -> list[bytes]:
        rules, states = self.rules, list[bytes]()
        while len(states) < len(packed):  # so many of them as one call may do
            args = (
                self.tagged, keys.GROUP, str(self.lane), rules.letters, rules.letters_age,
                rules.dead_tokens, rules.dead_tokens_age, SETTLE_WORK, _encode(packed[len(states) :]), *raws,
            )  # fmt: skip
            done, gone = await self.calls.run(self.scripts.settle, (self.stream,), args)
            states += done
            try:
                await self._release(gone)
            except (Unavailable, ReplyError):
                pass  # an owner without a device harms nobody
        return states

    async def _release(self, gone: Sequence[Sequence[bytes]]) -> None:
        listed: dict[str, list[Listed]] = {}
        for user, device, registered in gone:
            listed.setdefault(user.decode(), []).append(Listed(device.decode(), int(registered)))
        asked = [Deferred.fromCoroutine(self.steps.release(user, own)) for user, own in listed.items()]
        await first_fault(gatherResults(asked, consumeErrors=True))

    async def depth(self) -> Depth:
        """How much lies in the stream, and how old the oldest entry is by the server's clock."""
        return await depth_of(self.calls, self.stream)


class RedisDue:
    """What is to be sent later, on one shard (ports.DueLog)."""

    def __init__(
        self, calls: Connection, scripts: Scripts, rules: Rules, shard: int,
        wait: Callable[[float], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.calls, self.scripts, self.rules = calls, scripts, rules
        self.tagged, self.wait = keys.tag(shard), wait
        self._over = 0  # of what is due, how much in front is not for this process
        self._say = Every(60.0)

    async def wake(self) -> Woken:
        """Bring what is due back to its lane; a part of it at a time."""
        rules = self.rules
        args = (self.tagged, rules.publish, WAKE_PAGE, self._over, rules.letters, rules.letters_age)
        key = keys.due(self.tagged)
        moved, left, passed, buried, fault = await self.calls.run(self.scripts.wake, (key,), args)
        # What is passed over stays in front. The next look begins behind it, until one has come to the end.
        whole = moved + passed + buried == WAKE_PAGE
        self._over = self._over + passed if whole else 0
        if fault and self._say.due() is not None:
            _log.error("of what is due on shard {shard}, some cannot be sent again: {error}",
                       shard=self.tagged, error=fault.decode("utf-8", "replace"))  # fmt: skip
        return Woken(moved, left, passed, buried)

    async def tidy(self) -> Tidied:
        """Settle what nobody has taken from its lane until long after its deadline; a part of it at a time."""
        rules = self.rules
        args = (self.tagged, keys.GROUP, ABANDONED, TIDY_PAGE, rules.letters, rules.letters_age)
        more, *buried = await self.calls.run(self.scripts.tidy, (keys.lanes(self.tagged),), args)
        return Tidied(tuple(reason.decode() for reason in buried), bool(more))


class RedisLanes:
    """All lanes there are, read by somebody or not."""

    def __init__(self, calls: Connection, rules: Rules) -> None:
        self.calls, self.rules = calls, rules

    async def depths(self) -> dict[str, Depth]:
        """How much lies in each lane that any device has ever had, by "<app>:<provider>", all shards together."""
        found: dict[str, Depth] = {}
        for shard in range(self.rules.shards):
            tagged = keys.tag(shard)
            for name in sorted(await self.calls.call("SMEMBERS", keys.lanes(tagged))):
                lane = name.decode()
                here = await depth_of(self.calls, keys.pushes(tagged, lane))
                found[lane] = _together(found.get(lane), here)
        return found


def _together(one: Depth | None, other: Depth) -> Depth:
    if one is None:
        return other
    oldest = max(one.oldest, other.oldest)
    return Depth(one.entries + other.entries, oldest, min(one.accepted, other.accepted))


def _pushes(entries: Sequence[Any], lost: Sequence[bytes], after: str) -> PushesRead:
    found: list[PushEntry] = []
    broken: list[tuple[str, bytes]] = []
    for entry, fields in entries:
        raw = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"push", b"")
        try:
            read = parse(entry.decode(), raw.decode())
        except ValueError:
            broken.append((entry.decode(), raw))
            continue
        if read is not None:  # else a newer process has written it, and will claim it
            found.append(read)
    newer = len(entries) - len(found) - len(broken)
    return PushesRead(tuple(found), tuple(broken), tuple(entry.decode() for entry in lost), after, newer)


def _looked(entry: PushEntry, answer: Any, people: Any) -> tuple[PushEntry, Row, list[Device], list[str]]:
    standing, seq, record, number = answer
    if standing == b"broken":
        return entry, Row("broken", record=record.decode("utf-8", "replace")), [], []
    birth, run, unread, flat = people[number - 1]
    if standing != b"row":
        return entry, Row(standing.decode(), seq), [], []
    try:
        row = Row("row", seq, f"{birth.decode()}.{run.decode()}", record.decode(), unread)
    except UnicodeDecodeError as error:
        return entry, Row("broken", record=f"the row in the inbox: {error}"), [], []
    devices, damaged = _devices(flat)
    meant = [one for one in devices if entry.device in ("", one.id)]
    return entry, row, meant, [one for one in damaged if entry.device in ("", one)]


def _whose(
    entry: PushEntry, row: Row, devices: list[Device], damaged: list[str], owners: Mapping[str, str]
) -> Looked:
    # Of nobody's it is not known that it is not another's: its app will say so when it is next started.
    own = [one for one in devices if owners[one.id] == entry.user]
    strangers = tuple(one for one in devices if owners[one.id] not in (entry.user, ""))
    newer = tuple(one for one in own if not one.token)
    lost = tuple(one for one in damaged if owners[one] == entry.user)
    return Looked(entry, row, tuple(_readable(own)), strangers, newer, lost)


def _devices(flat: Sequence[bytes]) -> tuple[list[Device], list[str]]:
    """Devices out of a hash, those registered longest ago first, and the ids of those that are damaged, which cost
    nobody else. A newer process's have no token here."""
    found, damaged = list[Device](), list[str]()
    for name, line in zip(flat[::2], flat[1::2], strict=True):
        if name == b"lanes":
            continue
        try:
            device = device_lines.decode(name.decode(), line.decode())
        except ValueError as error:
            _log.error("device {device} cannot be read and is passed over: {error}", device=name, error=error)
            damaged.append(name.decode("utf-8", "replace"))
            continue
        if device is not None:
            found.append(device)
    return sorted(found, key=lambda one: (one.registered, one.id)), damaged


def _readable(devices: Iterable[Device]) -> list[Device]:
    """Without those that only a newer process can read."""
    return [one for one in devices if one.token]


def _parts(settlements: Sequence[Settlement]) -> list[list[Settlement]]:
    """By so many results that one call does not take long."""
    parts: list[list[Settlement]] = []
    size = SETTLE_PAGE
    for one in settlements:
        own = 1 + len(one.results) + len(one.strangers)
        if size + own > SETTLE_PAGE:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += own
    return parts


def _results(one: Settlement) -> list[list[Any]]:
    found: list[list[Any]] = [_result(judged) for judged in one.results]
    found += [["s", stranger.id, stranger.registered + 1] for stranger in one.strangers]
    if one.buried:
        found.append(["b", ALL, one.buried, one.detail])
    return found


def _result(judged: Judged) -> list[Any]:
    delivery, verdict = judged.delivery, judged.verdict
    device = delivery.device.id
    if verdict.kind == "done":
        return ["d", device, delivery.seq]
    if verdict.kind == "forget":
        counts = f"{delivery.deadline} {delivery.tries + 1} {delivery.free} {delivery.doubts}"
        return ["f", device, verdict.before, judged.why, delivery.seq, counts]
    if verdict.kind == "bury":
        return ["b", device, verdict.reason, verdict.detail]
    counts = f"{delivery.deadline} {verdict.tries} {verdict.free} {verdict.doubts}"
    return ["l", device, delivery.seq, verdict.at, counts]
