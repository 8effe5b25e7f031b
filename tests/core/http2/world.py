"""The other end: frames made by hand, and servers built on h2, which knows nothing of our code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from notifier.core.http2 import Limits, PushConnection, Result, Template, constant, secret, varying

Headers = list[tuple[bytes, bytes]]
TOKEN = b"ab" * 32
ID = b"b1946ac9-2492-4a1c-8b6c-3f0a6b1d2c3e"
BODY = b'{"aps":{"alert":"ana likes your photo"}}'


def apns(jwt: bytes = b"eyJ.eyJ.sig", topic: bytes = b"com.example.app", indexed: bool = True) -> Template:
    """A request to APNs; a push brings token and id."""
    return Template(
        [
            constant(b":method", b"POST"),
            constant(b":scheme", b"https"),
            constant(b":authority", b"api.push.apple.com"),
            varying(b":path", b"/3/device/", private=True),
            secret(b"authorization", b"bearer " + jwt, indexed),
            constant(b"apns-topic", topic),
            constant(b"apns-push-type", b"alert"),
            varying(b"apns-id"),
        ]
    )


APNS = apns()

Connection = PushConnection[object]
Results = list[Result[object]]


def connect(limits: Limits | None = None, now: float = 0.0) -> Connection:
    return PushConnection(limits or Limits(), now)


def push(
    connection: Connection, context: object, body: bytes = BODY, now: float = 0.0, token: bytes = TOKEN
) -> int:
    return connection.push(context, APNS, (token, ID), body, now)


# --- Frames by hand -------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frame(0, end, stream, payload)


def headers(stream: int, block: bytes, end: bool = False, whole: bool = True) -> bytes:
    return frame(1, end | whole << 2, stream, block)


def rst(stream: int, code: int) -> bytes:
    return frame(3, 0, stream, u32(code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(4, 0, 0, b"".join(name.to_bytes(2, "big") + u32(value) for name, value in pairs))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(7, 0, 0, u32(last, code) + debug)


def window(stream: int, increment: int) -> bytes:
    return frame(8, 0, stream, u32(increment))


ACK = frame(4, 1, 0)
OK = b"\x88"
"""The header block of a 200."""


def ok(stream: int) -> bytes:
    return headers(stream, OK, end=True)


def literal(name: bytes, value: bytes) -> bytes:
    """A field that is never indexed, the long way."""
    return b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def split(sent: bytes) -> list[Frame]:
    """The frames that we sent, without the preface."""
    sent = sent.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    found = []
    while sent:
        size = 9 + int.from_bytes(sent[:3], "big")
        assert len(sent) >= size, "we sent a part of a frame"
        found.append(Frame(sent[3], sent[4], int.from_bytes(sent[5:9], "big"), sent[9:size]))
        sent = sent[size:]
    return found


def kinds(sent: bytes) -> list[int]:
    return [each.kind for each in split(sent)]


def goaway_code(sent: bytes) -> int | None:
    """The error code of the GOAWAY that we sent last, if there is one."""
    codes = [int.from_bytes(each.payload[4:8], "big") for each in split(sent) if each.kind == 7]
    return codes[-1] if codes else None


# --- A server on h2 -------------------------------------------------------------------------------


@dataclass
class Request:
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def __getitem__(self, name: bytes) -> bytes:
        return dict(self.headers)[name]


class Server:
    """Collects what our end sends, and answers by `answer(server, stream)` when a request is complete."""

    def __init__(
        self,
        answer: Callable[[Server, int], None] | None = None,
        settings: dict[h2.settings.SettingCodes, int] | None = None,
    ) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.requests: dict[int, Request] = {}
        self.resets: dict[int, int] = {}
        self.pings = 0
        self.answer = answer or (lambda server, stream: None)
        self.credit = True  # gives windows back as soon as data is there

    def receive(self, sent: bytes) -> None:
        for event in self.h2.receive_data(sent):
            self._on(event)

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            self.requests[event.stream_id] = Request(list(event.headers or ()))
        elif isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            self.requests[event.stream_id].body += event.data or b""
            if self.credit and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self.requests[event.stream_id].complete = True
            self.answer(self, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            assert event.stream_id is not None
            self.resets[event.stream_id] = int(event.error_code or 0)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1

    def respond(
        self, stream: int, status: int, body: bytes = b"", more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self.h2.send_headers(stream, [(b":status", b"%d" % status), *more], end_stream=not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)

    def send(self) -> bytes:
        sent: bytes = self.h2.data_to_send()
        return sent


def ok_server() -> Server:
    return Server(lambda server, stream: server.respond(stream, 200, more=[(b"apns-id", ID)]))


def talk(connection: Connection, server: Server, now: float = 0.0, rounds: int = 100) -> Results:
    """Carries bytes to and fro until both ends are silent."""
    results: Results = []
    for _ in range(rounds):
        sent = connection.pull()
        if sent:
            server.receive(sent)
        answered = server.send()
        if not sent and not answered:
            return results
        if answered:
            results += connection.feed(answered, now)
    raise AssertionError("they never stop talking")


def ready(limits: Limits | None = None, *pairs: tuple[int, int], now: float = 0.0) -> Connection:
    """A connection whose server, played by hand, has sent SETTINGS, acknowledged ours, and given up its table."""
    connection = connect(limits, now)
    assert connection.feed(settings(*pairs) + ACK, now) == []
    connection.pull()
    return connection


def stateless(limits: Limits | None = None, *pairs: tuple[int, int]) -> Connection:
    """`ready`, and one push was answered by a block that sets the table's size to 0."""
    connection = ready(limits, *pairs)
    push(connection, "first")
    assert len(connection.feed(headers(1, b"\x20" + OK, end=True), 0.0)) == 1
    connection.pull()
    return connection


def contexts(results: Sequence[Result[object]]) -> list[object]:
    return [result.context for result in results]
