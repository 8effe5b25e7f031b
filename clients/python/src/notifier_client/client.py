"""One connection to notifier, made again whenever it breaks, and the inbox that it keeps current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal, Self

from notifier_client import websocket
from notifier_client.backoff import Backoff
from notifier_client.inbox import Change, Inbox
from notifier_client.marks import Marks, reads
from notifier_client.timing import Timing
from notifier_client.transport import LOST, Message, Stopped, Transport, Unreachable, Way

ACK_EVERY: Final = 32  # notifications
WAITING_CHANGES: Final = 1024  # then the connection is read no further until somebody takes them
SOCKET_TRIES: Final = 3  # WebSockets in a row that never came up, then an event stream has its turn
State = Literal["idle", "connecting", "live", "waiting", "stopped"]
Token = Callable[[], Awaitable[str | None]]
log = logging.getLogger("notifier_client")


@dataclass
class _Link:
    """One connection, what is owed on it, and what goes on beside it."""

    transport: Transport
    deadline: asyncio.Timeout
    ready: bool = False
    owing: asyncio.Event = field(default_factory=asyncio.Event)
    owed: int = 0
    looked: int = 0
    pause: float | None = None  # seconds, from `drain`
    stable: asyncio.TimerHandle | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self) -> None:
        if self.stable is not None:
            self.stable.cancel()
        tasks = [*self.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Client:
    """One person's notifications. `async with` connects and disconnects, `async for` gives the changes.

    url     address of the WebSocket, as wss://push.example.com/v1/websocket
    token   called before each connection and each renewal. None: nobody is signed in, stop. Raises: try later
    api     address of the HTTP API without a path, as https://push.example.com: for networks that let no WebSocket
            through. Needs the extra `sse`
    active  is the person looking? Then what arrives counts as seen

    Raises ValueError for an `api` that is no address.
    Take the changes: beyond 1024 that wait the server counts us as slow and closes; nothing is lost by that.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        api: str | None = None,
        active: bool = False,
        backoff: Backoff | None = None,
        timing: Timing | None = None,
    ) -> None:
        if api is not None and not api.startswith(("https://", "http://")):
            raise ValueError(f"api: the address must begin with https:// or http://, not {api}")
        self.url, self.inbox = url, Inbox()
        self.state: State = "idle"
        self._token, self._active = token, active
        self._backoff, self._timing = backoff or Backoff(), timing or Timing()
        self._socket = websocket.way(url)
        self._marks = Marks()
        self._stream = None if api is None else _stream(api, self._marks, self._backoff)
        self._failures = 0  # WebSockets in a row that never came up
        self._link: _Link | None = None
        self._changes: asyncio.Queue[Change | Exception | None] = asyncio.Queue(WAITING_CHANGES)
        self._work: asyncio.Task[None] | None = None

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
        closer = asyncio.current_task()
        before = closer.cancelling() if closer is not None else 0
        work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            if closer is not None and closer.cancelling() > before:
                raise  # not only the work has been cancelled, but whoever waits for its end
        finally:
            self.state = "idle"
            self._failures = 0
            self._backoff.reset()
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
        rows = self.inbox.unread_of(ids)
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

    async def _say(self, *messages: Message) -> None:
        # Before `upto` they wait: marks by seq mean something only in the epoch that it names.
        link = self._link
        if link is not None and self.inbox.complete:
            for message in messages:
                await link.transport.say(message)

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

    async def _connection(self) -> float:
        """One connection from beginning to end; seconds to wait before the next. Raises Stopped."""
        end = asyncio.get_running_loop().time() + self._timing.answer
        token = await self._asked(end)
        if token is None:
            return self._backoff.next()
        streaming = self._streaming
        link, (code, reason) = await self._followed(streaming or self._socket, token, end)
        # A WebSocket that came up proves the way. After a stream the WebSocket gets one try, then the stream again.
        if streaming:
            self._failures = SOCKET_TRIES - 1
        else:
            self._failures = 0 if link is not None and link.ready else self._failures + 1
        log.info("%s is over: %d %s", "stream" if streaming else "connection", code, reason)
        # 4000-4499: come again; 4500-4999: do not, it would end the same way.
        if 4500 <= code <= 4999:
            raise Stopped(code, reason)
        return self._backoff.next() if link is None or link.pause is None else link.pause

    async def _asked(self, end: float) -> str | None:
        """A token, or None when there may be one later. Raises Stopped."""
        try:
            async with asyncio.timeout_at(end):
                token = await self._token()
        except Exception as fault:  # the application's own errors are as good as any: all mean later
            log.info("no token: %r", fault)
            return None
        if not token:
            raise Stopped(0, "no token: nobody is signed in")
        return token

    @property
    def _streaming(self) -> Way | None:
        return self._stream if self._failures >= SOCKET_TRIES else None

    async def _followed(self, way: Way, token: str, end: float) -> tuple[_Link | None, tuple[int, str]]:
        """Connect, and take in what comes; how it ended. Raises Stopped."""
        self.inbox.begin()
        link = None
        try:
            async with asyncio.timeout_at(end) as deadline, way(token, self.inbox, self._timing) as transport:
                link = self._link = _Link(transport, deadline)
                link.aside(self._acks(link))
                try:
                    async with aclosing(transport.messages()) as messages:
                        async for message in messages:
                            await self._heard(link, message)
                finally:
                    self._link = None
                    await link.end()
        except TimeoutError:
            return link, (LOST, "no answer")
        except Unreachable as fault:
            return link, (LOST, str(fault))
        return link, transport.ended

    # -- listening

    async def _heard(self, link: _Link, message: Message) -> None:
        kind = message["type"]
        if kind == "ready":
            self._begun(link)
        elif kind == "drain":
            link.pause = message["retry_ms"] / 1000
        elif kind == "reauth" and link.transport.renews:
            link.aside(self._renew(link))
        elif kind == "error":
            log.warning("the server says: %s %s", message.get("code"), message.get("reason"))
        elif kind == "resync":
            link.looked = link.owed = 0
        change = self.inbox.apply(message)
        if "seq" in message and kind not in ("ready", "upto"):
            await self._owe(link, kind == "notification")
        self._marks.settle(self.inbox)
        if kind == "upto":
            await self._caught_up(link)
        if change is not None:
            await self._changes.put(change)

    def _begun(self, link: _Link) -> None:
        link.ready = True
        link.deadline.reschedule(None)
        link.stable = asyncio.get_running_loop().call_later(self._timing.stable, self._backoff.reset)

    async def _caught_up(self, link: _Link) -> None:
        self.state = "live"
        for mark in self._marks.due():
            await link.transport.say(mark)
        await self.look(self._active)

    async def _renew(self, link: _Link) -> None:
        """A new token on the same connection, before the old one ends. Without one the server closes with 4001."""
        try:
            token = await self._token()
        except Exception as fault:
            log.warning("no new token: %s", fault)
            return
        if token:
            await link.transport.say({"type": "auth", "token": token})

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
        message: Message = {"type": "ack", "seq": self.inbox.last}
        if self._active and self.inbox.complete:
            message["active"] = True
            link.looked = self.inbox.last
        await link.transport.say(message)


def _stream(api: str, marks: Marks, backoff: Backoff) -> Way | None:
    """None, said once, when what a stream needs is not installed."""
    try:
        from notifier_client.stream import way
    except ImportError as missing:
        _say_why(str(missing))
        return None
    return way(api, marks, backoff)


@cache
def _say_why(missing: str) -> None:
    log.warning(
        "no fallback to server-sent events where WebSockets do not get through: %s;"
        " pip install 'notifier-client[sse]' brings what it needs",
        missing,
    )
