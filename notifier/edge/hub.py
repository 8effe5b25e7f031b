"""Who is connected to this process: bells to sessions, sessions to joins, marks and presence to Redis."""

import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from math import ceil
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
from notifier.ports import Bus, Inbox, NotMarked, Unavailable

log = Logger()

JOINS_AT_ONCE: Final = 64
REJOINS: Final = 500.0  # a second, at least, after a subscription was lost; more where there are many
RETRY: Final = 0.5  # s, after a call failed
MARK_DELAY: Final = 0.01  # s in which marks gather into one call
ACK_DELAY: Final = 1.0  # s: receipts only tell operators, the newest is enough
ACK_TICK: Final = 0.02  # s between two parts of them: a thousand at once would hold up the events
ACKS_AT_ONCE: Final = 10  # at least; a fiftieth of all that wait when that is more
MARKS_KEPT: Final = 10_000  # while Redis cannot be reached
IDS_KEPT: Final = 1_000  # of one person, meanwhile
INTERNAL: Final = 1011  # RFC 6455 7.4.1
CALM_LOOK: Final = 0.05  # s between looks at a line that is not calm
ALIVE_EVERY: Final = 10.0  # s between signs of life of this process


class Client(Protocol):
    """One connection of a person, of whatever kind."""

    session: Session
    issued: int

    def push(self, text: bytes) -> bool:
        """Queue a message; True if nothing was queued before, so that `flush` must be called."""

    def flush(self) -> None:
        """Send what is queued."""

    def calm(self) -> bool:
        """Has the client taken in nearly all that was sent?"""

    def close(self, code: int, reason: str) -> None:
        """End the connection; the session leaves the hub at once."""


class Hub:
    """Sessions by person. `seconds`: how long a sweep takes and a rejoin of all may take."""

    def __init__(
        self, reactor: Any, inbox: Inbox, bus: Bus, metrics: Metrics, shards: int, *,
        page: int = 100, per_user: int = 20, refresh_seconds: float = 30.0, spread_seconds: float = 30.0,
        chance: random.Random | None = None, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.reactor, self.inbox, self.bus, self.metrics, self.shards = reactor, inbox, bus, metrics, shards
        self.wall = wall  # what events are timed by; timers go by the reactor's
        self.page, self.per_user = page, per_user
        self.refresh_seconds, self.spread_seconds = refresh_seconds, spread_seconds
        self.chance = chance or random.Random()
        self.people: dict[str, tuple[Client, ...]] = {}
        self.quiet: frozenset[str] = frozenset()  # people of our own, who are counted nowhere
        self.count = 0
        self._behind: deque[Client] = deque()
        self._paced: deque[Client] = deque()
        self._paced_by = 0.0  # when all of them shall have had their turn
        self._joining = 0
        self._gone: set[str] = set()
        self._marks: dict[tuple[str, str, str, str], Mark] = {}
        self._acks: dict[str, Mark] = {}
        self._calls: dict[Callable[[], None], Any] = {}
        self._round: deque[str] = deque()  # everybody, in the order in which the sweep comes to them
        self._in_round: set[str] = set()
        self._alive_at = 0.0
        self._fault = Every(10.0)
        self._odd = Every(600.0)
        self._unreadable = Every(600.0)
        bus.listen(self.rang, self.subscribed, self.revoked, self.missed)

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
        if user not in self._in_round:
            self._in_round.add(user)
            self._round.append(user)
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
        people, quiet = self.people, self.quiet
        touched: list[Client] = []
        delivered, stale, now = 0, 0, self.wall()
        accepted: dict[int, int] = {}  # when: how many; a batch shares a few moments
        for bell in bells:
            user, seq = bell.user, bell.seq
            here = people.get(user)
            if here is None:
                stale += 1
                continue
            text, notification, sent = self._text(bell), bell.record[1:2] == NOTIFICATION, 0
            for client in here if text else ():
                session = client.session
                if session.state != LIVE:
                    session.keep(bell)
                    continue
                heard = session.hear(bell.birth, bell.run, seq, notification)
                if heard != SEND:
                    self._set_aside(client, heard)
                    continue
                if client.push(text):
                    touched.append(client)
                sent += 1
            if sent and notification and user not in quiet:
                delivered += sent
                moment = bell.accepted
                accepted[moment] = accepted.get(moment, 0) + sent
        for client in touched:
            client.flush()
        for moment, times in accepted.items():
            self.metrics.delivery_seconds.observe(now - moment / 1000, times)
        self.metrics.deliveries += delivered
        self.metrics.bells_stale += stale

    def _text(self, bell: Bell) -> bytes:
        """The message for a bell; empty for one that holds no record. It alone is lost then: at the next change the
        sessions find a gap, or the sweep finds them behind."""
        try:
            return payload.change(bell.seq, bell.record, bell.unread, bell.floor)
        except (IndexError, KeyError, ValueError) as error:
            self.metrics.bells_malformed += 1
            suppressed = self._odd.due()
            if suppressed is not None:
                log.warn(
                    "bell {seq} of {user} holds no record: {error} ({suppressed} more like it)",
                    seq=bell.seq, user=bell.user, error=repr(error), suppressed=suppressed,
                )  # fmt: skip
            return b""

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
            self._paced_by = self.reactor.seconds() + max(1.0, self.spread_seconds - 5)
            self._later(self._pace, 0.0)

    def missed(self, users: Iterable[str]) -> None:
        """Bells of these people may have been lost: they look for themselves."""
        for user in users:
            for client in self.people.get(user, ()):
                client.session.again()
                self._due(client)

    def resume(self, client: Client) -> None:
        """The session wants a join: a new place was named, or acks have made room."""
        self._when_calm(client)

    def _pace(self) -> None:
        """Rejoins of all that a shard has, spread: first come those that are not waiting for their first answer."""
        tick = 0.02
        ticks = max(1.0, (self._paced_by - self.reactor.seconds()) / tick)  # that are left
        for _ in range(min(len(self._paced), ceil(max(REJOINS * tick, len(self._paced) / ticks)))):
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
            if session.user not in self.quiet:
                self.metrics.joins.count(answer.result)
            try:
                for text in session.joined(answer):
                    client.push(text)
                client.flush()
            except Exception:
                # A bug: better a client that comes again than one that waits for ever.
                client.close(INTERNAL, "internal error")
                raise
        if session.state == BEHIND:
            self._when_calm(client)

    def _when_calm(self, client: Client) -> None:
        """More history is read for a client only when it has taken in what there was: a slow line is no fault."""
        if client.calm():
            self._due(client)
        elif self._is_here(client):
            self.reactor.callLater(CALM_LOOK, self._when_calm, client)

    # -- marks

    def mark(self, mark: Mark) -> None:
        """A person's mark, to be written soon: the newest of a kind counts, ids add up."""
        if mark.kind == "ack":
            if not self._acks:  # else a call for them is on its way
                self._later(self._flush_acks, ACK_DELAY)
            self._acks[mark.user] = mark
            return
        self._gather(mark)
        self._later(self._flush_marks, MARK_DELAY)

    def _gather(self, mark: Mark) -> None:
        key = (mark.user, mark.kind, mark.birth, mark.run)
        before = self._marks.get(key)
        if before is not None:
            ids = dict.fromkeys((*before.ids, *mark.ids[: IDS_KEPT - len(before.ids)]))
            mark = Mark(mark.user, mark.kind, mark.birth, mark.run, max(mark.seq, before.seq), tuple(ids))
        elif len(self._marks) >= MARKS_KEPT:
            return
        self._marks[key] = mark

    def _flush_acks(self) -> None:
        part = list(islice(self._acks, max(ACKS_AT_ONCE, len(self._acks) // 50)))
        self.metrics.acks += sum(user not in self.quiet for user in part)
        self.run(self._write([self._acks.pop(user) for user in part], again=False))
        if self._acks:
            self._later(self._flush_acks, ACK_TICK)

    def _flush_marks(self) -> None:
        marks, self._marks = self._marks, {}
        for mark in marks.values():
            self.metrics.marks.count(mark.kind)
        self.run(self._write(list(marks.values()), again=True))

    async def _write(self, marks: list[Mark], again: bool) -> None:
        try:
            await self.inbox.mark(marks)
        except (Unavailable, ReplyError) as error:
            # the whole call was refused (READONLY, MISCONF, LOADING, ...) or not answered
            self._say(error)
            if again:
                for mark in marks:
                    self._gather(mark)
                self._later(self._flush_marks, RETRY)
        except NotMarked as error:
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
        if back := [user for user in users if user in self.people]:
            await self._compare(back)  # they came back meanwhile, and the leave may have overtaken their join

    def _refresh(self) -> None:
        """Every second the next part of all people, so that everybody is looked at once in refresh_seconds."""
        self._later(self._refresh, 1.0)
        part = -(-len(self._in_round) // max(1, int(self.refresh_seconds) - 2))
        users: list[str] = []
        while self._round and len(users) < part:  # who has left takes nobody's turn
            user = self._round.popleft()
            if user in self.people:
                users.append(user)
            else:
                self._in_round.discard(user)
        now = self.reactor.seconds()
        if users or now >= self._alive_at:
            self._alive_at = now + ALIVE_EVERY
            self.run(self._sweep(users))

    async def _sweep(self, users: list[str]) -> None:
        # Whatever else may be wrong may be so because of one of them: they must not stand in everybody's way.
        in_vain = False
        try:
            in_vain = not await self._compare(users)
        finally:
            if in_vain:
                self._round.extendleft(reversed(users))  # they are next again
            else:
                self._round.extend(users)

    async def _compare(self, users: list[str]) -> bool:
        """False when nobody could be asked; a refusal is an answer."""
        try:
            standings = await self.inbox.refresh(users)
        except Unavailable as error:
            self._say(error)
            return False
        except ReplyError as error:
            self._say(error)
            return True
        for user, stands in standings.items():
            self.metrics.refreshes += not stands.fault
            if stands.fault:
                self._say_unreadable(user, stands.fault)
            for client in self.people.get(user, ()):
                if client.issued <= stands.revoked:
                    client.close(REVOKED, "token revoked")
                elif not (stands.fault or client.session.stands(stands.birth, stands.run, stands.seq)):
                    self._due(client)
            if user not in self.people:
                self._gone.add(user)  # closed meanwhile: the refresh has written its presence again
                self._later(self._leave, MARK_DELAY)
        return True

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

    def _say_unreadable(self, user: str, fault: str) -> None:
        self.metrics.inboxes_unreadable += 1
        suppressed = self._unreadable.due()
        if suppressed is not None:
            log.warn(
                "the inbox of {user} cannot be read: {fault} ({suppressed} more like it)",
                user=user, fault=fault, suppressed=suppressed,
            )  # fmt: skip

    def _say(self, error: Exception) -> None:
        suppressed = self._fault.due()
        if suppressed is not None:
            log.warn("inbox: {error} ({suppressed} more like it)", error=str(error), suppressed=suppressed)


def _bug(failure: Failure) -> None:
    log.failure("in the hub", failure)
