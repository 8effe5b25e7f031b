"""HTTP/1.1 within limits, below both HTTP listeners: small headers, bounded bodies and connections, a time limit
that dripping bytes cannot stretch, refusals that arrive, and no word about the software.
"""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final, Literal

from msgspec import Struct
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString, parse_qs
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

HEADER_BYTES: Final = 8192
HEADERS: Final = 50
LINGER_SECONDS: Final = 2.0  # for a client to read why it was refused
NEWCOMER_SECONDS: Final = 1.0  # in a drain, for a client that has connected and not asked yet
# Twisted's own table is of 1999; RFC 9110 section 15.5.14 has renamed one since then.
PHRASES: Final[Mapping[int, bytes]] = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
}

_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE)

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


Phase = Literal["idle", "asked", "answering"]


class Answer(Struct, frozen=True):
    """A whole response; `fields` are header fields beside those that every response has."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    fields: Mapping[str, str] = {}


def head(answer: Answer, fields: Mapping[str, str]) -> bytes:
    """Status line and header of a response that is written past twisted.web; `fields` beside the usual ones."""
    every = {"Date": datetimeToString().decode(), "Content-Type": answer.content_type, **SECURITY_HEADERS}
    return _head(answer.status, {**every, **fields})


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, PHRASES[status], lines.encode("ascii"))


def target(sent: bytes) -> tuple[bytes | None, bytes]:
    """(authority, path and query) of a request's target; without an authority in all but its absolute form."""
    match = _ABSOLUTE.fullmatch(sent)
    return (match[1], match[2] or b"/") if match else (None, sent)


class BoundedRequest(Request):
    """A request whose content, held in memory, stays within `most_bytes`. Subclasses: `process`."""

    channel: BoundedChannel
    defaultContentType = None
    most = 0

    def gotLength(self, length: int | None) -> None:
        self.content: BytesIO = BytesIO()
        self.args = {}
        most = self.most = self.most_bytes()
        if (most == 0) if length is None else (length > most):
            self._refuse()

    def most_bytes(self) -> int:
        """How large the content may be; the header fields have been read. By default the site's `body_bytes`."""
        return self.channel.site.body_bytes

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.refused:
            return
        if self.content.tell() + len(data) > self.most:
            self._refuse()
        else:
            self.content.write(data)

    def _refuse(self) -> None:
        # RFC 9110 section 10.1.1: a final answer takes the place of 100 (Continue).
        self.requestHeaders.removeHeader("expect")
        self.channel.refuse(self.too_large())

    def too_large(self) -> Answer:
        """What a request with too much content is told."""
        return Answer(413, b"")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # The base class would also parse forms, of which there are none here.
        self.content.seek(0)
        self.method, self.uri, self.clientproto = command, path, version
        authority, path = target(path)
        if authority is not None:
            # RFC 9112 section 3.2.2: the target's host counts, and not that of the Host field.
            self.requestHeaders.setRawHeaders(b"host", [authority])
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=True)
        self.process()

    def field_lines(self, name: str) -> list[str]:
        """The values of a header field, one for each line of it. Any byte is a character: none can fail us."""
        lines = self.requestHeaders.getRawHeaders(name.encode("ascii"), [])
        return [line.decode("latin-1") for line in lines]  # RFC 9110 section 5.5: opaque beyond ASCII

    def dress(self, answer: Answer) -> bytes:
        """Set status and header fields; the body comes back, to be written. No Server field: it helps nobody."""
        self.setResponseCode(answer.status, PHRASES[answer.status])
        fields = {"Date": datetimeToString(), **SECURITY_HEADERS, **answer.fields}
        if self.channel.site.draining:
            self.channel.persistent = 0
            # RFC 9112 section 9.6: the client sends its next request elsewhere
            fields["Connection"] = "close"
        if answer.status != 204:  # RFC 9110 section 8.6: no Content-Length with 204
            fields |= {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        for name, value in fields.items():
            self.setHeader(name, value)
        return answer.body

    def answer(self, answer: Answer) -> None:
        """Send a whole response."""
        # RFC 9110 section 9.3.2: HEAD has the same fields and no content; the base class drops it.
        self.write(self.dress(answer))
        self.finish()


class BoundedChannel(HTTPChannel):
    """One connection."""

    totalHeadersSize = MAX_LENGTH = HEADER_BYTES
    maxHeaders = HEADERS
    site: BoundedSite
    refused = False
    served = False  # a request has been answered
    phase: Phase = "idle"

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        # The base class restarts its timer with every byte. Not here: the timer runs from the end of the last
        # answer, so it bounds the wait for a request and the request together.
        if self.phase == "idle":
            self.phase = "asked"
        if not self.refused:
            LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        # What stands behind the fault in the same packet is part of no request any more.
        if self.refused:
            return
        if line[:1] in (b" ", b"\t"):
            # RFC 9112 section 5.2: a folded line, which proxies and servers have read differently. Nobody needs it.
            self._respondToBadRequestAndDisconnect()
            return
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name.lower() == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
            # RFC 9112 section 6.1: the base class lets "identity" pass, which is none any more (section 7).
            self._respondToBadRequestAndDisconnect()
            return False
        return bool(super().headerReceived(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def requestDone(self, request: Any) -> None:
        self.phase, self.served = "idle", True
        if self.site.draining:
            self.persistent = 0
        super().requestDone(request)
        if self._waitingForTransport:
            transport: Any = self._networkProducer
            transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The client does not take its answers: requests that have been read already wait as well. The base class
        would answer all of a packet's, a thousand answers for one packet."""
        self.paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        super().resumeProducing()
        if not self._handlingRequest and self._buffer:
            self.dataReceived(b"")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """As in the base class, but so that the answer arrives, and counted."""
        self.refuse(Answer(400, b""))

    def allContentReceived(self) -> None:
        if not self.refused:
            self.phase = "answering"
            super().allContentReceived()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone()
        super().connectionLost(reason)

    def timeoutConnection(self) -> None:
        """As in the base class, but without a line in the log for every client that goes idle."""
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        transport: Any = self.transport
        transport.abortConnection()

    def _gone(self) -> None:
        self.site.connections -= 1
        self.site.open.discard(self)

    def hand_over(self, protocol: Any) -> None:
        """Let another protocol have the transport, for good: this is no connection of the site any more."""
        transport: Any = self.transport
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        transport.resumeProducing()
        self._gone()
        if hasattr(transport, "wrappedProtocol"):
            transport.wrappedProtocol = protocol  # TLS
        else:
            transport.protocol = protocol
        protocol.makeConnection(transport)

    def refuse(self, answer: Answer) -> None:
        """Answer before the request is complete, and hang up."""
        if self.refused:
            return
        self.refused = True
        fields = {"Connection": "close", "Content-Length": str(len(answer.body)), **answer.fields}
        # The admin listener says no more than this to whoever sends content.
        self.write((head(answer, fields) if answer.body else _head(answer.status, fields)) + answer.body)
        self._end_writing(LINGER_SECONDS)

    def loseConnection(self) -> None:
        """Hang up behind the answer; the client has as long to take it as it has for a request."""
        if self.isSecure():
            super().loseConnection()
        elif not self.refused:
            self._end_writing(self.timeOut or LINGER_SECONDS)

    def _end_writing(self, seconds: float) -> None:
        """RFC 9112 section 9.6: a close with bytes unread makes TCP send a reset, which can overtake the answer. So
        only our half is closed (TLS has no halves); what still arrives is dropped, for so long."""
        self.refused = True
        self._networkProducer.unregisterProducer()
        if not self.isSecure():
            transport: Any = self.transport
            transport.loseWriteConnection()
        self.setTimeout(seconds)


class BoundedSite(Site):
    """At most `most` connections at once; what comes in addition is closed unanswered.

    `seconds`: how long a connection may wait for a request and its end. `body_bytes`: the largest content.
    """

    protocol = BoundedChannel  # type: ignore[assignment]  # straight to HTTP/1: no switch to HTTP/2

    def __init__(
        self,
        resource: Resource,
        request_class: type[BoundedRequest],
        reactor: IReactorTime | None,
        *,
        seconds: float,
        most: int,
        body_bytes: int,
    ) -> None:
        super().__init__(resource, request_class, timeout=seconds, reactor=reactor)
        self.most = most
        self.body_bytes = body_bytes
        self.connections = 0
        self.open: set[BoundedChannel] = set()
        self.draining = False

    def drain(self, seconds: float) -> None:
        """Answer what has been asked, then close. Who waits between two requests goes now, who has only just come has
        a moment to ask, and who is asking has so many seconds."""
        self.draining = True
        self._part(lambda channel: channel.served and channel.phase == "idle")
        call_later: Any = self.reactor.callLater
        call_later(NEWCOMER_SECONDS, self._part, lambda channel: channel.phase == "idle")
        seconds = max(seconds, NEWCOMER_SECONDS)
        call_later(seconds, self._part, lambda channel: channel.phase != "answering")

    def _part(self, which: Callable[[BoundedChannel], bool]) -> None:
        for channel in [channel for channel in self.open if which(channel)]:
            channel.loseConnection()

    @property
    def busy(self) -> bool:
        """Is anything asked, or being answered?"""
        return any(channel.phase != "idle" and not channel.refused for channel in self.open)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.connections >= self.most:
            return None
        self.connections += 1
        return super().buildProtocol(addr)

    def log(self, request: object) -> None:
        """No access log: a line costs more than the answer, and the metrics count."""
