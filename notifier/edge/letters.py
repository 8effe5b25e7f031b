"""Dead letters over Redis: listed across all streams, put back through the front door, dropped.
Every letter has a name that a shell takes as it is: part/reason/stream id, the part a shard or "in", the front door."""

import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredList

from notifier.core import keys, lanes
from notifier.core.backlog import BURIALS
from notifier.core.identity import mark

Call = Callable[..., Deferred[Any]]
"""Sends one command; its answer, or notifier.ports.Unavailable, or notifier.edge.redis.ReplyError."""

NO_EVENT: Final = "no_event"
REASONS: Final = tuple(dict.fromkeys((*BURIALS, *lanes.BURIALS)))
NOT_EVENTS: Final = frozenset(
    (NO_EVENT, *lanes.BURIALS)
)  # nothing that the front door could take: fields, pushes
FRONT: Final = "in"
PAGE: Final = 50  # letters a read
MOST: Final = 100  # letters a retry, and bytes: a script holds up everybody else
MOST_BYTES: Final = 262_144
VERSION: Final = b"1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_RETRY: Final = (files("notifier.edge") / "lua/retry.lua").read_text()


class Name(NamedTuple):
    """Where a letter lies: str() is its name, `parse` the way back."""

    part: str
    reason: str
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Raises ValueError for what is not the name of a letter."""
        match = re.fullmatch(r"(in|[0-9]{1,2})/([a-z_]{1,40})/([0-9]{1,20}-[0-9]{1,20})", text)
        if match is None:
            raise ValueError(
                f"{text!r} is not the name of a dead letter, which looks like 0/schema/1764000000000-0"
            )
        return cls(*match.groups())

    @property
    def key(self) -> str:
        """The stream that holds it."""
        return keys.dead_letters(
            keys.FRONT_TAG if self.part == FRONT else keys.tag(int(self.part)), self.reason
        )

    @property
    def order(self) -> tuple[int, int]:
        """When it was buried: (ms, sequence)."""
        ms, _, sequence = self.entry.partition("-")
        return int(ms), int(sequence)

    def __str__(self) -> str:
        return f"{self.part}/{self.reason}/{self.entry}"


class DeadLetter(Struct, frozen=True, gc=False):
    """An event that could not be applied. `source`: its id at the front door; `entry`: in the stream where it failed.

    `to`: the one person it could not be applied to, "" = it was applied to nobody. `raw`: what the producer appended.
    """

    name: Name
    detail: str
    source: str
    entry: str
    to: str
    raw: bytes

    @property
    def at(self) -> int:
        """When it was buried, in ms since 1970."""
        return self.name.order[0]


class NotAnEvent(ValueError):
    """This letter holds nothing that the front door could take."""


class _Identity(Struct, frozen=True, gc=False):
    """What an event's idempotency mark is made of."""

    id: str
    time: datetime


def event_of(letter: DeadLetter, as_new: bool = False) -> bytes:
    """The event to try again. as_new: without the `id` and `time` it had, so that it happens now.

    A letter for one person goes to that person only, as the event it was: under the id that it had, so that what was
    applied of it is not applied twice, and at its time, so that it takes back nothing that came later.
    Raises NotAnEvent.
    """
    if letter.name.reason == NO_EVENT:
        raise NotAnEvent(f"{letter.name} holds no event, only the fields of an entry without `event`")
    if letter.name.reason in NOT_EVENTS:
        raise NotAnEvent(f"{letter.name} holds a push, whose time is over; the notification is in the inbox")
    if not letter.to and not as_new:
        return letter.raw
    try:
        fields = msgspec.json.decode(letter.raw, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return letter.raw  # not an object: the front door will say so again
    if as_new:
        fields.pop("id", None)
        fields.pop("time", None)
    elif letter.to and _absent(fields, "id"):
        fields["id"] = _json("x:" + letter.source)
        if _absent(fields, "time"):
            fields["time"] = _json(_iso(int(letter.source.partition("-")[0])))
    if letter.to:
        fields["to"] = _json([letter.to])
    return msgspec.json.encode(fields)


def _absent(fields: dict[str, msgspec.Raw], name: str) -> bool:
    return name not in fields or bytes(fields[name]) == b"null"


def _json(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Letters:
    """The dead letters of an installation. All methods raise what `call` raises.

    shards, buckets: as the state was set up (keys.SETUP). `edit` changes the script (tests inject faults with it).
    """

    def __init__(self, call: Call, shards: int, buckets: int, edit: Callable[[str], str] = str) -> None:
        self.call, self.buckets = call, buckets
        # No allow-oom: what goes in at the front door is refused while memory is short, and the letter stays.
        self._script = "#!lua\n" + edit(_RETRY)
        self.parts = (FRONT, *map(str, range(shards)))

    async def counts(self, reasons: Iterable[str] = REASONS) -> dict[str, int]:
        """How many letters there are by reason; reasons without any are left out."""
        streams = self._streams(reasons)
        lengths = await _all(self.call("XLEN", stream.key) for stream in streams)
        found: dict[str, int] = {}
        for stream, length in zip(streams, lengths, strict=True):
            if length:
                found[stream.reason] = found.get(stream.reason, 0) + length
        return found

    async def get(self, name: Name) -> DeadLetter | None:
        """One letter; None when it is not there (any more)."""
        entries = await self.call("XRANGE", name.key, name.entry, name.entry)
        return _letter(name, entries[0]) if entries else None

    async def newest(self, reasons: Iterable[str] = REASONS) -> AsyncIterator[DeadLetter]:
        """All letters, the one buried last first."""
        async for letter in self._merged(self._streams(reasons), backwards=True):
            yield letter

    async def oldest(self, reasons: Iterable[str] = REASONS) -> AsyncIterator[DeadLetter]:
        """All letters, the one buried first first; those that are buried meanwhile (again) do not follow."""
        async for letter in self._merged(self._streams(reasons), backwards=False):
            yield letter

    async def retry(self, letters: Sequence[DeadLetter], as_new: bool = False) -> list[str]:
        """Put letters back through the front door as events (see event_of), in this order, each in one step.

        Returns the id of each new entry, "" where the letter was gone. On a cluster Redis refuses (CROSSSLOT) all
        but the letters of the front door, whose stream lies in another slot than a shard's. Raises NotAnEvent, before
        anything is done.
        """
        made: list[str] = []
        for part in _bounded([(letter, event_of(letter, as_new)) for letter in letters]):
            streams = list(dict.fromkeys(letter.name.key for letter, _ in part))
            args: list[str | int | bytes] = []
            for letter, event in part:
                where, number = ("", 0) if as_new else self._mark(letter, event)
                args += (streams.index(letter.name.key) + 2, letter.name.entry, event, where, number)
            answer = await self.call("EVAL", self._script, len(streams) + 1, keys.FRONT_DOOR, *streams, *args)
            made += (entry.decode() for entry in answer)
        return made

    def _mark(self, letter: DeadLetter, event: bytes) -> tuple[str, int]:
        """The idempotency mark of a letter for one person: (key of the set, number in it); ("", 0) for others."""
        if not letter.to:
            return "", 0
        try:
            wire = msgspec.json.decode(event, type=_Identity)
        except (ValueError, RecursionError):
            return "", 0  # it was never an event, so it has no mark
        bucket, number = mark(wire.id, letter.to, self.buckets)
        hour = (wire.time - _EPOCH) // timedelta(hours=1)
        return keys.marks(keys.tag(int(letter.name.part)), hour, bucket), number

    async def drop(self, names: Sequence[Name]) -> list[bool]:
        """Remove letters for good; False for each that was gone."""
        return [bool(n) for n in await _all(self.call("XDEL", name.key, name.entry) for name in names)]

    def _streams(self, reasons: Iterable[str]) -> list[Name]:
        return [Name(part, reason, "0-0") for reason in reasons for part in self.parts]

    async def _merged(self, streams: list[Name], backwards: bool) -> AsyncIterator[DeadLetter]:
        ends = await _all(self.call("XREVRANGE", stream.key, "+", "-", "COUNT", 1) for stream in streams)
        cursors = [
            _Cursor(self.call, stream, end[0][0].decode(), backwards)
            for stream, end in zip(streams, ends, strict=True)
            if end
        ]
        pick = max if backwards else min
        while True:
            for cursor in cursors:
                await cursor.fill()
            cursors = [cursor for cursor in cursors if cursor.page]
            if not cursors:
                return
            yield pick(cursors, key=lambda cursor: cursor.page[0].name.order).page.popleft()


class _Cursor:
    """One stream, read a page at a time up to what was its end."""

    def __init__(self, call: Call, stream: Name, end: str, backwards: bool) -> None:
        self.call, self.stream, self.end, self.backwards = call, stream, end, backwards
        self.page: deque[DeadLetter] = deque()
        self._at = end if backwards else "-"
        self._done = False

    async def fill(self) -> None:
        while not self.page and not self._done:
            if self.backwards:
                entries = await self.call("XREVRANGE", self.stream.key, self._at, "-", "COUNT", PAGE)
            else:
                entries = await self.call("XRANGE", self.stream.key, self._at, self.end, "COUNT", PAGE)
            self._done = len(entries) < PAGE
            if entries:
                self._at = f"({entries[-1][0].decode()}"
            named = ((self.stream._replace(entry=entry[0].decode()), entry) for entry in entries)
            self.page.extend(letter for name, entry in named if (letter := _letter(name, entry)))


def _letter(name: Name, entry: Any) -> DeadLetter | None:
    """None for a letter of a version that this program does not know: it is another's."""
    flat = entry[1]
    values = dict(zip(flat[::2], flat[1::2], strict=True))
    if values.get(b"v") != VERSION:
        return None
    detail, source, stream_id, to = (
        values.get(field, b"").decode("utf-8", "backslashreplace")
        for field in (b"detail", b"source", b"entry", b"to")
    )
    return DeadLetter(name, detail, source, stream_id, to, values.get(b"raw", b""))


def _bounded(events: Sequence[tuple[DeadLetter, bytes]]) -> Iterator[list[tuple[DeadLetter, bytes]]]:
    part: list[tuple[DeadLetter, bytes]] = []
    size = 0
    for letter, event in events:
        size += len(event)
        if part and (len(part) == MOST or size > MOST_BYTES):
            yield part
            part, size = [], len(event)
        part.append((letter, event))
    if part:
        yield part


async def _all(asked: Iterable[Deferred[Any]]) -> list[Any]:
    """All answers of a pipeline, or the first error."""
    results: list[tuple[bool, Any]] = await DeferredList(list(asked), consumeErrors=True)
    for well, result in results:
        if not well:
            result.raiseException()
    return [result for _, result in results]
