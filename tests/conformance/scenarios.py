"""What a client must get right, as data: what the scripted server does, what it expects to hear, what the client
must show. docs/conformance.md explains the words; fake_server.py plays them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Accept:
    """A connection comes, and says `auth` with exactly this place. Not sooner than `after_ms` since the last one.

    renewed  its token must be another than on the connection before
    """

    place: Message
    after_ms: int = 0
    renewed: bool = False


@dataclass(frozen=True)
class Say:
    """The server sends these."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Hear:
    """The client sends a message with these members, within `seconds`; others before it do not count.

    without  members that it must not have
    """

    message: Message
    without: tuple[str, ...] = ()
    seconds: float = 3.0


@dataclass(frozen=True)
class Close:
    """The server closes with this code; 1006: it drops the connection without a word.

    On a stream, codes from 4000 on are those of its last event, and any other but 1006 is an end without a word.
    """

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Stays:
    """No connection comes for so long."""

    seconds: float = 0.5


@dataclass(frozen=True)
class Do:
    """The person does something: the client's program gets this line."""

    command: Message


@dataclass(frozen=True)
class Shows:
    """The client comes to show this: members of the lines that it prints; `rows` newest first."""

    what: Message


@dataclass(frozen=True)
class AckedInFew:
    """Up to `seq` everything is acknowledged, by at most so many acks since the connection began."""

    seq: int
    most: int


@dataclass(frozen=True)
class Sockets:
    """From now on WebSockets are taken, as ever; refused, as by a proxy that lets none through; or never answered."""

    how: Literal["taken", "refused", "silent"]


@dataclass(frozen=True)
class Stream:
    """A stream is asked for, of exactly this place. Not sooner than `after_ms` since the last connection ended.

    tries    so many WebSockets were tried in vain before; None: any number
    renewed  its token must be another than on the connection before
    """

    place: Message
    tries: int | None = None
    after_ms: int = 0
    renewed: bool = False


@dataclass(frozen=True)
class Refuse:
    """A stream is asked for, and answered with this status and type of problem; "": a page that knows nothing of it."""

    status: int
    problem: str = ""


@dataclass(frozen=True)
class Chunks:
    """The stream goes on with these bytes, piece by piece, each `pause` seconds after the last: they travel alone."""

    pieces: tuple[bytes, ...] = field(repr=False)
    pause: float = 0.01


@dataclass(frozen=True)
class Posts:
    """The client's next request to the HTTP API, streams apart, is this one. Not sooner than `after_ms` since the last
    one."""

    path: str
    content: Message
    after_ms: int = 0


@dataclass(frozen=True)
class Answers:
    """The next request to the HTTP API, streams apart, is answered with this status and type of problem; "": a page
    that knows nothing of it. "dropped": the connection is, in place of an answer; "silent": none comes. Several are for
    one request each.

    after  seconds, as Retry-After; None: no such header
    """

    status: int | Literal["dropped", "silent"]
    problem: str = ""
    after: int | None = None


Step = (
    Accept | Say | Hear | Close | Stays | Do | Shows | AckedInFew | Sockets | Stream | Refuse | Chunks | Posts | Answers
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One story. `clause`: the heading of docs/websocket.md that it holds a client to; of those in streams.py, of
    docs/api.md or docs/clients.md."""

    name: str
    clause: str
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def needs_api(self) -> bool:
        return any(isinstance(step, Stream | Refuse) for step in self.steps)


def ready(seq: int, epoch: str = "1.a", unread: int = 0) -> Message:
    return {
        "type": "ready", "epoch": epoch, "seq": seq, "unread": unread, "server_time": "2026-11-22T08:31:06.078Z",
    }  # fmt: skip


def upto(seq: int, epoch: str = "1.a", seen: int = 0, unread: int = 0, floor: int = 0) -> Message:
    return {"type": "upto", "epoch": epoch, "seq": seq, "seen": seen, "floor": floor, "unread": unread}


def row(seq: int, name: str, *, read: bool = False, unread: int = 0, floor: int = 0) -> Message:
    return {
        "type": "notification", "seq": seq, "id": name, "kind": "like", "actors": [{"id": "42", "name": "ana"}],
        "count": 1, "time": "2026-11-22T08:31:05.904Z", "object": {"type": "photo", "id": name}, "read": read,
        "unread": unread, "floor": floor,
    }  # fmt: skip


def change(kind: str, seq: int, *, unread: int = 0, floor: int = 0, **members: Any) -> Message:
    return {"type": kind, "seq": seq, "unread": unread, "floor": floor, **members}


FRESH = Accept({"after": 0})
RESYNC = {"type": "resync", "reason": "your place in the inbox is no longer known"}


def at(seq: int, epoch: str = "1.a") -> Message:
    return {"epoch": epoch, "after": seq}


def loaded(*names: str) -> tuple[Step, ...]:
    """A first connection whose inbox holds these rows, seq 1 and on."""
    count = len(names)
    rows = tuple(row(seq, name, unread=count) for seq, name in enumerate(names, 1))
    return (
        FRESH,
        Say((ready(count, unread=count), *rows, upto(count, unread=count))),
        Shows({"state": "live", "rows": [*reversed(names)], "unread": count}),
    )


SCENARIOS = (
    Scenario("the first load", "Where to begin", (*loaded("a", "b", "c"), Hear({"type": "ack", "seq": 3}))),
    Scenario("an empty inbox", "Where to begin", (*loaded(), Say((row(1, "a", unread=1),)), Shows({"rows": ["a"]}))),
    Scenario("a first load is no news", "Changes", (
        *loaded("a"), Say((row(2, "b", unread=2),)), Shows({"rows": ["b", "a"], "news": ["b"]}),
    )),
    Scenario("live changes move the place", "Keeping your place", (
        *loaded("a"), Say((row(2, "b"), row(3, "c"))), Shows({"rows": ["c", "b", "a"]}), Close(1006), Accept(at(3)),
    )),
    Scenario("a resume brings the rest", "Where to begin", (
        *loaded("a", "b"), Close(1006), Accept(at(2)),
        Say((ready(6), row(4, "c"), change("retract", 6, id="a"), upto(6))), Shows({"rows": ["c", "b"]}),
        Close(1006), Accept(at(6)),
    )),
    Scenario("ready gives no place", "Keeping your place", (
        *loaded("a"), Close(1006), Accept(at(1)), Say((ready(9, epoch="1.b"),)), Close(1006), Accept(at(1)),
    )),
    Scenario("a resume that breaks off is no place", "Keeping your place", (
        *loaded("a"), Close(1006), Accept(at(1)), Say((ready(5, epoch="1.b"), row(2, "b"), row(3, "lost"))),
        Close(1006), FRESH, Say((ready(5, epoch="1.c"), row(1, "a"), row(2, "b"), row(5, "c"), upto(5, epoch="1.c"))),
        Shows({"rows": ["c", "b", "a"]}), Close(1006), Accept(at(5, "1.c")),
    )),
    Scenario("a gap leaves the place alone", "Keeping your place", (
        *loaded("a"), Say((row(2, "b"), row(4, "d"), row(5, "e"))), Shows({"rows": ["e", "d", "b", "a"]}),
        Close(1006), FRESH, Say((ready(5), row(1, "a"), row(2, "b"), row(3, "c"), row(4, "d"), row(5, "e"), upto(5))),
        Shows({"rows": ["e", "d", "c", "b", "a"]}),
    )),
    Scenario("a gap that the server closes", "Keeping your place", (
        *loaded("a"), Say((row(4, "d"), row(5, "e"), upto(5), row(6, "f"))), Shows({"rows": ["f", "e", "d", "a"]}),
        Close(1006), Accept(at(6)),
    )),
    Scenario("duplicates are shown once", "Changes", (
        *loaded("a"), Say((row(2, "b", unread=2), row(2, "b", unread=2), row(3, "c", unread=3), row(2, "b", unread=3))),
        Shows({"rows": ["c", "b", "a"], "news": ["b", "c"]}), Close(1006), Accept(at(3)),
        Say((ready(3), row(3, "c"), upto(3))), Shows({"rows": ["c", "b", "a"], "news": ["b", "c"], "state": "live"}),
    )),
    Scenario("a row is replaced by its newer form", "Changes", (
        *loaded("a", "b"), Say((row(3, "a", unread=2),)), Shows({"rows": ["a", "b"]}),
    )),
    Scenario("marks and removals", "Changes", (
        *loaded("a", "b", "c", "d"),
        Say((change("seen", 5, upto=4, unread=4), change("read", 6, ids=["b", "gone"], unread=3),
             change("retract", 7, id="a", unread=2), change("deleted", 8, ids=["d", "gone"], unread=1))),
        Shows({"rows": ["c", "b"], "read": ["b"], "unread": 1, "seen": 4}), Close(1006), Accept(at(8)),
    )),
    Scenario("floor", "Changes", (
        *loaded("a", "b", "c"), Say((row(4, "d", floor=2),)), Shows({"rows": ["d", "c"]}),
        Close(1006), Accept(at(4)), Say((ready(4), upto(4, floor=3))), Shows({"rows": ["d"]}),
    )),
    Scenario("resync on a resume", "Where to begin", (
        *loaded("a", "b"), Close(1006), Accept(at(2)),
        Say((ready(3, epoch="2.a"), RESYNC, row(1, "x"), row(3, "y"), upto(3, epoch="2.a"))),
        Shows({"rows": ["y", "x"]}), Close(1006), Accept(at(3, "2.a")),
    )),
    Scenario("resync in the middle of a connection", "Where to begin", (
        *loaded("a", "b", "c"), Say((RESYNC, row(1, "a", unread=1), upto(1, epoch="2.a", unread=1))),
        Shows({"rows": ["a"], "unread": 1}), Say((row(2, "d", unread=2),)), Shows({"rows": ["d", "a"]}),
        Close(1006), Accept(at(2, "2.a")),
    )),
    Scenario("a resync that breaks off", "Keeping your place", (
        *loaded("a", "b"), Say((RESYNC, row(1, "x"))), Close(1006), FRESH,
        Say((ready(2, epoch="2.a"), row(2, "y"), upto(2, epoch="2.a"))), Shows({"rows": ["y"]}),
    )),
    Scenario("a first load that breaks off", "Keeping your place", (
        FRESH, Say((ready(3), row(1, "a"), row(2, "b"))), Close(4002, "too slow"), FRESH,
        Say((ready(3), row(2, "b"), row(3, "c"), upto(3))), Shows({"rows": ["c", "b"]}),
    )),
    Scenario("what is unknown is ignored", "Keeping your place", (
        *loaded("a"), Say(({"type": "weather", "text": "rain"}, {**row(2, "b"), "mood": {"good": True}})),
        Shows({"rows": ["b", "a"]}), Close(1006), Accept(at(2)),
    )),
    Scenario("acks are few", "What the client sends", (
        FRESH, Say((ready(100), *(row(seq, f"r{seq}", unread=100) for seq in range(1, 101)), upto(100, unread=100))),
        Shows({"state": "live"}), AckedInFew(100, 12),
    )),
    Scenario("an ack is not sight", "What the client sends", (
        *loaded("a"), Hear({"type": "ack", "seq": 1}, without=("active",)),
        Do({"do": "active", "value": True}), Hear({"type": "ack", "seq": 1, "active": True}),
        Say((row(2, "b"),)), Hear({"type": "ack", "seq": 2, "active": True}),
        Do({"do": "active", "value": False}), Say((row(3, "c"),)), Hear({"type": "ack", "seq": 3}, without=("active",)),
    )),
    Scenario("read", "What the client sends", (
        *loaded("a", "b"), Do({"do": "read", "ids": ["b"]}), Hear({"type": "read", "ids": ["b"]}),
        Say((change("read", 3, ids=["b"], unread=1),)), Shows({"read": ["b"], "unread": 1}),
    )),
    Scenario("seen", "What the client sends", (
        *loaded("a", "b"), Do({"do": "seen"}), Hear({"type": "seen", "seq": 2}),
        Say((change("seen", 3, upto=2, unread=2),)), Shows({"seen": 2}),
    )),
    Scenario("a mark that was lost is made again", "What the client sends", (
        *loaded("a", "b"), Do({"do": "read", "ids": ["a"]}), Hear({"type": "read", "ids": ["a"]}), Close(1006),
        Accept(at(2)), Say((ready(2), upto(2, unread=2))), Hear({"type": "read", "ids": ["a"]}),
    )),
    Scenario("reauth", "Staying connected", (
        *loaded("a"), Say(({"type": "reauth", "by": "2026-11-22T08:38:40.000Z"},)),
        Hear({"type": "auth", "token": "token-2"}, without=("after", "epoch")),
        Say((row(2, "b"),)), Shows({"rows": ["b", "a"]}),
    )),
    Scenario("drain names the time", "Staying connected", (
        *loaded("a"), Say(({"type": "drain", "retry_ms": 700},)), Close(4003, "server stops; reconnect"),
        Accept(at(1), after_ms=650),
    )),
    Scenario("an expired token is renewed", "Close codes", (
        *loaded("a"), Close(4001, "the token has expired"), Accept(at(1), renewed=True),
    )),
    Scenario("a slow client resumes", "Close codes", (*loaded("a"), Close(4002, "too slow"), Accept(at(1)))),
    Scenario("too many messages", "Close codes", (*loaded("a"), Close(4005), Accept(at(1)))),
    Scenario("an unknown code that allows to come back", "Close codes", (*loaded("a"), Close(4499), Accept(at(1)))),
    Scenario("RFC 6455's codes mean reconnect", "Close codes", (
        *loaded("a"), Close(1011, "oops"), Accept(at(1)), Say((ready(1), upto(1))), Close(1001), Accept(at(1)),
    )),
    *(
        Scenario(f"{code} is for good", "Close codes", (
            *loaded("a"), Close(code, "no"), Stays(), Shows({"state": "stopped", "rows": ["a"]}),
        ))
        for code in (4501, 4503, 4508, 4509, 4510, 4999)
    ),
    Scenario("a server that says nothing", "Staying connected", (
        *loaded("a"), Close(1006), Accept(at(1)), Accept(at(1), after_ms=300),
    )),
)  # fmt: skip
