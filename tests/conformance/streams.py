"""What a client must get right where no WebSocket gets through and it goes over to event streams, as data like
scenarios.py. It falls back as docs/clients.md says: after three WebSockets that did not come up, and one after each
stream."""

from __future__ import annotations

import json

from tests.conformance.scenarios import (
    FRESH,
    RESYNC,
    Accept,
    Answers,
    Chunks,
    Close,
    Do,
    Message,
    Posts,
    Refuse,
    Say,
    Scenario,
    Shows,
    Sockets,
    Stays,
    Step,
    Stream,
    at,
    change,
    ready,
    row,
    upto,
)

FALLBACK, STREAM = "Without WebSockets", "`GET /v1/stream`"
BLOCKED = Sockets("refused")
BEGUN = Stream({"after": 0}, tries=3)
READ_A = Posts("/v1/inbox/read", {"ids": ["a"]})


def again(seq: int) -> Stream:
    """After a stream has ended: one WebSocket, then the next."""
    return Stream(at(seq), tries=1)


def streamed(*names: str) -> tuple[Step, ...]:
    """A first stream whose inbox holds these rows, seq 1 and on."""
    count = len(names)
    rows = tuple(row(seq, name, unread=count) for seq, name in enumerate(names, 1))
    return (
        BLOCKED,
        BEGUN,
        Say((ready(count, unread=count), *rows, upto(count, unread=count))),
        Shows({"state": "live", "rows": [*reversed(names)], "unread": count}),
    )


def event(message: Message) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


def halves(text: bytes) -> tuple[bytes, bytes]:
    """Cut in the middle of its first character that is no ASCII."""
    at = next(at for at, byte in enumerate(text) if byte > 127) + 1
    return text[:at], text[at:]


ODD = "r\u2028é"  # a line separator is none here: only CR and LF end lines


STREAMS = (
    Scenario("three WebSockets, then a stream", FALLBACK, (
        *streamed("a"), Say((row(2, "b", unread=2),)), Shows({"rows": ["b", "a"], "unread": 2, "news": ["b"]}),
    )),
    Scenario("three WebSockets that nobody answers, then a stream", FALLBACK, (
        Sockets("silent"), BEGUN, Say((ready(0), upto(0))), Shows({"state": "live"}),
    )),
    Scenario("a WebSocket without ready has not come up", FALLBACK, (
        FRESH, Close(1006), FRESH, Close(1011), FRESH, Close(4002), Stream({"after": 0}),
    )),
    Scenario("a WebSocket that was ready proves the way", FALLBACK, (
        FRESH, Close(1006), FRESH, Close(1006), FRESH, Say((ready(0), upto(0))), Shows({"state": "live"}),
        BLOCKED, Close(1006), Stream({"epoch": "1.a", "after": 0}, tries=3),
    )),
    Scenario("one WebSocket after each stream", FALLBACK, (
        *streamed("a"), Close(1000), again(1), Say((ready(1), upto(1))), Close(1006), again(1),
    )),
    Scenario("back to the WebSocket", FALLBACK, (
        *streamed("a"), Sockets("taken"), Close(1006), Accept(at(1)),
        Say((ready(2), row(2, "b", unread=2), upto(2, unread=2))), Shows({"rows": ["b", "a"], "news": ["b"]}),
        BLOCKED, Close(1006), Stream(at(2), tries=3),
    )),
    Scenario("live changes move the place on a stream", STREAM, (
        *streamed("a"), Say((row(2, "b"), row(3, "c"))), Shows({"rows": ["c", "b", "a"]}), Close(1006), again(3),
    )),
    Scenario("a resume over a stream brings the rest", STREAM, (
        *streamed("a", "b"), Close(1000), again(2),
        Say((ready(6), row(4, "c"), change("retract", 6, id="a"), upto(6))),
        Shows({"rows": ["c", "b"], "news": ["c"]}), Close(1006), again(6),
    )),
    Scenario("a resume over a stream that breaks off is no place", STREAM, (
        *streamed("a"), Close(1006), again(1), Say((ready(5, epoch="1.b"), row(2, "b"), row(3, "lost"))),
        Shows({"rows": ["lost", "b", "a"]}), Close(1006), Stream({"after": 0}, tries=1),
        Say((ready(5, epoch="1.c"), row(1, "a"), row(2, "b"), row(5, "c"), upto(5, epoch="1.c"))),
        Shows({"rows": ["c", "b", "a"]}), Close(1006), Stream(at(5, "1.c"), tries=1),
    )),
    Scenario("resync on a stream", STREAM, (
        *streamed("a", "b"), Close(1006), again(2),
        Say((ready(3, epoch="2.a"), RESYNC, row(1, "x"), row(3, "y"), upto(3, epoch="2.a"))),
        Shows({"rows": ["y", "x"]}), Close(1006), Stream(at(3, "2.a"), tries=1),
    )),
    Scenario("a stream in pieces", STREAM, (
        BLOCKED, BEGUN, Chunks((
            b": hello\n\n", b"retry: 5\r", b"\n\r\n", b"id: 1.a:0\nevent:\n", b"\n",
            b"data: " + event(ready(1)) + b"\n\n", b"da", b"ta:",
        )), Chunks(halves(event(row(1, ODD))), pause=0.1), Chunks((
            b"\r\r", b"mood: good\ndata: {\ndata: }\n\n", b"data: none\n\n",
            b"data: " + event(upto(1)).replace(b", ", b",\ndata: ") + b"\n", b":\n", b"\n",
        )),
        Shows({"state": "live", "rows": [ODD]}),
        Chunks((b"data: " + event(row(2, "half")) + b"\n",)), Close(1000), again(1),
    )),
    Scenario("marks go over the HTTP API", STREAM, (
        *streamed("a", "b"), Do({"do": "read", "ids": ["b"]}), Posts("/v1/inbox/read", {"ids": ["b"]}),
        Do({"do": "seen"}), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}),
        Say((change("read", 3, ids=["b"], unread=1), change("seen", 4, upto=2, unread=1))),
        Shows({"read": ["b"], "unread": 1, "seen": 2}), Close(1006), again(4),
    )),
    Scenario("only who looks has seen, also on a stream", STREAM, (
        *streamed("a"), Stays(), Do({"do": "read", "ids": ["a"]}), Posts("/v1/inbox/read", {"ids": ["a"]}),
        Do({"do": "active", "value": True}), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 1}),
        Say((row(2, "b"),)), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}),
    )),
    Scenario("a mark that was lost on a stream is made again", STREAM, (
        *streamed("a", "b"), Do({"do": "read", "ids": ["a"]}), Posts("/v1/inbox/read", {"ids": ["a"]}), Close(1006),
        again(2), Say((ready(2), upto(2, unread=2))), Posts("/v1/inbox/read", {"ids": ["a"]}),
    )),
    Scenario("a mark that was lost on a stream is made again on the WebSocket", FALLBACK, (
        *streamed("a", "b"), Do({"do": "seen"}), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}),
        Sockets("taken"), Close(1006), Accept(at(2)), Say((ready(2), upto(2, unread=2))), Shows({"state": "live"}),
        Say((change("seen", 3, upto=2, unread=2),)), Shows({"seen": 2}),
    )),
    *(
        Scenario(f"a mark refused for now on a stream: {answer.status} {answer.problem}".strip(), FALLBACK, (
            *streamed("a", "b"), answer, Do({"do": "read", "ids": ["a"]}), READ_A, READ_A,
            Say((change("read", 3, ids=["a"], unread=1),)), Shows({"read": ["a"]}), Stays(0.2),
            Do({"do": "read", "ids": ["b"]}), Posts("/v1/inbox/read", {"ids": ["b"]}),
        ))
        for answer in (
            Answers(429, "too-many-requests"), Answers(500, "internal"), Answers(503, "unavailable"),
            Answers(401, "expired-token"), Answers(502), Answers(403), Answers("dropped"), Answers("silent"),
        )
    ),
    Scenario("Retry-After of a mark names the time", FALLBACK, (
        *streamed("a", "b"), Answers(429, "too-many-requests", after=1), Answers(429, "too-many-requests", after=1),
        Do({"do": "read", "ids": ["a"]}), READ_A, Do({"do": "seen"}),
        Posts("/v1/inbox/read", {"ids": ["a"]}, after_ms=950), Posts("/v1/inbox/read", {"ids": ["a"]}, after_ms=950),
        Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}),
    )),
    Scenario("marks that wait on a stream are one", FALLBACK, (
        *streamed("a", "b", "c"), Answers(503, "unavailable", after=1), Do({"do": "read", "ids": ["a"]}), READ_A,
        Do({"do": "read", "ids": ["b", "a"]}), Do({"do": "seen"}), Do({"do": "read", "ids": ["c"]}),
        Say((row(4, "d", unread=4),)), Shows({"rows": ["d", "c", "b", "a"]}), Do({"do": "seen"}),
        Say((change("retract", 5, id="c", unread=3),)), Posts("/v1/inbox/read", {"ids": ["a", "b"]}, after_ms=950),
        Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 4}),
        Do({"do": "read", "ids": ["d"]}), Posts("/v1/inbox/read", {"ids": ["d"]}),
    )),
    Scenario("a mark that fails keeps no other waiting", FALLBACK, (
        *streamed("a", "b"), Answers(500, "internal", after=1), Do({"do": "read", "ids": ["a"]}), READ_A,
        Do({"do": "seen"}), Answers(500, "internal"), READ_A, Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}),
        READ_A,
    )),
    Scenario("who looked for a moment has seen, also when it is said later", STREAM, (
        *streamed("a"), Answers(503, "unavailable", after=1), Do({"do": "active", "value": True}),
        Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 1}), Do({"do": "active", "value": False}), Say((row(2, "b"),)),
        Shows({"rows": ["b", "a"]}), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 1}),
    )),
    *(
        Scenario(f"a mark refused for good on a stream: {status} {problem}", FALLBACK, (
            *streamed("a", "b"), Answers(status, problem), Answers(status, problem),
            Do({"do": "read", "ids": ["a"]}), READ_A,
            Do({"do": "seen"}), Posts("/v1/inbox/seen", {"epoch": "1.a", "seq": 2}), Stays(0.2),
            Close(1006), again(2), Say((ready(2), upto(2, unread=2))), Shows({"state": "live"}),
            Do({"do": "read", "ids": ["b"]}), Posts("/v1/inbox/read", {"ids": ["b"]}),
        ))
        for status, problem in ((400, "invalid-request"), (403, "missing-scope"))
    ),
    Scenario("a token that expires on a stream is renewed", STREAM, (
        *streamed("a"), Say(({"type": "reauth", "by": "2026-11-22T08:38:40.000Z"},)), Close(4001, "token expired"),
        Stream(at(1), tries=1, renewed=True),
    )),
    Scenario("a slow reader of a stream resumes", STREAM, (*streamed("a"), Close(4002, "too slow"), again(1))),
    Scenario("drain on a stream names the time", STREAM, (
        *streamed("a"), Say(({"type": "drain", "retry_ms": 700},)), Close(4003, "server stops; reconnect"),
        Stream(at(1), tries=1, after_ms=650),
    )),
    *(
        Scenario(f"{code} on a stream is for good", STREAM, (
            *streamed("a"), Close(code, "no"), Stays(), Shows({"state": "stopped", "rows": ["a"]}),
        ))
        for code in (4501, 4508, 4509)
    ),
    Scenario("a stream refused with an expired token", STREAM, (
        BLOCKED, Refuse(401, "expired-token"), Stream({"after": 0}, tries=1, renewed=True),
    )),
    *(
        Scenario(f"a stream refused for good: {status} {problem}", STREAM, (
            BLOCKED, Refuse(status, problem), Stays(), Shows({"state": "stopped"}),
        ))
        for status, problem in ((401, "revoked-token"), (401, "invalid-token"), (403, "missing-scope"))
    ),
    Scenario("a stream refused for now", STREAM, (
        BLOCKED, Refuse(429, "too-many-connections"), Refuse(503, "unavailable"), Refuse(500, "internal"),
        Refuse(502), Refuse(404), Refuse(401), Refuse(403), Stream({"after": 0}, tries=1),
        Say((ready(0), upto(0))), Shows({"state": "live"}),
    )),
    Scenario("a page in place of a stream", STREAM, (BLOCKED, Refuse(200), Stream({"after": 0}, tries=1))),
    Scenario("a stream that says nothing", FALLBACK, (
        *streamed("a"), Close(1006), again(1), Stream(at(1), tries=1, after_ms=300),
    )),
)  # fmt: skip
