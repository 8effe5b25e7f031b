"""Memory and a real server, step by step, on the same random pushes: equal answers; and at the end every entry has been
settled exactly once, nothing is left in a lane or in what is due, and nobody's phone was left out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from notifier.core.inbox import Mark
from notifier.core.lanes import BURIALS, PushEntry
from notifier.core.model import Device, Verdict
from notifier.edge.device_store import Listed
from notifier.ports import Judged, Look, PushLog, Settlement
from tests import reactor
from tests.contract.conftest import explored
from tests.contract.phones import APNS, phone, steps
from tests.contract.world import MemoryWorld, Reader, RedisWorld, World, event, load, people, place
from tests.servers import Valkey

USERS = people(2)
PHONES = [phone(f"p{n}", registered=n + 1) for n in range(4)]
VERDICTS = [
    Verdict("done"),
    Verdict("done"),
    Verdict("later", 10, 1),
    Verdict("later", 20, 2),
    Verdict("forget", before=3),
    Verdict("bury", reason="rejected", detail="no"),
]

users = st.sampled_from(USERS)
numbers = st.integers(0, 999)


def timeless(devices: Iterable[Device]) -> list[Device]:
    """In an order that two clocks agree on; when one was registered now, they do not."""
    told = (msgspec.structs.replace(one, registered=min(one.registered, 10**6)) for one in devices)
    return sorted(told, key=lambda one: one.id)


class Job(msgspec.Struct):
    """Entries that a process has in its hand, what it found, and what the provider said."""

    who: str
    entries: tuple[PushEntry, ...]
    look: Look | None = None
    settlements: list[Settlement] = []


class Side:
    """One of the two worlds: its jobs, and what has become of every entry."""

    def __init__(self, world: World) -> None:
        world.use(lease=600_000, cap=6)
        self.world, self.reader = world, Reader(world)
        self.jobs: list[Job] = []
        self.ends: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.reached: set[tuple[str, str, str]] = set()

    def log(self, who: str) -> PushLog:
        return self.world.pushes(APNS, who)

    async def take(self, who: str, how: str) -> list[str]:
        log = self.log(who)
        await log.create()
        calls = {"read": lambda: log.read(2), "claim": lambda: log.claim(0, 3, "")}
        found = await calls.get(how, lambda: log.history(3, ""))()
        if found.entries:
            self.jobs.append(Job(who, found.entries))
            self.seen.update(entry.id for entry in found.entries)
        return [msgspec.structs.replace(entry, id="").as_text() for entry in found.entries]

    async def look(self, which: int) -> object:
        job = self.jobs[which % len(self.jobs)]
        job.look = await self.log(job.who).look(job.entries)
        return [
            (one.row.standing, one.row.seq, one.row.unread, timeless(one.devices), timeless(one.strangers))
            for one in job.look.found
        ]

    def answer(self, which: int, chosen: list[int]) -> None:
        """What the provider says: for each device one of VERDICTS."""
        job = self.jobs[which % len(self.jobs)]
        if job.look is None:
            return
        job.settlements = []
        at = 0
        for found in job.look.found:
            results = []
            for device in sorted(found.devices, key=lambda one: one.id):
                verdict, at = VERDICTS[chosen[at % len(chosen)]], at + 1
                results.append(Judged(found.entry.delivery(device, found.row.seq), verdict, "Unregistered"))
                if verdict.kind == "done":
                    self.reached.add((found.entry.user, found.entry.notification, device.id))
            buried = found.row.standing if found.row.standing in ("trimmed", "forgotten") else ""
            job.settlements.append(
                Settlement(found.entry, job.look.run, tuple(results), found.strangers, buried, "d")
            )

    async def settle(self, which: int) -> object:
        job = self.jobs[which % len(self.jobs)]
        if not job.settlements:
            return None
        self.jobs.remove(job)
        states = (await self.log(job.who).settle(job.settlements)).states
        for settlement, state in zip(job.settlements, states, strict=True):
            self.ends[settlement.entry.id] += state == "done"
        return states

    async def left(self) -> object:
        """What all may see."""
        return {
            "waiting": sorted(await self.world.waiting()),
            "letters": {
                reason: sorted((x.to, x.source, x.device) for x in await self.world.letters(reason))
                for reason in BURIALS
            },
            "devices": [timeless(await self.world.devices().of(user)) for user in USERS],
            "owners": [await self.world.owner(one.id) for one in PHONES],
            "dead": [(x.user, x.device.id) for x in await self.world.dead_tokens()],
            "depth": (await self.log("one").depth()).entries,
        }


class Phones(RuleBasedStateMachine):
    """Every rule does the same in both worlds and compares what comes back."""

    real: RedisWorld

    @initialize()
    def begin(self) -> None:
        self.base = int(time.time() * 1000)
        self.events = 0
        self.names: list[str] = []
        self.known = False  # the lane, by a device
        self.promised: set[tuple[str, str, str]] = set()
        self.kept: dict[str, str] = {}  # device -> whose it has been since
        memory = MemoryWorld()

        async def build() -> list[Side]:
            await self.real.calls.call("FLUSHALL")
            return [Side(memory), Side(self.real)]

        self.sides = reactor.run(build())

    def both(self, call: Callable[[Side], Coroutine[Any, Any, Any]]) -> Any:
        async def ask() -> list[Any]:
            memory = self.sides[0].world
            assert isinstance(memory, MemoryWorld)
            memory.server.now = int(time.time() * 1000)
            return [await call(side) for side in self.sides]

        ours, theirs = reactor.run(ask())
        assert ours == theirs
        return ours

    def _no_more(self, user: str, device: str) -> None:
        """It has moved on: nothing is promised to it any more."""
        self.promised = {one for one in self.promised if one[2] != device}
        self.kept.pop(device, None)

    # -- what happens to people

    @rule(user=users, kind=st.sampled_from(("comment", "comment", "comment", "uncomment")), thing=numbers)
    def happen(self, user: str, kind: str, thing: int) -> None:
        self.events += 1
        name = f"e{self.events}:{thing}"
        self.names.append(name)
        raw = event(kind, to=user, eid=name, at=self.base + self.events, thing=str(thing % 3))

        async def deliver(side: Side) -> None:
            await side.world.append(raw, entry_id=f"{self.base}-{self.events}")
            await side.reader.run()

        self.both(deliver)
        if kind == "comment":
            self.promised |= {(user, name, device) for device, whose in self.kept.items() if whose == user}

    @rule(user=users, kind=st.sampled_from(("seen", "read")), thing=numbers)
    def mark(self, user: str, kind: Any, thing: int) -> None:
        async def mark(side: Side) -> list[int]:
            where = place(await load(side.world, user))
            seq = max(0, where.seq - thing % 3)
            return await side.world.inbox().mark([Mark(user, kind, str(where.birth), where.run, seq)])

        self.both(mark)

    @rule(user=users, which=st.sampled_from(PHONES), again=st.integers(0, 3))
    def register(self, user: str, which: Any, again: int) -> None:
        device = msgspec.structs.replace(which, registered=which.registered + again)

        async def bring(side: Side) -> bool:
            devices = side.world.devices()
            return await (devices.restore(user, device) if again else devices.register(user, device))

        brought = self.both(bring)
        self.known = self.known or brought  # what comes from a file may be too old to be taken
        if brought and self.kept.get(device.id) != user:
            self._no_more(user, device.id)
            self.kept[device.id] = user

    @rule(user=users, which=st.sampled_from(PHONES))
    def claim_only(self, user: str, which: Any) -> None:
        """A process that died behind the first step."""
        self.both(lambda side: claimed(side, user, which.id))
        if self.kept.get(which.id) != user:
            self._no_more(user, which.id)

    @rule(user=users, which=st.sampled_from(PHONES))
    def unregister(self, user: str, which: Any) -> None:
        self.both(lambda side: side.world.devices().unregister(user, which.id))  # type: ignore[arg-type, return-value]
        if self.kept.get(which.id) == user:
            self._no_more(user, which.id)

    @rule(user=users, which=st.sampled_from(PHONES))
    def disclaim(self, user: str, which: Any) -> None:
        """Redis forgets whose a device is."""

        async def release(side: Side) -> None:
            listed = [one for one in await side.world.devices().of(user) if one.id == which.id]
            await steps(side.world).release(user, [Listed(one.id, one.registered) for one in listed])

        self.both(release)
        if self.kept.get(which.id) == user:
            self._no_more(user, which.id)

    # -- what processes do, each at its own pace

    @rule(who=st.sampled_from(("one", "two")), how=st.sampled_from(("read", "read", "history", "claim")))
    def take(self, who: str, how: str) -> None:
        self.both(lambda side: side.take(who, how))

    @rule(which=numbers)
    def look(self, which: int) -> None:
        if self.sides[0].jobs:
            self.both(lambda side: side.look(which))

    @rule(which=numbers, chosen=st.lists(st.integers(0, len(VERDICTS) - 1), min_size=1, max_size=4))
    def answer(self, which: int, chosen: list[int]) -> None:
        for side in self.sides:
            if side.jobs:
                side.answer(which, chosen)

    @rule(which=numbers)
    def settle(self, which: int) -> None:
        if self.sides[0].jobs:
            self.both(lambda side: side.settle(which))
            self._compare()

    @rule(which=numbers)
    def restart(self, which: int) -> None:
        """The server is another one since the job looked."""
        for side in self.sides:
            if side.jobs:
                job = side.jobs[which % len(side.jobs)]
                job.settlements = [msgspec.structs.replace(one, run="0" * 16) for one in job.settlements]

    @rule(which=numbers)
    def die(self, which: int) -> None:
        for side in self.sides:
            if side.jobs:
                del side.jobs[which % len(side.jobs)]

    @rule(user=users, thing=numbers)
    def abandon(self, user: str, thing: int) -> None:
        """A push that nobody has read, long after its deadline, for a row in whatever state."""
        if not self.known:
            return
        number = 1 + thing % (self.events + 1)
        names = [name for name in self.names if name.startswith(f"e{number}:")]
        entry = PushEntry("", user, names[0] if names else "never", 1)

        async def tidy(side: Side) -> object:
            await side.world.put(APNS, entry)
            return await side.world.due().tidy()

        self.both(tidy)
        self._compare()

    @rule()
    def wake(self) -> None:
        async def wake(side: Side) -> object:
            await side.world.hurry()
            return await side.world.due().wake()

        self.both(wake)
        self._compare()

    def _compare(self) -> None:
        self.both(lambda side: side.left())

    def teardown(self) -> None:
        """Nothing fails any more: all comes to rest."""
        if not hasattr(self, "sides"):
            return
        for _ in range(40):
            while self.sides[0].jobs:
                self.look(0)
                self.answer(0, [0])
                self.settle(0)
            self.wake()
            self.take("one", "claim")
            self.take("two", "read")
            if not self.sides[0].jobs:
                break
        else:
            raise AssertionError("the lane does not come to rest")
        for side in self.sides:
            left: Any = reactor.run(side.left())
            assert (left["waiting"], left["depth"]) == ([], 0)
            assert {entry: times for entry, times in side.ends.items() if times} == dict.fromkeys(
                side.seen, 1
            )
            self._nobody_was_left_out(side, left)

    def _nobody_was_left_out(self, side: Side, left: Any) -> None:
        log = side.log("afterwards")
        buried = {letter for letters in left["letters"].values() for letter in letters}
        told = {(user, device) for user, device in left["dead"]}
        for user, name, device in self.promised:
            if (
                (user, name, device) in side.reached
                or (user, name, device) in buried
                or (user, device) in told
            ):
                continue
            found: Any = reactor.run(_standing(log, user, name))
            assert found != "row", f"{user} was never told of {name} on {device}"


async def claimed(side: Side, user: str, device: str) -> str:
    return (await steps(side.world).claim(user, device, None)).before


async def _standing(log: PushLog, user: str, name: str) -> str:
    return (await log.look([PushEntry("1-1", user, name, 2**50)])).found[0].row.standing


def explore(valkey: Valkey, examples: int, steps: int) -> None:
    def case(world: RedisWorld) -> type[RuleBasedStateMachine]:
        return type("Case", (Phones,), {"real": world})

    explored(valkey, case, examples, steps)


def test_memory_is_an_oracle_of_the_scripts_of_phones(valkey: Valkey) -> None:
    explore(valkey, examples=25, steps=40)


@pytest.mark.campaign
def test_memory_is_an_oracle_of_the_scripts_of_phones_at_length(valkey: Valkey) -> None:
    explore(valkey, examples=2_000, steps=80)
