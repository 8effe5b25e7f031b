"""Starts the sandbox: two providers over HTTP/2, the OAuth endpoint and the control API, all on loopback ports."""

# mypy: allow-untyped-calls
# (twisted.internet.ssl has no annotations)

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.web.resource import Resource

from notifier.edge.http import Answer as HttpAnswer
from notifier.edge.http import BoundedRequest, BoundedSite
from notifier.sandbox.apns import Apns
from notifier.sandbox.authority import make_certificates
from notifier.sandbox.control import ControlSite, Sandbox
from notifier.sandbox.exchange import BODY_BYTES, Link, Request
from notifier.sandbox.fcm import Fcm, OAuth
from notifier.sandbox.http2 import Http2Factory, Limits
from notifier.sandbox.phones import Phones
from notifier.sandbox.script import Script

HOST: Final = "127.0.0.1"
BACKLOG: Final = 1_024
# What both say at their start, as seen from outside.
APNS_LIMITS: Final = Limits(streams=1_000, window=65_535, alone=True)
FCM_LIMITS: Final = Limits(streams=100, window=65_535)


class Ports(Struct, frozen=True):
    """Where to listen; 0: any free port."""

    control: int = 0
    apns: int = 0
    fcm: int = 0
    oauth: int = 0


ANY_PORTS: Final = Ports()


class Endpoints(Struct, frozen=True):
    """Where the sandbox listens, and the PEM file with the authority to trust."""

    sandbox: str
    apns: str
    fcm: str
    token_uri: str
    authority: str


class OAuthRequest(BoundedRequest):
    """One request for an access token, over HTTP/1.1 as OAuth clients speak it."""

    def process(self) -> None:
        site: Any = self.channel.site
        fields = {
            name.decode().lower(): values[-1].decode("latin-1")
            for name, values in self.requestHeaders.getAllRawHeaders()
        }
        assert self.content is not None
        method, path = self.method.decode("latin-1"), self.path.decode("latin-1")
        request = Request(method, path, fields, self.content.read(), site.now())
        said = site.oauth.answer(request, Link())
        site.saw(request, said)
        kind = said.fields.get("content-type", "text/plain")
        others = {name: value for name, value in said.fields.items() if name != "content-type"}
        answer = HttpAnswer(said.status, said.body, kind, others)
        if said.action == "hang":
            return
        if said.action in ("close", "reset", "refuse"):
            self.channel.forceAbortClient()
            return
        site.clock.callLater(said.delay, self._send, answer)

    def _send(self, answer: HttpAnswer) -> None:
        if self.channel is not None:
            self.answer(answer)


class OAuthSite(BoundedSite):
    """Google's token endpoint."""

    def __init__(self, oauth: OAuth, clock: Any, now: Callable[[], float], saw: Any) -> None:
        super().__init__(Resource(), OAuthRequest, clock, seconds=60.0, most=1_000, body_bytes=BODY_BYTES)
        self.oauth, self.clock, self.now, self.saw = oauth, clock, now, saw


class Running(Struct):
    """A sandbox that listens."""

    endpoints: Endpoints
    sandbox: Sandbox
    listening: list[Any]

    async def stop(self) -> None:
        """Closes listeners and connections."""
        for factory in self.sandbox.factories.values():
            factory.drop()
        for port in self.listening:
            await port.stopListening()


def _context(certificate: Path, protocols: list[bytes]) -> Any:
    pem = certificate.read_bytes()
    made = ssl.PrivateCertificate.loadPEM(pem).options()
    made = ssl.CertificateOptions(
        privateKey=made.privateKey, certificate=made.certificate, acceptableProtocols=protocols
    )
    # Asks for a client certificate and takes any: whose it is, is nothing to a sandbox.
    made.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: True)
    return made


def start(
    reactor: Any, folder: Path, ports: Ports = ANY_PORTS, now: Callable[[], float] = time.time
) -> Running:
    """Listens, with certificates made afresh in `folder`. Raises CannotListenError when a port is taken."""
    certificates = make_certificates(folder)
    phones, script = Phones(), Script()
    apns, fcm = Apns(phones, script), Fcm(phones, script)
    sandbox = Sandbox(phones, script, apns, fcm, {})
    factories = {
        "apns": Http2Factory(apns, reactor, now, APNS_LIMITS, sandbox.saw("apns")),
        "fcm": Http2Factory(fcm, reactor, now, FCM_LIMITS, sandbox.saw("fcm")),
    }
    sandbox.factories = factories
    context, h1 = _context(certificates.server, [b"h2"]), _context(certificates.server, [b"http/1.1"])
    listening = [
        reactor.listenSSL(getattr(ports, name), factory, context, backlog=BACKLOG, interface=HOST)
        for name, factory in factories.items()
    ]
    oauth = OAuth(fcm, script, "")
    site = OAuthSite(oauth, reactor, now, sandbox.saw("oauth"))
    listening.append(reactor.listenSSL(ports.oauth, site, h1, backlog=BACKLOG, interface=HOST))
    control = ControlSite(sandbox, reactor)
    listening.append(reactor.listenTCP(ports.control, control, backlog=BACKLOG, interface=HOST))
    at = [port.getHost().port for port in listening]
    endpoints = Endpoints(
        apns=f"https://{HOST}:{at[0]}",
        fcm=f"https://{HOST}:{at[1]}",
        token_uri=f"https://{HOST}:{at[2]}/token",
        sandbox=f"http://{HOST}:{at[3]}/",
        authority=str(certificates.authority),
    )
    oauth.audience = endpoints.token_uri
    return Running(endpoints, sandbox, listening)
