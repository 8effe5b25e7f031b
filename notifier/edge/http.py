"""HTTP/1.1 within limits, below both HTTP listeners: small headers, bounded bodies and connections, a time limit
that dripping bytes cannot stretch, refusals that arrive, and no word about the software.
"""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final

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
# Twisted's own table is of 1999; RFC 9110 section 15.5.14 has renamed one since then.
PHRASES: Final[Mapping[int, bytes]] = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
}

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


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

    totalHeadersSize = HEADER_BYTES
    maxHeaders = HEADERS
    site: BoundedSite
    refused = False

    def dataReceived(self, data: bytes) -> None:
        # The base class restarts its timer with every byte. Not here: the timer runs from the end of the last
        # answer, so it bounds the wait for a request and the request together.
        if not self.refused:
            LineReceiver.dataReceived(self, data)

    def allContentReceived(self) -> None:
        if not self.refused:
            super().allContentReceived()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.connections -= 1
        super().connectionLost(reason)

    def timeoutConnection(self) -> None:
        """As in the base class, but without a line in the log for every client that goes idle."""
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        transport: Any = self.transport
        transport.abortConnection()

    def hand_over(self, protocol: Any) -> None:
        """Let another protocol have the transport, for good: this is no connection of the site any more."""
        transport: Any = self.transport
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        transport.resumeProducing()
        self.site.connections -= 1
        if hasattr(transport, "wrappedProtocol"):
            transport.wrappedProtocol = protocol  # TLS
        else:
            transport.protocol = protocol
        protocol.makeConnection(transport)

    def refuse(self, answer: Answer) -> None:
        """Answer before the request is complete, and hang up."""
        self.refused = True
        fields = {"Connection": "close", "Content-Length": str(len(answer.body)), **answer.fields}
        # The admin listener says no more than this to whoever sends content.
        self.write((head(answer, fields) if answer.body else _head(answer.status, fields)) + answer.body)
        # RFC 9112 section 9.6: a close with bytes unread makes TCP send a reset, which can overtake the answer.
        # So only our half is closed (TLS has no halves); what still arrives is dropped, for a short time.
        self._networkProducer.unregisterProducer()
        if not self.isSecure():
            transport: Any = self.transport
            transport.loseWriteConnection()
        self.setTimeout(LINGER_SECONDS)


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

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.connections >= self.most:
            return None
        self.connections += 1
        return super().buildProtocol(addr)

    def log(self, request: object) -> None:
        """No access log: a line costs more than the answer, and the metrics count."""
