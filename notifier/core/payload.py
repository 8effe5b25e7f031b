"""Texts for the wire: the messages of WebSocket protocol notifier.v1 (docs/websocket.md).
A notification's JSON members are made once, when the event is handed over; a frame adds what only the inbox knows."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

from notifier.core.inbox import DELETED, NOTIFICATION, READ, RETRACTED, SEEN, Joined, Page, parse
from notifier.core.model import Actor, Event, Object

PONG: Final = b'{"type":"pong"}'

_json = msgspec.json.Encoder().encode


class _Body(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    id: str
    kind: str
    actors: tuple[Actor, ...]
    count: int
    time: str
    object: Object | None = None
    text: str | None = None


@lru_cache(maxsize=1024)  # at a rate that matters many events share a millisecond: 0.07 us instead of 0.35
def iso(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=4096)  # events come by the second: 0.3 us instead of 1.3
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def body(event: Event) -> bytes:
    """The members of a notification's JSON object, without the braces, that do not depend on the inbox."""
    made = _Body(event.id, event.kind, (event.actor,), 1, iso(event.time), event.object, event.text)
    return _json(made)[1:-1]


def change(seq: int, record: str, unread: int, floor: int) -> bytes:
    """The message for one change of an inbox, by its stored record."""
    kind = record[1]
    if kind == NOTIFICATION:  # nearly all are: 1.0 us, a third of it the split
        read = "true" if record[2] == "1" else "false"
        body = record.split(" ", 4)[4]
        return (
            f'{{"type":"notification","seq":{seq},{body},"read":{read},"unread":{unread},"floor":{floor}}}'
        ).encode()
    _, _, _, nid, rest = record.split(" ", 4)
    return b'{%b,"seq":%d,"unread":%d,"floor":%d}' % (_OTHERS[kind](nid, rest), seq, unread, floor)


# What the changes other than a notification say: (notification id, body) -> the members of their own.
_OTHERS: Final[dict[str, Callable[[str, str], bytes]]] = {
    RETRACTED: lambda nid, rest: b'"type":"retract","id":' + _json(nid),
    DELETED: lambda nid, rest: b'"type":"deleted","ids":[' + _json(nid) + b"]",
    SEEN: lambda nid, rest: b'"type":"seen","upto":' + rest.encode(),
    READ: lambda nid, rest: b'"type":"read","ids":' + _json(rest.split(" ") if rest else []),
}


def ready(joined: Joined) -> bytes:
    """The first message of every session."""
    return (
        f'{{"type":"ready","epoch":"{joined.birth}.{joined.run}","seq":{joined.seq},"unread":{joined.unread},'
        f'"server_time":"{iso(joined.now)}"}}'
    ).encode()


def upto(joined: Joined) -> bytes:
    """The resume is complete; this is the client's new place."""
    return (
        f'{{"type":"upto","epoch":"{joined.birth}.{joined.run}","seq":{joined.seq},"seen":{joined.seen},'
        f'"floor":{joined.floor},"unread":{joined.unread}}}'
    ).encode()


def resync(reason: str) -> bytes:
    """The client's place is gone: it clears its list, all rows follow."""
    return b'{"type":"resync","reason":%b}' % _json(reason)


def reauth(by: int) -> bytes:
    """The token ends at `by` (s since 1970): a new one is wanted before."""
    return b'{"type":"reauth","by":%b}' % _json(iso(by * 1000))


def drain(retry_ms: int) -> bytes:
    """This process stops: reconnect after so many ms."""
    return b'{"type":"drain","retry_ms":%d}' % retry_ms


def error(code: int, reason: str) -> bytes:
    """Something that the client sent was refused; the codes are those of a close."""
    return b'{"type":"error","code":%d,"reason":%b}' % (code, _json(reason))


def rows(page: Page) -> list[msgspec.Raw]:
    """The rows of a page as the HTTP API shows them: a notification's fields, with `seen` and `read`."""
    shown = []
    for seq, line in page.records:
        record = parse(line)
        seen = "true" if record.read or seq <= page.seen else "false"
        read = "true" if record.read else "false"
        text = f'{{"seq":{seq},{record.body},"read":{read},"seen":{seen}}}'
        shown.append(msgspec.Raw(text.encode()))
    return shown


def changes(joined: Joined) -> list[msgspec.Raw]:
    """The changes of a resume as the HTTP API shows them: the same messages that a socket gets."""
    return [msgspec.Raw(change(seq, line, joined.unread, joined.floor)) for seq, line in joined.records]
