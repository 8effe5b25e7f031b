"""The connections to one server with one credential: as many as the traffic needs, pushes spread over them."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core.breaker import Backoff, Breaker, BreakerRule, BreakerState
from notifier.core.http2 import (
    Answered,
    Expired,
    Limits,
    NotAccepting,
    PushConnection,
    Refused,
    Result,
    Template,
    Unknown,
)
from notifier.core.http2.errors import NO_ERROR
from notifier.core.http2.results import C
from notifier.core.steady import Steady
from notifier.edge.http2.dial import told
from notifier.edge.http2.protocol import PushProtocol

log = Logger()

REPLAYS: Final = 3  # of one push that was certainly not processed, before its caller hears of it


class Sizes(Struct, frozen=True, kw_only=True):
    """How many connections, how many pushes. Times are seconds."""

    most: int = 8
    """Connections at once. Another one is opened while pushes wait because all streams or windows are in use:
    so their number follows from the rate, the round trip and the windows of the server."""
    grow_every: float = 1.0
    """At least, between two that are opened: servers take haste for an attack."""
    waiting: int = 10_000
    """Pushes without a connection. Beyond: `push` raises NotAccepting."""
    lifetime: float = 86_400.0
    """A connection so old drains."""
    spare: float = 1_800.0
    """If no push had to wait for so long, one of several connections drains."""


class Counts(Struct):
    """What has happened in a pool, or in several that share this, since the start.

    `made`, `failed`: connections. `goaways`: of servers, in connections that have ended. `replayed`: pushes that were
    sent again by the pool itself. Pushes that ended without a whole answer: `refused`, `reset`, `lost`, `garbled`,
    `late` (no answer in time), `waited` (no room in time).
    """

    made: int = 0
    failed: int = 0
    goaways: int = 0
    replayed: int = 0
    refused: int = 0
    reset: int = 0
    lost: int = 0
    garbled: int = 0
    late: int = 0
    waited: int = 0

    def note(self, results: Iterable[Result[Any]]) -> None:
        """How pushes have ended, but for those that were answered."""
        for result in results:
            if type(result) is Answered:
                continue
            if type(result) is Refused:
                self.refused += 1
            elif type(result) is Unknown:
                setattr(self, result.cause, getattr(self, result.cause) + 1)
            elif type(result) is Expired:
                self.late += result.sent
                self.waited += not result.sent


class Push(Struct, Generic[C], eq=False):
    """A request, and whose it is. Results come with the Push as their context.

    Raises ValueError if the values are not as many as the template's varying fields.
    """

    context: C
    template: Template
    values: tuple[bytes, ...]
    body: bytes
    since: float = 0.0
    replays: int = 0

    def __post_init__(self) -> None:
        if len(self.values) != self.template.varying:
            raise ValueError(f"{self.template.varying} values are needed, not {len(self.values)}")

    def __repr__(self) -> str:
        return f"Push({self.context!r})"  # the token is in the values, or in the body


class Pool(Generic[C]):
    """`ended` hears how pushes ended, many in a call; each push exactly once.

    What is certainly not processed (a server that closes, refuses a stream, or a line that breaks before
    anything was written) is sent again by itself on another connection, `REPLAYS` times. Connections are made
    when there is something to push. When they fail in a row the breaker opens: all that waits is refused, and
    nothing accepted until `retry_at`.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: Any,
        ended: Callable[[list[Result[Push[C]]]], None],
        limits: Limits | None = None,
        sizes: Sizes | None = None,
        breaker: Breaker | None = None,
        chance: Callable[[], float] = random.random,
        current: Callable[[Template], Template] | None = None,
        counts: Counts | None = None,
    ) -> None:
        """`current`: the template to send instead of the one that a push was given: while it waited, or was
        sent again, the token in it may have been renewed. `counts`: where to count, if others count there too."""
        self._reactor = reactor
        self._seconds = Steady(reactor.seconds)
        self._endpoint = endpoint
        self._ended = ended
        self._limits = limits or Limits()
        self._sizes = sizes or Sizes()
        self._breaker = breaker or Breaker(BreakerRule())
        self._backoff = Backoff()
        self._chance = chance
        self._current = current
        self.counts = Counts() if counts is None else counts
        self._queue: deque[Push[C]] = deque()
        self._late: list[Result[Push[C]]] = []
        self._resting: list[Push[C]] = []  # refused by a server that goes on, until _rest is over
        self._rest: Any = None
        self._refusals = Backoff()
        self._ready: list[PushProtocol[Push[C]]] = []
        self._all: dict[PushProtocol[Push[C]], Any] = {}  # with the timer of its age
        self._served: set[PushProtocol[Push[C]]] = set()  # have had an answer
        self._dialling: Deferred[Any] | None = None
        self._dialled = float("-inf")
        self._turn: Any = None  # the delivery at the end of this turn of the reactor
        self._retry: Any = None
        self._watch: Any = None
        self._review: Any = None
        self._heard = float("-inf")  # when the server has last answered
        self._departed = 0  # connections that the server closed in peace before they had served, in a row
        self._enough = True  # no push had to wait since the last review
        self._stopped: Deferred[None] | None = None
        self.fault = ""
        """Why the last connection failed."""

    @property
    def accepting(self) -> bool:
        """`push` takes pushes, as long as no more wait than may."""
        return self._stopped is None and self.state != "open"

    @property
    def state(self) -> BreakerState:
        """The breaker's: open, nothing is accepted; half_open, the next connection decides."""
        return self._breaker.state(self._seconds())

    @property
    def answering(self) -> bool:
        """The server has answered anything in as long as it may take for one answer."""
        return bool(self.connections) and self._seconds() - self._heard <= self._limits.answer_within

    @property
    def retry_at(self) -> float:
        """When the breaker closes, in the reactor's seconds; in the past if it is not open."""
        return float("-inf") if self._breaker.until is None else self._breaker.until

    @property
    def waiting(self) -> int:
        """Pushes without a connection."""
        return len(self._queue) + len(self._resting)

    @property
    def open(self) -> int:
        """Pushes under way."""
        return sum(protocol.core.open + protocol.core.waiting for protocol in self._live())

    @property
    def connections(self) -> int:
        """Connections that are made, those that drain as well."""
        return sum(1 for _ in self._live())

    def push(self, push: Push[C], since: float | None = None) -> None:
        """Sends it at the end of this turn of the reactor, or when there is room. Raises NotAccepting.

        `since`: when its time to wait began, in the reactor's seconds; None: now.
        """
        now, until = self._seconds(), self._breaker.until
        if self._stopped is not None or (until is not None and now < until):
            why = "the pool is stopped" if self._stopped else f"the breaker is open: {self.fault}"
            raise NotAccepting(why)
        if len(self._queue) >= self._sizes.waiting:
            raise NotAccepting(f"{len(self._queue)} pushes wait already")
        # Ours is a clock that does not go back: what counts of theirs is how long ago it was.
        push.since = now if since is None else now - max(0.0, self._reactor.seconds() - since)
        self._queue.append(push)
        if self._turn is None:
            self._schedule()

    def push_all(self, pushes: Sequence[Push[C]]) -> Sequence[Push[C]]:
        """The same for many at once, from now on. Those that are not accepted come back."""
        now, until = self._seconds(), self._breaker.until
        if self._stopped is not None or (until is not None and now < until):
            return pushes
        room = max(0, self._sizes.waiting - len(self._queue))
        for push in pushes[:room]:
            push.since = now
        self._queue.extend(pushes[:room])
        if self._turn is None:
            self._schedule()
        return pushes[room:]

    def again(self, push: Push[C]) -> bool:
        """Sends a push that has ended once more, before all that wait; its time to wait is not begun anew.
        False: the pool does not accept it."""
        if not self.accepting:
            return False
        self._queue.appendleft(push)
        self._schedule()
        return True

    def trip(self, seconds: float, reason: str) -> None:
        """Opens the breaker: the credential is refused, say. Streams that are open run on."""
        self.fault = reason
        self._breaker.trip(seconds, self._seconds())
        self._refuse_all(f"the breaker is open: {reason}")

    def stop(self) -> Deferred[None]:
        """Refuses what waits and lets open streams run on. Fires when all connections have closed."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._refuse_all("the pool stops")
            for timer in (self._turn, self._retry, self._watch, self._review, self._rest):
                if timer is not None and timer.active():
                    timer.cancel()
            if self._dialling is not None:
                self._dialling.cancel()
            for protocol in list(self._all):
                protocol.drain()
            self._check_stopped()
        return self._stopped

    # --- Pushes ---

    def _live(self) -> list[PushProtocol[Push[C]]]:
        return [protocol for protocol in self._all if hasattr(protocol, "core")]

    def _schedule(self) -> None:
        if self._turn is None and self._stopped is None:
            self._turn = self._reactor.callLater(0, self._deliver)

    def _deliver(self) -> None:
        """Spreads what waits over the connections, each of which writes once."""
        self._turn = None
        self._expire()
        self._ready = [protocol for protocol in self._ready if protocol.core.accepting]
        self._ready = self._ready[1:] + self._ready[:1]
        # Not to one that owes an answer and is silent: a line that nobody reads any more turns pushes into unknown.
        well = [protocol for protocol in self._ready if not protocol.core.doubtful]
        now, left = self._seconds(), len(well)
        for protocol in well:
            if not self._queue:
                break
            self._hand_over(protocol, -(-len(self._queue) // left), now)
            left -= 1
        if self._queue:
            self._enough = False
            self._watch_queue()
            self._grow()
        if self._late:
            late, self._late = self._late, []
            self._tell(late)

    def _hand_over(self, protocol: PushProtocol[Push[C]], share: int, now: float) -> None:
        core, left = protocol.core, min(share, protocol.core.room)
        while left > 0 and self._queue and core.window > 0 and not core.waiting:  # there it would wait anew
            left -= self._hand_over_row(core, left, now)
        protocol.flush()

    def _hand_over_row(self, core: PushConnection[Push[C]], most: int, now: float) -> int:
        """Pushes with the same template, at least one and at most so many. How many have left the queue."""
        queue, late = self._queue, now - self._limits.wait_within
        asked = queue[0].template
        template = asked if self._current is None else self._current(asked)
        row: list[tuple[Push[C], tuple[bytes, ...], bytes]] = []
        left, window, at = most, core.window, 0
        try:
            while left and window > 0 and queue and queue[0].template is asked:
                push = queue.popleft()
                left -= 1
                if push.since <= late:  # behind one whose time began later
                    self._late.append(Expired(push, sent=False))
                    continue
                push.template = template
                row.append((push, push.values, push.body))
                window -= len(push.body)
            while at < len(row) and core.window > 0 and not core.waiting:
                if len(row) > 1:
                    at = core.push_row(row, at, template, now)
                if at < len(row) and core.window > 0:  # something in it is new to the connection
                    at += 1
                    core.push(row[at - 1][0], template, row[at - 1][1], row[at - 1][2], now)
        finally:
            queue.extendleft(push for push, _, _ in reversed(row[at:]))
        return most - left - (len(row) - at)

    def _expire(self) -> None:
        late = self._seconds() - self._limits.wait_within
        expired: list[Result[Push[C]]] = []
        while self._queue and self._queue[0].since <= late:
            expired.append(Expired(self._queue.popleft(), sent=False))
        if expired:
            self._tell(expired)

    def _watch_queue(self) -> None:
        if self._watch is None or not self._watch.active():
            due = self._queue[0].since + self._limits.wait_within
            self._watch = self._reactor.callLater(max(0.0, due - self._seconds()), self._deliver_late)

    def _deliver_late(self) -> None:
        self._watch = None
        self._schedule()

    def _refuse_all(self, reason: str) -> None:
        refused: list[Result[Push[C]]] = [Refused(push, reason) for push in (*self._resting, *self._queue)]
        refused += self._late  # an error has come before they could be told
        self._late.clear()
        self._resting.clear()
        self._queue.clear()
        if refused:
            self._tell(refused)

    def _tell(self, results: list[Result[Push[C]]]) -> None:
        self.counts.note(results)
        self._ended(results)

    # --- What connections say ---

    def ready(self, connection: PushProtocol[Push[C]]) -> None:
        self.counts.made += 1
        self._ready.append(connection)
        self._all[connection] = self._reactor.callLater(self._sizes.lifetime, self._retire, connection)
        self._schedule()
        if self._review is None and len(self._ready) > 1:
            self._review = self._reactor.callLater(self._sizes.spare, self._spare)

    def _spare(self) -> None:
        """One connection fewer, if those that there are were enough the whole time."""
        self._review = None
        if len(self._ready) > 1 and self._enough:
            self._retire(self._ready.pop(0))
        self._enough = True
        if len(self._ready) > 1:
            self._review = self._reactor.callLater(self._sizes.spare, self._spare)

    def ended(self, connection: PushProtocol[Push[C]], results: list[Result[Push[C]]]) -> None:
        amiss = [result for result in results if type(result) is not Answered]
        again = [
            result for result in amiss
            if type(result) is Refused and result.context.replays < REPLAYS and self.accepting
        ]  # fmt: skip
        if len(amiss) < len(results):
            self._answered(connection)
        if amiss:
            if again:
                self._replay(connection, [result.context for result in again])
                sent_anew = set(map(id, again))
                results = [result for result in results if id(result) not in sent_anew]
            self.counts.note(results)
        if results:
            self._ended(results)
        if self._queue:
            self._schedule()

    def _replay(self, connection: PushProtocol[Push[C]], pushes: list[Push[C]]) -> None:
        """Sends what was refused again, which its caller does not hear of."""
        for push in pushes:
            push.replays += 1
        self.counts.replayed += len(pushes)
        if connection.core.accepting:
            # REFUSED_STREAM of a server that goes on (RFC 9113 8.7): at once it would refuse them again.
            self._let_rest(pushes)
        else:
            self._queue.extendleft(reversed(pushes))

    def _answered(self, connection: PushProtocol[Push[C]]) -> None:
        self._heard = self._seconds()
        self._refusals.reset()
        # While it is open the answers are to what was sent before: they say nothing of why it was opened.
        if connection not in self._served or self.state == "half_open":
            self._served.add(connection)
            self._departed = 0
            self._backoff.reset()
            self._breaker.succeeded(self._seconds())

    def _let_rest(self, pushes: list[Push[C]]) -> None:
        self._resting += pushes
        if self._rest is None:
            # By half of the time that a push may wait it is tried again, or it would rest until it is too late.
            pause = min(self._refusals.pause(self._chance()), self._limits.wait_within / 2)
            self._rest = self._reactor.callLater(pause, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self._queue.extendleft(reversed(self._resting))
        self._resting.clear()
        if self._queue:
            self._schedule()

    def heard(self, connection: PushProtocol[Push[C]]) -> None:
        if self._queue:
            self._schedule()

    def gone(self, connection: PushProtocol[Push[C]], reason: str) -> None:
        timer = self._all.pop(connection, None)
        if timer is not None and timer.active():
            timer.cancel()
        if connection in self._ready:
            self._ready.remove(connection)
        served = connection in self._served
        self._served.discard(connection)
        core = getattr(connection, "core", None)
        self.counts.goaways += core is not None and core.goaway is not None
        ends = core is not None and core.goaway is not None and core.goaway.code == NO_ERROR
        if ends and not served:
            self._departed += 1
        # One may have met a server that was about to stop. A row of them is a server that does not serve.
        if not served and not (ends and self._departed == 1) and self._stopped is None:
            self._failed(reason)
        elif self._queue:
            self._schedule()
        self._check_stopped()

    def _retire(self, connection: PushProtocol[Push[C]]) -> None:
        connection.drain()
        if self._queue:
            self._schedule()

    def _check_stopped(self) -> None:
        if (
            self._stopped is not None
            and not self._all
            and self._dialling is None
            and not self._stopped.called
        ):
            self._stopped.callback(None)

    # --- Dialling ---

    def _grow(self) -> None:
        """One more connection, unless one is on its way or it is too soon."""
        now = self._seconds()
        beginning = any(timer is None and protocol.beginning for protocol, timer in self._all.items())
        waiting = self._retry is not None and self._retry.active()
        if self._dialling is not None or beginning or waiting or len(self._ready) >= self._sizes.most:
            return
        soon = self._dialled + self._sizes.grow_every - now
        if soon > 0:
            self._retry = self._reactor.callLater(soon, self._schedule)
            return
        self._dialled = now
        factory = Factory.forProtocol(lambda: PushProtocol(self._reactor, self._limits, self))
        factory.noisy = False
        self._dialling = self._endpoint.connect(factory)
        self._dialling.addCallbacks(self._connected, self._not_connected)

    def _connected(self, connection: PushProtocol[Push[C]]) -> None:
        """TCP is there; the handshake follows."""
        self._dialling = None
        self._all.setdefault(connection, None)
        if self._stopped is not None:
            connection.drain()

    def _not_connected(self, failure: Failure) -> None:
        self._dialling = None
        if self._stopped is None:
            self._failed(told(failure))
        self._check_stopped()

    def _failed(self, reason: str) -> None:
        """A connection that came to nothing: pause, and after a row of them refuse what waits."""
        self.fault = reason
        log.warn("a push server cannot be reached: {reason}", reason=reason)
        self.counts.failed += 1
        pause = self._backoff.pause(self._chance())
        # While another connection works the way is not closed, whatever became of this one.
        works = any(connection.core.accepting for connection in self._served)
        if not works and self._breaker.failed(self._seconds(), self._chance()):
            self._refuse_all(f"the breaker is open: {reason}")
            return
        if self._retry is None or not self._retry.active():
            self._retry = self._reactor.callLater(pause, self._schedule)
