"""The corridor: the whole path of an event can be read here, a batch at a time.
    front door -> Router.once -> shards -> Fanout.once -> inboxes, bells
With one shard the front door is the shard, and there is no router."""

from collections.abc import Callable, Mapping

from notifier.core.backlog import NO_EVENT, NOTHING, Backlog, Batch, Entry
from notifier.core.canary import is_canary
from notifier.core.intake import Intake, Rejected
from notifier.core.keys import shard_of
from notifier.metrics import Metrics
from notifier.ports import (
    Claimed,
    Clock,
    EventLog,
    GroupLost,
    Handed,
    LeaseLost,
    Letter,
    Outlet,
    Routed,
    Shards,
    Unburied,
)

READ_AHEAD = 200  # entries a reader asks for at once
FULL = 100  # pairs in hand from which on it does not read more: what waits here for long has left the caches
CHUNK = 100  # people of one event in one shard entry

Report = Callable[[str], None]


class Reader:
    """What a reader of a stream does, whatever it reads for: lease, takeover, claims, a lost group.

    Whoever gets the lease first takes over all that is pending, in id order, and only then reads on: so the order
    of the stream survives kills and pauses.
    """

    def __init__(
        self, log: EventLog, metrics: Metrics, clock: Clock, report: Report, claim_seconds: float
    ) -> None:
        self.log, self.metrics, self.clock, self.report = log, metrics, clock, report
        self.owned = False
        self._claim_every = claim_seconds
        self._claim_at = 0.0

    def holds(self, entry_id: str) -> bool:
        """Is this entry already in hand?"""
        raise NotImplementedError

    def add(self, entries: tuple[Entry, ...]) -> None:
        """Take entries in stream order."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop everything in hand: it will come again, to whoever holds the lease then."""
        raise NotImplementedError

    async def step(self) -> bool:
        """One batch, the lease being held. True when there may be more at once."""
        raise NotImplementedError

    async def once(self) -> bool:
        """One batch. True when there may be more at once; False when it is time to wait."""
        try:
            if not self.owned:
                return await self._take_over()
            if self.clock() >= self._claim_at:
                await self._claim(int(self._claim_every * 1000))
            return await self.step()
        except LeaseLost:
            self.report("lease lost: another process reads this stream now")
            self.metrics.lease_changes += 1
        except GroupLost:
            self.report(
                "consumer group was gone: made again at 0, everything left in the stream comes once more"
            )
            self.metrics.group_recreated += 1
            await self.log.create()
        self.drop()
        return True

    def tally(self, intake: Intake) -> None:
        """What the intake left out on the way is told once, where the event is first read."""
        self.metrics.event_fields_dropped += intake.unknown_fields
        self.metrics.self_recipients += intake.self_recipients
        intake.unknown_fields = intake.self_recipients = 0

    def drop(self) -> None:
        """Something went wrong: hold nothing, and begin with a takeover."""
        self.owned = False
        self.forget()

    async def release(self) -> None:
        """Give the stream to whoever wants it."""
        if self.owned:
            self.drop()
            await self.log.give()

    async def _take_over(self) -> bool:
        self.forget()
        if not await self.log.take():
            return False
        await self._claim(0)
        self.owned = True
        self.metrics.lease_changes += 1
        return True

    async def _claim(self, idle_ms: int) -> None:
        after, first = "", True
        while first or after:
            claimed: Claimed = await self.log.claim(idle_ms, after)
            if claimed.lost:
                self.metrics.entries_lost += len(claimed.lost)
                self.report(
                    f"{len(claimed.lost)} entries were deleted from the stream before they were handled"
                )
            self.add(tuple(entry for entry in claimed.entries if not self.holds(entry.id)))
            after, first = claimed.after, False
        self._claim_at = self.clock() + self._claim_every


class Fanout(Reader):
    """A shard's events into inboxes. While the server works on one batch, the next is decoded and packed here.

    `outlets`: who sends in this process, by lane. They get their pushes with the answer that the rows are written.
    """

    def __init__(
        self,
        log: EventLog,
        backlog: Backlog,
        metrics: Metrics,
        clock: Clock,
        report: Report,
        claim_seconds: float,
        outlets: Mapping[str, Outlet] | None = None,
    ) -> None:
        super().__init__(log, metrics, clock, report, claim_seconds)
        self.backlog = backlog
        self.outlets = outlets or {}
        self._ready: Batch | None = None
        self._fresh: tuple[Entry, ...] = ()

    def holds(self, entry_id: str) -> bool:
        return entry_id in self.backlog

    def add(self, entries: tuple[Entry, ...]) -> None:
        canaries = self.backlog.canaries
        self.backlog.add(entries)
        self.metrics.events_read += len(entries) - (self.backlog.canaries - canaries)
        if entries and not entries[0].source:
            self.tally(self.backlog.intake)

    def forget(self) -> None:
        self._ready, self._fresh = None, ()
        self.backlog.clear()

    async def step(self) -> bool:
        batch = self._ready or self.backlog.next() or NOTHING
        began, rooms = self.clock(), self._rooms(batch)
        try:
            waiting = self.log.handover(batch, 0 if len(self.backlog) > FULL else READ_AHEAD, rooms)
            self._ready = None
            if not self.backlog.stuck:
                fresh, self._fresh = self._fresh, ()
                self.add(fresh)
                self._ready = self.backlog.next()
            handed = await waiting
        except BaseException:  # it may have been done, and what it read for the senders is not known here
            for lane in rooms:
                self.outlets[lane].drop()
            raise
        self._give(handed, began)
        self._settle(batch, handed)
        if len(batch):
            self.metrics.handover_seconds.observe(self.clock() - began)
            self.metrics.batch_size.observe(len(batch))
        if self._ready is None:
            self.add(self._fresh + handed.entries)
            self._fresh = ()
        else:
            self._fresh += handed.entries
        return bool(handed.entries or self._ready or self.backlog)

    def _rooms(self, batch: Batch) -> dict[str, int]:
        if not len(batch):
            return {}
        offers = ((lane, outlet.offer()) for lane, outlet in self.outlets.items())
        return {lane: room for lane, room in offers if room}

    def _give(self, handed: Handed, asked: float) -> None:
        for lane, given in handed.given.items():
            if given is None:
                self.outlets[lane].drop()
            else:
                self.outlets[lane].given(given, asked)

    def _settle(self, batch: Batch, handed: Handed) -> None:
        if handed.failures and self._ready is not None:
            # What goes next depends on what failed.
            self.backlog.undo(self._ready)
            self._ready = None
        settled, metrics = self.backlog.settle(batch, handed.failures), self.metrics
        metrics.events_handed_over += settled.entries
        metrics.events_duplicate += handed.duplicates
        metrics.notifications["notification"] += settled.added
        metrics.notifications["retract"] += settled.retracted
        for reason in settled.buried:
            metrics.dead_letters.count(reason)
        for error in settled.errors:
            metrics.handover_failures += 1
            self.report(f"handover failed: {error}")
        if settled.unburied:
            raise Unburied(settled.unburied)


class Router(Reader):
    """The front door's events to the shards of the people they are for. A crash repeats appends; marks absorb them."""

    def __init__(
        self, log: EventLog, shards: Shards, count: int, intake: Intake,
        metrics: Metrics, clock: Clock, report: Report, claim_seconds: float,
    ) -> None:  # fmt: skip
        super().__init__(log, metrics, clock, report, claim_seconds)
        self.shards, self.count, self.intake = shards, count, intake
        self._todo: list[Entry] = []

    def holds(self, entry_id: str) -> bool:
        return any(entry.id == entry_id for entry in self._todo)

    def add(self, entries: tuple[Entry, ...]) -> None:
        self.metrics.events_read += sum(not is_canary(entry.event) for entry in entries)
        self._todo += entries

    def forget(self) -> None:
        self._todo = []

    async def step(self) -> bool:
        if not self._todo:
            self.add(await self.log.read(READ_AHEAD))
        if not self._todo:
            return False
        chunks: list[Routed] = []
        letters: list[Letter] = []
        todo = self._todo[:READ_AHEAD]
        for entry in todo:
            try:
                self._route(entry, chunks, letters)
            except Exception as error:  # a bug of ours must not stop everybody behind this entry
                detail = f"{type(error).__name__}: {error}"[:500]
                letters.append(Letter("bug", detail, entry.id, entry.id, entry.event or entry.as_raw()))
        self.tally(self.intake)
        await self.shards.append(chunks)
        await self.log.acknowledge([entry.id for entry in todo], letters)
        del self._todo[: len(todo)]
        for letter in letters:
            self.metrics.dead_letters.count(letter.reason)
        return True

    def _route(self, entry: Entry, chunks: list[Routed], letters: list[Letter]) -> None:
        if entry.event is None:
            letters.append(Letter("no_event", NO_EVENT, entry.id, entry.id, entry.as_raw()))
            return
        event = self.intake.decode(entry.event, entry.id)
        if isinstance(event, Rejected):
            if is_canary(entry.event):
                return  # who sent it misses it, and says so
            letters.append(Letter(event.reason, event.detail, entry.id, entry.id, entry.event))
            return
        people: dict[int, list[str]] = {}
        for user in event.to:
            people.setdefault(shard_of(user, self.count), []).append(user)
        for shard, users in people.items():
            for at in range(0, len(users), CHUNK):
                chunk = Routed(shard, entry.id, tuple(users[at : at + CHUNK]), entry.event)
                chunks.append(chunk)
