"""Where canaries come back to: a client of our own at our own gateway, over a real socket and a real WebSocket.
It is Autobahn's client, so that no code of ours judges its own frames."""

# mypy: allow-untyped-calls
# (Twisted's endpoints are annotated in part)

import json
from collections.abc import Callable
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from notifier.core import canary
from notifier.core.self_issued import SelfIssued
from notifier.edge.listen import kind_of, way_to
from notifier.edge.websocket import PROTOCOL, AutobahnLog, Gateway

CONNECT_SECONDS: Final = 2.0

# What else may listen there is not ours alone: systemd's sockets have siblings, haproxy: wants its own first line.
_OWN: Final = frozenset(("tcp", "ssl", "unix"))

Heard = Callable[["Nest", canary.Heard], None]
Changed = Callable[["Nest"], None]


class Nest:
    """One such client. `heard` is told of each message, `changed` when it has come in and when it is gone.

    where    how far it has come, in words
    greeted  the server has said `ready`
    over     it has ended, or could never begin
    """

    def __init__(self, user: str, token: str, heard: Heard, changed: Changed) -> None:
        self.user, self.token = user, token
        self._heard, self._changed = heard, changed
        self.where = "our own WebSocket listener takes no connection"
        self.greeted = self.over = False
        self.client: Any = None

    def said(self, text: bytes) -> None:
        """The server has sent a message."""
        if self.over:
            return  # we have said good-bye already
        told = canary.heard(text)
        if told.type == "ready":
            self.greeted, self.where = True, "connected"
            self._changed(self)
        elif told.type == "notification":
            self.client.say(type="ack", seq=told.seq)
            self._heard(self, told)
        elif told.type == "error":
            self.where = f"the gateway refuses us: {told.code} {told.reason}"

    def end(self, why: str) -> None:
        """The connection is gone, or could not be made."""
        if not self.over:
            self.over, self.where = True, why
            self._changed(self)

    def close(self) -> None:
        """In order: a close frame each way."""
        self.over = True
        if self.client is not None:
            self.client.sendClose(1000)

    def abort(self) -> None:
        """At once."""
        self.over = True
        if self.client is not None:
            self.client.transport.abortConnection()


class _Client(WebSocketClientProtocol):  # type: ignore[misc]
    log = AutobahnLog()  # /readyz says it
    nest: Nest
    entrance: "Entrance"

    def connectionMade(self) -> None:
        super().connectionMade()
        self.nest.client = self
        self.nest.where = "the gateway does not answer the handshake"
        if self.nest.over:  # closed while the connection was made
            self.transport.abortConnection()

    def say(self, **message: object) -> None:
        self.sendMessage(json.dumps(message).encode())

    def onOpen(self) -> None:
        self.nest.where = "the gateway does not say `ready`"
        self.say(type="auth", token=self.nest.token)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.nest.said(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.nest.end(self.entrance.why_closed(self.nest, wasClean, code, reason))


class _Factory(WebSocketClientFactory):  # type: ignore[misc]
    noisy = False

    def __init__(self, nest: Nest, entrance: "Entrance") -> None:
        # The URL is what the handshake names, not where it goes.
        url = f"ws://localhost{entrance.gateway.settings.path}"
        super().__init__(url, protocols=[PROTOCOL], useragent=None, reactor=entrance.reactor)
        self.nest, self.entrance = nest, entrance

    def buildProtocol(self, addr: Any) -> _Client:
        client = _Client()
        client.factory, client.nest, client.entrance = self, self.nest, self.entrance
        return client


class _Once(Factory):
    """A listener's factory that takes one connection, for the gateway, and closes the door behind it."""

    noisy = False

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.port: Any = None

    def buildProtocol(self, addr: Any) -> Any:
        self.shut()
        return self.gateway.buildProtocol(addr)

    def shut(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            port.stopListening()


class Entrance:
    """Sends clients of our own in. `description`: the endpoint of our WebSocket listener; `address`: where it listens.

    They come through that listener, with TLS if it has it, as long as it is ours alone. Through a socket that others
    accept from too a sibling might answer; then a loopback port is opened for the one connection, before the same
    gateway, and closed again.
    """

    def __init__(
        self, reactor: Any, gateway: Gateway, tokens: SelfIssued, description: str, address: Callable[[], Any]
    ) -> None:
        self.reactor, self.gateway, self.tokens, self.address = reactor, gateway, tokens, address
        self.kind = kind_of(description)

    def open(self, user: str, heard: Heard, changed: Changed) -> Nest:
        """A client for this reserved user, on its way in."""
        nest = Nest(user, self.tokens.issue(user, self.gateway.now()), heard, changed)
        once = None if self.kind in _OWN else self._once()
        address = self.address() if once is None else once.port.getHost()
        way = way_to(self.reactor, address, CONNECT_SECONDS)
        if way is None:
            nest.over = True
            nest.where = f"do not know how to reach {address}"
            return nest

        def failed(failure: Failure) -> None:
            if once is not None:
                once.shut()
            nest.end(f"our own WebSocket listener takes no connection: {failure.getErrorMessage()}")

        way.connect(self._factory(nest)).addErrback(failed)
        return nest

    def _once(self) -> _Once:
        once = _Once(self.gateway)
        once.port = self.reactor.listenTCP(0, once, interface="127.0.0.1")
        return once

    def _factory(self, nest: Nest) -> Any:
        factory = _Factory(nest, self)
        # Whoever waits for it gives it up in time (edge/canary.py); Autobahn's own timers only cut loose ends.
        factory.setProtocolOptions(
            openHandshakeTimeout=0, closeHandshakeTimeout=1, serverConnectionDropTimeout=1
        )
        if self.kind != "ssl":
            return factory
        from twisted.internet.ssl import CertificateOptions  # late: pyOpenSSL is large
        from twisted.protocols.tls import TLSMemoryBIOFactory

        # Not verified: whether clients like the certificate is a question of names that we do not know. And who
        # answers there is shown by the canary: nobody else takes its token.
        options: Any = CertificateOptions()
        return TLSMemoryBIOFactory(options, True, factory)

    def why_closed(self, nest: Nest, clean: bool, code: int | None, reason: str | None) -> str:
        """In words."""
        if nest.where.startswith("the gateway refuses us"):
            return nest.where
        if self.gateway.draining:
            return "the process stops"
        if self.gateway.is_full():
            return "the gateway takes nobody: the process is full (limits.connections)"
        return (
            f"the gateway closed our connection: {reason or code}"
            if clean
            else f"{nest.where}, and hung up: {reason}"
        )
