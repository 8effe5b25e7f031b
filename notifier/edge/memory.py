"""Every port in memory, for tests and examples: the rules of lua/*.lua once more, in plain Python.
One MemoryServer stands for one Redis; nothing here waits, and a test moves its clock."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from notifier.core import keys
from notifier.core.backlog import ADD, BURY, HELD, HOUR_MS, NOTHING, WIDTH, Batch, Entry
from notifier.core.inbox import (
    DELETED,
    NOTIFICATION,
    READ,
    RETRACTED,
    SEEN,
    Bell,
    Join,
    Joined,
    JoinResult,
    Mark,
    Page,
    Record,
    Standing,
    parse,
)
from notifier.core.lanes import PushEntry, lanes_of
from notifier.edge.memory_given import Giving
from notifier.edge.memory_state import Box, Dead, ItemError, Lasting, MemoryServer, line_of, stream_id
from notifier.edge.store import CLAIM_PAGE, MARK_PAGE, REVOKED_SECONDS, Rules
from notifier.ports import Claimed, Depth, Handed, LeaseLost, Letter, Routed

SWEEP_MARGIN: Final = 600_000  # a router that was killed has repeated entries behind newer ones
DAY_MS: Final = 86_400_000
READS: Final = 900  # rows that one change marks as read, at most: what Redis takes in one HSET is bounded
JOIN_BYTES: Final = 163_840  # of records in one answer, unless a single one is larger
# The ids of the two records that move; no event id can have this form.
SEEN_ID, READ_ID = "\1seen", "\1read"

_Payload = tuple[list[str], list[int], list[Any]]
_decode = msgspec.msgpack.Decoder(_Payload).decode
_made = re.compile(r"x:(\d+)-(\d+)").fullmatch


class Writer:
    """A step on inboxes of one shard: opens and saves them, and gathers the bells.

    caller: the process that is told with the answer, where it is not `aloud`; "" = every process hears the bus.
    """

    def __init__(self, server: MemoryServer, rules: Rules, caller: str = "") -> None:
        self.server, self.rules, self.caller, self.aloud = server, rules, caller, False
        self.bells: dict[str, list[Bell]] = {}
        self.told: list[Bell] = []

    def open(self, user: str) -> Box:
        box = self.server.box(user) or Box(user, self.server.now, self.server.run)
        box.arrive(self.server.run)
        return box

    def save(self, box: Box) -> None:
        retention = self.rules.retention
        if box.until - self.server.now < retention - min(DAY_MS, retention / 2):
            box.until = self.server.now + retention
        self.server.boxes.put(box.user, box.copied())

    def write(
        self, box: Box, record: Record, accepted: int, trim: Callable[[int], None] | None = None
    ) -> None:
        """A change: under the next seq, trimmed, saved, and told to whoever listens."""
        box.change(record)
        if trim is not None:
            trim(self.rules.cap)
        self.save(box)
        bell = Bell(box.user, box.birth, box.run, box.seq, box.floor, box.unread, accepted, line_of(record))
        for incarnation in self.server.listeners(keys.shard_of(box.user, self.rules.shards), box.user):
            told = incarnation == self.caller and not self.aloud
            (self.told if told else self.bells.setdefault(incarnation, [])).append(bell)

    def publish(self) -> None:
        """One message per process; the caller has its own with the answer."""
        for bus in self.server.buses:
            if bells := self.bells.get(bus.incarnation):
                self.server.later(lambda bus=bus, bells=bells: bus.hear(bells))  # type: ignore[misc]
            if self.told and bus.incarnation == self.caller:
                self.server.later(lambda bus=bus: bus.told(self.told))  # type: ignore[misc]


class Moves(Writer):
    """The pairs of one batch."""

    def __init__(self, server: MemoryServer, rules: Rules, caller: str, giving: Giving) -> None:
        super().__init__(server, rules, caller)
        self.giving = giving

    def apply(self, item: list[Any]) -> bool:
        """One pair; False when it was applied before. The mark comes last: a pair that fails is done again."""
        move, _, user, marks, number, group, actor, event, accepted, last, push = item
        self.aloud = not number  # a canary has to prove that the bus is heard
        if number and (marks, number) in self.server.marks:
            return False
        record = parse(last) if move == ADD else None
        time = record.time if record else last
        off = self.server.get(self.server.registers, (user, group, actor))
        if off is None or _later(time, event, *off):
            self.server.hazard("item", user, event)
            if record:
                box = self.open(user)
                self.write(box, record, accepted, box.trim_rows)
                self.push(user, event, push)
            else:
                self.withdraw(user, group, time, event, accepted)
            self.server.hazard("row", user, event)
            if move != ADD:
                until = self.server.now + self.rules.window + HOUR_MS
                self.server.registers.put((user, group, actor), Lasting((time, event), until))
            self.server.hazard("register", user, event)
        if number:  # a canary has none
            self.server.marks.put((marks, number), True)
        return True

    def push(self, user: str, nid: str, push: int) -> None:
        """A push to make on each lane of the person's devices; below 0: only if no socket of theirs is open."""
        shard = keys.shard_of(user, self.rules.shards)
        if push == 0 or (push < 0 and self.server.listeners(shard, user)):
            return
        for lane in lanes_of((self.server.devices.get(user) or {}).values()).split():
            self.giving.push(lane, PushEntry("", user, nid, abs(push)))

    def withdraw(self, user: str, group: str, time: int, event: str, accepted: int) -> None:
        """Takes back all rows of the relation that are not later."""
        if (box := self.server.box(user)) is None:
            return
        for _, row in box.rows(1, box.seq):
            if row.group == group and not _later(row.time, row.id, time, event):
                box.arrive(self.server.run)
                tomb = Record(RETRACTED, False, row.time, group, row.id, "")
                self.write(box, tomb, accepted, box.trim_tombs)


class MemoryLog:
    """A stream of events under a lease (ports.EventLog).

    wait(stream, seconds) passes the time; MemoryServer.watch tells it of an append. `consumer`: by whose name senders
    of this process read.
    """

    def __init__(
        self, server: MemoryServer, rules: Rules, stream: str, tagged: str, incarnation: str,
        wait: Callable[[str, float], Awaitable[None]], consumer: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self.server, self.rules, self.stream = server, rules, server.stream(stream)
        self.name, self.tagged, self.incarnation = stream, tagged, incarnation
        self.consumer = consumer or (lambda: incarnation)
        self._wait = wait

    def _keep(self) -> None:
        self.server.leases.put(self.tagged, Lasting(self.incarnation, self.server.now + self.rules.lease))

    def _fence(self) -> None:
        if self.server.get(self.server.leases, self.tagged) != self.incarnation:
            raise LeaseLost

    async def take(self) -> bool:
        """Take the lease, or keep it; False while another process holds it."""
        with self.server.step():
            if self.server.get(self.server.leases, self.tagged) not in (None, self.incarnation):
                return False
            self._keep()
            self._create()
            return True

    async def give(self) -> None:
        """Give the lease back."""
        with self.server.step():
            if self.server.get(self.server.leases, self.tagged) == self.incarnation:
                self.server.leases.cut(self.tagged)

    async def create(self) -> None:
        """Make the consumer group at 0, where it is missing."""
        with self.server.step():
            self._create()

    def _create(self) -> None:
        if "read" not in self.stream.ends:
            self.stream.ends.put("read", (0, 0))

    async def claim(self, idle_ms: int, after: str) -> Claimed:
        """Take over what is pending since idle_ms, in id order."""
        with self.server.step():
            self._fence()
            self._keep()
            if not idle_ms:
                self.stream.strand(self.server.now)
            return Claimed(*self.stream.claim(self.server.now, idle_ms, CLAIM_PAGE, after))

    async def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Handed:
        """Apply a batch, acknowledge what it completes, read more."""
        entries, unfinished, flat = _decode(batch.payload)
        items = [flat[at : at + WIDTH] for at in range(0, len(flat), WIDTH)]
        with self.server.step():
            self._fence()
            self._keep()
            giving = Giving(self.server, self.tagged, rooms, self.consumer())
            moves = Moves(self.server, self.rules, self.incarnation, giving)
            failures: list[tuple[int, str]] = []
            held: set[str] = set()
            duplicates = 0
            for at, item in enumerate(items, 1):
                try:
                    if item[0] == BURY:
                        self._bury(entries[item[1] - 1], item, batch.raws)
                    elif item[2] in held:
                        failures.append((at, HELD))
                    else:
                        duplicates += not moves.apply(item)
                except ItemError as error:
                    held.add(item[2])
                    failures.append((at, str(error)))
            moves.publish()
            given = giving.given()
            left = {*unfinished, *(items[at - 1][1] for at, _ in failures)}
            self.stream.finish(entry for at, entry in enumerate(entries, 1) if at not in left)
            return Handed(tuple(failures), self.stream.read(self.server.now, want), duplicates, given)

    def _bury(self, entry: str, item: list[Any], raws: Sequence[bytes]) -> None:
        _, _, user, mark_key, mark, reason, detail, source, raw, _, _ = item
        dead = Dead(self.server.now, reason, detail, source, entry, user, raws[raw - 1])
        self.server.bury(self.tagged, self.rules, dead)
        if mark:
            self.server.marks.put((mark_key, mark), True)

    async def read(self, want: int) -> tuple[Entry, ...]:
        """Read entries without handing any over."""
        return (await self.handover(NOTHING, want)).entries

    async def acknowledge(self, ids: Sequence[str], letters: Sequence[Letter]) -> None:
        """Acknowledge routed entries and bury those that could not be, in one step."""
        if not ids:
            return
        with self.server.step():
            self._fence()
            for x in letters:
                dead = Dead(self.server.now, x.reason, x.detail, x.source, x.entry, "", x.raw)
                self.server.bury(self.tagged, self.rules, dead)
            for entry in ids:
                self.stream.acknowledge(entry)

    async def wait(self, seconds: float) -> None:
        """Return when something may have been appended after what was read last."""
        if self.stream.ends.get("end", (0, 0)) <= self.stream.ends.get("read", (0, 0)):
            await self._wait(self.name, seconds)

    async def sweep(self, before: int = 0) -> bool:
        """Remove the marks of hours that nothing left in the stream can need; all at once here."""
        with self.server.step():
            self._fence()
            accepted = (stream_id(entry.source or entry.id)[0] for entry in self.stream.entries.values())
            oldest = min([self.server.now, before or self.server.now, *accepted]) - SWEEP_MARGIN
            for marks, number in list(self.server.marks):
                _, tagged, hour, _ = marks.split(":")
                if tagged == self.tagged and (int(hour) + 1) * HOUR_MS + self.rules.window < oldest:
                    self.server.marks.cut((marks, number))
        return False

    async def depth(self) -> Depth:
        """How much lies in the stream, and how old the oldest entry is."""
        with self.server.step():
            found = self.stream.entries
            accepted = min(found)[0] if found else self.server.now
            return Depth(len(found), max(0.0, (self.server.now - accepted) / 1000), accepted)


class MemoryShards:
    """Where a router appends (ports.Shards)."""

    def __init__(self, server: MemoryServer, rules: Rules) -> None:
        self.server, self.rules = server, rules

    async def append(self, chunks: Iterable[Routed]) -> None:
        """Append all."""
        with self.server.step():
            for chunk in chunks:
                stream = keys.events(chunk.shard, self.rules.shards)
                self.server.add(stream, Entry("", chunk.event, (), chunk.source, chunk.to))


class MemoryInbox:
    """Everybody's inbox (ports.Inbox)."""

    def __init__(self, server: MemoryServer, rules: Rules, incarnation: str) -> None:
        self.server, self.rules, self.incarnation = server, rules, incarnation

    def _shard(self, user: str) -> int:
        return keys.shard_of(user, self.rules.shards)

    def _is_void(self, user: str, issued: int) -> bool:
        revoked = self.server.get(self.server.revoked, user)
        return revoked is not None and issued <= revoked

    async def join(self, user: str, join: Join, issued: int) -> Joined:
        """Presence, and the records after a place, in one step."""
        with self.server.step():
            if not self._is_void(user, issued):
                self.server.here(self._shard(user), self.incarnation, [user])
                if self.server.box(user) is None:
                    # made now, so that the place that `ready` names is one from which to resume
                    writer = Writer(self.server, self.rules)
                    writer.save(writer.open(user))
            return self._joined(user, join, issued)

    async def sync(self, user: str, join: Join, issued: int) -> Joined:
        """The same without presence."""
        with self.server.step():
            return self._joined(user, join, issued)

    def _joined(self, user: str, join: Join, issued: int) -> Joined:
        nothing = Box(user, 0, self.server.run)
        if self._is_void(user, issued):
            return _answer("revoked", nothing, self.server.now, [], False)
        box = self.server.box(user) or nothing
        result: JoinResult = join.mode
        if result == "resume" and not box.knows(join.place, join.since):
            result = "resync"
        if result == "resume":
            wanted = [(at, x) for at, x in box.records.items() if at > join.place.seq]
        else:  # who starts from nothing needs rows only; who starts with what comes next, nothing
            wanted = [] if result == "fresh" else box.rows(1, box.seq)
        page: list[tuple[int, Record]] = []
        size = 0
        for seq, record in wanted:
            size += len(line_of(record).encode())
            if len(page) == join.most or (page and size > self.rules.page_bytes):
                break
            page.append((seq, record))
        return _answer(result, box, self.server.now, page, len(page) < len(wanted))

    async def page(self, user: str, before: int, most: int, issued: int) -> Page | None:
        """Rows before a seq (0 = the newest); None when the token has been revoked."""
        with self.server.step():
            if self._is_void(user, issued):
                return None
            box = self.server.box(user) or Box(user, 0, self.server.run)
            rows = box.rows(1, (before or box.seq + 1) - 1)[::-1]
            found = tuple((at, line_of(x)) for at, x in rows[:most])
            return Page(box.birth, box.run, box.seq, box.floor, box.seen, box.unread, len(rows) > most, found)

    async def mark(self, marks: Sequence[Mark]) -> list[int]:
        """Apply marks, in order per person; how many changes each has made."""
        changed = []
        for at in range(0, len(marks), MARK_PAGE):
            with self.server.step():
                marking = Marking(self.server, self.rules)
                changed += [marking.apply(mark) for mark in marks[at : at + MARK_PAGE]]
                marking.publish()
        return changed

    async def refresh(self, users: Sequence[str]) -> dict[str, Standing]:
        """Renew presence, hear where each inbox stands. Without users: only say that this process lives."""
        found = {}
        with self.server.step():
            for shard in range(self.rules.shards):
                mine = [user for user in users if self._shard(user) == shard]
                self.server.here(shard, self.incarnation, mine)
            for user in users:
                box, fault = self.server.box(user) or Box(user, 0, self.server.run), ""
                revoked = self.server.get(self.server.revoked, user)
                try:
                    self.server.hazard("look", user, "")
                except ItemError as error:
                    box, fault = Box(user, 0, self.server.run), str(error)
                found[user] = Standing(box.birth, box.run, box.seq, -1 if revoked is None else revoked, fault)
        return found

    async def leave(self, users: Sequence[str]) -> None:
        """These people have no socket here any more."""
        with self.server.step():
            for user in users:
                members = self.server.get(self.server.present, user)
                if members:
                    until = self.server.present[user].until
                    self.server.present.put(user, Lasting(members - {self.incarnation}, until))

    async def revoke(self, user: str) -> None:
        """Void all tokens of a person issued until now, and close their sockets everywhere."""
        with self.server.step():
            now = self.server.now
            self.server.revoked.put(user, Lasting(now // 1000, now + REVOKED_SECONDS * 1000))
            for bus in self.server.buses:
                self.server.later(lambda bus=bus: bus.void(user))  # type: ignore[misc]


class Marking(Writer):
    """Marks of one call. A mark takes a seq only if it changes a live row."""

    def apply(self, mark: Mark) -> int:
        """One mark; how many changes it has made."""
        box = self.server.box(mark.user)
        if box is None:
            return 0
        box.arrive(self.server.run)
        upto = max(0, min(mark.seq, box.upto(int(mark.birth), mark.run))) if mark.birth else 0
        moves = {"ack": self.ack, "seen": self.seen, "read": self.read, "delete": self.delete}
        return moves[mark.kind](box, upto, mark.ids)

    def ack(self, box: Box, upto: int, _: Sequence[str]) -> int:
        if upto > box.ack:
            box.ack = upto
            self.save(box)
        return 0

    def seen(self, box: Box, upto: int, _: Sequence[str]) -> int:
        if upto <= box.seen:
            return 0
        news = bool(box.rows(box.seen + 1, upto))
        box.seen = upto
        if news:
            self.write(box, self._moving(SEEN, SEEN_ID, str(upto)), self.server.now)
        else:
            self.save(box)
        return int(news)

    def read(self, box: Box, upto: int, ids: Sequence[str]) -> int:
        rows = box.rows(1, box.seq)
        wanted = [(seq, row) for seq, row in rows if not row.read and (seq <= upto or row.id in ids)]
        changed = 0
        for at in range(0, len(wanted), READS):
            for seq, row in wanted[at : at + READS]:
                box.records[seq] = msgspec.structs.replace(row, read=True)
            # All live rows that are read, so that the newest record alone is enough.
            read = [row.id for _, row in box.rows(1, box.seq) if row.read]
            self.write(box, self._moving(READ, READ_ID, " ".join(read)), self.server.now)
            changed += 1
        return changed

    def delete(self, box: Box, _: int, ids: Sequence[str]) -> int:
        changed = 0
        for nid in ids:
            row = box.records.get(box.places.get(nid, 0))
            if row is not None and row.kind == NOTIFICATION:
                gone = Record(DELETED, False, row.time, row.group, nid, "")
                self.write(box, gone, self.server.now, box.trim_tombs)
                changed += 1
        return changed

    def _moving(self, kind: str, nid: str, body: str) -> Record:
        return Record(kind, False, self.server.now, "-", nid, body)


class MemoryBus:
    """Hears the bells of one process (ports.Bus), from `start` to `stop` or the next restart of the server."""

    def __init__(self, server: MemoryServer, shards: int, incarnation: str) -> None:
        self.server, self.shards, self.incarnation = server, shards, incarnation
        self.heard: set[int] = set()
        self._on_bells: Callable[[list[Bell]], None] = lambda bells: None
        self._on_subscribed: Callable[[int], None] = lambda shard: None
        self._on_revoked: Callable[[str], None] = lambda user: None
        self._on_missed: Callable[[Iterable[str]], None] = lambda users: None
        server.buses.append(self)

    def listen(
        self,
        bells: Callable[[list[Bell]], None],
        subscribed: Callable[[int], None],
        revoked: Callable[[str], None],
        missed: Callable[[Iterable[str]], None],
    ) -> None:
        """Call `bells` for each message, `subscribed(shard)` after each (re)subscription, `revoked(user)`, and
        `missed(users)` when bells of these people may have been lost."""
        self._on_bells, self._on_subscribed = bells, subscribed
        self._on_revoked, self._on_missed = revoked, missed

    def start(self) -> None:
        """Subscribe."""
        for shard in range(self.shards):
            self.heard.add(shard)
            self._on_subscribed(shard)

    def stop(self) -> None:
        """Lose the connection, and with it what is said until the next start."""
        self.heard.clear()

    def hear(self, bells: list[Bell]) -> None:
        if self.heard:
            self._on_bells(bells)

    def told(self, bells: list[Bell]) -> None:
        """Bells that came with the answer to a handover, whether or not the bus is heard."""
        self._on_bells(bells)

    def missed(self, users: Iterable[str]) -> None:
        """An answer was lost that may have had bells of these people."""
        self._on_missed(users)

    def void(self, user: str) -> None:
        if self.heard:
            self._on_revoked(user)


def _later(time: int, event: str, than_time: int, than_event: str) -> bool:
    """(time, id) orders what one actor did; ids that were made from stream ids are compared as numbers."""
    made, than_made = _made(event), _made(than_event)
    if time == than_time and made and than_made:
        return (int(made[1]), int(made[2])) > (int(than_made[1]), int(than_made[2]))
    return (time, event) > (than_time, than_event)


def _answer(result: JoinResult, box: Box, now: int, page: list[tuple[int, Record]], more: bool) -> Joined:
    return Joined(
        result, box.birth, box.run, box.seq, box.floor, box.seen, box.unread, now, more,
        tuple((seq, line_of(record)) for seq, record in page),
    )  # fmt: skip


__all__ = ["Dead", "ItemError", "MemoryBus", "MemoryInbox", "MemoryLog", "MemoryServer", "MemoryShards"]
