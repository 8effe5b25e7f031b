"""The list and the place in it: what messages do to them. Knows no socket and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

Message = Mapping[str, Any]
Kind = Literal["notification", "retract", "deleted", "read", "seen", "complete", "resync"]
COUNTED: Final = frozenset(("notification", "retract", "deleted", "read", "seen"))


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who acted. `name` and `image` only if the event had them."""

    id: str
    name: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What was acted upon."""

    type: str
    id: str
    url: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A notification. All text in it was written by producers and users.

    kind   the event's type, as "like"
    count  how many people acted: at least as many as `actors` names
    time   RFC 3339, UTC
    """

    id: str
    seq: int
    kind: str
    actors: tuple[Actor, ...]
    count: int
    time: str
    read: bool
    object: Subject | None = None
    text: str | None = None

    @classmethod
    def from_message(cls, message: Message) -> Row:
        """From a `notification` message; members that are not known are left out. Raises KeyError for missing ones."""
        subject = message.get("object")
        return cls(
            message["id"],
            message["seq"],
            message["kind"],
            tuple(Actor(one["id"], one.get("name"), one.get("image")) for one in message["actors"]),
            message["count"],
            message["time"],
            message["read"],
            None
            if subject is None
            else Subject(subject["type"], subject["id"], subject.get("url"), subject.get("image")),
            message.get("text"),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed in the inbox.

    kind  "notification", "retract", "deleted", "read", "seen" as the server's messages; "complete": a load or resume
          is over, everything is here; "resync": the place was lost, a load follows
    row   the row of a notification
    ids   the rows of retract, deleted, read
    news  a notification that was not here before in this version, and is unread
    """

    kind: Kind
    row: Row | None = None
    ids: tuple[str, ...] = ()
    news: bool = False


@dataclass
class Inbox:
    """A person's rows, and the place up to which they are known.

    rows      by notification id. After a resync the old ones stay until the new ones are complete
    unread    how many rows are unread
    seen      rows up to this seq have been looked at
    last      highest seq that came over this connection: what to acknowledge
    complete  no resume is under way
    """

    rows: dict[str, Row] = field(default_factory=dict)
    unread: int = 0
    seen: int = 0
    last: int = 0
    complete: bool = False
    epoch: str | None = None
    seq: int = 0
    _loading: dict[str, Row] | None = None

    def newest(self) -> list[Row]:
        """The rows, newest first."""
        return sorted(self.rows.values(), key=lambda row: row.seq, reverse=True)

    def unread_of(self, ids: Iterable[str]) -> list[Row]:
        """Those of these rows that can be marked read."""
        return [self.rows[one] for one in ids if one in self.rows and not self.rows[one].read]

    def where(self) -> dict[str, str | int]:
        """What `auth` says beside the token: all that follows our place, or everything."""
        return {"after": 0} if self.epoch is None else {"epoch": self.epoch, "after": self.seq}

    def begin(self) -> None:
        """A connection begins: what the last one did not complete comes again."""
        # Of what we hold beyond our place, Redis may have lost something: nobody would take it back. So we load anew.
        if self.last > self.seq:
            self.epoch = None
        self.last, self.complete = 0, False
        self._loading = {} if self.epoch is None else None

    def apply(self, message: Message) -> Change | None:
        """Take a message in; None if it is none of the inbox, or belongs to a load that is not complete."""
        kind = message["type"]
        if kind == "resync":
            self.epoch = None
            self.begin()
            return Change("resync")
        self.unread = message.get("unread", self.unread)
        change, loading = None, self._loading is not None
        if kind == "upto":
            self._settle(message)
            change = Change("complete")
        elif kind in COUNTED:
            change = self._change(kind, message)
            self._move(message["seq"])
            change = None if loading else change
        self._drop(message.get("floor", 0))
        return change

    def _settle(self, message: Message) -> None:
        """The resume is complete: only now epoch and seq are replaced, together."""
        if self._loading is not None:
            self.rows, self._loading = self._loading, None
        self.epoch, self.seq, self.seen = message["epoch"], message["seq"], message["seen"]
        self.last, self.complete = max(self.last, self.seq), True

    def _move(self, seq: int) -> None:
        self.last = max(self.last, seq)
        # Any other seq leaves the place alone: the server is catching up, an `upto` follows.
        if self.complete and seq == self.seq + 1:
            self.seq = seq

    def _change(self, kind: Kind, message: Message) -> Change:
        rows = self.rows if self._loading is None else self._loading
        if kind == "notification":
            row = Row.from_message(message)
            known = rows.get(row.id)
            rows[row.id] = row
            return Change(kind, row, news=not row.read and (known is None or known.seq < row.seq))
        if kind == "seen":
            self.seen = max(self.seen, message["upto"])
            return Change(kind)
        ids = (message["id"],) if kind == "retract" else tuple(message["ids"])
        for one in ids:
            if kind != "read":
                rows.pop(one, None)
            elif one in rows and not rows[one].read:
                rows[one] = replace(rows[one], read=True)
        return Change(kind, ids=ids)

    def _drop(self, floor: int) -> None:
        """Rows up to the floor exist no more."""
        rows = self.rows if self._loading is None else self._loading
        for one in [key for key, row in rows.items() if row.seq <= floor]:
            del rows[one]
