"""The WebSocket listener: Autobahn's handshake, then frames straight between the socket and a session.

After the handshake Autobahn's protocol object (7 KiB, dozens of attributes) is replaced on the transport by a
slotted Connection, and frames are written to the socket at once (docs/performance.md says what each of this is worth).
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import autobahn.twisted.websocket
import autobahn.websocket.protocol
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.logger import Logger

from notifier.config import Limits, WebSocket
from notifier.core import payload
from notifier.core import session as sessions
from notifier.core.canary import is_reserved
from notifier.core.frames import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Reader,
    Violation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)  # fmt: skip
from notifier.core.inbox import Mark
from notifier.core.self_issued import SelfIssued
from notifier.core.session import Authenticate, Close, Send, Session, Start
from notifier.core.tokens import Identity, Key, TokenError, Verifier
from notifier.edge.direct import bound_kernel, end_writing, send_now, unsent
from notifier.edge.hub import Hub
from notifier.edge.inlet import Inlet
from notifier.metrics import Metrics

log = Logger()

PROTOCOL: Final = "notifier.v1"
BEARER: Final = "bearer."
SCOPE: Final = "inbox"
HANDSHAKE_DRAIN: Final = 1.0  # s that handshakes under way have to end when the server stops
PING_FRAME: Final = ping_frame()
SEND_BUFFER: Final = 65_536  # bytes that the kernel holds for one client; Linux doubles this
KEPT_HEADER: Final = 200  # characters of an X-Forwarded-For that is worth remembering
VOID_SECONDS: Final = 5.0  # within which those have to go whose key is void
NEAR: Final = 30  # s: deadlines nearer than this are kept by the second

# Autobahn formats 30 options for a debug line that nobody reads, for every connection: a quarter of the handshake;
# and colours the words of a dozen other such lines: a tenth.
autobahn.websocket.protocol.pformat = lambda *args, **kwargs: ""
for _module in (autobahn.websocket.protocol, autobahn.twisted.websocket):
    _module.hltype = _module.hlval = lambda *args, **kwargs: ""


class Connection:
    """One WebSocket after its handshake (hub.Client). Slots only: an idle one must stay small."""

    __slots__ = (
        "address", "alive", "closing", "deadline", "descriptor", "gateway", "identity", "issued", "pinged", "pings",
        "queue", "reader", "session", "stamp", "tokens", "transport", "waited", "wheel",
    )  # fmt: skip

    session: Session

    def __init__(self, gateway: "Gateway", transport: Any, address: str | None) -> None:
        self.gateway, self.transport, self.address = gateway, transport, address
        self.reader = Reader(gateway.limits.unauthenticated_bytes, gateway.limits.fragments)
        self.identity: Identity | None = None
        self.descriptor = -1  # Twisted reads (edge/inlet.py)
        self.issued = 0
        self.alive = True
        self.pinged = False
        self.waited = False  # at the last beat history waited for an ack already
        self.closing = False
        self.deadline = 0
        self.wheel = 0
        self.queue: bytes | None = None
        self.tokens = float(gateway.limits.messages_burst)
        self.pings = 0
        self.stamp = gateway.reactor.seconds()

    # -- Twisted's protocol interface

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def logPrefix(self) -> str:
        return "websocket"

    def dataReceived(self, data: bytes) -> None:
        if self.closing:
            return  # RFC 6455 1.4: what still comes is discarded, until the peer closes too
        self.alive = True
        try:
            frames = self.reader.feed(data)
        except Violation as violation:
            self._take(violation.before)
            self.close(violation.code, violation.reason)
        else:
            self._take(frames)
        if self.descriptor < 0 and not self.closing:  # who has spoken once will again
            self.gateway.inlet.take(self)

    def connectionLost(self, reason: Any) -> None:
        self.closing = True
        self.gateway.inlet.forget(self)
        self.gateway.gone(self)

    # -- frames in

    def _take(self, frames: Any) -> None:
        for kind, body in frames:
            if self.closing:
                return
            if kind == TEXT:
                self._message(body)
            elif kind == PING:
                self._ping(body)
            elif kind == CLOSE:
                self._closed_by_client(body[0])
            elif kind == BINARY:
                self.close(1003, "this protocol has no binary messages")

    def _message(self, text: bytes) -> None:
        self.gateway.metrics.frames_in += 1
        if self.identity is None:
            self.gateway.first_message(self, text)
            return
        session = self.session
        before = session.state
        effects = session.received(text)
        # As many receipts as notifications were sent are free; anything else is charged for.
        if not session.free and not self._charge(1.0):
            self.close(sessions.RATE, "too many messages")
            return
        for effect in effects:
            self._carry_out(effect)
        if session.state == sessions.BEHIND != before:
            self.gateway.hub.resume(self)

    def _carry_out(self, effect: sessions.Effect) -> None:
        if type(effect) is Mark:
            self.gateway.hub.mark(effect)
        elif type(effect) is Send:
            self.write(text_frame(effect.text))
        elif type(effect) is Close:
            self.refuse(effect.code, effect.reason)
        elif type(effect) is Authenticate:
            self.gateway.renew(self, effect)

    def _ping(self, body: bytes) -> None:
        self.pings += 1
        if self.pings <= self.gateway.pings_a_round:
            self.write(pong_frame(body))
        else:
            self.close(sessions.RATE, "too many pings")

    def _charge(self, cost: float) -> bool:
        limits, now = self.gateway.limits, self.gateway.reactor.seconds()
        rate = limits.messages_per_second
        self.tokens = min(float(limits.messages_burst), self.tokens + (now - self.stamp) * rate) - cost
        self.stamp = now
        return self.tokens >= 0

    def _closed_by_client(self, code: int) -> None:
        # RFC 6455 5.5.1: the answer to a close frame is a close frame with the same code
        self.close(code, "")
        self.transport.loseConnection()

    # -- frames out

    def push(self, text: bytes) -> bool:
        """Queue a message; True if it is the first one."""
        queue = self.queue
        if queue is None:
            self.queue = text_frame(text)
            return True
        self.queue = queue + text_frame(text)
        return False

    def calm(self) -> bool:
        """May more history be read for this client, or does it still take in what was sent?"""
        return unsent(self.transport) <= self.gateway.limits.unsent_bytes // 4

    def flush(self) -> None:
        """Send what is queued, in one write."""
        queue, self.queue = self.queue, None
        if queue is not None and not self.closing and not send_now(self.transport, queue):
            self._not_all_sent()

    def write(self, data: bytes) -> None:
        if not send_now(self.transport, data):
            self._not_all_sent()

    def _not_all_sent(self) -> None:
        self.gateway.inlet.give_back(self)  # who has bytes unsent is read by Twisted (edge/inlet.py)
        if unsent(self.transport) > self.gateway.limits.unsent_bytes:
            self.gateway.hub.slow(self, "too many bytes unsent")

    def refuse(self, code: int, reason: str) -> None:
        """Say why in a message that every client can read, then close."""
        if not self.closing:
            self.write(text_frame(payload.error(code, reason)))
            self.close(code, reason)

    def close(self, code: int, reason: str) -> None:
        """End the connection: at once for the hub, after a close frame for the client."""
        if self.closing:
            return
        self.closing = True
        self.queue = None
        self.gateway.metrics.closes.count(code)
        self.gateway.leave(self)
        self.gateway.inlet.give_back(self)
        send_now(self.transport, close_frame(code, reason))
        # RFC 6455 7.1.1: the server closes the TCP connection first. Only its own half: closing a socket with unread
        # bytes in it would reset the connection, and the client might never read why.
        end_writing(self.transport)
        self.gateway.reap(self)


class AutobahnLog(Logger):
    """Without what a peer can cause: a line for each bad handshake quotes it, and is one for each of a flood."""

    def debug(self, *said: Any, **fields: Any) -> None:
        pass

    trace = info = debug

    def warn(self, *said: Any, **fields: Any) -> None:
        if "reason" not in fields:
            super().warn(*said, **fields)


class Handshake(WebSocketServerProtocol):  # type: ignore[misc]
    """Autobahn's side: the HTTP upgrade. Once open, a Connection takes its place on the transport."""

    log = AutobahnLog()
    gateway: "Gateway"
    data: bytes
    peer = ""  # Autobahn's words for log lines; making them costs a twentieth of the handshake
    client_address: str | None = None
    counted: str | None = None  # the address whose connections this one is among
    refusal: tuple[int, str] | None = None
    token: str | None = None
    place: "Start | Close | None" = None

    def connectionMade(self) -> None:
        """Autobahn's own, without its description of the transport. That one asks for its option tcpNoDelay before it
        has copied the options, and passes over the error: a second frame then waits 40 ms for a client's delayed ack.
        """
        try:
            self.transport.setTcpNoDelay(True)
        except (AttributeError, OSError):
            pass  # not TCP, or a connection that has just gone
        self._connectionMade()

    def _onOpen(self) -> None:
        self.onOpen()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """At once, as all else that we send: one turn of the reactor less for each handshake."""
        send_now(self.transport, data)

    def _dataReceived(self, data: bytes) -> None:
        # Autobahn puts no bound on the request it waits for
        if (
            self.state == self.STATE_CONNECTING
            and len(self.data) + len(data) > self.gateway.limits.header_bytes
        ):
            self.gateway.metrics.handshake_rejects.count("too_large")
            self.transport.abortConnection()
            return
        super()._dataReceived(data)

    def onConnect(self, request: Any) -> str | None:
        gateway = self.gateway
        if request.path != gateway.settings.path:
            raise gateway.deny(404, f"not found: the socket is at {gateway.settings.path}", "path")
        # not whom the listener accepted: a haproxy: endpoint knows only now whose connection it is
        peer = getattr(self.transport.getPeer(), "host", "")
        self.client_address = gateway.address(peer, request.headers.get("x-forwarded-for", ""))
        gateway.admit(self.client_address, self.counted is not None)
        offered = request.protocols
        if not gateway.origin_allowed(request.headers.get("origin"), request.headers.get("host", "")):
            self.refusal = (sessions.FORBIDDEN, "this origin is not allowed")
        elif any(name.startswith("notifier.") for name in offered) and PROTOCOL not in offered:
            self.refusal = (sessions.VERSION, f"only {PROTOCOL} is spoken here")
        # RFC 6455 4.2.2: only a subprotocol that was offered may be named; the token is never echoed
        self.token = next((name[len(BEARER) :] for name in offered if name.startswith(BEARER)), None)
        if self.token is not None:
            self.place = _place(request.params)
        return PROTOCOL if PROTOCOL in offered else None

    def onOpen(self) -> None:
        """Take over: the transport, and bytes that came behind the request (unsent ones are the transport's)."""
        data = bytes(self.data)
        self.data = b""
        self.gateway.take_over(self, data)

    def connectionLost(self, reason: Any) -> None:
        self.gateway.handshake_over(self)
        super().connectionLost(reason)


def _place(params: dict[str, list[str]]) -> "Start | Close | None":
    """The place named in the query, by clients whose token is in the handshake."""
    epoch, after = params.get("epoch", [None])[0], params.get("after", [None])[0]
    if after is not None and not (after.isascii() and after.isdecimal() and len(after) < 16):
        return Close(sessions.BAD_MESSAGE, "`after` is not a number")
    return sessions.start(epoch, None if after is None else int(after))


class Guest(Protocol):
    """Who came in by a token: a WebSocket, or an event stream."""

    identity: Identity | None

    def close(self, code: int, reason: str) -> None: ...


def _signed(guest: Guest, keys: Sequence[Key]) -> bool:
    """Was the token of this guest signed with one of these keys?"""
    identity = guest.identity
    return identity is not None and any(key.is_same(identity.key) for key in keys)


class Gateway(WebSocketServerFactory):  # type: ignore[misc]
    """The factory of all WebSockets: who may come in, when they must answer, when they must go."""

    def __init__(
        self, reactor: Any, hub: Hub, verifier: Verifier | SelfIssued, settings: WebSocket, limits: Limits,
        metrics: Metrics, leeway: int = 30, now: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(server="", reactor=reactor)  # no Server field: it helps nobody
        self.noisy = False  # no line per start and stop of the factory
        self.hub, self.verifier, self.settings, self.limits, self.metrics = (
            hub,
            verifier,
            settings,
            limits,
            metrics,
        )
        self.leeway = leeway
        self.fetches_keys = False  # a key set is fetched and may bring keys that are unknown now
        self.now = now or reactor.seconds
        self.adopt(limits, leeway)
        self.open: set[Connection] = set()
        self.inlet = Inlet(reactor)
        self.draining = False
        self.streams = 0  # open event streams: they share the limits (edge/sse.py)
        self.own = 0  # open connections of our own canaries, which take nobody's place
        self._handshakes: dict[Handshake, float] = {}  # upgrades under way: in order of their deadline
        self._strangers: dict[
            Connection, float
        ] = {}  # connected, not authenticated: in order of their deadline
        self._wheel: list[set[Connection]] = [set() for _ in range(max(1, int(settings.ping_seconds)))]
        self._pinged: dict[int, list[Connection]] = {}
        self._soon: dict[int, list[Connection]] = {}
        self._closing: dict[int, list[Connection]] = {}
        self._tick = 0
        self._timer: Any = None
        self._addresses: dict[str, list[float]] = {}  # address -> [open, tokens, stamp]
        self.setProtocolOptions(
            versions=[13], webStatus=False, utf8validateIncoming=False, maskServerFrames=False,
            requireMaskedClientFrames=True,
            maxFramePayloadSize=limits.message_bytes, maxMessagePayloadSize=limits.message_bytes,
            openHandshakeTimeout=0, closeHandshakeTimeout=settings.close_seconds,
            autoPingInterval=0, failByDrop=False, tcpNoDelay=True, allowedOrigins=["*"], allowNullOrigin=True,
            maxConnections=0, serveFlashSocketPolicy=False, trustXForwardedFor=0,
        )  # fmt: skip
        self._new_handshake = self._with_options()

    def _with_options(self) -> Any:
        """Handshake with our options as its class's own: Autobahn would copy each one to every instance."""
        options = {name: getattr(self, name) for name in Handshake.CONFIG_ATTRS}
        # some are functions, which a class would make its methods
        kept = {name: staticmethod(value) if callable(value) else value for name, value in options.items()}
        return type("Handshake", (Handshake,), {**kept, "CONFIG_ATTRS": ()})

    def adopt(self, limits: Limits, leeway: int) -> None:
        """Use these from now on. An open connection keeps the size of its messages until its next token."""
        self.limits, self.leeway = limits, leeway
        self.pings_a_round = max(1, -(-limits.pings_per_minute * int(self.settings.ping_seconds) // 60))
        self._trusted = [ipaddress.ip_network(each) for each in limits.trusted_proxies]
        # asked twice for each connection, at 10 us each
        self._address = lru_cache(maxsize=1024)(self._find_address)

    def start(self) -> None:
        self._timer = self.reactor.callLater(1.0, self._second)

    def stop(self) -> None:
        self.inlet.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # -- coming in

    def buildProtocol(self, addr: Any) -> Any:
        if self.draining or self.is_full():
            self.metrics.handshake_rejects.count("draining" if self.draining else "full")
            return None
        address = self.address(getattr(addr, "host", ""), "")  # a socket in the file system has no host
        if address is not None:
            # counted from here on: silent connections must not fill the house either
            state = self._of_address(address)
            if state[0] >= 2 * self.limits.per_address:  # who completes the upgrade is told 429 before
                self.metrics.handshake_rejects.count("per_address")
                return None
            state[0] += 1
        handshake = self._new_handshake()
        handshake.factory = self
        handshake.gateway = self
        handshake.counted = address
        self._handshakes[handshake] = self.reactor.seconds() + self.settings.handshake_seconds
        return handshake

    def is_full(self) -> bool:
        """Has this process all the connections that it bears?"""
        return len(self.open) - self.own + len(self._handshakes) + self.streams >= self.limits.connections

    def count(self, address: str | None, change: int) -> None:
        """An event stream of this address begins (1) or ends (-1)."""
        self.streams += change
        if address is not None:
            self._of_address(address)[0] += change

    def deny(self, code: int, reason: str, label: str) -> ConnectionDeny:
        self.metrics.handshake_rejects.count(label)
        return ConnectionDeny(code, reason)

    def address(self, peer: str, forwarded: str) -> str | None:
        """Whose connection it is: the right-most address that is not a trusted proxy's; None for a proxy itself.

        IPv6 counts by /64: one household has that many addresses.
        """
        found = self._address if len(forwarded) <= KEPT_HEADER else self._find_address
        return found(peer, forwarded)

    def _find_address(self, peer: str, forwarded: str) -> str | None:
        hops = [*(hop.strip() for hop in forwarded.split(",") if hop.strip()), peer]
        for hop in reversed(hops):
            try:
                ip = ipaddress.ip_address(hop)
            except ValueError:
                return None
            # a dual-stack listener shows IPv4 addresses as ::ffff:a.b.c.d
            ip = getattr(ip, "ipv4_mapped", None) or ip
            if not any(ip in network for network in self._trusted):
                return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64))) if ip.version == 6 else str(ip)
        return None

    def _of_address(self, address: str) -> list[float]:
        """[open connections, tokens for new ones, when they were counted] of an address."""
        state = self._addresses.get(address)
        if state is None:
            full = 2 * self.limits.per_address_rate
            state = self._addresses[address] = [0, full, self.reactor.seconds()]
        return state

    def admit(self, address: str | None, counted: bool) -> None:
        """Raises ConnectionDeny when an address has too many connections, or opens them too fast. counted: it was
        counted when its TCP connection was accepted; behind a proxy it is known only now."""
        limits, now = self.limits, self.reactor.seconds()
        if len(self._strangers) >= limits.unauthenticated:
            raise self.deny(
                503, "too many connections that have not authenticated; try again", "unauthenticated"
            )
        if address is None:
            return
        state = self._of_address(address)
        state[1] = min(2 * limits.per_address_rate, state[1] + (now - state[2]) * limits.per_address_rate)
        state[2] = now
        if state[0] >= limits.per_address + counted:
            raise self.deny(429, "too many connections from this address", "per_address")
        if state[1] < 1:
            raise self.deny(429, "too many new connections from this address", "address_rate")
        state[1] -= 1

    def origin_allowed(self, origin: str | None, host: str) -> bool:
        """Browsers name the site they show; a site not on the list must not use its visitor's socket."""
        if origin is None or "*" in self.settings.origins:
            return True
        if self.settings.origins:
            return origin.lower() in self.settings.origins
        try:
            site = urlsplit(origin.lower()).netloc
        except ValueError:
            return False
        return site != "" and site == host.lower()  # `null` names no site

    def take_over(self, handshake: Handshake, data: bytes) -> None:
        """The upgrade is done: from now on the bytes are ours."""
        self._handshakes.pop(handshake, None)
        transport = handshake.transport
        bound_kernel(transport, SEND_BUFFER)
        connection = Connection(self, transport, handshake.client_address)
        if hasattr(transport, "wrappedProtocol"):
            transport.wrappedProtocol = connection  # TLS
        else:
            transport.protocol = connection
        self.open.add(connection)
        self.metrics.connections_total += 1
        if handshake.counted is not None:
            connection.address, handshake.counted = handshake.counted, None
        elif connection.address is not None:
            self._of_address(connection.address)[0] += 1
        connection.wheel = self._tick % len(self._wheel)
        self._wheel[connection.wheel].add(connection)
        self._strangers[connection] = self.reactor.seconds() + self.settings.auth_seconds
        if self.draining:
            connection.close(sessions.DRAINING, "server stops; reconnect")
        elif handshake.refusal is not None:
            connection.close(*handshake.refusal)
        elif handshake.token is not None:
            if isinstance(handshake.place, Close):
                connection.refuse(handshake.place.code, handshake.place.reason)
            else:
                self.authenticate(connection, handshake.token, handshake.place)
        if data:
            self.reactor.callLater(0, self._late, connection, data)

    def _late(self, connection: Connection, data: bytes) -> None:
        if not connection.closing:
            connection.dataReceived(data)

    def handshake_over(self, handshake: Handshake) -> None:
        if handshake.counted is not None:
            self._of_address(handshake.counted)[0] -= 1
            handshake.counted = None
        self._handshakes.pop(handshake, None)

    # -- who it is

    def first_message(self, connection: Connection, text: bytes) -> None:
        """Before anything else: `auth`."""
        message = sessions.decode(text)
        if not isinstance(message, sessions.Auth):
            connection.refuse(sessions.NOT_AUTHENTICATED, "the first message must be `auth`")
            return
        place = sessions.start(message.epoch, message.after)
        if isinstance(place, Close):
            connection.refuse(place.code, place.reason)
        else:
            self.authenticate(connection, message.token, place)

    def authenticate(self, connection: Connection, token: str, place: Start | None) -> None:
        """Verify the token and begin the session."""
        identity = self._verify(connection, token)
        if identity is None:
            return
        self._strangers.pop(connection, None)
        connection.session = Session(identity.user, place, self.limits.window)
        connection.reader.limit = self.limits.message_bytes
        if is_reserved(identity.user):
            self._exempt(connection)
        self._identify(connection, identity)
        self.hub.add(connection)

    def _exempt(self, connection: Connection) -> None:
        """A canary of our own: count it no more."""
        self.own += 1
        if connection.address is not None:
            state = self._of_address(connection.address)
            state[0], state[1], connection.address = state[0] - 1, state[1] + 1, None

    def renew(self, connection: Connection, effect: Authenticate) -> None:
        """A new token on an open session: the same person stays."""
        identity = self._verify(connection, effect.token)
        if identity is None:
            return
        if identity.user != connection.session.user:
            connection.refuse(sessions.NOT_AUTHENTICATED, "this token is another person's")
            return
        self._identify(connection, identity)
        if effect.start is not None:
            connection.session.restart(effect.start)

    def _verify(self, connection: Connection, token: str) -> Identity | None:
        try:
            identity = self.verifier.verify(token, self.now())
        except TokenError as error:
            self.metrics.auth_failures.count(error.reason)
            # 4001: come again with a new token. Also for a key that we do not know yet, while keys are fetched.
            again = error.reason == "expired" or (error.reason == "unknown_key" and self.fetches_keys)
            code = sessions.TOKEN_EXPIRED if again else sessions.NOT_AUTHENTICATED
            connection.refuse(code, str(error))
            return None
        if SCOPE not in identity.scopes:
            self.metrics.auth_failures.count("scope")
            connection.refuse(sessions.FORBIDDEN, f"this token has no scope `{SCOPE}`")
            return None
        return identity

    def _identify(self, connection: Connection, identity: Identity) -> None:
        connection.identity, connection.issued = identity, identity.issued
        connection.deadline = identity.expires - int(self.settings.reauth_seconds)
        self._watch(connection, int(self.now()))

    def void(self, keys: Sequence[Key], holds: Callable[[Key], bool], streams: Iterable[Guest] = ()) -> None:
        """These keys are good no more: whom they let in has to go, spread, and comes back with a token of another key.

        `holds`: whether a key is good when it comes to that.
        """
        guests: list[Guest] = [*self.open, *streams]
        found = [each for each in guests if _signed(each, keys)]
        for at, guest in enumerate(found, 1):
            self.reactor.callLater(VOID_SECONDS * at / len(found), self._void, guest, keys, holds)

    def _void(self, guest: Guest, keys: Sequence[Key], holds: Callable[[Key], bool]) -> None:
        # a token of another key may have come meanwhile, or the key again
        if _signed(guest, [key for key in keys if not holds(key)]):
            guest.close(sessions.TOKEN_EXPIRED, "the key of this token is void")

    # -- time: one tick a second for all connections

    def _second(self) -> None:
        self._timer = self.reactor.callLater(1.0, self._second)
        self._tick += 1
        now, tick = self.now(), self._tick
        self._expire_handshakes()
        self._expire_strangers()
        for connection in self._pinged.pop(tick, ()):
            if connection.pinged and not connection.alive and not connection.closing:
                connection.close(sessions.NO_PONG, "no pong")
        for connection in list(self._wheel[tick % len(self._wheel)]):
            self._beat(connection, int(now))
        for second in [second for second in self._soon if second <= now]:
            for connection in self._soon.pop(second):
                self._judge(connection, now)
        for connection in self._closing.pop(tick, ()):
            if connection in self.open:
                connection.transport.abortConnection()
        if tick % 60 == 0:
            self._forget_addresses()

    def _expire_handshakes(self) -> None:
        """Not by Autobahn: its timers are cut to whole seconds, downwards, and cost one more object a connection."""
        moment = self.reactor.seconds()
        while self._handshakes:
            handshake, deadline = next(iter(self._handshakes.items()))
            if deadline > moment:
                return
            del self._handshakes[handshake]
            self.metrics.handshake_rejects.count("timeout")
            handshake.transport.abortConnection()

    def _expire_strangers(self) -> None:
        moment = self.reactor.seconds()
        while self._strangers:
            connection, deadline = next(iter(self._strangers.items()))
            if deadline > moment:
                return
            del self._strangers[connection]
            connection.refuse(
                sessions.NOT_AUTHENTICATED, f"no `auth` within {self.settings.auth_seconds:g} s"
            )

    def _beat(self, connection: Connection, now: int) -> None:
        """Once a round: ping who has been silent since the last one."""
        if connection.closing:
            return
        connection.pings = 0
        if connection.identity is not None:
            self._watch(connection, now)
            session = connection.session
            if session.state != sessions.PAUSED:
                connection.waited = False
            elif connection.waited:
                self.hub.slow(connection, "history waits for an ack")
                return
            else:
                connection.waited = True
        if not connection.alive:
            connection.pinged = True
            self._pinged.setdefault(self._tick + int(self.settings.pong_seconds), []).append(connection)
            connection.write(PING_FRAME)
        connection.alive = False

    def _watch(self, connection: Connection, now: int) -> None:
        """Keep a deadline by the second once it is near."""
        if connection.deadline <= now + max(NEAR, len(self._wheel) + 1):
            self._soon.setdefault(max(now + 1, connection.deadline), []).append(connection)

    def _judge(self, connection: Connection, now: float) -> None:
        """The token's end is near, or here. What is accepted within the leeway may also stay that long."""
        identity = connection.identity
        if connection.closing or identity is None or connection.deadline > now:
            return
        end = identity.expires + self.leeway
        if now >= end:
            connection.close(sessions.TOKEN_EXPIRED, "token expired")
            return
        if connection.deadline < identity.expires:
            connection.write(text_frame(payload.reauth(identity.expires)))
        connection.deadline = end
        self._watch(connection, int(now))

    def _forget_addresses(self) -> None:
        now = self.reactor.seconds()
        for address in [a for a, state in self._addresses.items() if state[0] <= 0 and now - state[2] > 60]:
            del self._addresses[address]

    # -- going

    def leave(self, connection: Connection) -> None:
        """The conversation is over; the TCP connection may take a little longer."""
        self._strangers.pop(connection, None)
        self._wheel[connection.wheel].discard(connection)
        if connection.identity is not None:
            self.hub.remove(connection)

    def reap(self, connection: Connection) -> None:
        """A peer that does not read its close frame is cut off."""
        # one tick more: the next may be due this very moment
        due = self._tick + 1 + ceil(self.settings.close_seconds)
        self._closing.setdefault(due, []).append(connection)

    def gone(self, connection: Connection) -> None:
        """The TCP connection is over."""
        if connection not in self.open:
            return
        self.open.discard(connection)
        if connection.identity is not None and is_reserved(connection.identity.user):
            self.own -= 1
        if connection.address is not None:
            self._of_address(connection.address)[0] -= 1
        self.leave(connection)

    def drain(self, seconds: float) -> None:
        """Take nobody new; send everybody away, spread."""
        self.draining = True
        # Who is in the middle of a handshake is let in to be told to come again: a reset would look like a failure.
        self.reactor.callLater(HANDSHAKE_DRAIN, self._end_handshakes)
        for connection in list(self._strangers):
            connection.close(sessions.DRAINING, "server stops; reconnect")
        self.hub.drain(seconds)

    def _end_handshakes(self) -> None:
        for handshake in list(self._handshakes):
            handshake.transport.loseConnection()

    @property
    def busy(self) -> bool:
        """Is anybody connected, or about to be?"""
        return bool(self.open or self._handshakes or self.streams)
