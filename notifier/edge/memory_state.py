"""What a Redis holds for notifier, as plain Python (the state behind memory.py): streams, leases, inboxes, presence.
Every change goes through a Table, so that a restart can take the last ones back."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from notifier.core.backlog import Entry
from notifier.core.inbox import DELETED, NOTIFICATION, RETRACTED, Bell, Place, Record
from notifier.core.lanes import PushEntry
from notifier.core.model import Device
from notifier.edge.store import ALIVE_MS, PRESENCE_MS, Rules
from notifier.ports import GroupLost, Unavailable

K = TypeVar("K")
V = TypeVar("V")
E = TypeVar("E", Entry, PushEntry)
Id = tuple[int, int]

STEPS: Final = 64  # records that a trim drops in one write, at most: no write may take long
STEPS_KEPT: Final = 10_000  # that a restart could take back
TOMBS: Final = (RETRACTED, DELETED)


class Table(dict[K, V]):
    """A dict whose changes can be taken back: they are made with `put` and `cut` alone."""

    def __init__(self, server: "MemoryServer") -> None:
        super().__init__()
        self._server = server

    def put(self, key: K, value: V) -> None:
        self._server.note(self, key)
        self[key] = value

    def cut(self, key: K) -> None:
        if key in self:
            self._server.note(self, key)
            del self[key]


class ItemError(Exception):
    """What MemoryServer.hazard raises to make an item of a batch fail."""


class Lasting(Struct, Generic[V], frozen=True):
    """A value until a time, ms."""

    value: V
    until: int


class Dead(Struct, frozen=True):
    """A dead letter; `at`: when it was buried, ms; `to`: the person it was for, "" = all."""

    at: int
    reason: str
    detail: str
    source: str
    entry: str
    to: str
    raw: bytes
    lane: str = ""  # of a push: where it was to be sent, and to which device, "-" = all
    device: str = ""


class Waiting(Struct, frozen=True):
    """A delivery that is tried again at `at`, ms; `entry`: what will be appended to its lane then."""

    at: int
    lane: str
    seq: int
    entry: PushEntry


class DeadToken(Struct, frozen=True):
    """A device that was forgotten on a provider's word; `at`: ms."""

    at: int
    user: str
    device: Device
    reason: str


class Stream(Generic[E]):
    """Entries by id. pending: when each was last given to a reader, ms; holders: to which. ends: "end" is the newest
    id given out, "read" how far the consumer group has read; without it there is no group."""

    def __init__(self, server: "MemoryServer") -> None:
        self.entries: Table[Id, E] = Table(server)
        self.pending: Table[Id, int] = Table(server)
        self.holders: Table[Id, str] = Table(server)
        self.ends: Table[str, Id] = Table(server)

    def add(self, now: int, entry: E) -> str:
        """Append under its id, or the next one."""
        ms, number = self.ends.get("end", (0, 0))
        at = stream_id(entry.id) if entry.id else max((now, 0), (ms, number + 1))
        if at <= (ms, number):
            raise ValueError(f"entry id {entry.id} is not after {ms}-{number}, the newest of the stream")
        entry = msgspec.structs.replace(entry, id=f"{at[0]}-{at[1]}")
        self.entries.put(at, entry)
        self.ends.put("end", at)
        return entry.id

    def read(self, now: int, want: int, holder: str = "") -> tuple[E, ...]:
        """The next entries, pending from now on. Raises GroupLost."""
        if not want:
            return ()
        if "read" not in self.ends:
            raise GroupLost
        found = sorted(at for at in self.entries if at > self.ends["read"])[:want]
        for at in found:
            self.pending.put(at, now)
            self.holders.put(at, holder)
            self.ends.put("read", at)
        return tuple(self.entries[at] for at in found)

    def strand(self, now: int) -> None:
        """What was read and is no longer pending, but still there, is pending again (lua/claim.lua)."""
        for at in self.entries:
            if at <= self.ends.get("read", (0, 0)) and at not in self.pending:
                self.pending.put(at, now)

    def acknowledge(self, entry: str) -> None:
        """Only what is pending may go: an entry whose read was rolled back comes again."""
        at = stream_id(entry)
        if at in self.pending:
            self.pending.cut(at)
            self.holders.cut(at)
            self.entries.cut(at)

    def finish(self, done: Iterable[str]) -> None:
        """What a handover has done with (lua/handover.lua). Where not all of it was pending, only what has been read by
        now goes: an entry whose read was rolled back comes again."""
        found = [stream_id(entry) for entry in done]
        whole, upto = all(at in self.pending for at in found), self.ends.get("read", (0, 0))
        for at in found:
            self.pending.cut(at)
            self.holders.cut(at)
            if whole or at <= upto:
                self.entries.cut(at)

    def discard(self, entry: str) -> None:
        """Whether it is pending or not."""
        at = stream_id(entry)
        for table in (self.pending, self.holders, self.entries):
            table.cut(at)

    def claim(
        self, now: int, idle: int, want: int, after: str, holder: str = ""
    ) -> tuple[tuple[E, ...], tuple[str, ...], str]:
        """Take over what is pending since so long: entries, ids of those deleted meanwhile, where to go on."""
        if "read" not in self.ends:
            raise GroupLost
        first = stream_id(after or "0-0")
        due = sorted(at for at, since in self.pending.items() if at >= first and now - since >= idle)
        part, rest = due[:want], due[want:]
        for at in part:
            if at in self.entries:
                self.pending.put(at, now)
                self.holders.put(at, holder)
            else:
                self.pending.cut(at)
                self.holders.cut(at)
        return (
            tuple(self.entries[at] for at in part if at in self.entries),
            tuple(f"{at[0]}-{at[1]}" for at in part if at not in self.entries),
            f"{rest[0][0]}-{rest[0][1]}" if rest else "",
        )


class Box(Struct):
    """One person's inbox. records: by seq, ascending. places: notification id -> seq. The rest as in lua/inbox.lua."""

    user: str
    birth: int
    run: str
    prun: str = "-"
    start: int = 0  # the seq at which this run began
    seq: int = 0
    floor: int = 0
    past: int = 0
    seen: int = 0
    ack: int = 0
    until: int = 0
    records: dict[int, Record] = {}
    places: dict[str, int] = {}

    def copied(self) -> "Box":
        return msgspec.structs.replace(self, records=dict(self.records), places=dict(self.places))

    def rows(self, first: int, last: int) -> list[tuple[int, Record]]:
        """Live rows, oldest first."""
        return [(at, x) for at, x in self.records.items() if x.kind == NOTIFICATION and first <= at <= last]

    @property
    def live(self) -> int:
        return sum(record.kind == NOTIFICATION for record in self.records.values())

    @property
    def unread(self) -> int:
        return sum(record.kind == NOTIFICATION and not record.read for record in self.records.values())

    @property
    def tombs(self) -> int:
        return sum(record.kind in TOMBS for record in self.records.values())

    def arrive(self, run: str) -> None:
        """The server has started anew: what followed `start` under the old run may have been lost with it."""
        if self.run != run:
            self.prun, self.run, self.start, self.ack = self.run, run, self.seq, min(self.ack, self.seq)

    def change(self, record: Record) -> None:
        """The newest record of an id, under the next seq and in place of the older one."""
        self.drop(self.places.get(record.id, 0))
        self.seq += 1
        self.records[self.seq] = record
        self.places[record.id] = self.seq

    def drop(self, seq: int) -> None:
        record = self.records.pop(seq, None)
        if record is not None:
            del self.places[record.id]

    def trim_rows(self, cap: int) -> None:
        """The cap counts live rows; whatever is older than a dropped row goes with it."""
        for seq in list(self.records)[:STEPS]:
            if self.live <= cap or seq == self.seq:
                break
            self.drop(seq)
            self.floor = seq
        self.past = max(self.past, self.floor)

    def trim_tombs(self, cap: int) -> None:
        """Older live rows stay; clients that have not come as far as `past` must load anew."""
        for seq in range(self.past + 1, min(self.past + STEPS + 1, self.seq)):
            if self.tombs <= cap:
                break
            if seq in self.records and self.records[seq].kind in TOMBS:
                self.drop(seq)
            self.past = seq

    def upto(self, birth: int, run: str) -> int:
        """How far seqs that were given under (birth, run) still mean the same; -1: not at all."""
        if birth != self.birth:
            return -1
        return self.seq if run == self.run else self.start if run == self.prun else -1

    def knows(self, place: Place, since: int = 0) -> bool:
        """Is every change after this place still here? since: see Join."""
        if place.birth == 0 and place.seq == 0:
            return self.past == 0
        return self.past <= max(place.seq, since) <= self.upto(place.birth, place.run)


class Listener(Protocol):
    """A bus, as the server sees it (memory.MemoryBus)."""

    incarnation: str

    def hear(self, bells: list[Bell]) -> None: ...
    def told(self, bells: list[Bell]) -> None: ...
    def void(self, user: str) -> None: ...
    def stop(self) -> None: ...


class MemoryServer:
    """What Redis holds. now: ms since 1970, moved by the test. down: every call raises Unavailable.

    hazard(stage, user, event id) may raise ItemError, so that a pair of a batch fails: before anything is written
    ("item"), after its row and bell ("row"), or after its register ("register"); or so that an inbox cannot be read by
    a refresh ("look").
    """

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.now, self.down, self._runs = now, False, 1
        self.hazard: Callable[[str, str, str], None] = lambda stage, user, event: None
        self._steps: deque[list[tuple[Table[Any, Any], Any, bool, Any]]] = deque([[]], STEPS_KEPT)
        self._after: list[Callable[[], None]] = []
        self._streams: dict[str, Stream[Entry]] = {}
        self._lanes: dict[str, Stream[PushEntry]] = {}
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self.buses: list[Listener] = []
        self.leases: Table[str, Lasting[str]] = Table(self)
        self.boxes: Table[str, Box] = Table(self)
        self.registers: Table[tuple[str, str, str], Lasting[tuple[int, str]]] = Table(self)
        self.marks: Table[tuple[str, str], bool] = Table(self)
        self.letters: Table[tuple[str, str], tuple[Dead, ...]] = Table(self)
        self.present: Table[str, Lasting[frozenset[str]]] = Table(self)
        self.alive: Table[tuple[int, str], Lasting[bool]] = Table(self)
        self.revoked: Table[str, Lasting[int]] = Table(self)
        self.devices: Table[str, dict[str, Device]] = Table(self)
        # device -> (user, registered, who had it before)
        self.owners: Table[str, tuple[str, int, str]] = Table(self)
        self.lanes: Table[str, frozenset[str]] = Table(self)  # by tag: those that devices have ever had
        self.renamed: Table[tuple[str, str], tuple[str, int]] = Table(self)  # (user, device): what, until
        self.waiting: Table[tuple[str, str, str, str], Waiting] = Table(
            self
        )  # tag, user, notification, device
        self.dead_tokens: Table[str, tuple[DeadToken, ...]] = Table(self)  # by tag

    @property
    def run(self) -> str:
        """The run of the server: 16 hex digits, other ones after each start."""
        return f"{self._runs:016x}"

    def note(self, table: Table[Any, Any], key: Any) -> None:
        """Remember what stands under a key that is about to change."""
        self._steps[-1].append((table, key, key in table, table.get(key)))

    @contextmanager
    def step(self) -> Iterator[None]:
        """One atomic call. As in Lua, an error takes nothing back. Bells are rung when the call has ended."""
        if self.down:
            raise Unavailable("the in-memory server is down")
        self._steps.append([])
        try:
            yield
        finally:
            after, self._after = self._after, []
            for tell in after:
                tell()

    def later(self, tell: Callable[[], None]) -> None:
        """Call when the step has ended."""
        self._after.append(tell)

    def restart(self, lost: int = 0) -> None:
        """A new run, without the last `lost` steps, as after a crash without its last second. All buses fall silent."""
        for _ in range(min(lost, len(self._steps) - 1)):
            for table, key, was_there, value in reversed(self._steps.pop()):
                dict.__setitem__(table, key, value) if was_there else table.pop(key)
        self._runs += 1
        for bus in self.buses:
            bus.stop()

    def get(self, table: Table[K, Lasting[V]], key: K) -> V | None:
        """A value that has not expired."""
        found = table.get(key)
        return found.value if found is not None and found.until > self.now else None

    def stream(self, name: str) -> Stream[Entry]:
        return self._streams.setdefault(name, Stream(self))

    def lane(self, name: str) -> Stream[PushEntry]:
        return self._lanes.setdefault(name, Stream(self))

    def append(self, stream: str, *fields: bytes, entry_id: str = "") -> str:
        """XADD as a producer does it: names and values in turn; the id of the entry. ValueError for an id too old."""
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        event = values.get(b"event")
        with self.step():
            return self.add(stream, Entry(entry_id, event, () if event is not None else fields))

    def add(self, stream: str, entry: Entry) -> str:
        self._wake(stream)
        return self.stream(stream).add(self.now, entry)

    def push(self, lane: str, entry: PushEntry) -> str:
        self._wake(lane)
        return self.lane(lane).add(self.now, entry)

    def _wake(self, stream: str) -> None:
        for wake in self._watchers.pop(stream, ()):
            self.later(wake)

    def watch(self, stream: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call once, at the next append to a stream. What comes back takes the wish back."""
        watchers = self._watchers.setdefault(stream, [])
        watchers.append(wake)
        return lambda: watchers.remove(wake) if wake in watchers else None

    def bury(self, tagged: str, rules: Rules, dead: Dead) -> None:
        key = tagged, dead.reason
        kept = [old for old in self.letters.get(key, ()) if old.at >= self.now - rules.letters_age]
        self.letters.put(key, (*kept, dead)[-rules.letters :])

    def box(self, user: str) -> Box | None:
        """A person's inbox, to be changed and put back."""
        found = self.boxes.get(user)
        return found.copied() if found is not None and found.until > self.now else None

    def here(self, shard: int, incarnation: str, users: Iterable[str]) -> None:
        """A process lives, and these people have a socket on it."""
        self.alive.put((shard, incarnation), Lasting(True, self.now + ALIVE_MS))
        for user in users:
            members = (self.get(self.present, user) or frozenset()) | {incarnation}
            self.present.put(user, Lasting(members, self.now + PRESENCE_MS))

    def listeners(self, shard: int, user: str) -> frozenset[str]:
        """Processes with a socket of this person; those that died without a word are forgotten."""
        members = self.get(self.present, user) or frozenset()
        living = frozenset(one for one in members if self.get(self.alive, (shard, one)))
        if living != members:
            self.present.put(user, Lasting(living, self.present[user].until))
        return living


def line_of(record: Record) -> str:
    """A record as it is stored and sent (core/inbox.py)."""
    read = "1" if record.read else "0"
    return f"1{record.kind}{read} {record.time} {record.group} {record.id} {record.body}"


def stream_id(text: str) -> Id:
    """A stream id as Redis orders it."""
    ms, _, number = text.partition("-")
    return int(ms), int(number or 0)
