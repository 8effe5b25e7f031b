"""A WebSocket that is made again when it breaks, for `notifier watch`: Autobahn's client around a Follower."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any, Final

import click
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.task import deferLater

from notifier.cli.connect import UNREACHABLE, Failed, printable
from notifier.cli.follower import Follower, Heard

PROTOCOL: Final = "notifier.v1"
CONNECT_SECONDS: Final = 5.0
RECEIPT_SECONDS: Final = 0.1
FIRST_PAUSE: Final = 0.5  # seconds; doubled with every try in vain
LONGEST_PAUSE: Final = 30.0
FINAL: Final = range(4500, 5000)  # close codes after which a client does not come back
EXPIRED: Final = 4001
ADVICE: Final = {
    EXPIRED: "get a new token",
    4501: "the token was refused: is it for this server, and still good?",
    4503: "the token is not for reading an inbox (scope), or this origin is not allowed",
    4504: f"the server does not speak {PROTOCOL}",
    4508: "close other connections of this person first",
    4509: "all tokens issued until then are void: get a new one",
}


class Socket(WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn ships no types
    """One connection, made by Listener."""

    listener: Listener
    _timer: Any = None

    def onOpen(self) -> None:
        self.listener.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.listener.heard(self, payload.decode())

    def send(self, text: str) -> None:
        self.sendMessage(text.encode())

    def receipt(self, now: bool) -> None:
        """Acknowledge: at once, or together with what comes in the next moments."""
        if now:
            self._acknowledge()
        elif self._timer is None:
            self._timer = self.listener.reactor.callLater(RECEIPT_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        if self.state == self.STATE_OPEN and self.listener.follower.owed:
            self.send(self.listener.follower.ack())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.listener.closed(code or 0, reason or "")


class Listener:
    """Follows until `count` notifications have come (None: for ever). `token`: a good one at every call."""

    def __init__(
        self,
        reactor: Any,
        url: str,
        token: Callable[[], str],
        follower: Follower,
        count: int | None,
        quiet: bool,
    ) -> None:
        self.reactor, self.url, self.token, self.follower = reactor, url, token, follower
        self.count, self.quiet = count, quiet
        self._finished = False
        self._fault: Exception | None = None  # why nothing is to follow any more
        self._waiting: Deferred[Any] | None = None  # a try to connect, or the pause before it
        self._ended: Deferred[tuple[int, str]] | None = None  # fires when the connection is closed
        self._socket: Socket | None = None
        self._token = ""  # the one that was sent last
        self._tries = 0  # in vain, since it was connected last
        self._known = False  # it was connected once: what fails now will pass

    async def follow(self) -> None:
        """Returns when the count is reached. Raises Failed when the server cannot be reached, or does not want us."""
        while not self.finished():
            code, reason = await self._connection()
            if self.finished():
                break
            if code in FINAL or (code == EXPIRED and self.token() == self._token):
                raise Failed(
                    f"{self.url} closed with {code}: {printable(reason)}; {ADVICE.get(code, 'do not retry')}"
                )
            if not self._known:
                raise Failed(
                    f"cannot connect to {self.url}: {printable(reason)}. Is the server running?", UNREACHABLE
                )
            await self._pause(code, reason)
        if self._fault is not None:
            raise self._fault

    def finished(self) -> bool:
        """Has it been stopped?"""
        return self._finished

    def stop(self, fault: Exception | None = None) -> None:
        """Enough: a receipt for what was heard, then the end."""
        self._finished, self._fault = True, fault
        if self._socket is not None:
            self._socket.receipt(now=True)
            self._socket.sendClose(1000)
        if self._waiting is not None:
            self._waiting.cancel()

    async def _connection(self) -> tuple[int, str]:
        """One connection from its beginning to its end: close code (0: none), and why."""
        factory: Any = WebSocketClientFactory(self.url, protocols=[PROTOCOL], useragent="notifier watch")
        factory.noisy = False
        factory.protocol = self._protocol
        factory.setProtocolOptions(
            openHandshakeTimeout=CONNECT_SECONDS,
            closeHandshakeTimeout=2,
            autoPingInterval=30,
            autoPingTimeout=20,
        )
        endpoint: Any = HostnameEndpoint(self.reactor, factory.host, factory.port, timeout=CONNECT_SECONDS)
        ended = self._ended = Deferred()
        try:
            if factory.isSecure:
                endpoint = wrapClientTLS(ssl.optionsForClientTLS(factory.host), endpoint)
            self._waiting = endpoint.connect(factory)
            self._socket = await self._waiting
        except Exception as error:  # whatever resolvers, sockets and TLS may say
            return 0, str(error).rstrip(".")
        finally:
            self._waiting = None
        code, reason = await ended
        self._socket = None
        return code, reason

    def _protocol(self) -> Socket:
        socket = Socket()
        socket.listener = self
        return socket

    async def _pause(self, code: int, reason: str) -> None:
        """Full jitter: everybody who lost the same server comes back at another time."""
        if self.follower.greeted:
            self._tries = 0
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._tries)
        seconds = random.uniform(0, longest) + self.follower.retry_ms / 1000
        self._tries = min(self._tries + 1, 10)
        if not self.quiet:
            what = f"{code} {reason}".strip() if code else reason
            click.echo(f"disconnected: {printable(what)}; again in {seconds:.1f} s", err=True)
        self._waiting = deferLater(self.reactor, seconds)
        try:
            await self._waiting
        except CancelledError:
            pass  # stopped
        finally:
            self._waiting = None

    # -- called by the socket

    def opened(self, socket: Socket) -> None:
        """Say who we are."""
        try:
            self._token = self.token()
            socket.send(self.follower.auth(self._token))
        except Failed as error:
            self.stop(error)

    def closed(self, code: int, reason: str) -> None:
        """The connection is over."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback((code, reason))

    def heard(self, socket: Socket, text: str) -> None:
        """A frame: print it, answer it."""
        if self._finished:
            return
        try:
            heard = self.follower.hear(text)
            self._print(heard)
            if heard.reauth:
                self._token = self.token()
                socket.send(self.follower.renew(self._token))
        except Exception as error:  # raised by `follow`: the reactor's callbacks would swallow it
            self.stop(error)
            return
        self._known = self._known or self.follower.greeted
        if self.count is not None and self.follower.count >= self.count:
            self.stop()
        elif self.follower.owed:
            socket.receipt(now=heard.acknowledge)

    def _print(self, heard: Heard) -> None:
        if heard.talk is not None and not self.quiet:
            click.echo(printable(heard.talk), err=True)
        if heard.data is not None:
            sys.stdout.write(heard.data + "\n")
            sys.stdout.flush()
