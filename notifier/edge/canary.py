"""Sends canaries down the whole path, XADD to bell to a WebSocket of our own, and says where one is stuck.
And knocks at the listeners: a socket that systemd shares may hand a knock to a sibling, so that half proves less."""

# mypy: allow-untyped-calls
# (Twisted's endpoints are annotated in part)

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core import canary, keys, payload
from notifier.core.session import LIVE
from notifier.edge.hub import Client, Hub
from notifier.edge.listen import way_to
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.metrics import Metrics
from notifier.ports import Unavailable

log = Logger()

# s without a step forward after which it is stuck: longer than a takeover after a kill, and short enough that with a
# canary and a look before it all is told within 15 s.
LATE: Final = 8.0
LOOK: Final = 1.0  # s between looks at one that is under way
PATIENCE: Final = 5.0  # s for a client of ours to come in, until another is sent
KNOCK_SECONDS: Final = 2.0
SILENT: Final = "the inbox has it, but no bell was heard"
UNTOLD: Final = "the bell was heard, but our WebSocket brought nothing"

Addresses = Callable[[], Mapping[str, Any]]


class Nest(Protocol):
    """Where canaries come back to: a client of ours (edge/nest.py)."""

    where: str
    greeted: bool
    over: bool

    def close(self) -> None:
        """In order."""

    def abort(self) -> None:
        """At once."""


Heard = Callable[[Any, canary.Heard], None]
Open = Callable[[str, Heard, Callable[[Any], None]], Nest]
"""Sends a client in, for a user: (user, what hears its messages, what is told when it has come in or is gone; never
at once)."""


class Perch(TwistedProtocol):
    """The other end of a knock: connects, and goes."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()


class _Shard:
    """What one shard's canaries come back to. `nest`: who is in; `coming`: who is to take its place; `why`: what has
    kept the one before from coming in."""

    def __init__(self, number: int, user: str) -> None:
        self.number, self.user = number, user
        self.nest: Nest | None = None
        self.coming: Nest | None = None
        self.since = 0.0
        self.owed = False  # another must come in before a canary leaves
        self.why = ""
        self.follower: tuple[Client, int] | None = (
            None  # at the server, when the canary left: who, joins so far
        )
        self.last = 0  # seq of its session then

    def missing(self) -> str:
        """Why nobody is in, or the next one is not; "" = somebody is."""
        if not self.owed:
            return ""
        return self.why or (self.coming.where if self.coming else "our own client has gone")


class Canary:
    """One canary at a time, every `every` seconds; while one is under way, a look each second at where it is.

    `open_nest`: sends a client of ours in. After each canary one comes in anew, of each shard in turn.
    `name`: what this process is called among its like; `listeners`: by name, where we listen. What stands in front
    of a canary may take long: it is stuck only when nothing before it has moved for LATE seconds either.
    """

    def __init__(
        self, reactor: Any, calls: Connection, hub: Hub, metrics: Metrics, shards: int, kind: str, every: float,
        name: Callable[[], str], incarnation: str, listeners: Addresses, open_nest: Open,
    ) -> None:  # fmt: skip
        self.reactor, self.calls, self.hub, self.metrics = reactor, calls, hub, metrics
        self.kind, self.every, self.open_nest = kind, every, open_nest
        self.name, self.incarnation, self.listeners = name, incarnation, listeners
        self.shards = [_Shard(number, user) for number, user in enumerate(canary.users(shards))]
        hub.quiet = frozenset(shard.user for shard in self.shards)
        self.where = "the first canary is on its way"
        self._number = 0
        self._entry = ""  # the id in the stream of the one under way; "" = it is not known to be anywhere
        self._out: set[int] = set()  # shards from which it has not come back
        self._came = 0.0  # when one last came back from everywhere; 0 = never
        # When this one was begun, was sent, moved on; when it may be sent again; when the next is due.
        self._begun = self._sent = self._moved = self._again = self._due = 0.0
        self._through = False  # it passed all streams, so their moving on means nothing any more
        self._head: tuple[str, str] = ("", "")  # what stands before it: stream, first entry
        self._shut: dict[str, tuple[int, str]] = {}  # listener: knocks in a row that failed, and why
        self._turn = 0
        self._timer: Any = None
        self._live = self._busy = self._news = False
        self._bug = Every(60.0)
        metrics.watch("canary_age_seconds", self._age)

    # -- life

    def start(self) -> None:
        self._live = True
        self._came, self._moved = 0.0, self.reactor.seconds()
        for shard in self.shards:
            shard.owed = True
        self._tick()

    def stop(self) -> None:
        """Send no more; our clients go."""
        self._live = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for shard in self.shards:
            for nest in (shard.nest, shard.coming):
                if nest is not None:
                    nest.abort()
            shard.nest = shard.coming = None
            # Of the hub at once: a drain would let everybody else wait for their turn.
            for client in self.hub.people.get(shard.user, ()):
                client.close(1001, "stopped")

    async def first(self, seconds: float) -> None:
        """Return when the first canary has come back, at the latest after so many seconds."""
        until = self.reactor.seconds() + seconds
        while not self._came and self.reactor.seconds() < until:
            await deferLater(self.reactor, 0.01, _nothing)

    @property
    def sessions(self) -> int:
        """How many sessions of the hub are ours."""
        return sum(len(self.hub.people.get(user, ())) for user in self.hub.quiet)

    # -- what it says

    def part(self) -> tuple[bool, str]:
        """For /readyz: is the path open, and if not, where does it end?"""
        stuck = self.reactor.seconds() - self._moved
        if self._out and stuck > LATE:
            return False, f"{self.where} (for {stuck:.0f} s)"
        if not self._came:
            return False, self.where
        if self._out and self.reactor.seconds() - self._begun > LATE:
            return True, f"behind, but moving: {self.where}"
        return True, f"came back {self._age():.0f} s ago"

    def doors(self) -> tuple[bool, str]:
        """For /readyz: does every listener take connections?"""
        shut = [f"{name}: {why}" for name, (times, why) in self._shut.items() if times > 1]
        return not shut, "; ".join(shut) or ", ".join(self.listeners()) or "none yet"

    def _age(self) -> float:
        return self.reactor.seconds() - self._came if self._came else 0.0

    # -- our clients

    def _let_in(self, now: float) -> None:
        """Who takes too long, or could not come in, is followed by another."""
        for shard in self.shards:
            coming = shard.coming
            if coming is not None and (coming.over or now - shard.since > PATIENCE):
                shard.why, shard.coming = coming.where, None
                coming.abort()
            if shard.coming is None and shard.owed:
                shard.since = now
                shard.coming = self.open_nest(shard.user, self.heard, self._changed)

    def _changed(self, nest: Nest) -> None:
        """A client has come in, or is gone."""
        for shard in self.shards:
            if nest is shard.coming and nest.greeted and not nest.over:
                before, shard.nest, shard.coming = shard.nest, nest, None
                shard.owed, shard.why = False, ""
                if before is not None:
                    before.close()
            elif nest is shard.nest and nest.over:
                shard.nest, shard.owed = None, True
        self._news = True
        self._hurry()

    def _hurry(self) -> None:
        """Something has changed: look now, or as soon as the present look is over."""
        if self._live and self._news and not self._busy:
            self._news = False
            self._timer.reset(0)

    def _missing(self) -> str:
        """Why not every shard's client is in."""
        if len(self.hub.bus.heard) < len(self.shards):
            return "the bells of some shards cannot be heard"
        return "; ".join(f"shard {shard.number}: {why}" for shard in self.shards if (why := shard.missing()))

    def _follower(self, shard: _Shard) -> tuple[Client, int] | None:
        """Our client as the server has it, the newest of its person, if it follows the inbox live."""
        here = self.hub.people.get(shard.user, ())
        return (here[-1], here[-1].session.joins) if here and here[-1].session.state == LIVE else None

    # -- coming back

    def heard(self, nest: Nest, told: canary.Heard) -> None:
        """A client was told of a canary, perhaps an older one's row or another process's."""
        shard = next((shard for shard in self.shards if shard.nest is nest), None)
        if shard is None or told.text != self._text() or shard.number not in self._out:
            return
        if shard.follower is None or self._follower(shard) != shard.follower:
            # Found by a join, not told by the bell: the way is not open to the end. The next one has to show it.
            self.where, self._entry, self._through = f"shard {shard.number}: {SILENT}", "", True
            return
        self._out.discard(shard.number)
        self._moved = self.reactor.seconds()
        if not self._out:
            self._came = self._moved
            self.metrics.canary_seconds.observe(self._came - self._sent)
            # The next one's client comes in now, to show that one can; and so long before the next canary that its
            # presence has to last.
            self._turn = (self._turn + 1) % len(self.shards)
            self.shards[self._turn].owed = self._news = True
            self._hurry()

    def _text(self) -> str:
        """What only this canary says: the row is an older process's too, if that went by the same name."""
        return f"{self.incarnation}.{self._number}"

    # -- going out

    def _tick(self) -> None:
        self._timer = self.reactor.callLater(min(LOOK, self.every), self._tick)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._step()).addErrback(self._failed).addBoth(self._done)

    def _done(self, _: object) -> None:
        self._busy = False
        self._hurry()

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
        now = self.reactor.seconds()
        if now >= self._due:
            self._due = now + self.every
            self._knock()
            if not self._out:
                self._begin(now)
        self._let_in(now)
        if self._out and self._entry:
            await self._search()
        if self._out and not self._entry:
            if missing := self._missing():
                await self.calls.call("TIME")  # is it Redis, which our client waits for too?
                self.where = missing
            elif now >= self._again:
                self._again = now + self.every
                await self._send()

    def _begin(self, now: float) -> None:
        """The next canary."""
        self._out = {shard.number for shard in self.shards}
        self._begun = self._again = now
        self._entry, self._through = "", False
        if not self._missing():  # else it stands still since the last one came back
            self._moved = now

    async def _send(self) -> None:
        followers = [self._follower(shard) for shard in self.shards]
        if None in followers:
            self.where, self._again = "our own clients do not follow their inboxes yet", 0.0
            return
        said = self.where if self._through else "it is on its way"
        self.where = "Redis: no answer to XADD"
        seconds, micros = await self.calls.call("TIME")  # ours may differ by more than an event's time may
        time = payload.iso(int(seconds) * 1000 + int(micros) // 1000)
        self._number += 1
        for shard, follower in zip(self.shards, followers, strict=True):
            shard.follower, shard.last = follower, follower[0].session.last if follower else 0
        to = tuple(self.shards[number].user for number in sorted(self._out))
        raw = canary.event(self.kind, self.name(), self._text(), time, to)
        self._head, self._sent = ("", ""), self.reactor.seconds()
        self._entry = (await self.calls.call("XADD", keys.FRONT_DOOR, "*", "event", raw)).decode()
        self.where = said

    # -- looking for it

    async def _search(self) -> None:
        """Where is it? In front of a reader, or through, and the bell was not heard: then another is sent."""
        blocked = await self._blocked()
        if blocked is None:
            self.where = "; ".join(map(self._silent, sorted(self._out)))
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
            tagged = keys.tag(0) if len(self.shards) == 1 else keys.FRONT_TAG
            head = await self.calls.call("XRANGE", keys.FRONT_DOOR, "-", "+", "COUNT", 1)
            return keys.FRONT_DOOR, tagged, head[0][0].decode() if head else ""
        for shard in sorted(self._out) if len(self.shards) > 1 else ():
            stream = keys.events(shard, len(self.shards))
            head = await self.calls.call("XRANGE", stream, "-", "+", "COUNT", 1)
            if head and _order(_source(head[0][1])) <= _order(self._entry):
                return stream, keys.tag(shard), head[0][0].decode()
        return None

    def _silent(self, number: int) -> str:
        shard = self.shards[number]
        heard = shard.follower is not None and shard.follower[0].session.last > shard.last
        return f"shard {number}: {UNTOLD if heard and self._follower(shard) == shard.follower else SILENT}"

    def _reader(self, holder: bytes | None) -> str:
        if holder is None:
            return "which nobody reads"
        if holder.decode("ascii", "replace") == self.incarnation:
            return "which this process reads"
        return f"which another process reads ({holder.decode('ascii', 'replace')[:32]})"

    # -- the listeners

    def _knock(self) -> None:
        for name, address in self.listeners().items():
            if (endpoint := way_to(self.reactor, address, KNOCK_SECONDS)) is not None:
                factory: Any = Factory.forProtocol(Perch)
                factory.noisy = False
                opened = endpoint.connect(factory)
                opened.addCallbacks(self._open, self._closed, callbackArgs=(name,), errbackArgs=(name,))

    def _open(self, _: object, name: str) -> None:
        self._shut.pop(name, None)

    def _closed(self, failure: Failure, name: str) -> None:
        times, _ = self._shut.get(name, (0, ""))
        self._shut[name] = (times + 1, failure.getErrorMessage())


def _source(fields: list[bytes]) -> str:
    """The id at the front door of an entry that a router has appended."""
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"id", b"0-0").decode()


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number or 0)


def _nothing() -> None:
    return None
