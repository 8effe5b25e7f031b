"""The way out to phones, a batch at a time; the corridor behind handover.
lane -> Sender.once -> provider, settled as done | later | forgotten | buried       later -> Due.once -> lane"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, get_args

import msgspec
from msgspec import Struct

from notifier.core import inbox, lanes, outcomes
from notifier.core.devices import device_id
from notifier.core.gate import ENVIRONMENTS, Gate, Moment
from notifier.core.lanes import Lane, PushEntry
from notifier.core.model import Delivery, Device, Environment, Notification, Outcome, OutcomeKind, Verdict
from notifier.core.push import Push, Style, compose, notification
from notifier.core.retry import DONE, postponed
from notifier.core.text import LANGUAGES, Language, language
from notifier.ledger import Ledger, Unsettled
from notifier.metrics import CONNECTION_EVENTS, Metrics
from notifier.ports import (
    FRESH,
    Clock,
    Devices,
    DueLog,
    Given,
    GroupLost,
    Judged,
    Look,
    Looked,
    Provider,
    PushesRead,
    PushLog,
    PushRequest,
    Rename,
    Seen,
    Settlement,
    Unavailable,
)

BATCH: Final = 100  # entries that are looked at, sent and settled together
REDIS: Final = 10.0  # s that a batch may spend with Redis besides
LOOK_TRIES: Final = 3
MOST_GIFTS: Final = 40  # batches that handovers have brought and nobody has begun with
GIFTS_LIE: Final = (
    0.5  # s for which one may lie so until nothing more is taken: other processes may have time for it
)
MOST_BROKEN: Final = 10_000  # entries whose tries are counted
BUG_PAUSE: Final = 60_000  # ms until what met a bug is tried again
MOST_UNSETTLED: Final = 1000  # answered and not written down; with so many nothing more is read
OTHERS_FIRST: Final = 10.0  # s after Redis was away without taking anything over: its holder was cut off too
KEEP_PAGE: Final = 200
RENAMING: Final = (
    REDIS / 2
)  # s that the renames of a batch are waited for, or it would be taken over meanwhile
RENAMES: Final = 3  # of one device that are followed, while a push for it waits
DEPTH_EVERY: Final = 5.0
TIDY_EVERY: Final = 60.0
NEWER: Final = 60_000  # ms until another process may have come by that is new enough for a device
_KINDS: Final[tuple[OutcomeKind, ...]] = get_args(OutcomeKind)
BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}

_PLAIN: Final = Style()

Report = Callable[[str], None]
Chance = Callable[[], float]


class TooOld(Unavailable):
    """What was seen of entries is too old to send by."""


class Looks(Struct, frozen=True):
    """How notifications look on phones: styles by kind, words by language."""

    styles: Mapping[str, Style] = {}
    languages: Mapping[str, Language] = msgspec.field(default_factory=lambda: LANGUAGES)


class _Taken(NamedTuple):
    """Entries to work on, now in hand, and whether there may be more in the lane. `seen`: what is known of some, and
    `asked`: when that was asked for."""

    entries: Sequence[PushEntry]
    more: bool = False
    seen: Seen | None = None
    asked: float | None = None


class _Gift(Struct, frozen=True):
    """A batch that a handover has brought: `entries` are in our hands since `since`; what was `seen` was asked for at
    `asked`. `read`: what was read with them."""

    read: PushesRead
    seen: Seen
    entries: Sequence[PushEntry]
    asked: float
    since: float


NOTHING_READ: Final = PushesRead(())


class _Plan(Struct):
    """What is to become of one entry: `results` are known already, `asked` is still to be sent."""

    looked: Looked
    results: list[Judged] = []
    asked: list[PushRequest] = []
    buried: str = ""
    detail: str = ""

    def settlement(self, run: str) -> Unsettled:
        looked = self.looked
        # Where anything has become of devices there was a row to tell of, and somebody to tell.
        drop = None if self.results or self.buried else lanes.dropped(looked.row, looked.has_devices)
        settlement = Settlement(
            looked.entry, run, tuple(self.results), looked.strangers, self.buried, self.detail
        )
        return Unsettled(settlement, drop)


class Sender:
    """One lane on one shard. Several loops may drive `once` at the same time: so many batches are in flight.

    Any process reads any lane; an entry belongs to one of them until it is settled, or idle for too long. All that
    waits longer than one send waits in `due`, never here.

    While all is well it need not read: the handover of its own process brings the entries, and what it saw behind them
    (ports.Outlet). That comes over another connection, so it may overtake, and be overtaken by, a reading of what was
    given before; then it is left to that reading, or an entry that is settled already might be sent once more.
    """

    owned = True  # lanes have no lease

    def __init__(
        self, log: PushLog, lane: Lane, gate: Gate, provider: Provider, devices: Devices, looks: Looks,
        metrics: Metrics, clock: Clock, chance: Chance, report: Report, claim_seconds: float = 15.0,
    ) -> None:  # fmt: skip
        self.log, self.lane, self.gate, self.provider = log, lane, gate, provider
        self.devices, self.looks = devices, looks
        self.metrics, self.clock, self.chance, self.report = metrics, clock, chance, report
        self._claim_every = claim_seconds
        self._claim_at, self._claim_from = 0.0, ""
        self._begun = False
        self._history: str | None = (
            ""  # where to go on in what was given to us before; None = nothing is left
        )
        self._labels = {kind: f"{lane.label} {kind}" for kind in _KINDS}
        self._readings = 0  # of it, under way
        self._drops = 0  # how often it was begun anew
        self._offered = 0  # what that was when a handover was last offered room
        self._gifts: deque[_Gift] = deque()
        self._behind = True  # there may be more in the lane than was read, of which no handover knows
        self._halted = False
        self._hand: set[str] = set()
        self._unsettled = Ledger()
        self._keep_at = 0.0
        self._again: dict[str, tuple[PushEntry, float]] = {}  # with when it came into our hands
        self._most = BATCH  # entries of one look, fewer while Redis is slow
        self._broken: dict[str, int] = {}  # how often what stands behind an entry could not be read
        self._depth_at = 0.0

    @property
    def _idle_ms(self) -> int:
        """Whoever still has an entry at hand after twice the longest batch has died, or hangs."""
        return int(2000 * (self.provider.longest + REDIS))

    # -- what a loop asks for

    async def once(self) -> bool:
        """One batch, from the stream to its settlement. True when there may be more at once."""
        try:
            await self._tell_depth()
            await self._settle_again(self.clock())
            await self._keep_unsettled()
            if len(self._unsettled) >= MOST_UNSETTLED:
                return False
            return await self._batch()
        except GroupLost:
            self.report(f"lane {self.lane}: consumer group was gone, made again at 0")
            self.metrics.group_recreated += 1
            self._begun = False
            self.drop()
            return True
        except TooOld:
            raise
        except Unavailable:
            self._claim_at = max(self._claim_at, self.clock() + OTHERS_FIRST)
            raise

    def drop(self) -> None:
        """Something went wrong: an answer may be lost, and with it what we were given. All that nobody works on is read
        once more."""
        self._history = ""
        self._drops += 1
        while self._gifts:
            self._hand.difference_update(entry.id for entry in self._gifts.popleft().entries)

    def halt(self) -> None:
        """Take nothing more from handovers."""
        self._halted = True

    async def release(self) -> None:
        """What is answered is written down, if it can be, and what a handover has brought is not left lying; what else
        is pending is taken over by others in time."""
        await self._settle_again(float("inf"))
        while self._gifts:
            taken = await self._take_gift(BATCH)
            if taken.entries:
                await self._handle(taken)
        await self._settle_again(float("inf"))

    # -- what a handover brings (ports.Outlet)

    def offer(self) -> int:
        """How many entries we take from the next handover: none unless there is nothing else to be done first."""
        self._offered = self._drops
        first = self._again or self._readings or self._history is not None or self._behind
        if first or self._halted or self._most < BATCH:
            return 0
        now = self.clock()
        slow = self._gifts and (len(self._gifts) >= MOST_GIFTS or now > self._gifts[0].since + GIFTS_LIE)
        if slow or now >= self._claim_at or len(self._unsettled) + BATCH > MOST_UNSETTLED:
            return 0
        return 2 * BATCH if self.gate.healthy(now) else 0

    def given(self, given: Given, asked: float) -> None:
        """What a handover that began at `asked` has read for us: at once in our hands, then for one of the loops."""
        if self._drops != self._offered:
            self.drop()  # what we had before is being read anew, and this was in it, or came too late for that
            self.log.ring()  # nobody else has, for it was given to us
            return
        entries, now = self._in_hand(given.read), self.clock()
        self._behind = given.more
        for at in range(0, max(1, len(entries)), BATCH):
            read = given.read if at == 0 else NOTHING_READ
            self._gifts.append(_Gift(read, given.seen, entries[at : at + BATCH], asked, now))
            self.log.ring()

    # -- a batch

    async def _batch(self) -> bool:
        room, read = self.gate.room(self.clock(), self._most), 0
        self._tell_state()
        if not room.entries:
            return False
        try:
            taken = await self._take(room.entries)
            read = len(taken.entries)
            if taken.entries:
                if taken.more:
                    self.log.ring()
                await self._handle(taken)
            # What was appended meanwhile has rung for us; what could not be written down is tried again at once.
            waits = bool(self._again or self._gifts)
            return taken.more or waits or bool(taken.entries and self._unsettled)
        finally:
            if room.trying:
                self.gate.tried(read)
            self._tell_state()

    async def _take(self, want: int) -> _Taken:
        if self._again:
            return await self._take_again(want)
        if not self._begun:
            await self.log.create()
            self._begun = True
            self._claim_at = max(self._claim_at, self.clock() + OTHERS_FIRST)  # Redis may have just come back
        if self._history is not None:
            read = await self._read_history(want, self._history)
            if read.after:
                return _Taken(await self._received(read), True)
        if self._gifts:  # before a claim, which would make them younger for Redis than they are for us
            return await self._take_gift(want)
        if self.clock() >= self._claim_at:
            read = await self._claim(want)
            if read.entries or read.after:
                return _Taken(await self._received(read), True)
        read = await self.log.read(want)
        self._behind = len(read.entries) + len(read.broken) + read.newer >= want
        return _Taken(await self._received(read), self._behind)

    async def _read_history(self, want: int, after: str) -> PushesRead:
        self._history = None  # of several loops one reads it
        self._readings += 1
        try:
            read = await self.log.history(want, after)
        except BaseException:
            self._history = after
            raise
        finally:
            self._readings -= 1
        if self._history is None:  # else another loop has dropped what it had: from the first on
            self._history = read.after or None
        return read

    async def _take_gift(self, want: int) -> _Taken:
        """What a handover has brought. What it saw goes stale; then it is like anything that has lain in our hands."""
        gift = self._gifts.popleft()
        entries = await self._accepted(gift.read, gift.entries)
        if len(entries) <= want and self.clock() - gift.asked < FRESH / 2:
            return _Taken(entries, self._behind, gift.seen, gift.asked)
        self._again.update((entry.id, (entry, gift.since)) for entry in entries)
        return await self._take_again(want)

    async def _take_again(self, want: int) -> _Taken:
        """Of what never left our hands that which is ours still: with the lane closed it may have lain for long, and
        whoever lies long is taken for dead."""
        part = dict(islice(self._again.items(), want))
        for entry in part:
            del self._again[entry]
        now, mine = self.clock(), frozenset[str]()
        try:
            mine = await self.log.keep({name: int((now - since) * 1000) for name, (_, since) in part.items()})
        finally:
            self._hand.difference_update(part.keys() - mine)
        return _Taken([entry for name, (entry, _) in part.items() if name in mine], True)

    async def _claim(self, want: int) -> PushesRead:
        at, self._claim_at = self._claim_at, self.clock() + self._claim_every
        read = await self.log.claim(self._idle_ms, want, self._claim_from)
        self._claim_from = read.after
        if read.after:
            self._claim_at = at
        return read

    async def _received(self, read: PushesRead) -> Sequence[PushEntry]:
        if read.lost:
            self.metrics.entries_lost += len(read.lost)
            self.report(f"lane {self.lane}: {len(read.lost)} entries were deleted before they were handled")
        return await self._accepted(read, self._in_hand(read))

    def _in_hand(self, read: PushesRead) -> Sequence[PushEntry]:
        """Those of what was read that are new to us, from now on in our hands."""
        now = self.clock()
        for entry in read.entries:
            if entry.id in self._again:  # given to us once more: its idle time begins anew
                self._again[entry.id] = (entry, now)
        fresh = [entry for entry in read.entries if entry.id not in self._hand]
        self._hand.update(entry.id for entry in fresh)
        return fresh

    async def _accepted(self, read: PushesRead, fresh: Sequence[PushEntry]) -> Sequence[PushEntry]:
        """Entries that are in our hands, once those that came with them and cannot be read are buried."""
        try:
            if read.broken:
                await self._bury(read.broken)
        except BaseException:
            # Nobody works on them: the next reading of what is ours must not pass them over.
            self._hand.difference_update(entry.id for entry in fresh)
            raise
        self.metrics.push_entries[self.lane.label] += len(fresh)
        self.metrics.push_newer += read.newer
        return fresh

    async def _handle(self, taken: _Taken) -> None:
        """Look, send, settle. What does not get so far is out of hand again, and still pending."""
        entries, began = taken.entries, self.clock()
        asked = began if taken.asked is None else taken.asked
        try:
            look = await self._look(entries, taken.seen, asked)
            found: Sequence[Looked] = look.found
            if self._broken or any(looked.row.standing == "broken" for looked in found):
                found = [looked for looked in found if not self._is_left(looked, began)]
            now = self._moment(look, asked)
            clear = self.gate.clear()
            plans = [self._plan(looked, now, clear) for looked in found]
            self.gate.let_through(clear, now.steady)
            await self._send(plans, look, asked)
            await self._settle([plan.settlement(look.run) for plan in plans])
        finally:
            self._let_go(entry.id for entry in entries)
        self.metrics.push_batch_seconds.observe(self.clock() - began)

    async def _look(self, entries: Sequence[PushEntry], seen: Seen | None, began: float) -> Look:
        """What stands behind entries. Raises TooOld: Redis was slow, or this process was stopped, and the entries may
        be another's now, the devices too."""
        look = await self.log.look(entries, seen)
        if self.lane.provider == "fcm" and any(map(self._may_be_renamed, look.found)):
            found = [await self._followed(looked) for looked in look.found]
            look = msgspec.structs.replace(look, found=tuple(found))
        took = self.clock() - began
        if took > FRESH:
            self._most = max(1, len(entries) // 2)
            raise TooOld(f"looking behind {len(entries)} pushes took {took:.1f} s; they are looked at again")
        self._most = min(BATCH, 2 * self._most)
        return look

    def _may_be_renamed(self, looked: Looked) -> bool:
        """A retry names its device, and its device is not there: a gateway of FCM may have renamed it meanwhile."""
        named = looked.entry.device and looked.row.standing == "row"
        return bool(named) and not (looked.devices or looked.strangers or looked.newer or looked.damaged)

    async def _followed(self, looked: Looked) -> Looked:
        """What stands behind an entry under the name that its device has now."""
        for _ in range(RENAMES):
            if not self._may_be_renamed(looked):
                break
            entry = looked.entry
            now = await self.devices.renamed(entry.user, entry.device)
            if not now:
                break
            looked = (await self.log.look([msgspec.structs.replace(entry, device=now)])).found[0]
        return looked

    def _let_go(self, entries: Iterable[str]) -> None:
        """Out of hand, but for what is to be looked at again or settled."""
        if self._again or self._unsettled:
            entries = [
                entry for entry in entries if entry not in self._again and entry not in self._unsettled
            ]
        self._hand.difference_update(entries)

    def _is_left(self, looked: Looked, now: float) -> bool:
        """Whether this is not the last look at something broken. The second one follows at once, for what failed in
        passing; for the third the entry stays pending, and is claimed once it has been idle."""
        entry, row = looked.entry, looked.row
        tries = self._broken.pop(entry.id, 0) + 1
        if row.standing != "broken" or tries >= LOOK_TRIES:
            return False
        if len(self._broken) >= MOST_BROKEN:
            self._broken.clear()  # what is broken for ever is counted anew, and buried a little later
        self._broken[entry.id] = tries
        if tries == 1:
            self._again[entry.id] = (entry, now)
        else:
            self.report(f"lane {self.lane}: entry {entry.id} cannot be sent: {row.record}")
        return True

    def _moment(self, look: Look, looked_at: float) -> Moment:
        """Now: on our clock, and on the server's, by which what is due is woken."""
        steady = self.clock()
        return Moment(steady, look.now + int((steady - looked_at) * 1000))

    # -- what to send

    def _plan(self, looked: Looked, now: Moment, clear: dict[Environment, int]) -> _Plan:
        plan = _Plan(looked)
        why = lanes.buried(looked.row, looked.entry.deadline, now.ms, looked.has_devices)
        if why is not None:
            plan.buried, plan.detail = why
        elif looked.row.standing == "row":
            try:
                self._ask(plan, now, clear)
            except Exception as error:  # a bug of ours must not stop everybody behind this entry
                self.metrics.push_bugs += 1
                plan = _Plan(looked)
                plan.buried, plan.detail = "bug", f"{type(error).__name__}: {error}"[:500]
        return plan

    def _ask(self, plan: _Plan, now: Moment, clear: dict[Environment, int]) -> None:
        """What to ask the provider for, and what is held back."""
        looked = plan.looked
        entry, row = looked.entry, looked.row
        try:
            told = row.told or notification(inbox.parse(row.record), row.epoch, row.seq)
        except ValueError as error:
            plan.buried, plan.detail = "unreadable", f"the row in the inbox: {error}"[:500]
            return
        first = not (entry.tries or entry.doubts)
        pushes: dict[str, Push] = {}
        for device in looked.devices:
            delivery = entry.delivery(device, row.seq)
            push = pushes.get(device.locale)
            if push is None:
                push = pushes[device.locale] = self._compose(told, looked, device.locale)
            if first and device.environment in clear:  # nearly always
                clear[device.environment] += 1
                plan.asked.append(PushRequest(delivery, push))
                continue
            self.gate.let_through(clear, now.steady)  # each in its turn
            held = self.gate.hold(delivery, now, self.chance())
            if held is None:
                plan.asked.append(PushRequest(delivery, push))
            else:
                plan.results.append(Judged(delivery, held))
        if looked.newer or looked.damaged:
            self._leave(plan, now)

    def _leave(self, plan: _Plan, now: Moment) -> None:
        """Devices that only a newer process can read wait until one comes by; a deadline ends that too. One that nobody
        can read gets nothing, which is told in the dead letters."""
        looked = plan.looked
        for device in looked.newer:
            delivery = looked.entry.delivery(device, looked.row.seq)
            why = "no process of a version that can read this device has come by until the deadline"
            plan.results.append(Judged(delivery, postponed(delivery, now.ms + NEWER, "expired", why)))
        self.metrics.push_newer += len(looked.newer)
        self.metrics.devices_unreadable += len(looked.damaged)
        for name in looked.damaged:
            device = Device(name, self.lane.provider, self.lane.app, "", 0)
            told = Verdict("bury", reason="unreadable", detail="what is stored of this device is damaged")
            plan.results.append(Judged(looked.entry.delivery(device, looked.row.seq), told))

    def _compose(self, told: Notification, looked: Looked, locale: str) -> Push:
        style = self.looks.styles.get(told.kind, _PLAIN)
        words = language(locale, self.looks.languages)
        return compose(told, style, words, looked.row.unread, looked.entry.deadline)

    async def _send(self, plans: Sequence[_Plan], look: Look, looked_at: float) -> None:
        requests = [request for plan in plans for request in plan.asked]
        if not requests:
            return
        # Not later than it was: a device that has been registered since is not forgotten for this answer.
        sent = Moment(self.clock(), look.now)
        answers = iter(await self._answers(requests))
        now = self._moment(look, looked_at)
        accepted: list[tuple[PushEntry, Delivery, Outcome]] = []  # in a row
        renamed: list[tuple[Delivery, str]] = []
        for plan in plans:
            entry = plan.looked.entry
            for request in plan.asked:
                outcome, delivery = next(answers), request.delivery
                if outcome.kind == "delivered" and not (delivery.doubts or outcome.replacement_token):
                    accepted.append((entry, delivery, outcome))  # nearly always
                    plan.results.append(Judged(delivery, DONE))
                    continue
                self._arrived(accepted, sent, now)  # each is judged in its turn
                verdict = self._judge(delivery, outcome, sent, now)
                why = "" if verdict is DONE else outcomes.label(outcome)
                plan.results.append(Judged(delivery, verdict, why))
                self._count_answer(entry, outcome, now)
                if outcome.replacement_token:
                    renamed.append((delivery, outcome.replacement_token))
        self._arrived(accepted, sent, now)
        if renamed:
            await self._rename(renamed)

    def _arrived(self, row: list[tuple[PushEntry, Delivery, Outcome]], sent: Moment, now: Moment) -> None:
        """What was accepted in a row is judged and counted together, and the row emptied."""
        if not row:
            return
        where: dict[Environment, int] = {}
        queued: dict[str, int] = {}
        for entry, delivery, _ in row:
            environment = delivery.device.environment
            where[environment] = where.get(environment, 0) + 1
            if not entry.tries:
                ms = entry.id.partition("-")[0]
                queued[ms] = queued.get(ms, 0) + 1
        try:
            self.gate.arrived(where, row[0][2], sent, now, self.chance())
        except Exception as error:  # a bug: what has been sent is settled all the same
            self.metrics.push_bugs += 1
            self.report(f"lane {self.lane}: {row[0][2]!r} met a bug: {type(error).__name__}: {error}")
        self.metrics.push_outcomes[self._labels["delivered"]] += len(row)
        for ms, count in queued.items():
            self.metrics.push_seconds.observe((now.ms - int(ms)) / 1000, count)
        row.clear()

    def _judge(self, delivery: Delivery, outcome: Outcome, sent: Moment, now: Moment) -> Verdict:
        try:
            return self.gate.judge(delivery, outcome, sent, now, self.chance())
        except (
            Exception
        ) as error:  # a bug: what has been sent must be settled, or all of the batch is sent again
            self.metrics.push_bugs += 1
            self.report(f"lane {self.lane}: {outcome!r} met a bug: {type(error).__name__}: {error}")
            if outcome.kind == "delivered":
                return DONE
            return Verdict("later", now.ms + BUG_PAUSE, delivery.tries, delivery.free, delivery.doubts)

    async def _rename(self, told: Iterable[tuple[Delivery, str]]) -> None:
        """The provider knows these devices by other tokens now (gateways that speak the older JSON say so).

        The time of each stays that of the old one: whoever has registered the new token since has the phone now, and
        keeps it.
        """
        longest = max((style.ttl for style in self.looks.styles.values()), default=Style().ttl)
        renames: dict[tuple[str, str, str], Rename] = {}  # each once, however many pushes were answered so
        for delivery, token in told:
            user, old = delivery.user, delivery.device
            renamed = msgspec.structs.replace(old, id=device_id(token), token=token)
            renames[user, old.id, token] = Rename(user, old.id, renamed, 1000 * longest)
        try:
            faults = await self.devices.rename_all(tuple(renames.values()), RENAMING)
        except Exception as error:  # the old tokens still work; what was sent must not be sent again for this
            faults = (f"{type(error).__name__}: {error}",) * len(renames)
        if faults:
            self.report(
                f"lane {self.lane}: {len(faults)} of {len(renames)} devices could not be renamed: {faults[0]}"
            )

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

    async def _settle(self, batch: Sequence[Unsettled]) -> None:
        """Settle. What has been answered is not forgotten if that fails, or each hiccup would ring phones twice."""
        now = self.clock()
        try:
            states = (await self.log.settle([one.settlement for one in batch])).states
        except Unavailable:
            self._unsettled.put(batch)
            raise
        except Exception as error:  # one that nobody takes must not keep the others from being written down
            for one in batch:
                one.alone = True
                if len(batch) == 1:
                    self._not_settled(one, f"{type(error).__name__}: {error}")
            self._unsettled.put(batch)
            return
        for one, state in zip(batch, states, strict=True):
            if state == "done":
                self._count_done(one)
            elif state == "again":
                self._again[one.id] = (one.settlement.entry, now)
            elif state != "gone":
                self._not_settled(one, state)
                self._unsettled.put([one])

    def _not_settled(self, one: Unsettled, error: str) -> None:
        self.metrics.push_settle_failures += 1
        if one.failed(self.clock()):
            self.report(f"lane {self.lane}: entry {one.id} was not settled ({one.tries} tries): {error}")

    async def _settle_again(self, now: float) -> None:
        batches = self._unsettled.take(now)
        for batch in batches:
            try:
                await self._settle(batch)
            except Unavailable:
                for rest in batches:
                    self._unsettled.put(rest)
                raise
            finally:
                self._let_go(one.id for one in batch)

    async def _keep_unsettled(self) -> None:
        """What waits to be settled is not to be taken over: whoever did would send it again."""
        now = self.clock()
        if now < self._keep_at:
            return
        self._keep_at = now + self._idle_ms / 3000
        left = iter(list(self._unsettled))
        while part := list(islice(left, KEEP_PAGE)):
            await self.log.keep(dict.fromkeys(part, 0))

    async def _bury(self, broken: Sequence[tuple[str, bytes]]) -> None:
        """What nobody can read. That which could not be buried stays pending, and is claimed once it has been idle."""
        states = (await self.log.bury(broken)).states
        self.metrics.dead_letters.count("unreadable", states.count("done"))
        faults = [
            f"{entry}: {state}"
            for (entry, _), state in zip(broken, states, strict=True)
            if state not in ("done", "gone")
        ]
        self.metrics.push_settle_failures += len(faults)
        if faults:
            self.report(
                f"lane {self.lane}: {len(faults)} entries that nobody can read were not buried, which is tried again"
                f" in {self._idle_ms // 1000} s: entry {faults[0]}"
            )

    # -- what is told

    def _count_answer(self, entry: PushEntry, outcome: Outcome, now: Moment) -> None:
        metrics = self.metrics
        metrics.push_outcomes[self._labels[outcome.kind]] += 1
        if outcome.kind == "delivered":
            if not entry.tries:
                metrics.push_seconds.observe((now.ms - entry.queued) / 1000)
        else:
            metrics.push_reasons.count(f"{outcome.provider} {outcomes.label(outcome)}")

    def _count_done(self, one: Unsettled) -> None:
        metrics, settlement = self.metrics, one.settlement
        metrics.push_strangers += len(settlement.strangers)
        if one.drop is not None:
            metrics.push_drops[f"{self.lane.label} {one.drop}"] += 1
        if settlement.buried:
            metrics.dead_letters.count(settlement.buried)
        for judged in settlement.results:
            verdict = judged.verdict
            if verdict is DONE:
                continue
            label = self.lane.label
            if verdict.kind == "later":
                metrics.push_retries[label] += 1
            elif verdict.kind == "forget":
                metrics.push_forgotten[label] += 1
            elif verdict.kind == "bury":
                metrics.dead_letters.count(verdict.reason)

    def _tell_state(self) -> None:
        now, label = self.clock(), self.lane.label
        for environment in environments(self.lane):
            state = self.gate.state(now, environment)
            self.metrics.push_breaker[f"{label} {environment}"] = BREAKER[state]
        self.metrics.push_suspended[label] = self.gate.suspended(now)
        self.gate.unsettled[id(self)] = len(self._unsettled)
        self.metrics.push_unsettled[label] = sum(self.gate.unsettled.values())

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

    def __init__(self, log: DueLog, metrics: Metrics, clock: Clock) -> None:
        self._due, self.metrics, self.clock = log, metrics, clock
        self._left = 0
        self._tidy_at = 0.0

    @property
    def log(self) -> "Due":
        return self

    async def once(self) -> bool:
        """One part. True when there may be more at once."""
        woken = await self._due.wake()
        self.metrics.push_due += woken.left - self._left
        self._left = woken.left
        self.metrics.push_woken += woken.moved
        self.metrics.push_newer += woken.passed
        self.metrics.dead_letters.count("unreadable", woken.buried)
        return await self._tidy() or woken.more or woken.moved > 0

    async def _tidy(self) -> bool:
        """True when there may be more at once."""
        now = self.clock()
        if now < self._tidy_at:
            return False
        self._tidy_at = now + TIDY_EVERY  # also when it fails: what is due is not to wait for that
        tidied = await self._due.tidy()
        for reason in tidied.buried:
            self.metrics.dead_letters.count(reason)
        if tidied.more:
            self._tidy_at = now
        return tidied.more

    async def wait(self, seconds: float) -> None:
        """So long while something is to come due, else a second."""
        await self._due.wait(seconds if self._left else max(seconds, 1.0))

    def drop(self) -> None:
        """Nothing is in hand."""

    async def release(self) -> None:
        """Nothing to give back."""


def environments(lane: Lane) -> tuple[Environment, ...]:
    """Where devices of a lane are reached: Apple has a host of its own for development builds."""
    return ENVIRONMENTS if lane.provider == "apns" else ENVIRONMENTS[:1]


def labels(known: Iterable[Lane]) -> dict[str, tuple[str, ...]]:
    """What Metrics must be told of the lanes, and of what may happen on them."""
    found = sorted(known)
    names = tuple(lane.label for lane in found)
    words = {(wire, reason) for wire, table in outcomes.TABLES.items() for _, reason in table if reason}
    words |= {(wire, reason) for wire in outcomes.TABLES for reason in outcomes.OURS}
    return {
        "push_entries": names,
        "push_outcomes": tuple(f"{name} {kind}" for name in names for kind in _KINDS),
        "push_reasons": tuple(f"{wire} {reason}" for wire, reason in sorted(words)),
        "push_drops": tuple(f"{name} {reason}" for name in names for reason in lanes.DROPS),
        "push_retries": names,
        "push_forgotten": names,
        "push_backlog": (*names, *lanes.UNCONFIGURED),
        "push_unsettled": names,
        "push_connection_events": tuple(f"{name} {event}" for name in names for event in CONNECTION_EVENTS),
        "push_connections": names,
        "push_streams": names,
        "push_queue": names,
        "push_breaker": tuple(f"{lane.label} {each}" for lane in found for each in environments(lane)),
        "push_suspended": names,
        "push_certificate_expires": tuple(lane.app for lane in found if lane.provider == "apns"),
    }
