"""The way out to phones, a batch at a time; the corridor behind handover.
lane -> Sender.once -> provider, settled as done | later | forgotten | buried       later -> Due.once -> lane"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, get_args

import msgspec
from msgspec import Struct

from notifier.core import inbox, lanes, outcomes
from notifier.core.devices import device_id
from notifier.core.gate import Gate, Moment
from notifier.core.lanes import Lane, PushEntry
from notifier.core.model import Delivery, Notification, Outcome, OutcomeKind
from notifier.core.push import Push, Style, compose, notification
from notifier.core.text import LANGUAGES, Language, language
from notifier.metrics import Metrics
from notifier.ports import (
    Clock,
    Devices,
    DueLog,
    GroupLost,
    Judged,
    Look,
    Looked,
    Provider,
    PushesRead,
    PushLog,
    PushRequest,
    Settlement,
)

BATCH: Final = 100  # entries that are looked at, sent and settled together
REDIS: Final = 10.0  # s that a batch may spend with Redis besides
SETTLE_TRIES: Final = 3
LOOK_TRIES: Final = 3
DEPTH_EVERY: Final = 5.0
BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}

Report = Callable[[str], None]
Chance = Callable[[], float]


class Looks(Struct, frozen=True):
    """How notifications look on phones: styles by kind, words by language."""

    styles: Mapping[str, Style] = {}
    languages: Mapping[str, Language] = msgspec.field(default_factory=lambda: LANGUAGES)


class _Plan:
    """What is to become of one entry: `results` are known already, `asked` is still to be sent."""

    __slots__ = ("asked", "buried", "detail", "looked", "results")

    def __init__(self, looked: Looked) -> None:
        self.looked = looked
        self.results: list[Judged] = []
        self.asked: list[PushRequest] = []
        self.buried = self.detail = ""

    def settlement(self, run: str) -> "_Unsettled":
        looked = self.looked
        drop = None if self.buried else lanes.dropped(looked.row, bool(looked.devices))
        settlement = Settlement(
            looked.entry, run, tuple(self.results), looked.strangers, self.buried, self.detail
        )
        return _Unsettled(settlement, drop)


class _Unsettled(Struct):
    """What is still to be written down, how often that failed, and why nothing was sent, if nothing had to be."""

    settlement: Settlement
    drop: lanes.Drop | None
    tries: int = 0


class Sender:
    """One lane on one shard. Several loops may drive `once` at the same time: so many batches are in flight.

    Any process reads any lane; an entry belongs to one of them until it is settled, or idle for too long. All that
    waits longer than one send waits in `due`, never here.
    """

    owned = True  # lanes have no lease

    def __init__(
        self, log: PushLog, lane: Lane, gate: Gate, provider: Provider, devices: Devices, looks: Looks,
        metrics: Metrics, clock: Clock, chance: Chance, report: Report, claim_seconds: float = 15.0,
    ) -> None:  # fmt: skip
        self.log, self.lane, self.gate, self.provider = log, lane, gate, provider
        self.devices, self.looks = devices, looks
        self.metrics, self.clock, self.chance, self.report = metrics, clock, chance, report
        # Whoever still has an entry at hand after twice the longest batch has died, or hangs.
        self._idle_ms = int(2000 * (provider.longest + REDIS))
        self._claim_every = claim_seconds
        self._claim_at, self._claim_from = 0.0, ""
        self._begun = False
        self._history: str | None = (
            ""  # where to go on in what was given to us before; None = nothing is left
        )
        self._hand: set[str] = set()
        self._unsettled: list[_Unsettled] = []
        self._again: list[PushEntry] = []
        self._broken: dict[str, int] = {}  # how often what stands behind an entry could not be read
        self._depth_at = 0.0

    # -- what a loop asks for

    async def once(self) -> bool:
        """One batch, from the stream to its settlement. True when there may be more at once."""
        try:
            await self._tell_depth()
            if self._unsettled:
                await self._settle_again()
                return True
            return await self._batch()
        except GroupLost:
            self.report(f"lane {self.lane}: consumer group was gone, made again at 0")
            self.metrics.group_recreated += 1
            self._begun, self._history = False, ""
            return True

    def drop(self) -> None:
        """Something went wrong: an answer may be lost, and with it what we were given."""
        self._history = ""

    async def release(self) -> None:
        """Nothing to give back: what is pending here is taken over by others in time."""

    # -- a batch

    async def _batch(self) -> bool:
        state = self.gate.state(self.clock())
        self._tell_state()
        want = self.gate.room(self.clock(), BATCH)
        if not want:
            return False
        trying = state == "half_open"
        self.gate.trying += trying
        try:
            entries, more = await self._take(want)
            if entries:
                if more:
                    self.log.ring()
                await self._handle(entries)
            return more or bool(entries)
        finally:
            self.gate.trying -= trying
            self._tell_state()

    async def _take(self, want: int) -> tuple[list[PushEntry], bool]:
        """Entries to work on, now in hand, and whether there may be more."""
        if self._again:
            entries, self._again = self._again[:want], self._again[want:]
            return entries, bool(self._again)  # never left our hand
        if not self._begun:
            await self.log.create()
            self._begun = True
        if self._history is not None:
            after, self._history = self._history, None  # of several loops one reads it
            try:
                read = await self.log.history(want, after)
            except BaseException:
                self._history = after
                raise
            if read.after:
                self._history = read.after
                return await self._received(read), True
        if self.clock() >= self._claim_at:
            read = await self._claim(want)
            if read.entries or read.after:
                return await self._received(read), True
        read = await self.log.read(want)
        entries = await self._received(read)
        return entries, len(read.entries) + len(read.broken) == want

    async def _claim(self, want: int) -> PushesRead:
        at, self._claim_at = self._claim_at, self.clock() + self._claim_every
        read = await self.log.claim(self._idle_ms, want, self._claim_from)
        self._claim_from = read.after
        if read.after:
            self._claim_at = at
        return read

    async def _received(self, read: PushesRead) -> list[PushEntry]:
        if read.lost:
            self.metrics.entries_lost += len(read.lost)
            self.report(f"lane {self.lane}: {len(read.lost)} entries were deleted before they were handled")
        fresh = [entry for entry in read.entries if entry.id not in self._hand]
        self._hand.update(entry.id for entry in fresh)
        try:
            if read.broken:
                await self.log.bury(read.broken)
                self.metrics.dead_letters.count("unreadable", len(read.broken))
        except BaseException:
            # Nobody works on them: the next reading of what is ours must not pass them over.
            self._hand.difference_update(entry.id for entry in fresh)
            raise
        self.metrics.push_entries[self.lane.label] += len(fresh)
        return fresh

    async def _handle(self, entries: Sequence[PushEntry]) -> None:
        """Look, send, settle. What does not get so far is out of hand again, and still pending."""
        began = self.clock()
        kept: set[str] = set()
        try:
            look = await self.log.look(entries)
            found = [looked for looked in look.found if not self._is_left(looked, kept)]
            plans = [self._plan(looked, self._moment(look, began)) for looked in found]
            await self._send(plans, look, began)
            kept |= await self._settle([plan.settlement(look.run) for plan in plans])
        finally:
            self._hand.difference_update({entry.id for entry in entries} - kept)
            self._hand.update(one.settlement.entry.id for one in self._unsettled)
        self.metrics.push_batch_seconds.observe(self.clock() - began)

    def _is_left(self, looked: Looked, kept: set[str]) -> bool:
        """Whether this is not the last look at something broken. The second one follows at once, for what failed in
        passing; for the third the entry stays pending, and is claimed once it has been idle."""
        entry, row = looked.entry, looked.row
        tries = self._broken.pop(entry.id, 0) + 1
        if row.standing != "broken" or tries >= LOOK_TRIES:
            return False
        self._broken[entry.id] = tries
        if tries == 1:
            self._again.append(entry)
            kept.add(entry.id)
        else:
            self.report(f"lane {self.lane}: entry {entry.id} cannot be sent: {row.record}")
        return True

    def _moment(self, look: Look, looked_at: float) -> Moment:
        """Now: on our clock, and on the server's, by which what is due is woken."""
        steady = self.clock()
        return Moment(steady, look.now + int((steady - looked_at) * 1000))

    # -- what to send

    def _plan(self, looked: Looked, now: Moment) -> _Plan:
        plan = _Plan(looked)
        why = lanes.buried(looked.row, looked.entry.deadline, now.ms)
        if why is not None:
            plan.buried, plan.detail = why
        elif looked.row.standing == "row":
            try:
                self._ask(plan, now)
            except Exception as error:  # a bug of ours must not stop everybody behind this entry
                self.metrics.push_bugs += 1
                plan = _Plan(looked)
                plan.buried, plan.detail = "bug", f"{type(error).__name__}: {error}"[:500]
        return plan

    def _ask(self, plan: _Plan, now: Moment) -> None:
        """What to ask the provider for, and what is held back."""
        looked = plan.looked
        try:
            told = self._told(looked)
        except ValueError as error:
            plan.buried, plan.detail = "unreadable", f"the row in the inbox: {error}"[:500]
            return
        pushes: dict[str, Push] = {}
        for device in looked.devices:
            delivery = looked.entry.delivery(device, looked.row.seq)
            push = pushes.get(device.locale)
            if push is None:
                push = pushes[device.locale] = self._compose(told, looked, device.locale)
            held = self.gate.hold(delivery, now, self.chance())
            if held is None:
                plan.asked.append(PushRequest(delivery, push))
            else:
                plan.results.append(Judged(delivery, held))

    def _told(self, looked: Looked) -> Notification:
        row = looked.row
        return notification(inbox.parse(row.record), row.epoch, row.seq)

    def _compose(self, told: Notification, looked: Looked, locale: str) -> Push:
        style = self.looks.styles.get(told.kind, Style())
        words = language(locale, self.looks.languages)
        return compose(told, style, words, looked.row.unread, looked.entry.deadline)

    async def _send(self, plans: Sequence[_Plan], look: Look, looked_at: float) -> None:
        requests = [request for plan in plans for request in plan.asked]
        if not requests:
            return
        sent = self._moment(look, looked_at)
        answers = iter(await self._answers(requests))
        now = self._moment(look, looked_at)
        for plan in plans:
            for request in plan.asked:
                outcome = next(answers)
                verdict = self.gate.judge(request.delivery, outcome, sent, now, self.chance())
                plan.results.append(Judged(request.delivery, verdict, outcomes.label(outcome)))
                self._count_answer(plan.looked.entry, outcome, now)
                if outcome.replacement_token:
                    await self._rename(request.delivery, outcome.replacement_token)

    async def _rename(self, delivery: Delivery, token: str) -> None:
        """The provider knows this device by another token now (gateways that speak the older JSON say so).

        Its time stays that of the old one: whoever has registered the new token since has the phone now, and keeps it.
        """
        old = delivery.device
        renamed = msgspec.structs.replace(old, id=device_id(token), token=token)
        try:
            if await self.devices.restore(delivery.user, renamed):
                await self.devices.unregister(delivery.user, old.id)
        except Exception as error:  # the old token still works; what was sent must not be sent again for this
            self.report(f"lane {self.lane}: a device could not be renamed: {type(error).__name__}: {error}")

    async def _answers(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        try:
            answers = await self.provider.send(requests)
            if len(answers) == len(requests):
                return answers
            fault = f"{len(answers)} answers to {len(requests)} requests"
        except Exception as error:  # a bug: these are tried again like any other, and the lane goes on
            fault = f"{type(error).__name__}: {error}"
        self.metrics.push_bugs += 1
        self.report(f"lane {self.lane}: sending failed by a bug: {fault}")
        return [outcomes.unanswered(self.lane.provider, "lost")] * len(requests)

    # -- what became of it

    async def _settle(self, batch: Sequence[_Unsettled]) -> set[str]:
        """Settle; the ids that stay in hand: those to be looked at again, and those whose settlement failed."""
        try:
            states = (await self.log.settle([one.settlement for one in batch])).states
        except Exception:
            # What was sent is not forgotten for that: it is settled as soon as Redis is back.
            self._unsettled += batch
            raise
        kept: set[str] = set()
        for one, state in zip(batch, states, strict=True):
            entry = one.settlement.entry
            if state == "done":
                self._count_done(one)
            elif state == "again":
                self._again.append(entry)
                kept.add(entry.id)
            elif state != "gone" and self._is_kept(one, state):
                kept.add(entry.id)
        return kept

    def _is_kept(self, one: _Unsettled, error: str) -> bool:
        one.tries += 1
        self.metrics.push_settle_failures += 1
        self.report(f"lane {self.lane}: entry {one.settlement.entry.id} was not settled: {error}")
        if one.tries >= SETTLE_TRIES:
            return False  # it stays pending, and is claimed once more when it has been idle
        self._unsettled.append(one)
        return True

    async def _settle_again(self) -> None:
        batch, self._unsettled = self._unsettled, []
        kept = await self._settle(batch)
        self._hand.difference_update({one.settlement.entry.id for one in batch} - kept)

    # -- what is told

    def _count_answer(self, entry: PushEntry, outcome: Outcome, now: Moment) -> None:
        metrics = self.metrics
        metrics.push_outcomes[f"{self.lane.label} {outcome.kind}"] += 1
        if outcome.kind == "delivered":
            if not entry.tries:
                metrics.push_seconds.observe((now.ms - entry.queued) / 1000)
        else:
            metrics.push_reasons.count(f"{outcome.provider} {outcomes.label(outcome)}")

    def _count_done(self, one: _Unsettled) -> None:
        metrics, label, settlement = self.metrics, self.lane.label, one.settlement
        metrics.push_strangers += len(settlement.strangers)
        if one.drop is not None:
            metrics.push_drops[f"{label} {one.drop}"] += 1
        if settlement.buried:
            metrics.dead_letters.count(settlement.buried)
        for judged in settlement.results:
            verdict = judged.verdict
            if verdict.kind == "later":
                metrics.push_retries[label] += 1
            elif verdict.kind == "forget":
                metrics.push_forgotten[label] += 1
            elif verdict.kind == "bury":
                metrics.dead_letters.count(verdict.reason)

    def _tell_state(self) -> None:
        now, label = self.clock(), self.lane.label
        self.metrics.push_breaker[label] = BREAKER[self.gate.state(now)]
        self.metrics.push_suspended[label] = self.gate.suspended(now)

    async def _tell_depth(self) -> None:
        now = self.clock()
        if now < self._depth_at:
            return
        self._depth_at = now + DEPTH_EVERY
        depth = await self.log.depth()
        self.gate.depths[id(self)] = depth.entries
        self.metrics.push_backlog[self.lane.label] = sum(self.gate.depths.values())


class Due:
    """What is to be sent later on one shard, back to its lane when the time has come. Any process does it."""

    owned = True

    def __init__(self, log: DueLog, metrics: Metrics) -> None:
        self._due, self.metrics = log, metrics
        self._left = 0

    @property
    def log(self) -> "Due":
        return self

    async def once(self) -> bool:
        """One part. True when there may be more at once."""
        woken = await self._due.wake()
        self._left = woken.left
        self.metrics.push_woken += woken.moved
        return woken.moved > 0

    async def wait(self, seconds: float) -> None:
        """So long while something is to come due, else a second."""
        await self._due.wait(seconds if self._left else max(seconds, 1.0))

    def drop(self) -> None:
        """Nothing is in hand."""

    async def release(self) -> None:
        """Nothing to give back."""


def labels(known: Iterable[Lane]) -> dict[str, tuple[str, ...]]:
    """What Metrics must be told of the lanes, and of what may happen on them."""
    found = sorted(known)
    names = tuple(lane.label for lane in found)
    kinds: tuple[OutcomeKind, ...] = get_args(OutcomeKind)
    words = {(wire, reason) for wire, table in outcomes.TABLES.items() for _, reason in table if reason}
    words |= {(wire, reason) for wire in outcomes.TABLES for reason in outcomes.OURS}
    return {
        "push_entries": names,
        "push_outcomes": tuple(f"{name} {kind}" for name in names for kind in kinds),
        "push_reasons": tuple(f"{wire} {reason}" for wire, reason in sorted(words)),
        "push_drops": tuple(f"{name} {reason}" for name in names for reason in lanes.DROPS),
        "push_retries": names,
        "push_forgotten": names,
        "push_backlog": names,
        "push_breaker": names,
        "push_suspended": names,
        "push_certificate_expires": tuple(lane.app for lane in found if lane.provider == "apns"),
    }
