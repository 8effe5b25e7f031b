"""Sends canaries down the whole path, XADD to bell to a session in this process's hub, and says where one is stuck.
And knocks at the listeners: a socket that systemd shares may hand a knock to a sibling, so that half proves less."""

# mypy: allow-untyped-calls
# (Twisted's endpoints are annotated in part)

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core import canary, keys, payload
from notifier.core.session import LIVE, Session
from notifier.edge.hub import Hub
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.metrics import Metrics
from notifier.ports import Unavailable

log = Logger()

# s without a step forward after which it is stuck: longer than a takeover after a kill, and short enough that with a
# canary and a look before it all is told within 15 s.
LATE: Final = 8.0
LOOK: Final = 1.0  # s between looks at one that is under way
JOINING_LOOK: Final = 0.02  # s, at the start, until the sessions have joined
KNOCK_SECONDS: Final = 2.0
NEVER_REVOKED: Final = 2**53

Addresses = Callable[[], Mapping[str, Any]]


class Perch(Protocol):
    """The other end of a knock: connects, and goes."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()


class Nest:
    """Where the canaries of one shard come back to: a client in the hub (hub.Client), without a socket."""

    def __init__(self, owner: "Canary", shard: int, user: str) -> None:
        self.owner, self.shard = owner, shard
        self.session = Session(user, None, 256)
        self.issued = NEVER_REVOKED
        self.closed = False
        self.joins = 0  # how many the session had asked for when the canary left

    def push(self, text: bytes) -> bool:
        """Receipt at once: nothing waits for a flush, and the session's window never fills."""
        told = canary.heard(text)
        if told.type == "notification":
            self.session.received(b'{"type":"ack","seq":%d}' % told.seq)
            self.owner.heard(self, told)
        return False

    def flush(self) -> None:
        """Nothing is ever queued."""

    def calm(self) -> bool:
        return True

    def close(self, code: int, reason: str) -> None:
        self.closed = True
        self.owner.hub.remove(self)


class Canary:
    """One canary at a time, every `every` seconds; while one is under way, a look each second at where it is.

    `name`: what this process is called among its like; `listeners`: by name, where we listen. What stands in front
    of a canary may take long: it is stuck only when nothing before it has moved for LATE seconds either.
    """

    def __init__(
        self, reactor: Any, calls: Connection, hub: Hub, metrics: Metrics, shards: int, kind: str, every: float,
        name: Callable[[], str], incarnation: str, listeners: Addresses,
    ) -> None:  # fmt: skip
        self.reactor, self.calls, self.hub, self.metrics = reactor, calls, hub, metrics
        self.shards, self.kind, self.every = shards, kind, every
        self.name, self.incarnation, self.listeners = name, incarnation, listeners
        self.users = canary.users(shards)
        self.nests = [Nest(self, shard, user) for shard, user in enumerate(self.users)]
        hub.quiet = frozenset(self.users)
        self.where = "the first canary is on its way"
        self._number = 0
        self._entry = ""  # the id in the stream of the one under way; "" = it is not known to be anywhere
        self._out: set[int] = set()  # shards from which it has not come back
        self._came = 0.0  # when one last came back from everywhere; 0 = never
        self._sent = self._moved = self._due = 0.0
        self._through = False  # it passed all streams, so their moving on means nothing any more
        self._head: tuple[str, str] = ("", "")  # what stands before it: stream, first entry
        self._shut: dict[str, tuple[int, str]] = {}  # listener: knocks in a row that failed, and why
        self._timer: Any = None
        self._live = self._busy = False
        self._bug = Every(60.0)
        metrics.watch("canary_age_seconds", self._age)

    # -- life

    def start(self) -> None:
        self._live = True
        self._came, self._moved = 0.0, self.reactor.seconds()
        for nest in self.nests:
            self.hub.add(nest)
        self._tick()

    def stop(self) -> None:
        """Send no more; the sessions leave the hub."""
        self._live = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for nest in self.nests:
            if not nest.closed:
                nest.close(1001, "stopped")

    async def first(self, seconds: float) -> None:
        """Return when the first canary has come back, at the latest after so many seconds."""
        until = self.reactor.seconds() + seconds
        while not self._came and self.reactor.seconds() < until:
            await deferLater(self.reactor, 0.01, _nothing)

    @property
    def sessions(self) -> int:
        """How many sessions of the hub are ours."""
        return sum(not nest.closed for nest in self.nests) if self._live else 0

    # -- what it says

    def part(self) -> tuple[bool, str]:
        """For /readyz: is the path open, and if not, where does it end?"""
        stuck = self.reactor.seconds() - self._moved
        if self._out and stuck > LATE:
            return False, f"{self.where} (for {stuck:.0f} s)"
        if not self._came:
            return False, self.where
        if self._out and self.reactor.seconds() - self._sent > LATE:
            return True, f"behind, but moving: {self.where}"
        return True, f"came back {self._age():.0f} s ago"

    def doors(self) -> tuple[bool, str]:
        """For /readyz: does every listener take connections?"""
        shut = [f"{name}: {why}" for name, (times, why) in self._shut.items() if times > 1]
        return not shut, "; ".join(shut) or ", ".join(self.listeners()) or "none yet"

    def _age(self) -> float:
        return self.reactor.seconds() - self._came if self._came else 0.0

    # -- coming back

    def heard(self, nest: Nest, told: canary.Heard) -> None:
        """A session was told of a canary, perhaps an older one's row or another process's."""
        if told.text != self._text() or nest.shard not in self._out:
            return
        if nest.session.joins != nest.joins:
            # Found by a join, not told by the bell: the way is not open to the end. The next one has to show it.
            self.where, self._entry, self._through = _silent(nest.shard), "", True
            return
        self._out.discard(nest.shard)
        self._moved = self.reactor.seconds()
        if not self._out:
            self._came = self._moved
            self.metrics.canary_seconds.observe(self._came - self._sent)

    def _text(self) -> str:
        """What only this canary says: the row is an older process's too, if that went by the same name."""
        return f"{self.incarnation}.{self._number}"

    # -- going out

    def _tick(self) -> None:
        soon = self._came or self._ready()
        self._timer = self.reactor.callLater(min(LOOK, self.every) if soon else JOINING_LOOK, self._tick)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._step()).addErrback(self._failed).addBoth(self._done)

    def _done(self, _: object) -> None:
        self._busy = False

    def _failed(self, failure: Failure) -> None:
        if failure.check(Unavailable, ReplyError):
            self.where = f"Redis: {failure.getErrorMessage()}"
        else:
            self.where = f"a bug in the canary itself: {type(failure.value).__name__}"
            if self._bug.due() is not None:
                log.failure("in the canary", failure)

    async def _step(self) -> None:
        if not self._live:
            return
        self._settle_in()
        now = self.reactor.seconds()
        due = now >= self._due
        if due:
            self._due = now + self.every
            self._knock()
        if due and not self._out:
            self._out, self._sent, self._moved = set(range(self.shards)), now, now
            self._entry, self._through = "", False
        if self._out and self._entry:
            await self._search()
        if self._out and not self._entry:
            if not self._ready():
                self.where, self._due = "the bells of some shards cannot be heard", now
            elif due:
                await self._send()

    def _ready(self) -> bool:
        """A canary sent before its session follows the inbox would be missed."""
        return all(nest.session.state == LIVE for nest in self.nests)

    def _settle_in(self) -> None:
        """A session that the hub has closed (somebody revoked our user, say) begins anew."""
        for shard, nest in enumerate(self.nests):
            if nest.closed:
                self.nests[shard] = Nest(self, shard, self.users[shard])
                self.hub.add(self.nests[shard])

    async def _send(self) -> None:
        self.where = "Redis: no answer to XADD"
        seconds, micros = await self.calls.call("TIME")  # ours may differ by more than an event's time may
        time = payload.iso(int(seconds) * 1000 + int(micros) // 1000)
        self._number += 1
        for nest in self.nests:
            nest.joins = nest.session.joins
        to = tuple(self.users[shard] for shard in sorted(self._out))
        raw = canary.event(self.kind, self.name(), self._text(), time, to)
        self._head = ("", "")
        self._entry = (await self.calls.call("XADD", keys.FRONT_DOOR, "*", "event", raw)).decode()

    # -- looking for it

    async def _search(self) -> None:
        """Where is it? In front of a reader, or through, and the bell was not heard: then another is sent."""
        blocked = await self._blocked()
        if blocked is None:
            self.where = "; ".join(map(_silent, sorted(self._out)))
            self._entry, self._through = "", True
            return
        stream, tagged, head = blocked
        if self._head != (stream, head):
            if self._head != ("", "") and not self._through:
                self._moved = self.reactor.seconds()
            self._head = (stream, head)
        holder = await self.calls.call("GET", keys.lease(tagged))
        self.where = f"events wait in {stream}, {self._reader(holder)}"

    async def _blocked(self) -> tuple[str, str, str] | None:
        """(stream, tag, first entry) of the stream in which it waits; None when it is through."""
        if await self.calls.call("XRANGE", keys.FRONT_DOOR, self._entry, self._entry):
            tagged = keys.tag(0) if self.shards == 1 else keys.FRONT_TAG
            head = await self.calls.call("XRANGE", keys.FRONT_DOOR, "-", "+", "COUNT", 1)
            return keys.FRONT_DOOR, tagged, head[0][0].decode() if head else ""
        for shard in sorted(self._out) if self.shards > 1 else ():
            stream = keys.events(shard, self.shards)
            head = await self.calls.call("XRANGE", stream, "-", "+", "COUNT", 1)
            if head and _order(_source(head[0][1])) <= _order(self._entry):
                return stream, keys.tag(shard), head[0][0].decode()
        return None

    def _reader(self, holder: bytes | None) -> str:
        if holder is None:
            return "which nobody reads"
        if holder.decode("ascii", "replace") == self.incarnation:
            return "which this process reads"
        return f"which another process reads ({holder.decode('ascii', 'replace')[:32]})"

    # -- the listeners

    def _knock(self) -> None:
        for name, address in self.listeners().items():
            if (endpoint := _endpoint(self.reactor, address)) is not None:
                factory: Any = Factory.forProtocol(Perch)
                factory.noisy = False
                opened = endpoint.connect(factory)
                opened.addCallbacks(self._open, self._closed, callbackArgs=(name,), errbackArgs=(name,))

    def _open(self, _: object, name: str) -> None:
        self._shut.pop(name, None)

    def _closed(self, failure: Failure, name: str) -> None:
        times, _ = self._shut.get(name, (0, ""))
        self._shut[name] = (times + 1, failure.getErrorMessage())


def _silent(shard: int) -> str:
    return f"shard {shard}: the inbox has it, but no bell was heard"


def _source(fields: list[bytes]) -> str:
    """The id at the front door of an entry that a router has appended."""
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"id", b"0-0").decode()


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number or 0)


def _endpoint(reactor: Any, address: Any) -> Any:
    """How to reach a listener from this machine; None for a kind of address that we do not know."""
    if isinstance(address, IPv4Address):
        host = "127.0.0.1" if address.host == "0.0.0.0" else address.host  # noqa: S104
        return TCP4ClientEndpoint(reactor, host, address.port, timeout=KNOCK_SECONDS)
    if isinstance(address, IPv6Address):
        host = "::1" if address.host == "::" else address.host
        return TCP6ClientEndpoint(reactor, host, address.port, timeout=KNOCK_SECONDS)
    if isinstance(address, UNIXAddress):
        return UNIXClientEndpoint(reactor, address.name, timeout=KNOCK_SECONDS)
    return None


def _nothing() -> None:
    return None
