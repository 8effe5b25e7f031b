"""A push server over TLS in this process: Twisted and h2, with a certificate made here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from notifier.core.http2 import Limits, Result
from notifier.edge.http2.dial import endpoint
from notifier.edge.http2.pool import Pool, Push, Sizes
from tests.core.http2.world import APNS, BODY, ID, TOKEN

reactor: Any = _reactor
TLS: Any = ssl
Answer = Callable[["ServerSide", int], None]


def make_papers(name: str = "localhost") -> ssl.PrivateCertificate:
    """A certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made: ssl.PrivateCertificate = TLS.PrivateCertificate.loadPEM(
        certificate.public_bytes(serialization.Encoding.PEM) + pem
    )
    return made


PAPERS = make_papers()


def trust() -> Any:
    """What a client needs to trust them."""
    return TLS.trustRootFromCertificates([PAPERS])


class ServerSide(Protocol):
    """One connection as the server has it."""

    transport: Any

    def __init__(self, server: PushServer) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.streams: list[int] = []
        self.closed = False

    def connectionMade(self) -> None:
        self.server.sides.append(self)
        if self.server.speaks:
            self.h2.initiate_connection()
            if self.server.settings:
                self.h2.update_settings(self.server.settings)
            self.flush()

    def dataReceived(self, data: bytes) -> None:
        self.server.reads += 1
        if not self.server.speaks:
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as fault:
            self.server.faults.append(str(fault))
            self.transport.abortConnection()
            return
        for event in events:
            self._on(event)
        self.flush()

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            self.streams.append(event.stream_id)
            self.server.paths.append(dict(event.headers or ())[b":path"])
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            self.server.answer(self, event.stream_id or 0)

    def respond(self, stream: int, status: int = 200, body: bytes = b"") -> None:
        self.h2.send_headers(stream, [(b":status", b"%d" % status)], end_stream=not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.closed:
            self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = True


class PushServer:
    """Answers 200 to all unless `answer` says otherwise."""

    def __init__(self, answer: Answer | None = None, settings: dict[Any, int] | None = None) -> None:
        self.answer: Answer = answer or (lambda side, stream: side.respond(stream))
        self.settings = settings
        self.speaks = True
        self.sides: list[ServerSide] = []
        self.paths: list[bytes] = []
        self.faults: list[str] = []
        self.reads = 0
        self._port: Any = None

    @property
    def port(self) -> int:
        number: int = self._port.getHost().port
        return number

    def listen(self, papers: ssl.PrivateCertificate = PAPERS, port: int = 0) -> PushServer:
        given: Any = papers
        context = given.options()
        options = ssl.CertificateOptions(
            privateKey=context.privateKey,
            certificate=context.certificate,
            acceptableProtocols=[b"h2"],
        )
        factory = Factory.forProtocol(lambda: ServerSide(self))
        self._port = reactor.listenSSL(port, factory, options, interface="127.0.0.1")
        return self

    @property
    def live(self) -> list[ServerSide]:
        return [side for side in self.sides if not side.closed]

    async def close(self) -> None:
        await self._port.stopListening()
        for side in self.live:
            side.transport.abortConnection()
        await until(lambda: not self.live)


async def until(true: Callable[[], object]) -> None:
    """Waits for a condition; the test's own limit ends what never comes true."""
    while not true():
        await pause(0.005)


def pause(seconds: float) -> Deferred[None]:
    later: Deferred[None] = Deferred()
    reactor.callLater(seconds, later.callback, None)
    return later


class Told(list[Result[Push[int]]]):
    """All results that a pool has told."""

    def kinds(self) -> dict[int, str]:
        kinds = {result.context.context: type(result).__name__ for result in self}
        assert len(kinds) == len(self), "a push was told twice"
        return kinds


def make_pool(
    server: PushServer, told: Told, limits: Limits | None = None, sizes: Sizes | None = None, **more: Any
) -> Pool[int]:
    to = endpoint(reactor, "localhost", server.port, trust=trust())
    return Pool(reactor, to, told.extend, limits, sizes, chance=lambda: 0.01, **more)


def push(number: int, body: bytes = BODY) -> Push[int]:
    return Push(number, APNS, (TOKEN, ID), body)


def send(pool: Pool[int], count: int, first: int = 0, body: bytes = BODY) -> None:
    for number in range(first, first + count):
        pool.push(push(number, body))
