"""A connection over a WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from notifier_client.inbox import Inbox
from notifier_client.timing import Timing
from notifier_client.transport import CLOSING, LOST, Message, Stopped, Unreachable, Way, parsed


class Socket:
    """A WebSocket that is up (transport.Transport)."""

    renews: Final = True

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @property
    def ended(self) -> tuple[int, str]:
        return self._connection.close_code or LOST, self._connection.close_reason or ""

    async def say(self, message: Message) -> None:
        with suppress(ConnectionClosed):
            await self._connection.send(json.dumps(message))

    async def messages(self) -> AsyncGenerator[Message, None]:
        with suppress(ConnectionClosed):  # the code says why
            while True:
                message = parsed(await self._connection.recv())
                if message is not None:
                    yield message


def way(url: str) -> Way:
    """How to get there. url: address of the WebSocket."""
    return partial(_opened, url)


def _strays(url: str, connection: ClientConnection) -> str | None:
    """The host that redirects have led to, if it is another; from ws to wss of one host is none."""
    asked = parse_uri(url)  # as it is asked for: a host that is not ASCII is encoded
    there = connection.request.headers["Host"] if connection.request is not None else ""
    found = urlsplit(f"//{there}")
    own = None if asked.port == (443 if asked.secure else 80) else asked.port
    return None if (found.hostname, found.port) == (asked.host, own) else there


@asynccontextmanager
async def _opened(url: str, token: str, inbox: Inbox, timing: Timing) -> AsyncIterator[Socket]:
    """Connect, say who we are, and close at the end. Raises Unreachable; Stopped for an address that is none."""
    try:
        connection = await connect(
            url,
            subprotocols=[Subprotocol("notifier.v1")],
            open_timeout=None,
            close_timeout=CLOSING,
            ping_interval=timing.silence,
            ping_timeout=timing.pong,
            max_size=1 << 20,
        )
    except InvalidURI as fault:
        raise Stopped(0, str(fault)) from fault
    except Exception as fault:  # of the network, of TLS, of a proxy, of whoever answers there: all mean later
        raise Unreachable(fault) from fault
    try:
        # Redirects were followed. The token is for one server: HTTP clients drop theirs (RFC 9110 section 15.4).
        if (there := _strays(url, connection)) is not None:
            raise Unreachable(ConnectionError(f"{url} leads to another host, {there}, which gets no token"))
        socket = Socket(connection)
        await socket.say({"type": "auth", "token": token, **inbox.where()})
        yield socket
    finally:
        with suppress(ConnectionClosed, OSError, TimeoutError):
            await connection.close()
