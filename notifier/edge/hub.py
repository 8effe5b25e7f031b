"""Who is connected to this process: bells to sessions, sessions to joins, marks and presence to Redis."""

import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core import payload
from notifier.core.inbox import NOTIFICATION, Bell, Mark
from notifier.core.keys import shard_of
from notifier.core.session import (
    BEHIND,
    DRAINING,
    JOIN,
    JOINING,
    LIVE,
    REVOKED,
    SEND,
    SLOW,
    SLOW_CLIENT,
    TOO_MANY,
    Session,
)
from notifier.edge.logs import Every
from notifier.edge.redis import ReplyError
from notifier.metrics import Metrics
from notifier.ports import Bus, Inbox, Unavailable

log = Logger()

JOINS_AT_ONCE: Final = 64
REJOINS: Final = 500.0  # a second, at least, after a subscription was lost; more where there are many
RETRY: Final = 0.5  # s, after a call failed
MARK_DELAY: Final = 0.01  # s in which marks gather into one call
ACK_DELAY: Final = 1.0  # s: receipts only tell operators, the newest is enough
MARKS_KEPT: Final = 10_000  # while Redis cannot be reached


class Client(Protocol):
    """One connection of a person, of whatever kind."""

    session: Session
    issued: int

    def push(self, text: bytes) -> bool:
        """Queue a message; True if nothing was queued before, so that `flush` must be called."""

    def flush(self) -> None:
        """Send what is queued."""

    def close(self, code: int, reason: str) -> None:
        """End the connection; the session leaves the hub at once."""


class Hub:
    """Sessions by person. `seconds`: how long a sweep takes and a rejoin of all may take."""

    def __init__(
        self, reactor: Any, inbox: Inbox, bus: Bus, metrics: Metrics, shards: int, *,
        page: int = 100, per_user: int = 20, refresh_seconds: float = 30.0, spread_seconds: float = 30.0,
        chance: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.reactor, self.inbox, self.bus, self.metrics, self.shards = reactor, inbox, bus, metrics, shards
        self.page, self.per_user = page, per_user
        self.refresh_seconds, self.spread_seconds = refresh_seconds, spread_seconds
        self.chance = chance or random.Random()
        self.people: dict[str, tuple[Client, ...]] = {}
        self.count = 0
        self._behind: deque[Client] = deque()
        self._paced: deque[Client] = deque()
        self._joining = 0
        self._gone: set[str] = set()
        self._marks: dict[tuple[str, str, str, str], Mark] = {}
        self._acks: dict[str, Mark] = {}
        self._calls: dict[Callable[[], None], Any] = {}
        self._sweep: deque[str] = deque()
        self._sweep_until = 0.0
        self._fault = Every(10.0)
        bus.listen(self.rang, self.subscribed, self.revoked)

    def start(self) -> None:
        self._later(self._refresh, 0.0)

    def stop(self) -> None:
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    # -- who is here

    def add(self, client: Client) -> None:
        """A person has authenticated."""
        user = client.session.user
        here = self.people.get(user, ())
        if len(here) >= self.per_user:
            here[0].close(TOO_MANY, "a newer connection of yours took this place")
            here = self.people.get(user, ())
        self.people[user] = (*here, client)
        self.count += 1
        self._due(client)

    def remove(self, client: Client) -> None:
        """A connection has ended."""
        user = client.session.user
        here = self.people.get(user, ())
        rest = tuple(other for other in here if other is not client)
        self.count -= len(here) - len(rest)
        if rest:
            self.people[user] = rest
        elif here:
            del self.people[user]
            self._gone.add(user)
            self._later(self._leave, MARK_DELAY)

    def clients(self) -> Iterable[Client]:
        return [client for here in self.people.values() for client in here]

    # -- bells

    def rang(self, bells: list[Bell]) -> None:
        """One message of the bus: each change goes to its person's sessions, each connection is written to once."""
        people, touched = self.people, []
        delivered, stale, now = 0, 0, self.reactor.seconds()
        observe = self.metrics.delivery_seconds.observe
        for bell in bells:
            here = people.get(bell.user)
            if here is None:
                stale += 1
                continue
            notification = bell.record[1] == NOTIFICATION
            text = b""
            for client in here:
                session = client.session
                if session.state != LIVE:
                    session.keep(bell)
                    continue
                heard = session.hear(bell.birth, bell.run, bell.seq, notification)
                if heard != SEND:
                    self._set_aside(client, heard)
                    continue
                text = text or payload.change(bell.seq, bell.record, bell.unread, bell.floor)
                if client.push(text):
                    touched.append(client)
                if notification:
                    delivered += 1
                    observe(now - bell.accepted / 1000)
        for client in touched:
            client.flush()
        self.metrics.deliveries += delivered
        self.metrics.bells_stale += stale

    def _set_aside(self, client: Client, heard: int) -> None:
        """A bell that could not simply be sent."""
        if heard == JOIN:
            self.metrics.gaps += 1
            self._due(client)
        elif heard == SLOW:
            self.slow(client, "too many notifications without an ack")

    def slow(self, client: Client, why: str) -> None:
        """The client does not keep up: it may come back and resume."""
        self.metrics.slow_clients += 1
        client.close(SLOW_CLIENT, why)

    def revoked(self, user: str) -> None:
        """All tokens of a person are void."""
        for client in self.people.get(user, ()):
            client.close(REVOKED, "token revoked")

    # -- joins

    def subscribed(self, shard: int) -> None:
        """Bells of this shard are heard from now on; what came before may have been missed."""
        for client in self.clients():
            if shard_of(client.session.user, self.shards) == shard:
                client.session.again()
                self._paced.append(client)
        if self._paced:
            self._later(self._pace, 0.0)

    def resume(self, client: Client) -> None:
        """The session wants a join: a new place was named, or acks have made room."""
        self._due(client)

    def _pace(self) -> None:
        """Rejoins of all that a shard has, spread: first come those that are not waiting for their first answer."""
        tick = 0.02
        rate = max(REJOINS, len(self._paced) / max(1.0, self.spread_seconds - 5))
        for _ in range(min(len(self._paced), max(1, int(rate * tick)))):
            self._due(self._paced.popleft())
        if self._paced:
            self._later(self._pace, tick)

    def _due(self, client: Client) -> None:
        self._behind.append(client)
        self._pump()

    def _pump(self) -> None:
        while self._behind and self._joining < JOINS_AT_ONCE:
            client = self._behind.popleft()
            if client.session.state == BEHIND and self._is_here(client) and self._is_heard(client):
                self._joining += 1
                self.run(self._join(client))

    def _is_here(self, client: Client) -> bool:
        return client in self.people.get(client.session.user, ())

    def _is_heard(self, client: Client) -> bool:
        # not yet: `subscribed` will call for it
        return shard_of(client.session.user, self.shards) in self.bus.heard

    async def _join(self, client: Client) -> None:
        session = client.session
        wanted = session.want(self.page)
        number = session.joins
        try:
            answer = await self.inbox.join(session.user, wanted, client.issued)
        except (Unavailable, ReplyError) as error:
            self._say(error)
            if session.joins == number:
                session.failed()
            self.reactor.callLater(RETRY * (1 + self.chance.random()), self._due, client)
            return
        finally:
            self._joining -= 1
            self._later(self._pump, 0.0)
        if not self._is_here(client):
            # it closed while the join was under way, which has written its presence again
            self._gone.add(session.user)
            self._later(self._leave, MARK_DELAY)
        elif answer.result == "revoked":
            client.close(REVOKED, "token revoked")
        elif session.state == JOINING and session.joins == number:
            self.metrics.joins.count(answer.result)
            for text in session.joined(answer):
                client.push(text)
            client.flush()
        if session.state == BEHIND:
            self._due(client)

    # -- marks

    def mark(self, mark: Mark) -> None:
        """A person's mark, to be written soon: the newest of a kind counts, ids add up."""
        if mark.kind == "ack":
            self._acks[mark.user] = mark
            self._later(self._flush_acks, ACK_DELAY)
            return
        self._gather(mark)
        self._later(self._flush_marks, MARK_DELAY)

    def _gather(self, mark: Mark) -> None:
        key = (mark.user, mark.kind, mark.birth, mark.run)
        before = self._marks.get(key)
        if before is not None:
            ids = dict.fromkeys((*before.ids, *mark.ids))
            mark = Mark(mark.user, mark.kind, mark.birth, mark.run, max(mark.seq, before.seq), tuple(ids))
        elif len(self._marks) >= MARKS_KEPT:
            return
        self._marks[key] = mark

    def _flush_acks(self) -> None:
        acks, self._acks = self._acks, {}
        self.metrics.acks += len(acks)
        self.run(self._write(list(acks.values()), again=False))

    def _flush_marks(self) -> None:
        marks, self._marks = self._marks, {}
        for mark in marks.values():
            self.metrics.marks.count(mark.kind)
        self.run(self._write(list(marks.values()), again=True))

    async def _write(self, marks: list[Mark], again: bool) -> None:
        try:
            await self.inbox.mark(marks)
        except Unavailable as error:
            self._say(error)
            if again:
                for mark in marks:
                    self._gather(mark)
                self._later(self._flush_marks, RETRY)
        except ReplyError as error:
            self._say(error)

    # -- presence and the sweep

    def _leave(self) -> None:
        gone = [user for user in self._gone if user not in self.people]
        self._gone.clear()
        if gone:
            self.run(self._say_gone(gone))

    async def _say_gone(self, users: list[str]) -> None:
        try:
            await self.inbox.leave(users)
        except (Unavailable, ReplyError) as error:
            self._say(error)  # presence expires by itself

    def _refresh(self) -> None:
        """Every second a part of all people, so that everybody is looked at once in refresh_seconds."""
        self._later(self._refresh, 1.0)
        now = self.reactor.seconds()
        if not self._sweep and now >= self._sweep_until:
            self._sweep.extend(self.people)
            self._sweep_until = now + self.refresh_seconds
            if not self._sweep:
                self.run(self._compare([]))
        left = max(1.0, self._sweep_until - now - 2)
        part = min(len(self._sweep), max(200, int(len(self._sweep) / left) + 1))
        users = [self._sweep.popleft() for _ in range(part)]
        if users:
            self.run(self._compare(users))

    async def _compare(self, users: list[str]) -> None:
        here = [user for user in users if user in self.people]
        try:
            standings = await self.inbox.refresh(here)
        except (Unavailable, ReplyError) as error:
            self._say(error)
            return
        self.metrics.refreshes += len(here)
        for user, stands in standings.items():
            for client in self.people.get(user, ()):
                if client.issued <= stands.revoked:
                    client.close(REVOKED, "token revoked")
                elif not client.session.stands(stands.birth, stands.run, stands.seq):
                    self._due(client)
            if user not in self.people:
                self._gone.add(user)  # closed meanwhile: the refresh has written its presence again
                self._later(self._leave, MARK_DELAY)

    # -- the end

    def drain(self, seconds: float) -> None:
        """Close everybody, spread over so many seconds, so that they do not all come back at once."""
        clients = list(self.clients())
        self.chance.shuffle(clients)
        for at, client in enumerate(clients):
            self.reactor.callLater(seconds * at / len(clients), self._drain_one, client, seconds)

    def _drain_one(self, client: Client, seconds: float) -> None:
        if not self._is_here(client):
            return
        client.push(payload.drain(int(1000 * self.chance.uniform(0.1, max(0.2, seconds)))))
        client.flush()
        client.close(DRAINING, "server stops; reconnect")

    # -- small things

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let a coroutine go; a bug in it is logged, not lost."""
        Deferred.fromCoroutine(work).addErrback(_bug)

    def _later(self, what: Callable[[], None], seconds: float) -> None:
        """Call once, soon; asking again before it has happened changes nothing."""
        if what not in self._calls:
            self._calls[what] = self.reactor.callLater(seconds, self._call, what)

    def _call(self, what: Callable[[], None]) -> None:
        del self._calls[what]
        what()

    def _say(self, error: Exception) -> None:
        suppressed = self._fault.due()
        if suppressed is not None:
            log.warn("inbox: {error} ({suppressed} more like it)", error=str(error), suppressed=suppressed)


def _bug(failure: Failure) -> None:
    log.failure("in the hub", failure)
