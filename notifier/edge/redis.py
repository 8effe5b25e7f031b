"""Connections to Redis for the moves: pipelined calls on hiredis with a deadline, scripts by hash, subscriptions.
A call costs 3 us here and 16-21 in txredisapi, which serves everything that is not on the path of an event."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
from msgspec import Struct
from twisted.application.internet import ClientService
from twisted.internet import ssl
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from notifier.edge.direct import send_now
from notifier.metrics import Metrics
from notifier.ports import Unavailable

READ_SIZE: Final = 262_144  # bytes a read: a batch of events in one system call
RETRY_MOST: Final = 5.0  # seconds between two tries to connect, at most


class Address(Struct, frozen=True):
    """Where a server is and who we are there."""

    host: str
    port: int
    db: int
    tls: bool = False
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None

    @classmethod
    def parse(
        cls,
        url: str,
        username: str | None = None,
        password_file: str | None = None,
        ca_file: str | None = None,
    ) -> "Address":
        """From redis://host:port/db or rediss://…; the password is read from its file. Raises OSError, ValueError."""
        parts = urlsplit(url)
        password = Path(password_file).read_text().strip() if password_file else None
        db = int(parts.path.strip("/") or 0)
        tls = parts.scheme == "rediss"
        return cls(parts.hostname or "127.0.0.1", parts.port or 6379, db, tls, username, password, ca_file)

    def __str__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"

    def endpoint(self, reactor: Any, timeout: float) -> IStreamClientEndpoint:
        plain: Any = HostnameEndpoint(reactor, self.host, self.port, timeout=timeout)
        if not self.tls:
            endpoint: IStreamClientEndpoint = plain
            return endpoint
        root = ssl.Certificate.loadPEM(Path(self.ca_file).read_bytes()) if self.ca_file else None
        tls: IStreamClientEndpoint = wrapClientTLS(ssl.optionsForClientTLS(self.host, trustRoot=root), plain)
        return tls

    def greeting(self) -> list[tuple[str, ...]]:
        """The commands a connection begins with."""
        begin: list[tuple[str, ...]] = []
        if self.password is not None:
            begin.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.db:
            begin.append(("SELECT", str(self.db)))
        return begin


class ReplyError(Exception):
    """Redis answered with an error; the text is its own, beginning with the code (OOM, READONLY, WRONGTYPE...)."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Script(Struct, frozen=True, gc=False):
    """A script as Redis knows it."""

    name: str
    text: str
    sha: str


# Scripts that touch inboxes have inbox.lua in front of them.
_ON_INBOXES: Final = frozenset(("handover", "join", "mark", "page", "refresh"))


def load_script(name: str, edit: Callable[[str], str] = str) -> Script:
    """A script of edge/lua, ready for EVALSHA. `edit` changes its text (tests inject faults with it).

    Scripts run at maxmemory too (allow-oom), or nothing could drain what fills it.
    """
    folder = files("notifier.edge") / "lua"
    parts = ("inbox", name) if name in _ON_INBOXES else (name,)
    text = "#!lua flags=allow-oom\n" + edit("\n".join((folder / f"{part}.lua").read_text() for part in parts))
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Link(Protocol):
    """One connection: commands out in order, answers back in order. Made by Connection, used through it."""

    def __init__(self, owner: "Connection") -> None:
        self.owner = owner
        self.waiting: deque[tuple[Deferred[Any], float]] = deque()
        self._parser = hiredis.Reader(replyError=ReplyError)
        self._gone: Failure | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        transport.bufferSize = READ_SIZE

    def call(self, *args: Any) -> Deferred[Any]:
        """Send a command now; its answer, or ReplyError, or Unavailable."""
        if self._gone is not None:
            return fail(Unavailable(f"{self.owner.name}: connection to {self.owner.address} is closed"))
        answer: Deferred[Any] = Deferred()
        self.waiting.append((answer, self.owner.reactor.seconds()))
        send_now(self.transport, hiredis.pack_command(args))
        return answer

    def dataReceived(self, data: bytes) -> None:
        parser = self._parser
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not False:
                self.received(reply)
        except hiredis.ProtocolError as error:
            self.owner.report(f"{self.owner.name}: {self.owner.address} does not speak RESP: {error}")
            self._abort()

    def received(self, reply: Any) -> None:
        if not self.waiting:
            self.owner.report(f"{self.owner.name}: an answer without a question from {self.owner.address}")
            self._abort()
            return
        answer, _ = self.waiting.popleft()
        if isinstance(reply, ReplyError):
            answer.errback(reply)
        else:
            answer.callback(reply)

    def itself(self) -> "Link":
        """ClientService hands out a proxy of the protocol; this is what it stands for."""
        return self

    def overdue(self, now: float, timeout: float) -> bool:
        """Has the oldest question waited too long? Then the connection is of no use."""
        return bool(self.waiting) and now - self.waiting[0][1] > timeout

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = reason
        waiting, self.waiting = self.waiting, deque()
        for answer, _ in waiting:
            answer.errback(
                Unavailable(f"{self.owner.name}: connection to {self.owner.address} lost before an answer")
            )
        self.owner.lost(self)


class SubscriberLink(Link):
    """A connection that only listens: `message(channel, payload)` for each message."""

    def received(self, reply: Any) -> None:
        if isinstance(reply, list) and reply and reply[0] in (b"message", b"smessage"):
            self.owner.message(reply[1], reply[2])
        elif isinstance(reply, list) and reply and reply[0] in (b"subscribe", b"ssubscribe"):
            self.owner.confirmed(reply[1])
            super().received(reply)
        else:
            super().received(reply)


class Connection:
    """A link that is made again when it breaks. While there is none, calls fail at once: nothing queues unseen.

    `name` says what for; `connected` is called after each (re)connection, when the link is greeted.
    """

    link_class: type[Link] = Link

    def __init__(
        self, reactor: Any, address: Address, name: str, metrics: Metrics, report: Callable[[str], None],
        timeout: float = 5.0, connect_timeout: float = 5.0,
    ) -> None:  # fmt: skip
        self.reactor, self.address, self.name = reactor, address, name
        self.metrics, self.report, self.timeout = metrics, report, timeout
        self.connected: Callable[[], None] = lambda: None
        self.message: Callable[[bytes, bytes], None] = lambda channel, payload: None
        self.confirmed: Callable[[bytes], None] = lambda channel: None
        self.disconnected: Callable[[], None] = lambda: None
        self.fault = "not connected yet"
        self._link: Link | None = None
        self._times = 0
        self._watch: Any = None
        factory: Any = Factory.forProtocol(lambda: self.link_class(self))
        factory.noisy = False
        self._service = ClientService(
            address.endpoint(reactor, connect_timeout),
            factory,
            retryPolicy=lambda tries: min(RETRY_MOST, 0.05 * 1.6 ** min(tries, 20)),
            clock=reactor,
            prepareConnection=self._prepare,
        )

    @property
    def up(self) -> bool:
        return self._link is not None

    def start(self) -> None:
        self._service.startService()
        self._look()

    def stop(self) -> Awaitable[None]:
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        if self._link is not None:
            self._link._abort()
        return self._service.stopService()

    def ready(self) -> Deferred[Any]:
        """Fires when a link is up."""
        return self._service.whenConnected()

    def call(self, *args: Any) -> Deferred[Any]:
        """Send a command now; its answer, or ReplyError, or Unavailable."""
        if self._link is None:
            return fail(Unavailable(f"{self.name}: no connection to {self.address}: {self.fault}"))
        return self._link.call(*args)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script by its hash, loading it where the server does not know it (a restart, SCRIPT FLUSH)."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                self._count(error)
                raise
        await self.call("SCRIPT", "LOAD", script.text)
        return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)

    def lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self.fault = "connection lost"
            self.metrics.redis_errors.count("connection")
            self.disconnected()

    def _prepare(self, link: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._greet(link))

    async def _greet(self, proxy: Link) -> None:
        link = proxy.itself()
        try:
            for command in (*self.address.greeting(), ("PING",)):
                await link.call(*command)
        except ReplyError as error:
            # WRONGPASS, NOAUTH, LOADING...: said once, tried again with backoff; an operator may mend it meanwhile
            self._count(error)
            self._fail(f"{self.address} refuses us: {error}")
            link._abort()
            raise
        self.fault = ""
        self._link = link
        self._times += 1
        if self._times > 1:
            self.metrics.redis_reconnects.count(self.name)
            self.report(f"{self.name}: connected to {self.address} again")
        self.connected()

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            self.report(f"{self.name}: {fault}")

    def _count(self, error: ReplyError) -> None:
        self.metrics.redis_errors.count(error.code.lower())

    def _look(self) -> None:
        """Every second: is the peer still there? An idle connection is asked, a silent one dropped."""
        self._watch = self.reactor.callLater(1.0, self._look)
        link = self._link
        if link is None:
            return
        if not link.waiting:
            link.call("PING").addErrback(lambda _: None)
        elif link.overdue(self.reactor.seconds(), self.timeout):
            self.metrics.redis_errors.count("timeout")
            self._fail(f"{self.address} has not answered for {self.timeout:g} s: connection dropped")
            link._abort()


class Subscription(Connection):
    """A connection for SUBSCRIBE."""

    link_class = SubscriberLink
