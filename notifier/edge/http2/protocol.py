"""One connection to a push server: the socket and the clock around core/http2.connection."""

from typing import Any, Final, Generic, Protocol

from twisted.internet import protocol
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from notifier.core.http2 import Limits, PushConnection, Result
from notifier.core.http2.results import C
from notifier.edge.http2.dial import told

TLS_WITHIN: Final = 10.0  # s, from TCP to HTTP/2; Twisted's handshake has no bound of its own
CLOSE_WITHIN: Final = 5.0  # s, from our GOAWAY to the end
_NEVER: Final = float("inf")


class Owner(Protocol[C]):
    """Who has connections made. `heard`: one that was doubtful is not any more. `gone` is the last that is told."""

    def ready(self, connection: "PushProtocol[C]") -> None: ...
    def ended(self, connection: "PushProtocol[C]", results: list[Result[C]]) -> None: ...
    def heard(self, connection: "PushProtocol[C]") -> None: ...
    def gone(self, connection: "PushProtocol[C]", reason: str) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class PushProtocol(protocol.Protocol, Generic[C]):
    """`ready` is told once the server has said how many streams it takes, which costs a round trip, once, and no
    push that it would refuse. Who pushes into `core` calls `flush` once after all pushes of a turn.
    """

    core: PushConnection[C]
    transport: Any

    def __init__(self, reactor: Any, limits: Limits, owner: Owner[C]) -> None:
        self._reactor = reactor
        self._limits = limits
        self._owner = owner
        self._begun = False
        self._is_ready = False
        self._closing = False
        self._full = False  # the transport has as much as it wants
        self._fault = ""
        self._timer: Any = None

    # --- What Twisted calls ---

    def connectionMade(self) -> None:
        self._timer = self._reactor.callLater(TLS_WITHIN, self._no_handshake)

    def handshakeCompleted(self) -> None:
        self._cancel()
        if self.transport.negotiatedProtocol != b"h2":  # RFC 9113 3.3
            self._abort("the server does not speak HTTP/2 (no h2 in ALPN)")
            return
        self.transport.registerProducer(self, True)
        self.core = PushConnection(self._limits, self._reactor.seconds())
        self._begun = True
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        if not self._begun:
            return
        doubtful = self.core.doubtful
        self._tell(self.core.feed(data, self._reactor.seconds()))
        if doubtful:
            self._owner.heard(self)
        if not self._is_ready and self.core.announced and self.core.accepting:
            self._is_ready = True
            self._owner.ready(self)
        self.flush()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self._cancel()
        why = self._fault or "the line broke"
        try:
            why = self._fault or told(reason)
        finally:  # whatever TLS comes up with: nobody else tells that these pushes have ended
            self._lost(why)

    def _lost(self, why: str) -> None:
        try:
            if self._begun:
                if self.core.failure is not None:
                    why = str(self.core.failure)
                self._tell(self.core.lost(why))
        finally:
            self._owner.gone(self, why)

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.flush()

    def stopProducing(self) -> None:
        self._full = True

    # --- What the owner calls ---

    def flush(self) -> None:
        """Writes what is to be written, in one piece, and sets the timer."""
        if self.core.closed:
            self._close()
            return
        if not self._full:  # what stays in the core is not called sent yet
            data = self.core.pull()
            if data:
                self.transport.write(data)
        self._set_timer()

    def drain(self) -> None:
        """Takes no more pushes, and closes when the last is answered."""
        if not self._begun:
            self._abort("not needed any more")
            return
        self._tell(self.core.drain(self._reactor.seconds()))
        self.flush()

    def _close(self) -> None:
        """Writes the last bytes; a server that does not take them is not waited for long."""
        if not self._closing:
            self._closing = True
            self._cancel()
            self.transport.unregisterProducer()
            self.transport.write(self.core.pull())
            self.transport.loseConnection()
            self._timer = self._reactor.callLater(CLOSE_WITHIN, self._not_closed)

    # --- Time ---

    def _set_timer(self) -> None:
        """At the latest when something is due. An early call does no harm, so most flushes leave it alone."""
        due = self.core.next_deadline()
        if due == _NEVER:
            self._cancel()
        elif self._timer is None:
            self._timer = self._reactor.callLater(max(0.0, due - self._reactor.seconds()), self._tick)
        elif due < self._timer.getTime():
            self._timer.reset(max(0.0, due - self._reactor.seconds()))

    def _tick(self) -> None:
        self._timer = None
        self._tell(self.core.tick(self._reactor.seconds()))
        self.flush()

    def _no_handshake(self) -> None:
        self._timer = None
        self._abort(f"no TLS handshake within {TLS_WITHIN:.0f} s")

    def _not_closed(self) -> None:
        self._timer = None
        self._abort("the server does not close")

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, results: list[Result[C]]) -> None:
        if results:
            self._owner.ended(self, results)

    def _abort(self, reason: str) -> None:
        self._fault = self._fault or reason
        self.transport.abortConnection()
