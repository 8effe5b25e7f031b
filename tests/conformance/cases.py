"""What a server must get right, as data. docs/conformance.md explains the words; server.py plays them.

Each case has a person of its own. A value in angle brackets, as "<epoch>", is filled in from what was kept before;
a callable says whether a value will do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Connect:
    """A connection of the person is made, and says who it is.

    name   of the connection, for the other steps
    place  what it names: nothing, {"after": 0}, or epoch and after
    how    "message": `auth` comes first; "bearer": the token is a subprotocol, the place in the query; "silent"
    token  "good", or any text: that one
    """

    name: str = "a"
    place: Message = field(default_factory=dict)
    how: str = "message"
    token: str = "good"


@dataclass(frozen=True)
class Publish:
    """An event for the person, of its own kind and object: `photo` makes it another one. undo: it is taken back."""

    photo: str
    undo: bool = False


@dataclass(frozen=True)
class Hear:
    """The next message has these members. keep: name -> member, for later."""

    message: Message
    on: str = "a"
    keep: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 5.0


@dataclass(frozen=True)
class Say:
    """The client sends this: an object, or text as it is. times: so often."""

    message: Message | str | bytes
    on: str = "a"
    times: int = 1


@dataclass(frozen=True)
class Closes:
    """The server closes with this code; messages before it do not count."""

    code: int
    on: str = "a"
    seconds: float = 10.0


@dataclass(frozen=True)
class Quiet:
    """Nothing is heard for so long."""

    on: str = "a"
    seconds: float = 0.4


@dataclass(frozen=True)
class Leave:
    """The client closes."""

    on: str = "a"


@dataclass(frozen=True)
class Delete:
    """The HTTP API deletes this row. The case is left out where its address is not known."""

    id: str


Step = Connect | Publish | Hear | Say | Closes | Quiet | Leave | Delete


@dataclass(frozen=True)
class Case:
    """clause: the heading of docs/websocket.md that it holds the server to."""

    name: str
    clause: str
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def needs_api(self) -> bool:
        return any(isinstance(step, Delete) for step in self.steps)


def number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def time(value: Any) -> bool:
    return (
        isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None
    )


def row(photo: str, seq: Any, **members: Any) -> Message:
    return {
        "type": "notification", "seq": seq, "id": text, "kind": "like", "count": 1, "time": time,
        "object": {"type": "photo", "id": photo}, "actors": [{"id": "conformance", "name": "ana"}], "read": False,
        "unread": number, "floor": number, **members,
    }  # fmt: skip


READY = {"type": "ready", "epoch": text, "seq": number, "unread": number, "server_time": time}
UPTO = {"type": "upto", "epoch": text, "seq": number, "seen": number, "floor": number, "unread": number}
LOAD = Connect(place={"after": 0})
EMPTY: tuple[Step, ...] = (LOAD, Hear(READY), Hear(UPTO))


def with_rows(*photos: str) -> tuple[Step, ...]:
    """Connected, with these rows as <1>, <2> ... by id, and the place <epoch> and <seq>."""
    steps: list[Step] = [*EMPTY]
    for at, photo in enumerate(photos, 1):
        steps += [Publish(photo), Hear(row(photo, at, unread=at), keep={str(at): "id", "seq": "seq"})]
    again: tuple[Step, ...] = (
        Leave(),
        LOAD,
        Hear(READY),
        *(Hear(row(photo, at)) for at, photo in enumerate(photos, 1)),
    )
    return (*steps, *again, Hear({**UPTO, "seq": len(photos)}, keep={"epoch": "epoch"}))


def meanwhile(*events: Publish) -> tuple[Step, ...]:
    """Events that the inbox has taken in while nobody else was connected: another connection has heard them."""
    heard = tuple(Hear({"seq": number}, "other") for _ in events)
    return (Connect("other"), Hear(READY, "other"), *events, *heard, Leave("other"))


CASES = (
    Case("ready is first: token in a message", "Connect and authenticate", (
        Connect(), Hear({**READY, "unread": 0}), Quiet(),
    )),
    Case("ready is first: token in the handshake", "Connect and authenticate", (
        Connect(how="bearer"), Hear({**READY, "unread": 0}), Quiet(),
    )),
    Case("a place in the query", "Connect and authenticate", (
        Connect(how="bearer", place={"after": 0}), Hear(READY), Hear(UPTO), Quiet(),
    )),
    Case("a token that is none", "Close codes", (
        Connect(token="none.of.that"), Hear({"type": "error", "code": 4501, "reason": text}), Closes(4501),
    )),
    Case("a token that is none, in the handshake", "Close codes", (
        Connect(how="bearer", token="none.of.that"), Closes(4501),
    )),
    Case("no auth in time", "Limits", (Connect(how="silent"), Closes(4501))),
    Case("another message than auth first", "Close codes", (
        Connect(how="silent"), Say({"type": "ack", "seq": 1}), Closes(4501),
    )),
    Case("without a place nothing old comes", "Where to begin", (
        *with_rows("1"), Leave(), Connect(), Hear({**READY, "seq": 1, "unread": 1}), Quiet(),
        Publish("2"), Hear(row("2", 2, unread=2)),
    )),
    Case("live changes come in order", "Changes", (
        *EMPTY, *(Publish(str(photo)) for photo in range(1, 9)),
        *(Hear(row(str(photo), photo, unread=photo)) for photo in range(1, 9)),
    )),
    Case("the first load", "Where to begin", (*with_rows("1", "2", "3"), Quiet())),
    Case("a resume brings what was missed, and no more", "Where to begin", (
        *with_rows("1", "2"), Leave(), *meanwhile(Publish("3"), Publish("4")),
        Connect(place={"epoch": "<epoch>", "after": 2}), Hear({**READY, "epoch": "<epoch>"}),
        Hear(row("3", 3)), Hear(row("4", 4)), Hear({**UPTO, "epoch": "<epoch>", "seq": 4}), Quiet(),
    )),
    Case("a resume with nothing missed", "Where to begin", (
        *with_rows("1"), Leave(), Connect(place={"epoch": "<epoch>", "after": 1}), Hear(READY),
        Hear({**UPTO, "seq": 1}), Quiet(),
    )),
    Case("what was taken back while away", "Where to begin", (
        *with_rows("1", "2"), Leave(), *meanwhile(Publish("1", undo=True)),
        Connect(place={"epoch": "<epoch>", "after": 2}), Hear(READY),
        Hear({"type": "retract", "id": "<1>", "seq": 3, "unread": 1}), Hear({**UPTO, "seq": 3}),
    )),
    Case("a place of another epoch", "Where to begin", (
        *with_rows("1", "2"), Leave(), Connect(place={"epoch": "1.0123456789abcdef", "after": 1}), Hear(READY),
        Hear({"type": "resync", "reason": text}), Hear(row("1", 1)), Hear(row("2", 2)), Hear({**UPTO, "seq": 2}),
    )),
    Case("a place that is not there yet", "Where to begin", (
        *with_rows("1"), Leave(), Connect(place={"epoch": "<epoch>", "after": 999}), Hear(READY),
        Hear({"type": "resync", "reason": text}), Hear(row("1", 1)), Hear({**UPTO, "seq": 1}),
    )),
    Case("an epoch that is no epoch", "Where to begin", (
        Connect(place={"epoch": "yesterday", "after": 1}), Hear(READY), Hear({"type": "resync", "reason": text}),
        Hear(UPTO),
    )),
    Case("an epoch without after", "Close codes", (
        Connect(place={"epoch": "1.a"}), Hear({"type": "error", "code": 4510, "reason": text}), Closes(4510),
    )),
    Case("every connection of a person hears", "Changes", (
        *EMPTY, Connect("b", {"after": 0}), Hear(READY, "b"), Hear(UPTO, "b"),
        Publish("1"), Hear(row("1", 1)), Hear(row("1", 1), "b"),
    )),
    Case("retract", "Changes", (
        *with_rows("1"), Publish("1", undo=True), Hear({"type": "retract", "id": "<1>", "seq": 2, "unread": 0}),
    )),
    Case("read by ids is heard by all", "What the client sends", (
        *with_rows("1", "2"), Connect("b"), Hear(READY, "b"), Say({"type": "read", "ids": ["<1>", "nobody-has-this"]}),
        Hear({"type": "read", "seq": 3, "unread": 1, "ids": ["<1>"]}),
        Hear({"type": "read", "seq": 3, "unread": 1, "ids": ["<1>"]}, "b"),
    )),
    Case("read up to a seq", "What the client sends", (
        *with_rows("1", "2", "3"), Say({"type": "read", "seq": 2}), Hear({"type": "read", "seq": 4, "unread": 1}),
    )),
    Case("a mark that changes nothing makes no message", "What the client sends", (
        *with_rows("1"), Say({"type": "read", "ids": ["<1>"]}), Hear({"type": "read", "seq": 2, "unread": 0}),
        Say({"type": "read", "ids": ["<1>"]}), Quiet(),
    )),
    Case("seen", "What the client sends", (
        *with_rows("1", "2"), Say({"type": "seen", "seq": 2}), Hear({"type": "seen", "upto": 2, "seq": 3, "unread": 2}),
    )),
    Case("seen beyond what was sent", "What the client sends", (
        *with_rows("1"), Say({"type": "seen", "seq": 999}), Hear({"type": "seen", "upto": 1}),
    )),
    Case("an ack is not sight", "What the client sends", (*with_rows("1"), Say({"type": "ack", "seq": 1}), Quiet())),
    Case("an active ack is sight", "What the client sends", (
        *with_rows("1"), Say({"type": "ack", "seq": 1, "active": True}), Hear({"type": "seen", "upto": 1, "seq": 2}),
    )),
    Case("marks are there on the next load", "Where to begin", (
        *with_rows("1", "2"), Say({"type": "read", "ids": ["<2>"]}), Hear({"type": "read"}), Leave(), LOAD,
        Hear({**READY, "unread": 1}), Hear(row("1", 1)), Hear(row("2", 2, read=True)),
        Hear({**UPTO, "seq": 3}),
    )),
    Case("deleted", "Changes", (
        *with_rows("1", "2"), Delete("<1>"), Hear({"type": "deleted", "ids": ["<1>"], "seq": 3, "unread": 1}),
    )),
    Case("ping", "What the client sends", (*EMPTY, Say({"type": "ping"}), Hear({"type": "pong"}))),
    Case("an unknown type is answered, not punished", "What the client sends", (
        *EMPTY, Say({"type": "typing"}), Hear({"type": "error", "code": 4510, "reason": text}),
        Say({"type": "ping"}), Hear({"type": "pong"}),
    )),
    Case("unknown members are ignored", "What the client sends", (
        *EMPTY, Say({"type": "ping", "mood": {"good": True}}), Hear({"type": "pong"}),
    )),
    Case("reauth at any time", "Staying connected", (
        *EMPTY, Say({"type": "auth", "token": "<token>"}), Publish("1"), Hear(row("1", 1)),
    )),
    *(
        Case(f"a bad message: {name}", "Close codes", (
            *EMPTY, Say(bad), Hear({"type": "error", "code": 4510, "reason": text}), Closes(4510),
        ))
        for name, bad in (
            ("no JSON", "{"), ("no object", "[1]"), ("no type", "{}"), ("an ack without a seq", {"type": "ack"}),
            ("a seq that is text", {"type": "seen", "seq": "1"}), ("read without anything", {"type": "read"}),
            ("read with both", {"type": "read", "seq": 1, "ids": ["a"]}),
            ("read with too many", {"type": "read", "ids": ["a"] * 401}),
        )
    ),
    Case("a binary message", "Close codes", (*EMPTY, Say(b"\x00\x01"), Closes(1003))),
    Case("a message that is too large", "Limits", (*EMPTY, Say("x" * (1 << 20)), Closes(1009))),
    Case("a large message before auth", "Limits", (Connect(how="silent"), Say("x" * 5_000), Closes(1009))),
    Case("too many messages", "Limits", (*EMPTY, Say({"type": "ping"}, times=200), Closes(4005))),
)  # fmt: skip
