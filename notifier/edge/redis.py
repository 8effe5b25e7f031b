"""Connections to Redis for the moves: pipelined calls on hiredis with a deadline, scripts by hash, subscriptions.
A call costs 3 us here and 16-21 in txredisapi, which serves everything that is not on the path of an event."""

import re
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
from msgspec import Struct
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from notifier.edge.direct import send_now
from notifier.edge.secret_file import read_secret
from notifier.metrics import Metrics
from notifier.ports import Unavailable

READ_SIZE: Final = 262_144  # bytes a read: a batch of events in one system call
RETRY_MOST: Final = 5.0  # seconds between two tries to connect, at most
# In the answer to INFO: what a server calls itself, drawn anew at every start. So many characters tell runs apart.
_run_id = re.compile(rb"^run_id:([!-~]{16})", re.MULTILINE).search


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
        """From redis://host:port/db or rediss://…; the password is read from its file. Raises OSError, ValueError
        (also for a password that other users can read)."""
        parts = urlsplit(url)
        password = read_secret(Path(password_file)) if password_file else None
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
    """A script as Redis knows it. `dated`: it is given the run of the server behind its own arguments."""

    name: str
    text: str
    sha: str
    dated: bool = False


# What stands in front of a script. Each part costs every call of the script a few microseconds.
PARTS: Final = {
    "handover": ("inbox", "records", "bells", "reading", "devices"),
    "read": ("reading",),
    "join": ("inbox", "records"),
    "mark": ("inbox", "records", "bells"),
    "page": ("inbox", "records"),
    "refresh": ("inbox",),
    "look": ("inbox", "records", "standing", "devices"),
    "settle": ("inbox", "devices", "waiting"),
    "wake": ("waiting",),
    "tidy": ("inbox", "records", "standing"),
    "device": ("devices",),
}


def load_script(name: str, edit: Callable[[str], str] = str) -> Script:
    """A script of edge/lua, ready for EVALSHA. `edit` changes its text (tests inject faults with it).

    Scripts run at maxmemory too (allow-oom), or nothing could drain what fills it.
    """
    folder = files("notifier.edge") / "lua"
    parts = (*PARTS.get(name, ()), name)
    text = "#!lua flags=allow-oom\n" + edit("\n".join((folder / f"{part}.lua").read_text() for part in parts))
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest(), "inbox" in parts)


class Link(Protocol):
    """One connection: commands out in order, answers back in order. Made by Connection, used through it."""

    def __init__(self, owner: "Connection") -> None:
        self.owner = owner
        self.waiting: deque[tuple[Deferred[Any], float]] = deque()
        self._parser = hiredis.Reader(replyError=ReplyError)
        self._gone: Failure | None = None
        self._watchers: list[Deferred[None]] = []
        self.given_up = False  # it did not answer in time, which says more than that it then ended
        # Which run of the server this is. It belongs to the connection: a server that starts anew ends them all.
        self.run = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        transport.bufferSize = READ_SIZE

    def call(self, *args: Any) -> Deferred[Any]:
        """Send a command now; its answer, or ReplyError, or Unavailable."""
        if self._gone is not None:
            return fail(Unavailable(f"{self.owner.name}: connection to {self.owner.address} is closed"))
        command = hiredis.pack_command(args)  # may refuse its arguments: then nobody waits for an answer
        answer: Deferred[Any] = Deferred()
        self.waiting.append((answer, self.owner.reactor.seconds()))
        send_now(self.transport, command)
        return answer

    def dataReceived(self, data: bytes) -> None:
        parser = self._parser
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not False:
                self.received(reply)
        except hiredis.ProtocolError as error:
            self.owner.report(f"{self.owner.name}: {self.owner.address} does not speak RESP: {error}")
            self.abort()

    def received(self, reply: Any) -> None:
        if not self.waiting:
            self.owner.report(f"{self.owner.name}: an answer without a question from {self.owner.address}")
            self.abort()
            return
        answer, _ = self.waiting.popleft()
        if isinstance(reply, ReplyError):
            answer.errback(reply)
        else:
            answer.callback(reply)

    def ended(self) -> Deferred[None]:
        """Fires when the connection is over."""
        if self._gone is not None:
            return succeed(None)
        watcher: Deferred[None] = Deferred()
        self._watchers.append(watcher)
        return watcher

    def overdue(self, now: float, timeout: float) -> bool:
        """Has the oldest question waited too long? Then the connection is of no use."""
        return bool(self.waiting) and now - self.waiting[0][1] > timeout

    def abort(self) -> None:
        """End it now, whatever is under way."""
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = reason
        waiting, self.waiting = self.waiting, deque()
        said = f"{self.owner.name}: connection to {self.owner.address} lost before an answer"
        if reason is not connectionDone:
            said += f": {reason.getErrorMessage()}"
        for answer, _ in waiting:
            answer.errback(Unavailable(said))
        self.owner.lost(self)
        for watcher in self._watchers:
            if not watcher.called:
                watcher.callback(None)


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
        # Known to the server before the first call, so that no call overtakes another that has to load its script.
        self.scripts: Sequence[Script] = ()
        self.fault = "not connected yet"
        self._link: Link | None = None  # greeted: calls may use it
        self._fresh: Link | None = None  # connected, perhaps not greeted yet
        self._times = 0
        self._watch: Any = None
        self._running = False
        self._kept: Deferred[None] = succeed(None)
        self._waiters: list[Deferred[None]] = []
        self._factory: Any = Factory.forProtocol(lambda: self.link_class(self))
        self._factory.noisy = False
        self._endpoint: Any = address.endpoint(reactor, connect_timeout)

    @property
    def up(self) -> bool:
        return self._link is not None

    def start(self) -> None:
        self._running = True
        self._kept = Deferred.fromCoroutine(self._keep())
        self._look()

    async def stop(self) -> None:
        """End the link, and make no other."""
        self._running = False
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self._kept.cancel()
        await self._kept
        if self._fresh is not None:
            self._fresh.abort()
            await self._fresh.ended()

    def ready(self) -> Deferred[None]:
        """Fires when a link is up."""
        if self.up:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def call(self, *args: Any) -> Deferred[Any]:
        """Send a command now; its answer, or ReplyError, or Unavailable."""
        if self._link is None:
            return fail(Unavailable(f"{self.name}: no connection to {self.address}: {self.fault}"))
        return self._link.call(*args)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script by its hash, loading it where the server does not know it (a restart, SCRIPT FLUSH)."""
        try:
            try:
                return await self._evaluate("EVALSHA", script.sha, script, keys, args)
            except ReplyError as error:
                if error.code != "NOSCRIPT":
                    raise
            # EVAL behind it: the scripts may be flushed again at any moment
            self.call("SCRIPT", "LOAD", script.text).addErrback(lambda _: None)
            return await self._evaluate("EVAL", script.text, script, keys, args)
        except ReplyError as error:
            self._count(error)
            raise

    def _evaluate(
        self, how: str, what: str, script: Script, keys: Sequence[str], args: Sequence[Any]
    ) -> Deferred[Any]:
        """The run is that of the link which takes the command, so that none is ever given another server's."""
        if script.dated and self._link is not None:
            return self._link.call(how, what, len(keys), *keys, *args, self._link.run)
        return self.call(how, what, len(keys), *keys, *args)

    def lost(self, link: Link) -> None:
        if self._fresh is link:
            self._fresh = None
        if self._link is link:
            self._link = None
            if not link.given_up:
                self.fault = "connection lost"
            self.metrics.redis_errors.count("connection")
            self.disconnected()

    async def _keep(self) -> None:
        """Connect, greet, wait for the end, and again; ever more slowly while it fails.

        Not ClientService: it meets a connection that ends while it is greeted with a traceback, and tells nobody why
        none can be made.
        """
        tries = 0
        while True:
            try:
                link = await self._connect()
                if link is not None and await self._greet(link):
                    tries = 0
                    await link.ended()
                if not self._running:
                    return
                tries += 1
                await deferLater(self.reactor, min(RETRY_MOST, 0.05 * 1.6 ** min(tries, 20)), _nothing)
            except CancelledError:  # by stop()
                return

    async def _connect(self) -> Link | None:
        try:
            link: Any = await self._endpoint.connect(self._factory)
        except CancelledError:
            raise
        except Exception as error:  # refused, timed out, no such host, ...: Twisted has a class for each
            if self._running:
                self._fail(f"cannot connect to {self.address}: {error}")
            return None
        self._fresh = link
        return link  # type: ignore[no-any-return]

    async def _greet(self, link: Link) -> bool:
        try:
            for command in (*self.address.greeting(), ("PING",)):
                await link.call(*command)
            named = _run_id(await link.call("INFO", "server"))
            if named is None:
                self._fail(
                    f"{self.address} does not tell its run_id in INFO server: is that Redis or Valkey?"
                )
                link.abort()
                await link.ended()
                return False
            link.run = named[1]
            for script in self.scripts:
                await link.call("SCRIPT", "LOAD", script.text)
        except ReplyError as error:
            # WRONGPASS, NOAUTH, LOADING...: said once, tried again with backoff; an operator may mend it meanwhile
            self._count(error)
            self._fail(f"{self.address} refuses us: {error}")
            link.abort()
            await link.ended()
            return False
        except Unavailable as error:
            if not link.given_up:
                self._fail(str(error).removeprefix(f"{self.name}: "))
            return False
        self._greeted(link)
        return True

    def _greeted(self, link: Link) -> None:
        self.fault = ""
        self._link = link
        self._times += 1
        if self._times > 1:
            self.metrics.redis_reconnects.count(self.name)
            self.report(f"{self.name}: connected to {self.address} again")
        self.connected()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            self.report(f"{self.name}: {fault}")

    def _count(self, error: ReplyError) -> None:
        self.metrics.redis_errors.count(error.code.lower())

    def _look(self) -> None:
        """Every second: is the peer still there? An idle connection is asked, a silent one dropped."""
        self._watch = self.reactor.callLater(1.0, self._look)
        link = self._fresh
        if link is None:
            return
        if not link.waiting:
            link.call("PING").addErrback(lambda _: None)
        elif link.overdue(self.reactor.seconds(), self.timeout):
            self.metrics.redis_errors.count("timeout")
            self._fail(f"{self.address} has not answered for {self.timeout:g} s: connection dropped")
            link.given_up = True
            link.abort()


def _nothing() -> None:
    return None


class Subscription(Connection):
    """A connection for SUBSCRIBE."""

    link_class = SubscriberLink
