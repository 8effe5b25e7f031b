"""What the model is about: events, entries, records, inboxes, places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

DOOR: Final = "door"
ROW, TOMB, SEEN, READ = "row", "tomb", "seen", "read"

StreamId = tuple[int, int]  # (tick, number)


class Event(NamedTuple):
    """What a producer appends; `relation`: what an actor did to an object, which a retraction takes back."""

    id: str | None
    time: int
    takes_back: bool
    relation: str
    to: tuple[str, ...]


class Entry(NamedTuple):
    """One entry of a stream. source: its id at the front door; to: whom this chunk is for."""

    id: StreamId
    event: Event
    source: StreamId
    to: tuple[str, ...]


class Record(NamedTuple):
    """The newest change of one notification, or of a mark. upto, ids: of the seen and the read mark."""

    kind: str
    id: str
    relation: str = ""
    order: tuple[int, str] = (0, "")
    read: bool = False
    upto: int = 0
    ids: tuple[str, ...] = ()


class Place(NamedTuple):
    """How far somebody has followed an inbox."""

    birth: int
    run: int
    seq: int


NOWHERE: Final = Place(0, 0, 0)


@dataclass
class Inbox:
    """One inbox. agreed: up to which seq this run and the one before are the same; at: where an id's record is."""

    birth: int
    run: int
    before: int = 0
    agreed: int = 0
    seq: int = 0
    floor: int = 0
    past: int = 0
    tail: int = 1
    seen: int = 0
    records: dict[int, Record] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Inbox:
        fields = dict(vars(self))
        fields["records"], fields["at"] = dict(self.records), dict(self.at)
        return Inbox(**fields)

    def rows(self) -> dict[int, Record]:
        return {seq: each for seq, each in sorted(self.records.items()) if each.kind == ROW}

    def count(self, kind: str) -> int:
        return sum(each.kind == kind for each in self.records.values())

    def drop(self, seq: int) -> None:
        del self.at[self.records.pop(seq).id]


class Bell(NamedTuple):
    """One change of one inbox, told to a process."""

    user: str
    birth: int
    run: int
    seq: int
    floor: int
    record: Record


class Joined(NamedTuple):
    """What a join returns."""

    result: str
    place: Place
    floor: int
    seen: int
    more: bool
    records: tuple[tuple[int, Record], ...]


class Mark(NamedTuple):
    """What a person has seen, read or deleted."""

    user: str
    kind: str
    place: Place
    ids: tuple[str, ...] = ()
