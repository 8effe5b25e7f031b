"""Event streams, GET /v1/stream: a WebSocket's session over a plain HTTP response (server-sent events).
The response once begun, a slotted Stream takes the place of twisted.web's objects on the transport.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any, Final, Protocol

from autobahn.websocket.types import ConnectionDeny

from notifier.core import payload
from notifier.core import session as sessions
from notifier.core.inbox import Mark
from notifier.core.session import Session, Start
from notifier.core.tokens import Identity
from notifier.edge.api import EVENT_STREAM, Problem
from notifier.edge.direct import bound_kernel, end_writing, send_now, unsent
from notifier.edge.http import Answer, BoundedChannel, head
from notifier.edge.websocket import SEND_BUFFER, Gateway

FIELDS: Final[Mapping[str, str]] = {
    # Neither length nor chunks: the response ends with the connection (RFC 9112 section 6.3, rule 8).
    "Connection": "close",
    "X-Accel-Buffering": "no",  # nginx would collect the events otherwise
}
KEEP_ALIVE: Final = b":\n\n"  # a comment: https://html.spec.whatwg.org/multipage/server-sent-events.html
RETRY: Final = (
    1000,
    5000,
)  # ms after which a browser comes back; spread, for the case that all are cut off at once
RETRY_REFUSED: Final = 60_000  # ms: what is refused now will be refused then, unless something has changed

_seq: Final = re.compile(rb'"seq":([0-9]+)').search
_drain: Final = re.compile(rb'\{"type":"drain","retry_ms":([0-9]+)\}').fullmatch
_READY: Final = b'{"type":"ready"'


class Opening(Protocol):
    """The request that a stream answers."""

    address: str | None

    @property
    def channel(self) -> BoundedChannel: ...

    def cors(self) -> dict[str, str]:
        """What a page of another origin must be told."""


class Stream:
    """One response that does not end (hub.Client). What TCP has taken counts as received: nobody says `ack` here."""

    __slots__ = (
        "address", "closing", "deadline", "expires", "fresh", "identity", "issued", "queue", "session", "streams",
        "stuck", "transport", "wheel",
    )  # fmt: skip

    def __init__(self, streams: Streams, who: Identity, place: Start | None, address: str | None) -> None:
        self.streams, self.address = streams, address
        self.session = Session(who.user, place, streams.gateway.limits.window)
        self.identity: Identity | None = who
        self.issued, self.expires = who.issued, who.expires
        self.fresh = place is None  # it has no place until `ready` gives it one
        self.queue: list[bytes] | None = None
        self.closing = False
        self.stuck = False  # at the last beat there were bytes unsent already, and they never all went
        self.deadline = 0
        self.wheel = 0

    # -- Twisted's protocol interface

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def logPrefix(self) -> str:
        return "stream"

    def dataReceived(self, data: bytes) -> None:
        """RFC 9112 section 9.6: what follows a request whose answer says `close` is not processed."""

    def connectionLost(self, reason: Any) -> None:
        self.closing = True
        self.streams.gone(self)

    # -- what the hub asks for

    def push(self, text: bytes) -> bool:
        """Queue a message; True if it is the first one."""
        event = self.event(text)
        if self.queue is None:
            self.queue = [event]
            return True
        self.queue.append(event)
        return False

    def event(self, text: bytes) -> bytes:
        """A message as an event. One that stands for a place has that place as its id."""
        seq = _seq(text)
        if seq and (self.fresh or not text.startswith(_READY)):
            session = self.session
            return b"id: %d.%b:%b\ndata: %b\n\n" % (session.birth, session.run.encode(), seq[1], text)
        if drain := _drain(text):
            return b"retry: %b\ndata: %b\n\n" % (drain[1], text)
        return b"data: %b\n\n" % text

    def calm(self) -> bool:
        """May more history be read for this client, or does it still take in what was sent?"""
        return unsent(self.transport) <= self.streams.gateway.limits.unsent_bytes // 4

    def flush(self) -> None:
        """Send what is queued, in one write."""
        queue, self.queue = self.queue, None
        if queue and not self.closing:
            self.write(queue[0] if len(queue) == 1 else b"".join(queue))
            self.streams.settle(self)

    def write(self, data: bytes) -> None:
        gateway = self.streams.gateway
        if not send_now(self.transport, data) and unsent(self.transport) > gateway.limits.unsent_bytes:
            gateway.hub.slow(self, "too many bytes unsent")

    def close(self, code: int, reason: str) -> None:
        """End the stream: at once for the hub, after a last event for the client."""
        if self.closing:
            return
        self.closing = True
        self.queue = None
        retry = b"" if code < 4500 else b"retry: %d\n" % RETRY_REFUSED
        send_now(self.transport, b"%bdata: %b\n\n" % (retry, payload.error(code, reason)))
        end_writing(self.transport)
        self.streams.leave(self, code)


class Streams:
    """All streams of this process: who may begin one, and what time does to them. One tick a second for all."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.open: set[Stream] = set()  # TCP connections, also of streams that are ending
        self._tick = 0
        self._timer: Any = None
        self._wheel: list[set[Stream]] = [set() for _ in range(max(1, int(gateway.settings.ping_seconds)))]
        self._unsent: set[Stream] = set()
        self._soon: dict[int, list[Stream]] = {}
        self._ending: dict[int, list[Stream]] = {}
        gateway.metrics.watch("streams", lambda: len(self.open))

    def start(self) -> None:
        self._timer = self.gateway.reactor.callLater(1.0, self._second)

    def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # -- coming in

    def begin(self, request: Opening, who: Identity, place: Start | None) -> None:
        """Answer with a stream; the request is over for twisted.web. Raises Problem."""
        self._admit(request.address)
        stream = Stream(self, who, place, request.address)
        self.open.add(stream)
        self.gateway.count(stream.address, 1)
        self.gateway.metrics.streams_total += 1
        request.channel.hand_over(stream)
        _set_up(
            stream.transport, int(self.gateway.settings.ping_seconds + self.gateway.settings.pong_seconds)
        )
        fields = {**FIELDS, **request.cors()}
        retry = int(self.gateway.hub.chance.uniform(*RETRY))
        stream.write(head(Answer(200, b"", EVENT_STREAM), fields) + b"retry: %d\n\n" % retry)
        stream.wheel = self._tick % len(self._wheel)
        self._wheel[stream.wheel].add(stream)
        stream.deadline = who.expires - int(self.gateway.settings.reauth_seconds)
        self._watch(stream)
        self.gateway.hub.add(stream)

    def _admit(self, address: str | None) -> None:
        """The limits are those of the WebSockets, counted together."""
        gateway = self.gateway
        if gateway.draining or gateway.is_full():
            gateway.metrics.handshake_rejects.count("draining" if gateway.draining else "full")
            why = (
                "this process stops" if gateway.draining else "this process has all the connections it bears"
            )
            raise Problem("unavailable", f"{why}; try again", Retry_After="1")
        try:
            gateway.admit(address, counted=False)
        except ConnectionDeny as denied:
            kind = "too-many-connections" if denied.code == 429 else "unavailable"
            raise Problem(kind, denied.reason, Retry_After="1") from None

    # -- receipts

    def settle(self, stream: Stream) -> None:
        """Let the session know what has arrived, as far as anybody can: nothing waits in this process."""
        if unsent(stream.transport):
            self._unsent.add(stream)
            return
        self._unsent.discard(stream)
        stream.stuck = False
        session = stream.session
        for effect in session.taken():
            if type(effect) is Mark:
                self.gateway.hub.mark(effect)
        if session.state == sessions.BEHIND:
            self.gateway.hub.resume(stream)

    # -- time

    def _second(self) -> None:
        self._timer = self.gateway.reactor.callLater(1.0, self._second)
        self._tick += 1
        now = self.gateway.now()
        for stream in list(self._unsent):
            self.settle(stream)
        for stream in list(self._wheel[self._tick % len(self._wheel)]):
            self._beat(stream)
        for second in [second for second in self._soon if second <= now]:
            for stream in self._soon.pop(second):
                self._judge(stream, now)
        for stream in self._ending.pop(self._tick, ()):
            if stream in self.open:
                stream.transport.abortConnection()

    def _beat(self, stream: Stream) -> None:
        """Once a round: a sign of life, unless the last one still waits to be taken."""
        if stream.closing:
            return
        if not unsent(stream.transport):
            stream.write(KEEP_ALIVE)
        elif stream.stuck:
            self.gateway.hub.slow(stream, "the stream is not read")
        else:
            stream.stuck = True
            self._unsent.add(stream)

    def _watch(self, stream: Stream) -> None:
        self._soon.setdefault(max(int(self.gateway.now()) + 1, stream.deadline), []).append(stream)

    def _judge(self, stream: Stream, now: float) -> None:
        """The token's end is near, or here: a stream cannot be given a new one, but another can be begun first."""
        end = stream.expires + self.gateway.leeway
        if stream.closing:
            return
        if now >= end:
            stream.close(sessions.TOKEN_EXPIRED, "token expired")
            return
        if stream.deadline < stream.expires:
            stream.push(payload.reauth(stream.expires))
            stream.flush()
        stream.deadline = end
        self._watch(stream)

    # -- going

    def leave(self, stream: Stream, code: int) -> None:
        """The conversation is over; the TCP connection may take a little longer."""
        self.gateway.metrics.closes.count(code)
        self._part(stream)
        seconds = max(1, int(self.gateway.settings.close_seconds))
        self._ending.setdefault(self._tick + seconds, []).append(stream)

    def gone(self, stream: Stream) -> None:
        """The TCP connection is over."""
        if stream in self.open:
            self.open.discard(stream)
            self.gateway.count(stream.address, -1)
            self._part(stream)

    def _part(self, stream: Stream) -> None:
        self._wheel[stream.wheel].discard(stream)
        self._unsent.discard(stream)
        self.gateway.hub.remove(stream)


def _set_up(transport: Any, seconds: int) -> None:
    """Bound what the kernel holds; let it end a connection whose peer is gone: there is no pong to miss."""
    bound_kernel(transport, SEND_BUFFER)
    try:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)
    except (AttributeError, OSError):
        pass  # not on this system, or not TCP
