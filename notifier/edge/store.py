"""The ports over Redis: one script per move, all keys of a call in one slot (docs/architecture.md, "State")."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults

from notifier.core import keys
from notifier.core.backlog import Batch, Entry
from notifier.core.inbox import Join, Joined, Mark, Page, Standing, encode_marks
from notifier.edge.redis import Connection, ReplyError, Script, load_script
from notifier.ports import Claimed, Depth, Given, GroupLost, Handed, LeaseLost, Letter, NotMarked, Routed

CLAIM_PAGE: Final = 200
REFRESH_PAGE: Final = 200
MARK_PAGE: Final = 100
SWEEP_PAGE: Final = 1_000
PRESENCE_MS: Final = 120_000  # how long a process that died without a word still counts as holding a socket
ALIVE_MS: Final = 45_000
MARK_FILL: Final = 400  # marks aimed at in one set; beyond 512 Redis would store it six times as large

_encode = msgspec.msgpack.Encoder().encode


class Rules(Struct, frozen=True):
    """Settings that scripts compare state with. Durations in ms."""

    shards: int = 1
    buckets: int = 9_000
    window: int = 86_400_000
    retention: int = 90 * 86_400_000
    cap: int = 100
    letters: int = 10_000
    letters_age: int = 14 * 86_400_000
    lease: int = 3_000
    page_bytes: int = 163_840  # of records that a join returns at once: they must fit into what may be unsent
    publish: str = "PUBLISH"  # SPUBLISH on a cluster
    devices: int = 50  # of one person
    dead_tokens: int = 10_000  # kept on each shard
    dead_tokens_age: int = 14 * 86_400_000


def buckets(rate: int, shards: int) -> int:
    """Sets of marks an hour and shard, for so many (event, person) pairs a second in all."""
    return max(1, -(-rate * 3600 // (shards * MARK_FILL)))


class Scripts:
    """All scripts, loaded once a process. `edit`: see load_script."""

    def __init__(self, edit: Callable[[str], str] = str) -> None:
        self.handover = load_script("handover", edit)
        self.read = load_script("read", edit)
        self.join = load_script("join", edit)
        self.page = load_script("page", edit)
        self.mark = load_script("mark", edit)
        self.refresh = load_script("refresh", edit)
        self.leave = load_script("leave", edit)
        self.lease = load_script("lease", edit)
        self.claim = load_script("claim", edit)
        self.ack = load_script("ack", edit)
        self.sweep = load_script("sweep", edit)
        self.look = load_script("look", edit)
        self.settle = load_script("settle", edit)
        self.wake = load_script("wake", edit)
        self.tidy = load_script("tidy", edit)
        self.keep = load_script("keep", edit)
        self.device = load_script("device", edit)

    def all(self) -> list[Script]:
        return list(vars(self).values())


class Ears(Protocol):
    """Where bells come in, off the bus or with the answer to a handover (bus.RedisBus)."""

    def hear(self, message: bytes) -> None:
        """Bells, as a message has them."""

    def missed(self, users: Iterable[str]) -> None:
        """An answer was lost that may have had bells of these people."""


class Gifts(Protocol):
    """What senders are given with a handover, in the words of the script (push_store.PushGifts)."""

    def ask(self, rooms: Mapping[str, int]) -> bytes:
        """The script's argument for so many entries by lane."""

    def read(self, raw: Sequence[Any], batch: Batch) -> Mapping[str, Given | None]:
        """What the script has answered to this batch, by lane."""


class RedisLog:
    """A stream of events under a lease (ports.EventLog). `tagged`: the hash tag of its keys."""

    def __init__(
        self, calls: Connection, scripts: Scripts, rules: Rules, stream: str, tagged: str, incarnation: str,
        consumer: Callable[[], str], wait: Callable[[str, str, float], Awaitable[None]],
        ears: Ears, gifts: Gifts,
    ) -> None:  # fmt: skip
        self.calls, self.scripts, self.rules, self.ears, self.gifts = calls, scripts, rules, ears, gifts
        self.stream, self.tagged = stream, tagged
        self.incarnation, self.consumer = incarnation, consumer
        self._keys = (keys.lease(tagged), stream)
        self._wait = wait
        self._last = "$"  # where a wait for more begins
        self._entry = _produced if stream == keys.FRONT_DOOR else _routed

    async def take(self) -> bool:
        """Take the lease, or keep it; False while another process holds it."""
        args = (self.tagged, "take", self.incarnation, self.rules.lease)
        got = await self.calls.run(self.scripts.lease, self._keys[:1], args)
        if got == 2 or self._last == "$":  # newly ours, or the answer that said so was lost
            await self.create()
            await self._find_end()
        return bool(got)

    async def give(self) -> None:
        """Give the lease back."""
        args = (self.tagged, "give", self.incarnation, self.rules.lease)
        await self.calls.run(self.scripts.lease, self._keys[:1], args)

    async def create(self) -> None:
        """Make the consumer group at 0, never at $: what was appended before it counts too."""
        try:
            await self.calls.call("XGROUP", "CREATE", self.stream, keys.GROUP, "0", "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":
                raise

    async def _find_end(self) -> None:
        info = await self.calls.call("XINFO", "STREAM", self.stream)
        self._last = dict(zip(info[::2], info[1::2], strict=True))[b"last-generated-id"].decode()

    async def claim(self, idle_ms: int, after: str) -> Claimed:
        """Take over what is pending since idle_ms, in id order."""
        args = (
            self.tagged, self.incarnation, self.rules.lease, keys.GROUP, self.consumer(),
            idle_ms, after or "0-0", CLAIM_PAGE,
        )  # fmt: skip
        status, upto, entries, lost = await self.calls.run(self.scripts.claim, self._keys, args)
        _check(status)
        following = upto.decode()
        return Claimed(
            tuple(map(self._entry, filter(None, entries))),
            tuple(entry.decode() for entry in lost),
            "" if following == "0-0" else following,
        )

    def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Awaitable[Handed]:
        """Apply a batch, acknowledge what it completes, read more. The call is on its way when this returns."""
        return Deferred.fromCoroutine(self._handover(batch, want, rooms) if batch else self._read(want))

    async def _handover(self, batch: Batch, want: int, rooms: Mapping[str, int]) -> Handed:
        rules = self.rules
        args = (
            self.tagged, self.incarnation, rules.lease, keys.GROUP, self.consumer(), rules.publish,
            rules.retention, rules.cap, rules.window + 3_600_000, rules.letters, rules.letters_age, rules.window,
            want, batch.payload, self.gifts.ask(rooms), *batch.raws,
        )  # fmt: skip
        try:
            answer = await self.calls.run(self.scripts.handover, self._keys, args)
            status, failures, fresh, duplicates, bells, given = answer
            if bells:
                self.ears.hear(bells)
        except Exception:  # whatever it is: nobody will say again what was written down
            self.ears.missed(batch.users)
            raise
        _check(status)
        return Handed(
            tuple((at, error.decode("utf-8", "replace")) for at, error in failures),
            self._entries(fresh),
            duplicates,
            self.gifts.read(given, batch),
        )

    async def _read(self, want: int) -> Handed:
        args = (self.incarnation, self.rules.lease, keys.GROUP, self.consumer(), want)
        status, fresh = await self.calls.run(self.scripts.read, self._keys, args)
        _check(status)
        return Handed((), self._entries(fresh), 0)

    def _entries(self, fresh: Sequence[Any]) -> tuple[Entry, ...]:
        if fresh:
            self._last = fresh[-1][0].decode()
        return tuple(map(self._entry, fresh))

    async def read(self, want: int) -> tuple[Entry, ...]:
        """Read entries without handing any over."""
        return (await self._read(want)).entries

    async def acknowledge(self, ids: Sequence[str], letters: Sequence[Letter]) -> None:
        """Acknowledge routed entries and bury those that could not be, in one step."""
        rules = self.rules
        for at in range(0, len(ids), 100):
            part = ids[at : at + 100]
            mine = [letter for letter in letters if letter.entry in part]
            args: tuple[Any, ...] = (
                self.tagged, self.incarnation, keys.GROUP, rules.letters, rules.letters_age, _encode(list(part)),
                _encode([[x.reason, x.detail, x.source, x.entry, n] for n, x in enumerate(mine, 8)]),
                *(letter.raw for letter in mine),
            )  # fmt: skip
            if await self.calls.run(self.scripts.ack, self._keys, args) < 0:
                raise LeaseLost

    def wait(self, seconds: float) -> Awaitable[None]:
        """Return when something may have been appended after what was read last."""
        return self._wait(self.stream, self._last, seconds)

    async def sweep(self, before: int = 0) -> bool:
        """Remove idempotency marks that nothing left can need; True while there is more to do."""
        args = (self.tagged, self.incarnation, self.rules.window, self.rules.buckets, SWEEP_PAGE, before)
        more, _ = await self.calls.run(self.scripts.sweep, self._keys, args)
        if more < 0:
            raise LeaseLost
        return bool(more)

    async def depth(self) -> Depth:
        """How much lies in the stream, and how old the oldest entry is by the server's clock."""
        return await depth_of(self.calls, self.stream)


async def depth_of(calls: Connection, stream: str) -> Depth:
    """How much lies in a stream, and how old the oldest entry is by the server's clock."""
    asked = (
        calls.call("TIME"),  # first: what is appended behind it is younger
        calls.call("XLEN", stream),
        calls.call("XRANGE", stream, "-", "+", "COUNT", "1"),
    )
    clock, count, first = await first_fault(gatherResults(asked, consumeErrors=True))
    now = int(clock[0]) * 1000 + int(clock[1]) // 1000
    accepted = int(first[0][0].partition(b"-")[0]) if first else now
    return Depth(count, max(0.0, (now - accepted) / 1000), accepted)


def _check(status: bytes) -> None:
    if status == b"lease":
        raise LeaseLost
    if status == b"group":
        raise GroupLost


def _produced(raw: Any) -> Entry:
    """An entry of the front door: a producer's, whatever its fields."""
    entry, fields = raw
    if len(fields) == 2 and fields[0] == b"event":
        return Entry(entry.decode(), fields[1])
    event = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"event")
    return Entry(entry.decode(), event, () if event is not None else tuple(fields))


def _routed(raw: Any) -> Entry:
    """An entry of a shard's own stream, where only routers append."""
    entry, fields = raw
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    if values.get(b"v") != b"1":
        return _produced(raw)
    people = tuple(values[b"to"].decode().split(" "))
    return Entry(entry.decode(), values[b"event"], (), values[b"id"].decode(), people)


class RedisShards:
    """Where a router appends (ports.Shards)."""

    def __init__(self, calls: Connection, rules: Rules) -> None:
        self.calls, self.rules = calls, rules

    async def append(self, chunks: Iterable[Routed]) -> None:
        """Append all, pipelined; then wake their readers."""
        asked, touched = [], set()
        for chunk in chunks:
            stream = keys.events(chunk.shard, self.rules.shards)
            asked.append(
                self.calls.call(
                    "XADD",
                    stream,
                    "*",
                    "v",
                    "1",
                    "id",
                    chunk.source,
                    "to",
                    " ".join(chunk.to),
                    "event",
                    chunk.event,
                )
            )
            touched.add(chunk.shard)
        if not asked:
            return
        results = gatherResults(asked, consumeErrors=True)
        for shard in touched:
            self.calls.call(self.rules.publish, keys.wake(keys.tag(shard)), "").addErrback(lambda _: None)
        await first_fault(results)


async def first_fault(waiting: Deferred[Any]) -> Any:
    """The results, or the first error itself instead of Twisted's FirstError around it."""
    from twisted.internet.defer import FirstError

    try:
        return await waiting
    except FirstError as error:
        error.subFailure.raiseException()


class RedisInbox:
    """Everybody's inbox (ports.Inbox). Presence goes over one connection, so that it ends as the hub last said."""

    def __init__(self, calls: Connection, scripts: Scripts, rules: Rules, incarnation: str) -> None:
        self.calls, self.scripts, self.rules, self.incarnation = calls, scripts, rules, incarnation

    def _shard(self, user: str) -> int:
        return keys.shard_of(user, self.rules.shards)

    def _by_shard(self, users: Iterable[str]) -> dict[int, list[str]]:
        people: dict[int, list[str]] = {}
        for user in users:
            people.setdefault(self._shard(user), []).append(user)
        return people

    async def join(self, user: str, join: Join, issued: int) -> Joined:
        """Presence, and the records after a place, in one step."""
        return await self._join(user, join, issued, self.incarnation)

    async def sync(self, user: str, join: Join, issued: int) -> Joined:
        """The same without presence."""
        return await self._join(user, join, issued, "")

    async def _join(self, user: str, join: Join, issued: int, incarnation: str) -> Joined:
        place, tagged = join.place, keys.tag(self._shard(user))
        args = (
            tagged, user, incarnation, PRESENCE_MS, ALIVE_MS, issued, join.mode,
            place.birth, place.run, place.seq, join.most, self.rules.retention, join.since, self.rules.page_bytes,
        )  # fmt: skip
        result, birth, run, seq, floor, seen, unread, now, more, found = await self.calls.run(
            self.scripts.join, (keys.inbox(user, self.rules.shards),), args
        )
        return Joined(
            result.decode(),
            int(birth),
            run.decode(),
            seq,
            floor,
            seen,
            unread,
            now,
            bool(more),
            _records(found),
        )

    async def page(self, user: str, before: int, most: int, issued: int) -> Page | None:
        """Rows before a seq (0 = the newest); None when the token has been revoked."""
        args = (keys.tag(self._shard(user)), user, issued, before, most)
        answer = await self.calls.run(self.scripts.page, (keys.inbox(user, self.rules.shards),), args)
        if answer == b"revoked":
            return None
        birth, run, seq, floor, seen, unread, more, found = answer
        return Page(int(birth), run.decode(), seq, floor, seen, unread, bool(more), _records(found))

    async def mark(self, marks: Sequence[Mark]) -> list[int]:
        """Apply marks, in order per person. Raises NotMarked if one could not be applied."""
        order = {id(mark): at for at, mark in enumerate(marks)}
        changed = [0] * len(marks)
        people: dict[int, list[Mark]] = {}
        for mark in marks:
            people.setdefault(self._shard(mark.user), []).append(mark)
        faults = []
        for shard, mine in people.items():
            for at in range(0, len(mine), MARK_PAGE):
                part = mine[at : at + MARK_PAGE]
                args = (
                    keys.tag(shard),
                    self.rules.publish,
                    self.rules.retention,
                    self.rules.cap,
                    encode_marks(part),
                )
                answer = await self.calls.run(
                    self.scripts.mark, (keys.inbox(part[0].user, self.rules.shards),), args
                )
                for mark, count, fault in zip(part, answer[::2], answer[1::2], strict=True):
                    changed[order[id(mark)]] = count
                    if fault:
                        faults.append(fault.decode("utf-8", "replace"))
        if faults:
            raise NotMarked(faults[0])
        return changed

    async def refresh(self, users: Sequence[str]) -> dict[str, Standing]:
        """Renew presence, hear where each inbox stands. Without users: only say that this process lives."""
        found: dict[str, Standing] = {}
        people = self._by_shard(users)
        refused: ReplyError | None = None
        heard = False
        for shard in range(self.rules.shards):
            mine = people.get(shard, [])
            for at in range(0, max(1, len(mine)), REFRESH_PAGE):
                part = mine[at : at + REFRESH_PAGE]
                try:
                    found |= await self._refresh(shard, part)
                    heard = True
                except ReplyError as error:  # the others may well be answered
                    refused = error
                    found |= {user: Standing(0, "", 0, -1, str(error)) for user in part}
        if refused is not None and not heard:
            raise refused
        return found

    async def _refresh(self, shard: int, part: Sequence[str]) -> dict[str, Standing]:
        args = (keys.tag(shard), self.incarnation, PRESENCE_MS, ALIVE_MS, *part)
        _, places = await self.calls.run(self.scripts.refresh, (f"alive:{keys.tag(shard)}",), args)
        return {
            user: Standing(int(birth), run.decode(), seq, revoked, fault.decode("utf-8", "replace"))
            for user, (birth, run, seq, revoked, fault) in zip(part, places, strict=True)
        }

    async def leave(self, users: Sequence[str]) -> None:
        """These people have no socket here any more."""
        asked = []
        for shard, mine in self._by_shard(users).items():
            for at in range(0, len(mine), REFRESH_PAGE):
                args = (keys.tag(shard), self.incarnation, *mine[at : at + REFRESH_PAGE])
                call = self.calls.run(self.scripts.leave, (f"alive:{keys.tag(shard)}",), args)
                asked.append(Deferred.fromCoroutine(call))  # all on their way before anything else is
        await first_fault(gatherResults(asked, consumeErrors=True))

    async def revoke(self, user: str) -> None:
        """Void all tokens of a person issued until now, and close their sockets everywhere."""
        now, _ = await self.calls.call("TIME")
        await self.calls.call("SET", keys.revoked(user, self.rules.shards), now, "EX", REVOKED_SECONDS)
        await self.calls.call("PUBLISH", keys.CONTROL, f"revoke {user}")


REVOKED_SECONDS: Final = 8 * 86_400  # longer than any token lives


def _records(flat: Sequence[Any]) -> tuple[tuple[int, str], ...]:
    return tuple((flat[at], flat[at + 1].decode()) for at in range(0, len(flat), 2))
