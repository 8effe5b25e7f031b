"""The ports of phones in memory: the rules of lua/{look,settle,wake,device}.lua once more, in plain Python."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from twisted.internet.defer import Deferred

from notifier import ports
from notifier.core import keys
from notifier.core.devices import surplus
from notifier.core.lanes import ALL, Lane, PushEntry, buried
from notifier.core.model import Device, Verdict
from notifier.edge.device_store import FOREVER, Claim, DeviceMoves, Listed
from notifier.edge.memory_given import lane_of, look_behind, ordered, row_of
from notifier.edge.memory_state import Dead, DeadToken, ItemError, MemoryServer, Waiting, stream_id
from notifier.edge.push_store import ABANDONED, KEEP_SLACK, TIDY_PAGE, WAKE_PAGE
from notifier.edge.store import Rules

DAY = 86_400_000


class MemorySteps:
    """The steps of a token's way to a person (device_store.DeviceSteps)."""

    def __init__(self, server: MemoryServer, rules: Rules) -> None:
        self.server, self.rules = server, rules

    async def claim(self, user: str, device: str, since: int | None) -> Claim:
        """The token is this user's now, unless somebody has had it since."""
        with self.server.step():
            owner, registered, before = self.server.owners.get(device, ("", -1, ""))
            if since is None:
                at = max(self.server.now, registered + 1)
            else:
                at = min(self.server.now, since)
                if owner and registered >= at:
                    return Claim(before if owner == user else owner, owner == user, registered)
            if owner != user:
                before = owner
            self.server.owners.put(device, (user, at, before))
            return Claim(before, True, at)

    async def add(self, user: str, device: Device, *, stays: bool, instead: str = "") -> list[Listed]:
        """Into the person's list; who had to go for it."""
        with self.server.step():
            found = dict(self.server.devices.get(user) or {})
            old = found.get(device.id)
            if old is None or old.registered < device.registered + stays:
                found[device.id] = device
            counted = [one for one in found.values() if one.id != instead]
            gone = surplus(counted, self.rules.devices, device.id if stays else "")
            for one in gone:
                del found[one.id]
            self.server.devices.put(user, found)
            tagged = keys.tag(keys.shard_of(user, self.rules.shards))
            names = {str(lane_of(one)) for one in found.values()} | self.server.lanes.get(tagged, frozenset())
            self.server.lanes.put(tagged, frozenset(names))
            return [Listed(one.id, one.registered) for one in gone]

    async def remove(self, user: str, device: str, before: int = FOREVER) -> list[Listed]:
        """Off the person's list, if it was registered before (ms); what was removed."""
        with self.server.step():
            gone = take_off(self.server, user, device, before)
            return [Listed(gone.id, gone.registered)] if gone is not None else []

    async def release(self, user: str, devices: Sequence[Listed]) -> None:
        """Tokens that this user had are nobody's, unless they have been claimed since."""
        for one in devices:
            with self.server.step():
                release(self.server, user, one)

    async def note(self, user: str, old: str, new: str, ms: int) -> None:
        """Known for so long: one device of this person is another now."""
        with self.server.step():
            self.server.renamed.put((user, old), (new, self.server.now + ms))

    async def renamed(self, user: str, device: str) -> str:
        """What was noted of it, "" = nothing."""
        with self.server.step():
            new, until = self.server.renamed.get((user, device), ("", 0))
            return new if until > self.server.now else ""

    async def owners(self, devices: Sequence[str]) -> list[str]:
        """Whose these devices are, "" = nobody's."""
        with self.server.step():
            return [self.server.owners.get(device, ("", 0, ""))[0] for device in devices]


class MemoryDevices(DeviceMoves):
    """Everybody's devices (ports.Devices). `wait(seconds)` passes the time."""

    def __init__(
        self,
        server: MemoryServer,
        rules: Rules,
        wait: Callable[[float], Deferred[None]] = lambda seconds: Deferred(),
    ) -> None:
        super().__init__(MemorySteps(server, rules), wait)
        self.server = server

    async def of(self, user: str) -> tuple[Device, ...]:
        """A person's devices, those registered longest ago first."""
        with self.server.step():
            return ordered((self.server.devices.get(user) or {}).values())

    async def page(self, after: str = "") -> ports.DevicePage:
        """All devices, a page at a time."""
        with self.server.step():
            users = sorted(user for user in self.server.devices if user > after)
            pairs = tuple((user, device) for user in users for device in self.server.devices[user].values())
            return ports.DevicePage(pairs, "")


class MemoryPushes:
    """The stream of one lane on one shard (ports.PushLog). `wait(stream, seconds)` passes the time."""

    def __init__(
        self, server: MemoryServer, rules: Rules, shard: int, lane: Lane, consumer: Callable[[], str],
        wait: Callable[[str, float], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.server, self.rules, self.lane, self.consumer = server, rules, lane, consumer
        self.tagged = keys.tag(shard)
        self.name = keys.pushes(self.tagged, lane)
        self.stream = server.lane(self.name)
        self._wait = wait

    async def create(self) -> None:
        """Make the consumer group at 0, where it is missing."""
        with self.server.step():
            if "read" not in self.stream.ends:
                self.stream.ends.put("read", (0, 0))

    async def history(self, want: int, after: str) -> ports.PushesRead:
        """What this process was given before and has not settled."""
        stream, mine = self.stream, self.consumer()
        with self.server.step():
            if "read" not in stream.ends:
                raise ports.GroupLost
            first = stream_id(after or "0")
            own = [at for at in stream.pending if at > first and stream.holders.get(at) == mine]
            found = sorted(own)[:want]
            for at in found:
                stream.pending.put(at, self.server.now)
            entries = tuple(stream.entries[at] for at in found if at in stream.entries)
            return ports.PushesRead(entries, after=f"{found[-1][0]}-{found[-1][1]}" if found else "")

    async def claim(self, idle_ms: int, want: int, after: str) -> ports.PushesRead:
        """Take over what nobody has settled for idle_ms."""
        with self.server.step():
            entries, lost, following = self.stream.claim(
                self.server.now, idle_ms, want, after, self.consumer()
            )
            return ports.PushesRead(entries, (), lost, following)

    async def read(self, want: int) -> ports.PushesRead:
        """The next entries."""
        with self.server.step():
            return ports.PushesRead(self.stream.read(self.server.now, want, self.consumer()))

    async def keep(self, held: Mapping[str, int]) -> frozenset[str]:
        """Entries in hand, each with the ms since it was read or kept: those that are still this process's."""
        stream, me, kept = self.stream, self.consumer(), set()
        with self.server.step():
            for entry, ms in held.items():
                at = stream_id(entry)
                idle = self.server.now - (stream.pending.get(at) or 0)
                if at in stream.pending and stream.holders.get(at) == me and idle + KEEP_SLACK >= ms:
                    stream.pending.put(at, self.server.now)
                    kept.add(entry)
        return frozenset(kept)

    async def look(self, entries: Sequence[PushEntry], seen: ports.Seen | None = None) -> ports.Look:
        """What stands behind entries; in order, all of them. `seen`: what is known of some."""
        with self.server.step():
            if seen is None:
                seen = ports.Seen(self.server.now, self.server.run, {})
            found = (
                self._known(one, seen) or look_behind(self.server, str(self.lane), one) for one in entries
            )
            return ports.Look(seen.now, seen.run, tuple(map(self._whose, found)))

    def _known(self, entry: PushEntry, seen: ports.Seen) -> ports.Looked | None:
        """What was seen of an entry, while all devices that were seen are the person's."""
        known = seen.found.get(entry.id)
        if known is None or any(self._owner(one) != entry.user for one in known.devices):
            return None
        return known

    def _owner(self, device: Device) -> str:
        return self.server.owners.get(device.id, ("", 0, ""))[0]

    def _whose(self, listed: ports.Looked) -> ports.Looked:
        entry = listed.entry
        whose = [(one, self._owner(one)) for one in listed.devices]
        own = tuple(one for one, owner in whose if owner == entry.user and one.token)
        newer = tuple(one for one, owner in whose if owner == entry.user and not one.token)
        strangers = tuple(one for one, owner in whose if owner not in (entry.user, ""))
        return ports.Looked(entry, listed.row, own, strangers, newer)

    async def settle(self, settlements: Sequence[ports.Settlement]) -> ports.PushesSettled:
        """Write down what became of entries and acknowledge them."""
        with self.server.step():
            return ports.PushesSettled(tuple(map(self._tried, settlements)))

    def _tried(self, one: ports.Settlement) -> str:
        try:
            self.server.hazard("settle", one.entry.user, one.entry.notification)
            return self._settle(one)
        except ItemError as error:
            return str(error)

    def _settle(self, one: ports.Settlement) -> str:
        arrived = [judged for judged in one.results if judged.verdict.kind == "done"]
        for judged in arrived:
            key = self._key(judged)
            waiting = self.server.waiting.get(key)
            if waiting is not None and waiting.seq <= judged.delivery.seq:
                self.server.waiting.cut(key)
        if not self._is_pending(stream_id(one.entry.id), bool(arrived)):
            return "gone"
        if one.run != self.server.run and not arrived:
            return "again"
        for judged in one.results:
            self._apply(one.entry, judged)
        for stranger in one.strangers:
            self._take_off(one.entry.user, stranger.id, stranger.registered + 1)
        if one.buried:
            self._bury(one.entry, ALL, one.buried, one.detail)
        self.stream.discard(one.entry.id)
        return "done"

    def _is_pending(self, at: tuple[int, int], arrived: bool) -> bool:
        """What nobody is known to have read will come again; what has arrived must not, if nobody has settled it."""
        if "read" in self.stream.ends and at in self.stream.pending:
            return True
        return arrived and at in self.stream.entries

    def _key(self, judged: ports.Judged) -> tuple[str, str, str, str]:
        delivery = judged.delivery
        return self.tagged, delivery.user, delivery.notification, delivery.device.id

    def _apply(self, entry: PushEntry, judged: ports.Judged) -> None:
        delivery, verdict = judged.delivery, judged.verdict
        device = delivery.device.id
        if verdict.kind == "later":
            self._later(judged, verdict)
        elif verdict.kind == "forget":
            self._forget(judged)
        elif verdict.kind == "bury":
            self._bury(entry, device, verdict.reason, verdict.detail)

    def _later(self, judged: ports.Judged, verdict: Verdict) -> None:
        delivery, key = judged.delivery, self._key(judged)
        waiting = self.server.waiting.get(key)
        if waiting is None or waiting.seq <= delivery.seq:
            again = PushEntry(
                "", delivery.user, delivery.notification, delivery.deadline, delivery.device.id,
                verdict.tries, verdict.free, verdict.doubts,
            )  # fmt: skip
            self.server.waiting.put(key, Waiting(verdict.at, str(self.lane), delivery.seq, again))

    def _forget(self, judged: ports.Judged) -> None:
        delivery, before = judged.delivery, judged.verdict.before
        gone = self._take_off(delivery.user, delivery.device.id, before)
        if gone is not None:
            dead = DeadToken(self.server.now, delivery.user, gone, judged.why)
            kept = self.server.dead_tokens.get(self.tagged, ())
            self.server.dead_tokens.put(self.tagged, (*kept, dead)[-self.rules.dead_tokens :])
        elif delivery.device.id in (self.server.devices.get(delivery.user) or {}):
            # registered anew since the provider was asked
            again = Verdict("later", self.server.now, delivery.tries + 1, delivery.free, delivery.doubts)
            self._later(judged, again)

    def _take_off(self, user: str, device: str, before: int) -> Device | None:
        gone = take_off(self.server, user, device, before)
        if gone is not None:
            release(self.server, user, Listed(gone.id, gone.registered))
        return gone

    def _bury(self, entry: PushEntry, device: str, reason: str, detail: str) -> None:
        dead = Dead(
            self.server.now, reason, detail, entry.notification, entry.id, entry.user,
            entry.as_text().encode(), str(self.lane), device,
        )  # fmt: skip
        self.server.bury(self.tagged, self.rules, dead)

    async def bury(self, broken: Sequence[tuple[str, bytes]]) -> ports.PushesSettled:
        """Here nothing is ever broken: entries are not text."""
        assert not broken
        return ports.PushesSettled(())

    async def depth(self) -> ports.Depth:
        """How much lies in the stream, and how old the oldest entry is."""
        with self.server.step():
            found = self.stream.entries
            queued = min(found)[0] if found else self.server.now
            return ports.Depth(len(found), max(0, self.server.now - queued) / 1000, queued)

    async def wait(self, seconds: float) -> None:
        """Return when something may have been appended, at the latest after so many seconds."""
        await self._wait(self.name, seconds)

    def ring(self) -> None:
        """Nobody sleeps behind this one."""


class MemoryDue:
    """What is to be sent later, on one shard (ports.DueLog). `wait(seconds)` passes the time."""

    def __init__(
        self,
        server: MemoryServer,
        shard: int,
        wait: Callable[[float], Awaitable[None]],
        rules: Rules | None = None,
    ) -> None:
        self.server, self.tagged, self.wait = server, keys.tag(shard), wait
        self.rules = rules or Rules()

    async def wake(self) -> ports.Woken:
        """Bring what is due back to its lane; a part of it at a time."""
        with self.server.step():
            mine = {key: one for key, one in self.server.waiting.items() if key[0] == self.tagged}
            due = sorted((one.at, key) for key, one in mine.items() if one.at <= self.server.now)[:WAKE_PAGE]
            for _, key in due:
                self.server.push(keys.pushes(self.tagged, mine[key].lane), mine[key].entry)
                self.server.waiting.cut(key)
            return ports.Woken(len(due), len(mine) - len(due), more=len(due) == WAKE_PAGE)

    async def tidy(self) -> ports.Tidied:
        """Settle what nobody has taken from its lane until long after its deadline; a part of it at a time."""
        server, left, reasons, more = self.server, TIDY_PAGE, list[str](), False
        with server.step():
            for name in sorted(server.lanes.get(self.tagged, ())):
                stream = server.lane(keys.pushes(self.tagged, name))
                first = [stream.entries[at] for at in sorted(stream.entries)[:left]]
                gone = 0
                for entry in first:
                    why = self._tidied(name, entry) if entry.deadline + ABANDONED <= server.now else None
                    if why is not None:
                        reasons += why
                        stream.discard(entry.id)
                        gone += 1
                more |= bool(gone) and len(first) == left
                left -= gone
        return ports.Tidied(tuple(reasons), more)

    def _tidied(self, lane: str, entry: PushEntry) -> list[str] | None:
        """Why it is buried; nothing where the push is not needed any more. None: it stays."""
        server = self.server
        try:
            server.hazard("look", entry.user, entry.notification)
            row = row_of(server.box(entry.user), entry.notification)
            if row.standing == "row":
                server.hazard("devices", entry.user, entry.notification)
            listed = (server.devices.get(entry.user) or {}).values()
            why = buried(row, 0, 1, any(str(lane_of(one)) == lane for one in listed))
        except ItemError as error:
            if entry.deadline + DAY > server.now:
                return None
            why = "unreadable", str(error)
        if why is None:
            return []
        dead = Dead(
            server.now, why[0], why[1], entry.notification, entry.id, entry.user,
            entry.as_text().encode(), lane, entry.device or ALL,
        )  # fmt: skip
        server.bury(self.tagged, self.rules, dead)
        return [why[0]]


def take_off(server: MemoryServer, user: str, device: str, before: int) -> Device | None:
    """A device off a person's list, if it was registered before (ms)."""
    found = dict(server.devices.get(user) or {})
    one = found.get(device)
    if one is None or one.registered >= before:
        return None
    del found[device]
    server.devices.put(user, found) if found else server.devices.cut(user)
    return one


def release(server: MemoryServer, user: str, one: Listed) -> None:
    if server.owners.get(one.device, ("", 0, ""))[:2] == (user, one.registered):
        server.owners.cut(one.device)


__all__ = ["MemoryDevices", "MemoryDue", "MemoryPushes"]
