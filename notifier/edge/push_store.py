"""The ports of phones over Redis: lanes, and what is due. A lane's stream, its people's inboxes and devices lie in one
slot; whose a token is lies in the token's own, and is asked for in between."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from notifier.core import keys
from notifier.core.backlog import Batch
from notifier.core.lanes import ALL, Lane, PushEntry, Row, parse
from notifier.core.model import Notification
from notifier.edge.device_store import Listed, RedisSteps, read_devices, readable
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.edge.store import Rules, Scripts, depth_of, first_fault
from notifier.ports import (
    Depth,
    Given,
    GroupLost,
    Judged,
    Look,
    Looked,
    PushesRead,
    PushesSettled,
    Seen,
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
# What cannot be woken stays in front of `due`, and may be much. A look at all of it comes after so many seconds at the
# earliest, and after so many times what the last one took: it never has more than a twentieth of the time.
FROM_THE_FIRST: Final = 10.0
FROM_THE_FIRST_SHARE: Final = 20.0
TIDY_PAGE: Final = 100
ABANDONED: Final = 3_600_000  # ms after its deadline that an entry may lie in its lane
KEEP_SLACK: Final = 200  # ms by which our clock may go faster than the server's while an entry is held

_log: Final = Logger()
_encode = msgspec.msgpack.Encoder().encode


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

    async def look(self, entries: Sequence[PushEntry], seen: Seen | None = None) -> Look:
        """What stands behind entries; in order, all of them. `seen`: what is known of some."""
        if seen is None:
            now, run, found = await self._look(entries)
        else:
            now, run = seen.now, seen.run
            unseen = [one for one in entries if one.id not in seen.found]
            late = iter((await self._look(unseen))[2] if unseen else ())
            found = [seen.found.get(one.id) or next(late) for one in entries]
        ids = list(
            {one.id for x in found for one in x.devices}.union(*(x.damaged for x in found if x.damaged))
        )
        owners = dict(zip(ids, await self.steps.owners(ids), strict=True))
        whose = [_whose(one, owners) for one in found]
        if seen is not None:
            # Who has lost a device since may have got another for it, by a rename or by its app.
            parted = (one for one, own in zip(found, whose, strict=True) if own is not one)
            changed = [one.entry for one in parted if one.entry.id in seen.found and _has_lost(one, owners)]
            if changed:
                anew = {one.entry.id: one for one in (await self.look(changed)).found}
                whose = [anew.get(one.entry.id, one) for one in whose]
        return Look(now, run, tuple(whose))

    async def _look(self, entries: Sequence[PushEntry]) -> tuple[int, str, list[Looked]]:
        """Without asking whose the devices are."""
        found: list[Looked] = []
        now, run = 0, b""
        while not found or len(found) < len(entries):
            part = entries[len(found) :]
            asked = [x for one in part for x in (one.user, one.notification, one.device or ALL)]
            args = (self.tagged, str(self.lane), LOOK_BYTES, LOOK_WORK, _encode(asked))
            key = keys.inbox(part[0].user, self.rules.shards)
            now, ran, people, flat = await self.calls.run(self.scripts.look, (key,), args)
            run = run or ran  # the oldest one counts: what was read under it may be gone
            answers = [flat[at : at + 4] for at in range(0, len(flat), 4)]
            found += [_looked(one, answer, people) for one, answer in zip(part, answers, strict=False)]
        return now, run.decode(), found

    async def settle(self, settlements: Sequence[Settlement]) -> PushesSettled:
        """Write down what became of entries and acknowledge them."""
        states: list[str] = []
        for part in _parts(settlements):
            states += await self._settle(part)
        return PushesSettled(tuple(states))

    async def _settle(self, part: Sequence[Settlement]) -> list[str]:
        packed = [_packed(one) for one in part]
        states = await self._run_settle(packed)
        return ["done" if state == b"done" else state.decode("utf-8", "replace") for state in states]

    async def bury(self, broken: Sequence[tuple[str, bytes]]) -> PushesSettled:
        """To the dead letters with entries that nobody can read."""
        why = ["b", ALL, "unreadable", "the field `push` is not what we write"]
        packed = [[entry, "", "", "", at, [why]] for at, (entry, _) in enumerate(broken, 1)]
        states = await self._run_settle(packed, [raw for _, raw in broken])
        return PushesSettled(tuple(state.decode("utf-8", "replace") for state in states))

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
        wait: Callable[[float], Awaitable[None]], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.calls, self.scripts, self.rules = calls, scripts, rules
        self.tagged, self.wait, self._clock = keys.tag(shard), wait, clock
        self._over = 0  # of what is due, how much in front is not for this process
        self._began = 0.0  # when this process began to look from the first on
        self._first_at: float | None = 0.0  # when it does so again; None: it has not come to the end yet
        self._say = Every(60.0)

    async def wake(self) -> Woken:
        """Bring what is due back to its lane; a part of it at a time."""
        rules, began = self.rules, self._clock()
        if self._first_at is not None and began >= self._first_at:
            self._over, self._began, self._first_at = 0, began, None
        args = (self.tagged, rules.publish, WAKE_PAGE, self._over, rules.letters, rules.letters_age)
        key = keys.due(self.tagged)
        moved, left, passed, buried, fault, self._over = await self.calls.run(self.scripts.wake, (key,), args)
        more = moved + passed + buried == WAKE_PAGE
        if not more and self._first_at is None:
            ended = self._clock()
            self._first_at = ended + max(FROM_THE_FIRST, FROM_THE_FIRST_SHARE * (ended - self._began))
        if fault and self._say.due() is not None:
            _log.error("of what is due on shard {shard}, some cannot be sent again: {error}",
                       shard=self.tagged, error=fault.decode("utf-8", "replace"))  # fmt: skip
        return Woken(moved, left, passed, buried, more)

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
        raw = fields[1] if fields[0] == b"push" else _field(fields, b"push")
        try:
            read = parse(entry.decode(), raw.decode())
        except ValueError:
            broken.append((entry.decode(), raw))
            continue
        if read is not None:  # else a newer process has written it, and will claim it
            found.append(read)
    newer = len(entries) - len(found) - len(broken)
    return PushesRead(tuple(found), tuple(broken), tuple(entry.decode() for entry in lost), after, newer)


def _field(fields: Sequence[bytes], name: bytes) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(name, b"")


def _looked(entry: PushEntry, answer: Any, people: Any) -> Looked:
    """With all devices that the person is listed with, and that are meant."""
    standing, seq, record, number = answer
    if standing == b"broken":
        return Looked(entry, Row("broken", record=record.decode("utf-8", "replace")))
    if standing != b"row":
        return Looked(entry, Row(standing.decode(), seq))
    birth, run, unread, flat = people[number - 1]
    try:
        row = Row("row", seq, f"{birth.decode()}.{run.decode()}", record.decode(), unread)
    except UnicodeDecodeError as error:
        return Looked(entry, Row("broken", record=f"the row in the inbox: {error}"))
    devices, damaged = read_devices(flat)
    if entry.device:
        devices = [one for one in devices if one.id == entry.device]
        damaged = [one for one in damaged if one == entry.device]
    return Looked(entry, row, tuple(devices), damaged=tuple(damaged))


def _has_lost(listed: Looked, owners: Mapping[str, str]) -> bool:
    """Whether a device is the person's no more, though it was on the list."""
    ids = (*(one.id for one in listed.devices), *listed.damaged)
    return any(owners[one] != listed.entry.user for one in ids)


def _whose(listed: Looked, owners: Mapping[str, str]) -> Looked:
    """Parted by whose they are, and by whether we can read them."""
    entry, devices = listed.entry, listed.devices
    if not listed.damaged:
        for one in devices:
            if owners[one.id] != entry.user or not one.token:
                break
        else:
            return listed  # nearly always
    # Of nobody's it is not known that it is not another's: its app will say so when it is next started.
    own = [one for one in devices if owners[one.id] == entry.user]
    strangers = tuple(one for one in devices if owners[one.id] not in (entry.user, ""))
    newer = tuple(one for one in own if not one.token)
    lost = tuple(one for one in listed.damaged if owners[one] == entry.user)
    return Looked(entry, listed.row, tuple(readable(own)), strangers, newer, lost)


class PushGifts:
    """What handover.lua reads for senders of this process (store.Gifts)."""

    def ask(self, rooms: Mapping[str, int]) -> bytes:
        """So many entries by lane, within what a look may read; b"" = none."""
        return _encode((LOOK_BYTES, LOOK_WORK, rooms)) if rooms else b""

    def read(self, raw: Sequence[Any], batch: Batch) -> dict[str, Given | None]:
        """What it has read after a batch, by lane."""
        if not raw:
            return {}
        now, run, *lanes = raw
        return {
            lane.decode(): None if told is None else _given(batch, now, run.decode(), *told)
            for lane, told in zip(lanes[::2], lanes[1::2], strict=True)
        }


def _given(
    batch: Batch, now: int, run: str, entries: Sequence[Any], looks: Sequence[Any], people: Sequence[Any], more: int
) -> Given:  # fmt: skip
    """Of what this process has just written itself the answer has only the names."""
    strange = [entry for entry in entries if type(entry) is not bytes]
    read = _pushes(strange, (), "")
    others = {one.id: one for one in read.entries}
    known = iter(zip(looks[::3], looks[1::3], looks[2::3], strict=True))
    found: dict[str, Looked] = {}
    mine: list[PushEntry] = []
    for entry in entries:
        if type(entry) is bytes:
            item, number, seq = next(known)
            looked = _written(batch, item, entry.decode(), seq, people[number - 1])
            found[looked.entry.id] = looked
            mine.append(looked.entry)
        elif (one := others.get(entry[0].decode())) is not None:
            mine.append(one)
    return Given(PushesRead(tuple(mine), read.broken, newer=read.newer), Seen(now, run, found), bool(more))


def _written(batch: Batch, item: int, entry_id: str, seq: int, person: Sequence[Any]) -> Looked:
    user, event, group, record, deadline = batch.written(item)
    birth, run, unread, flat = person
    epoch = f"{birth.decode()}.{run.decode()}"
    told = Notification(
        event.id, event.kind, (event.actor,), 1, event.time, event.object, event.text, group, epoch, seq
    )
    devices, damaged = read_devices(flat)
    return Looked(
        PushEntry(entry_id, user, event.id, deadline),
        Row("row", seq, epoch, record, unread, told),
        tuple(devices),
        damaged=tuple(damaged),
    )


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


def _packed(one: Settlement) -> list[Any]:
    """As settle.lua takes it. Only a dead letter quotes its entry."""
    entry, buried = one.entry, bool(one.buried)
    results: list[list[Any]] = []
    for judged in one.results:
        kind = judged.verdict.kind
        if kind == "done":  # nearly always
            results.append(["d", judged.delivery.device.id, judged.delivery.seq])
        else:
            results.append(_result(judged))
            buried = buried or kind == "bury"
    if one.strangers:
        results += [["s", stranger.id, stranger.registered + 1] for stranger in one.strangers]
    if one.buried:
        results.append(["b", ALL, one.buried, one.detail])
    return [entry.id, entry.user, entry.notification, one.run, entry.as_text() if buried else "", results]


def _result(judged: Judged) -> list[Any]:
    delivery, verdict = judged.delivery, judged.verdict
    device = delivery.device.id
    if verdict.kind == "forget":
        counts = f"{delivery.deadline} {delivery.tries + 1} {delivery.free} {delivery.doubts}"
        return ["f", device, verdict.before, judged.why, delivery.seq, counts]
    if verdict.kind == "bury":
        return ["b", device, verdict.reason, verdict.detail]
    counts = f"{delivery.deadline} {verdict.tries} {verdict.free} {verdict.doubts}"
    return ["l", device, delivery.seq, verdict.at, counts]
