"""Connections that count as made when their TLS handshake is done: what fails before has carried no request."""

# mypy: allow-untyped-calls
# (most of Twisted has no annotations)

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer  # type: ignore[import-untyped]  # ships no types

from notifier.edge.http2.dial import told

CONNECT_SECONDS: Final = 10.0  # for TCP, and as long again for TLS


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Holds the place of the protocol that a factory makes, until there is a line that it can use."""

    transport: Any

    def __init__(self, place: _Place, address: Any) -> None:
        self._factory, self._address, self._done = place.factory, address, place.done
        self._timer: Any = place.reactor.callLater(place.within, self._too_late, place.within)

    def handshakeCompleted(self) -> None:
        self._cancel()
        if self._done.called:  # nobody waits for it any more
            self.transport.abortConnection()
            return
        made = self._factory.buildProtocol(self._address)
        self.transport.wrappedProtocol = made
        made.makeConnection(self.transport)
        self._done.callback(made)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel()
        if not self._done.called:
            self._done.errback(ConnectError(string=told(reason)))

    def _too_late(self, within: float) -> None:
        self._timer = None
        if not self._done.called:
            self._done.errback(ConnectError(string=f"no TLS handshake within {within:g} s"))
        self.transport.abortConnection()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Place(Factory):
    noisy = False

    def __init__(self, reactor: Any, factory: Any, done: Deferred[Any], within: float) -> None:
        self.reactor, self.factory, self.done, self.within = reactor, factory, done, within

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Handshake(self, addr)


@implementer(IStreamClientEndpoint)
class HandshakeEndpoint:
    """`inner`: an endpoint that wraps its connections in TLS. `connect` fails with a ConnectError for whatever
    goes wrong in the handshake, which may take `within` s."""

    def __init__(self, reactor: Any, inner: Any, within: float = CONNECT_SECONDS) -> None:
        self._reactor, self._inner, self._within = reactor, inner, within

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        line: list[Any] = []
        done: Deferred[Any] = Deferred(
            lambda _: line[0].transport.abortConnection() if line else dial.cancel()
        )
        dial = self._inner.connect(_Place(self._reactor, protocolFactory, done, self._within))
        dial.addCallbacks(line.append, lambda failure: None if done.called else done.errback(failure))
        return done


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Where an `Agent` connects to: plain for http://, by HandshakeEndpoint for https://. `policy`: an
    IPolicyForHTTPS."""

    def __init__(self, reactor: Any, policy: Any) -> None:
        self._reactor, self._policy = reactor, policy

    def endpointForURI(self, uri: Any) -> Any:
        plain: Any = HostnameEndpoint(
            self._reactor, uri.host.decode("ascii"), uri.port, timeout=CONNECT_SECONDS
        )
        if uri.scheme != b"https":
            return plain
        options = self._policy.creatorForNetloc(uri.host, uri.port)
        return HandshakeEndpoint(self._reactor, wrapClientTLS(options, plain))
