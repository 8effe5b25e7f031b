"""The sandbox's providers once more, where TLS itself fails: a certificate that has ended, one that is refused."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from OpenSSL import SSL
from twisted.internet import ssl

from notifier.edge.http2.dial import Place, trusted
from notifier.sandbox.authority import Certificates, make_certificates
from tests.edge.http2.world import reactor
from tests.edge.provider_world import World
from tests.phones.gateway import Gateway


class Stage(NamedTuple):
    """What a sender can be pointed at."""

    there: World
    failing: Mapping[str, Listener]
    gateway: Gateway
    port: Any  # of the gateway


class Listener(NamedTuple):
    """Where it listens, and what a client must trust to take it for the provider."""

    place: Place
    trust: Any
    port: Any


def listeners(there: World, folder: Path) -> Mapping[str, Listener]:
    """By provider and fault: `ended` is the server's certificate; `refused`: the server takes nobody's."""
    ended = make_certificates(folder / "ended", datetime.now(UTC) - timedelta(days=90))
    good = make_certificates(folder / "good")
    return {
        "apns-ended": _listen(there, "apns", ended, takes=True),
        "fcm-ended": _listen(there, "fcm", ended, takes=True),
        "apns-refused": _listen(there, "apns", good, takes=False),
    }


def _listen(there: World, wire: str, made: Certificates, *, takes: bool) -> Listener:
    own: Any = ssl.PrivateCertificate.loadPEM(made.server.read_bytes())
    context = own.options()
    options = ssl.CertificateOptions(
        privateKey=context.privateKey, certificate=context.certificate, acceptableProtocols=[b"h2"]
    )
    # As Apple does with a client's certificate that has ended or was withdrawn: TLS says no, and nothing else does.
    options.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: takes)
    port = reactor.listenSSL(0, there.sandbox.factories[wire], options, interface="127.0.0.1")
    return Listener(Place("127.0.0.1", port.getHost().port), trusted(str(made.authority)), port)
