"""The server side of HTTP/2 over TLS, on the `h2` library: requests in, answers out, and faults on demand."""

# mypy: allow-untyped-calls
# (h2 and hyperframe are typed in part, twisted.internet.ssl not at all)

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame
from msgspec import Struct, field
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from notifier.sandbox.exchange import BODY_BYTES, Answer, Link, Request

LAST_STREAM: Final = 2**31 - 1
READ_BYTES: Final = 65_536
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
FRAME_HEADER: Final = 9  # section 4.1: length (3 bytes), type, flags, stream (4)
GOAWAY: Final = 0x7


class Provider(Protocol):
    """What answers requests."""

    def answer(self, request: Request, link: Link) -> Answer: ...


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What the server allows a connection. `alone`: one stream until a first request was good, as APNs does."""

    streams: int = 1_000
    window: int = 65_535
    alone: bool = False


class Stream(Struct):
    """A request that is still coming in."""

    fields: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


class Counts(Struct):
    """What happened to the connections of one provider since the start."""

    connections: int = 0
    open: int = 0
    requests: int = 0
    goaways: int = 0
    floods: int = 0
    answers: dict[str, int] = field(default_factory=dict)


class Frames:
    """Keeps a sender's GOAWAY from h2, which would then answer nothing more. It ends no stream: whoever sends it
    waits for the answers that are still to come (RFC 9113 section 6.8)."""

    def __init__(self) -> None:
        self._held = b""
        self._skip = len(PREFACE)  # bytes that go through unread: the preface, then what is left of a frame
        self._drop = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What h2 is to see, and whether a GOAWAY was among it."""
        data = self._held + data
        self._held, at, kept, goaway = b"", 0, [], False
        while at < len(data):
            if self._skip or self._drop:
                end = at + (self._skip or self._drop)
                part = data[at:end]
                if self._skip:
                    kept.append(part)
                    self._skip -= len(part)
                else:
                    self._drop -= len(part)
                at += len(part)
                continue
            if len(data) - at < FRAME_HEADER:
                self._held = data[at:]
                break
            size = FRAME_HEADER + int.from_bytes(data[at : at + 3], "big")
            if data[at + 3] == GOAWAY:
                goaway, self._drop = True, size
            else:
                self._skip = size
        return b"".join(kept), goaway


class Http2(TwistedProtocol):
    """One connection."""

    factory: Http2Factory
    transport: Any

    def connectionMade(self) -> None:
        self.link = Link()
        self.asked: dict[int, Stream] = {}
        self.waiting: dict[int, bytes] = {}
        self.calls: dict[int, Any] = {}
        self.ended = False
        self.checked = False
        self.frames = Frames()
        self.core = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.factory.opened(self)
        limits = self.factory.limits
        self._settings(limits)
        self.core.initiate_connection()
        self.flush()

    def _settings(self, limits: Limits) -> None:
        settings = self.core.local_settings
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1 if limits.alone else limits.streams
        settings[SettingCodes.INITIAL_WINDOW_SIZE] = limits.window
        settings[SettingCodes.MAX_HEADER_LIST_SIZE] = 8_000
        settings.acknowledge()

    def dataReceived(self, data: bytes) -> None:
        if self.ended or not (self.checked or self._checked()):
            return
        data, leaving = self.frames.feed(data)
        try:
            events = self.core.receive_data(data)
        except ProtocolError:
            self.factory.counts.floods += 1
            self.flush()
            self.transport.loseConnection()
            return
        for event in events:
            self._happened(event)
        self.flush()
        if leaving and not (self.asked or self.waiting or self.calls):
            self.transport.loseConnection()

    def _checked(self) -> bool:
        """TLS has ended its handshake: HTTP/2 or nothing (RFC 9113 section 3.2)."""
        self.checked = True
        protocol = getattr(self.transport, "negotiatedProtocol", b"h2")
        if protocol != b"h2":
            self._end()
            return False
        peer = getattr(self.transport, "getPeerCertificate", lambda: None)()
        self.link.certificate = peer is not None
        return True

    def _happened(self, event: object) -> None:
        match event:
            case RequestReceived(stream_id=int(number), headers=headers):
                # RFC 9113 section 8.2.1: names are lower case already
                self.asked[number] = Stream({str(name): str(value) for name, value in headers or ()})
            case DataReceived(stream_id=int(number), data=data, flow_controlled_length=int(length)):
                stream = self.asked.get(number)
                if stream is not None and len(stream.body) + len(data or b"") <= BODY_BYTES:
                    stream.body += data or b""
                self.core.acknowledge_received_data(length, number)
            case StreamEnded(stream_id=int(number)):
                stream = self.asked.pop(number, None)
                if stream is not None:
                    self._ask(number, stream)
            case StreamReset(stream_id=int(number)):
                self.asked.pop(number, None)
                self.waiting.pop(number, None)
            case WindowUpdated():
                for number in list(self.waiting):
                    self._body(number, self.waiting.pop(number))
            case _:
                pass

    def _ask(self, number: int, stream: Stream) -> None:
        fields = stream.fields
        request = Request(
            method=fields.get(":method", ""),
            path=fields.get(":path", ""),
            fields={name: value for name, value in fields.items() if name[0] != ":"},
            body=bytes(stream.body),
            at=self.factory.now(),
        )
        proven = self.link.proven
        answer = self.factory.ask(request, self.link)
        if self.link.proven and not proven and self.factory.limits.alone:
            self.limit(self.factory.limits, alone=False)
        if not answer.delay:
            self._answer(number, answer)
            return
        self.calls[number] = self.factory.clock.callLater(answer.delay, self._late, number, answer)

    def _late(self, number: int, answer: Answer) -> None:
        del self.calls[number]
        self._answer(number, answer)
        self.flush()

    def _answer(self, number: int, answer: Answer) -> None:
        match answer.action:
            case "hang":
                return
            case "close":
                self._end()
                return
            case "reset" | "refuse":
                code = ErrorCodes.REFUSED_STREAM if answer.action == "refuse" else ErrorCodes.INTERNAL_ERROR
                self._reset(number, code)
                return
            case "goaway":
                self.goaway()
            case _:
                pass
        counts = self.factory.counts.answers
        counts[str(answer.status)] = counts.get(str(answer.status), 0) + 1
        fields = [(":status", str(answer.status)), *answer.fields.items()]
        try:
            self.core.send_headers(number, fields, end_stream=not answer.body)
        except (StreamClosedError, ProtocolError):
            return  # the sender took its request back
        if answer.body:
            self._body(number, answer.body)

    def _body(self, number: int, body: bytes) -> None:
        try:
            room = min(self.core.local_flow_control_window(number), self.core.max_outbound_frame_size)
            while body and room > 0:
                part, body = body[:room], body[room:]
                self.core.send_data(number, part, end_stream=not body)
                room = min(self.core.local_flow_control_window(number), self.core.max_outbound_frame_size)
        except (StreamClosedError, ProtocolError):
            return
        if body:
            self.waiting[number] = body

    def _reset(self, number: int, code: ErrorCodes) -> None:
        try:
            self.core.reset_stream(number, code)
        except (StreamClosedError, ProtocolError):
            return

    def limit(self, limits: Limits, *, alone: bool) -> None:
        """Tells the sender new limits, which hold from its acknowledgement on."""
        streams = 1 if alone else limits.streams
        self.core.update_settings(
            {SettingCodes.MAX_CONCURRENT_STREAMS: streams, SettingCodes.INITIAL_WINDOW_SIZE: limits.window}
        )
        self.flush()

    def goaway(self, last: int = LAST_STREAM, reason: str = "Shutdown") -> None:
        """Says GOAWAY past h2, which would refuse to answer the streams that still run (RFC 9113 section 6.8)."""
        self.flush()
        frame = GoAwayFrame(0, last, int(ErrorCodes.NO_ERROR), json.dumps({"reason": reason}).encode())
        self.transport.write(frame.serialize())
        self.factory.counts.goaways += 1

    def flush(self) -> None:
        """Writes what h2 has gathered."""
        data = self.core.data_to_send()
        if data and not self.ended:
            self.transport.write(data)

    def _end(self) -> None:
        self.ended = True
        self.transport.abortConnection()

    def drop(self) -> None:
        """Ends the connection without a word."""
        self._end()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.ended = True
        for call in self.calls.values():
            call.cancel()
        self.calls.clear()
        self.factory.closed(self)


class Http2Factory(ServerFactory):
    """All connections of one provider; `saw` is told of every request and its answer. clock: an IReactorTime."""

    protocol = Http2  # type: ignore[assignment]  # Twisted's annotation knows no class with a transport of its own
    noisy = False

    def __init__(
        self,
        provider: Provider,
        clock: Any,
        now: Callable[[], float],
        limits: Limits,
        saw: Callable[[Request, Answer], None] = lambda _request, _answer: None,
    ) -> None:
        self.provider, self.clock, self.now, self.limits, self.saw = provider, clock, now, limits, saw
        self.counts = Counts()
        self.connections: set[Http2] = set()

    def opened(self, connection: Http2) -> None:
        self.counts.connections += 1
        self.counts.open += 1
        self.connections.add(connection)

    def closed(self, connection: Http2) -> None:
        self.counts.open -= 1
        self.connections.discard(connection)

    def ask(self, request: Request, link: Link) -> Answer:
        """The provider's answer."""
        self.counts.requests += 1
        answer = self.provider.answer(request, link)
        self.saw(request, answer)
        return answer

    def limit(self, changes: dict[str, Any]) -> None:
        """New limits for the connections that are open and those to come. Raises msgspec.ValidationError."""
        now = msgspec.structs.asdict(self.limits)
        self.limits = msgspec.convert({**now, **changes}, Limits)
        for connection in self.connections:
            connection.limit(self.limits, alone=self.limits.alone and not connection.link.proven)

    def goaway(self) -> int:
        """GOAWAY to all that are connected; how many."""
        for connection in self.connections:
            connection.goaway()
        return len(self.connections)

    def drop(self) -> int:
        """Ends all connections without a word; how many."""
        gone = list(self.connections)
        for connection in gone:
            connection.drop()
        return len(gone)
