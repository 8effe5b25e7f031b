"""What an inbox says to the outside: places, records, bells, and what may be done to it.
A place is (birth, run, seq): which inbox, which run of the Redis server, how far (docs/architecture.md)."""

from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

MarkKind: TypeAlias = Literal["ack", "seen", "read", "delete"]
JoinMode: TypeAlias = Literal["fresh", "load", "resume"]
JoinResult: TypeAlias = Literal["fresh", "load", "resume", "resync", "revoked"]

NOTIFICATION: Final = "n"
RETRACTED: Final = "t"
DELETED: Final = "x"
SEEN: Final = "s"
READ: Final = "r"


class Place(Struct, frozen=True, gc=False):
    """How far somebody has followed an inbox; `birth` is ms since 1970, `run` the first 16 hex digits of run_id."""

    birth: int
    run: str
    seq: int

    @property
    def epoch(self) -> str:
        """The opaque text that stands for (birth, run) on the wire."""
        return f"{self.birth}.{self.run}"

    @classmethod
    def parse(cls, epoch: str, after: int) -> "Place | None":
        """The place that a client names; None when it is none that we have ever given out."""
        birth, dot, run = epoch.partition(".")
        if not (
            dot
            and birth.isdecimal()
            and birth.isascii()
            and len(birth) < 16
            and run.isalnum()
            and len(run) <= 40
        ):
            return None
        return cls(int(birth), run, after)


class Join(Struct, frozen=True, gc=False):
    """What a session asks for: from which place, and how many records at most.

    `since`: while a load or resync goes on page by page, the seq at which it began: tombstones up to there may be
    gone, the pages do not need them.
    """

    mode: JoinMode
    place: Place
    most: int
    since: int = 0


class Joined(Struct, frozen=True):
    """The answer: where the inbox stands and the records that follow the place asked for, oldest first.

    `more`: the page was full, ask again from the last seq. `now`: the server's clock, ms.
    """

    result: JoinResult
    birth: int
    run: str
    seq: int
    floor: int
    seen: int
    unread: int
    now: int
    more: bool
    records: tuple[tuple[int, str], ...]


class Page(Struct, frozen=True):
    """Rows of an inbox, newest first."""

    birth: int
    run: str
    seq: int
    floor: int
    seen: int
    unread: int
    more: bool
    records: tuple[tuple[int, str], ...]


class Bell(Struct, frozen=True, array_like=True, gc=False):
    """One change of one inbox, told to every process that holds a socket of the person.

    `accepted`: ms, when the cause was accepted at the front door; `record`: see Record.
    """

    user: str
    birth: int
    run: str
    seq: int
    floor: int
    unread: int
    accepted: int
    record: str


class Mark(Struct, frozen=True, array_like=True, gc=False):
    """What a person has received (ack), seen, read or deleted. By seq it needs the place that gave the seq meaning."""

    user: str
    kind: MarkKind
    birth: str
    run: str
    seq: int
    ids: tuple[str, ...] = ()


class Standing(Struct, frozen=True, gc=False):
    """Where an inbox stands, as the refresh sweep hears it; tokens issued until `revoked` (s, -1 = none) are void.

    `fault`: why it cannot be read; its place means nothing then. "" = all is well.
    """

    birth: int
    run: str
    seq: int
    revoked: int
    fault: str = ""


class Record(Struct, frozen=True, gc=False):
    """The newest change of one notification id, as it is stored: "<version><kind><read> <time> <group> <id> <body>".

    kind: NOTIFICATION, RETRACTED, DELETED, SEEN or READ. `time`: the event's own, ms. `body`: for a notification the
    members of its JSON object, for SEEN a seq, for READ ids parted by spaces.
    """

    kind: str
    read: bool
    time: int
    group: str
    id: str
    body: str


def parse(line: str) -> Record:
    """The stored form of a record, taken apart."""
    head, time, group, nid, body = line.split(" ", 4)
    return Record(head[1], head[2] == "1", int(time), group, nid, body)


def row(time: int, group: str, nid: str, body: str) -> str:
    """The stored form of a new notification's record."""
    return f"1{NOTIFICATION}0 {time} {group} {nid} {body}"


_decode_bells = msgspec.msgpack.Decoder(list[Bell]).decode
_decode_bell = msgspec.msgpack.Decoder(Bell).decode
_decode_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
# Not only msgspec's own: text that is not UTF-8, lists in lists in lists.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.msgpack.Encoder().encode


def decode_bells(message: bytes) -> list[Bell]:
    """The bells of one published message. ValueError for anything that handover or mark did not write."""
    try:
        return _decode_bells(message)
    except _UNREADABLE as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def salvage_bells(message: bytes) -> tuple[list[Bell], int]:
    """The bells that can be read of a message that cannot be as a whole, and how many cannot (it may be all of it)."""
    try:
        parts = _decode_parts(message)
    except _UNREADABLE:
        return [], 1
    bells = []
    for part in parts:
        try:
            bells.append(_decode_bell(part))
        except _UNREADABLE:
            continue
    return bells, len(parts) - len(bells)


def encode_marks(marks: list[Mark]) -> bytes:
    """Marks as mark.lua reads them."""
    return _encode(marks)
