"""One connection to notifier, made again whenever it breaks, and the inbox that it keeps current."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from notifier_client.backoff import Backoff
from notifier_client.inbox import Change, Inbox
from notifier_client.marks import Marks, reads

ACK_EVERY: Final = 32  # notifications
WAITING_CHANGES: Final = 1024  # then the socket is read no further until somebody takes them
State = Literal["idle", "connecting", "live", "waiting", "stopped"]
Token = Callable[[], Awaitable[str | None]]
log = logging.getLogger("notifier_client")


class Stopped(Exception):
    """The server does not want us until something has changed: close code (4500-4999, or 0: no token) and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}" if code else reason)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Timing:
    """Seconds.

    answer   for token, handshake and `ready` together
    stable   how long a connection lives until the waits begin small again
    ack      for gathering acknowledgements
    silence  without a sign of life, then a ping
    pong     for the answer to it
    """

    answer: float = 15.0
    stable: float = 60.0
    ack: float = 0.1
    silence: float = 30.0
    pong: float = 10.0


@dataclass
class _Link:
    """One connection: its socket, and what is owed on it."""

    socket: ClientConnection
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    owing: asyncio.Event = field(default_factory=asyncio.Event)
    owed: int = 0
    looked: int = 0
    pause: float | None = None  # seconds, from `drain`

    async def say(self, message: dict[str, Any]) -> bool:
        """False when the connection is over."""
        try:
            await self.socket.send(json.dumps(message))
        except ConnectionClosed:
            return False
        return True


class Client:
    """One person's notifications. `async with` connects and disconnects, `async for` gives the changes.

    url     address of the WebSocket, as wss://push.example.com/v1/websocket
    token   called before each connection and each renewal. None: nobody is signed in, stop. Raises: try later
    active  is the person looking? Then what arrives counts as seen

    Take the changes: beyond 1024 that wait the server counts us as slow and closes; nothing is lost by that.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        active: bool = False,
        backoff: Backoff | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.url, self.inbox = url, Inbox()
        self.state: State = "idle"
        self._token, self._active = token, active
        self._backoff, self._timing = backoff or Backoff(), timing or Timing()
        self._marks = Marks()
        self._link: _Link | None = None
        self._changes: asyncio.Queue[Change | Exception | None] = asyncio.Queue(WAITING_CHANGES)
        self._work: asyncio.Task[None] | None = None
        self._side: set[asyncio.Task[None]] = set()

    # -- life

    async def __aenter__(self) -> Self:
        if self._work is not None:
            raise RuntimeError("this client is connected already")
        self._changes = asyncio.Queue(WAITING_CHANGES)
        self._work = asyncio.create_task(self._run(), name=f"notifier {self.url}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect; an `async for` that waits for changes ends. The inbox stays, to go on from."""
        work, self._work = self._work, None
        if work is None:
            return
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        self.state = "idle"
        if self._changes.full():
            self._changes.get_nowait()
        self._changes.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        """The next change. Raises Stopped when the server does not want us any more."""
        if self._changes.empty() and (self._work is None or self._work.done()):
            raise StopAsyncIteration
        change = await self._changes.get()
        if change is None:
            raise StopAsyncIteration
        if isinstance(change, Exception):
            raise change
        return change

    # -- what the person does

    @property
    def active(self) -> bool:
        return self._active

    async def look(self, active: bool) -> None:
        """The person begins to look at the list, or ends."""
        self._active = active
        link = self._link
        if active and link is not None and self.inbox.complete and self.inbox.last > link.looked:
            await self._ack(link)

    async def read(self, ids: Iterable[str]) -> None:
        """These rows have been opened. Kept until the inbox shows it, also without a connection."""
        rows = [
            self.inbox.rows[one] for one in ids if one in self.inbox.rows and not self.inbox.rows[one].read
        ]
        self._marks.read(rows)
        await self._say(*reads(row.id for row in rows))

    async def read_all(self) -> None:
        """Every row that is here has been read."""
        await self.read(list(self.inbox.rows))

    async def seen(self) -> None:
        """The person has looked at the list."""
        inbox = self.inbox
        if inbox.epoch is not None and inbox.seq > inbox.seen:
            self._marks.seen(inbox.epoch, inbox.seq)
            await self._say({"type": "seen", "seq": inbox.seq})

    async def _say(self, *messages: dict[str, Any]) -> None:
        # Before `upto` they wait: marks by seq mean something only in the epoch that it names.
        if self._link is not None and self.inbox.complete:
            for message in messages:
                await self._link.say(message)

    # -- connecting

    async def _run(self) -> None:
        try:
            while True:
                self.state = "connecting"
                pause = await self._connection()
                self.state = "waiting"
                await asyncio.sleep(pause)
        except Exception as fault:  # whoever takes the changes hears of it, also of what has no name yet
            self.state = "stopped"
            await self._changes.put(fault)
        finally:
            self._link = None

    async def _connection(self) -> float:
        """One connection from beginning to end; seconds to wait before the next. Raises Stopped."""
        try:
            async with asyncio.timeout(self._timing.answer):
                token = await self._token()
                if not token:
                    raise Stopped(0, "no token: nobody is signed in")
                socket = await self._open()
        except Stopped:
            raise
        except InvalidURI as fault:
            raise Stopped(0, str(fault)) from fault
        except Exception as fault:  # the token's own errors are as good as any: all mean later
            log.info("no connection to %s: %r", self.url, fault)
            return self._backoff.next()
        link = _Link(socket)
        try:
            await self._follow(link, token)
        finally:
            self._link = None
            await _quietly(socket.close())
        code, reason = socket.close_code or 1006, socket.close_reason or ""
        log.info("connection closed: %d %s", code, reason)
        # 4000-4499: come again; 4500-4999: do not, it would end the same way.
        if 4500 <= code <= 4999:
            raise Stopped(code, reason)
        return link.pause if link.pause is not None else self._backoff.next()

    async def _open(self) -> ClientConnection:
        try:
            return await connect(
                self.url,
                subprotocols=[Subprotocol("notifier.v1")],
                open_timeout=None,
                close_timeout=2,
                ping_interval=self._timing.silence,
                ping_timeout=self._timing.pong,
                max_size=1 << 20,
            )
        except InvalidHandshake as fault:
            raise ConnectionError(str(fault)) from fault

    async def _follow(self, link: _Link, token: str) -> None:
        self.inbox.begin()
        self._link = link
        helpers = [asyncio.create_task(work(link)) for work in (self._acks, self._deadlines)]
        try:
            await link.say({"type": "auth", "token": token, **self.inbox.where()})
            async for text in link.socket:
                await self._heard(link, json.loads(text))
        except ConnectionClosed:
            pass  # the codes say why
        finally:
            for helper in (*helpers, *self._side):
                helper.cancel()
            self._side.clear()

    async def _deadlines(self, link: _Link) -> None:
        try:
            async with asyncio.timeout(self._timing.answer):
                await link.ready.wait()
        except TimeoutError:
            await link.socket.close()
            return
        await asyncio.sleep(self._timing.stable)
        self._backoff.reset()

    # -- listening

    async def _heard(self, link: _Link, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "ready":
            link.ready.set()
        elif kind == "drain":
            link.pause = message["retry_ms"] / 1000
        elif kind == "reauth":
            self._aside(self._renew(link))
        elif kind == "error":
            log.warning("the server refused a message: %s %s", message.get("code"), message.get("reason"))
        elif kind == "resync":
            link.looked = link.owed = 0
        change = self.inbox.apply(message) if kind is not None else None
        if "seq" in message and kind not in ("ready", "upto"):
            await self._owe(link, kind == "notification")
        self._marks.settle(self.inbox)
        if kind == "upto":
            await self._caught_up(link)
        if change is not None:
            await self._changes.put(change)

    async def _caught_up(self, link: _Link) -> None:
        self.state = "live"
        for mark in self._marks.due():
            await link.say(mark)
        await self.look(self._active)

    def _aside(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def _renew(self, link: _Link) -> None:
        """A new token on the same connection, before the old one ends. Without one the server closes with 4001."""
        try:
            token = await self._token()
        except Exception as fault:
            log.warning("no new token: %s", fault)
            return
        if token:
            await link.say({"type": "auth", "token": token})

    # -- receipts

    async def _owe(self, link: _Link, notification: bool) -> None:
        link.owed += notification
        link.owing.set()
        if link.owed >= ACK_EVERY:
            await self._ack(link)

    async def _acks(self, link: _Link) -> None:
        while True:
            await link.owing.wait()
            await asyncio.sleep(self._timing.ack)
            if link.owing.is_set():
                await self._ack(link)

    async def _ack(self, link: _Link) -> None:
        """Cumulative. `active` also says that the person is looking."""
        link.owed = 0
        link.owing.clear()
        message: dict[str, Any] = {"type": "ack", "seq": self.inbox.last}
        if self._active and self.inbox.complete:
            message["active"] = True
            link.looked = self.inbox.last
        await link.say(message)


async def _quietly(work: Awaitable[object]) -> None:
    with suppress(ConnectionClosed, OSError, TimeoutError):
        await cast("Awaitable[None]", work)
