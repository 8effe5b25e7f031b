"""Memory and a real server, step by step, on the same random operations: equal answers, equal bells."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from notifier.core.inbox import NOTIFICATION, Bell, Join, Joined, Mark, Page, Place, parse
from tests import reactor
from tests.contract.conftest import explored
from tests.contract.world import ISSUED, Ear, MemoryWorld, Reader, RedisWorld, World, event, people
from tests.servers import Valkey

USERS = people(2)
UNKNOWN = [Place(0, "0", 0), Place(-1, "0", 3), Place(77, "feed", 1)]

users = st.sampled_from(USERS)
acts = st.tuples(
    st.sampled_from(("like", "like", "unlike")),
    st.lists(users, min_size=1, max_size=2, unique=True),
    st.sampled_from("ab"),  # actor
    st.sampled_from("12"),  # thing
    st.integers(-3, 3),  # when, ms from the base
    st.sampled_from(("", "", "k", "z", "a")),  # "" = no id; else how it begins, so that ids are out of order
)


def without_clock(line: str) -> tuple[object, ...]:
    """A record; of a mark without its time, which is the server's."""
    record = parse(line)
    own = record.id.startswith("\1")
    return record.kind, record.read, 0 if own else record.time, record.group, record.id, record.body


class Side:
    """One of the two worlds, with its reader and its ear."""

    def __init__(self, world: World, ear: Ear, cap: int) -> None:
        world.use(cap=cap, lease=600_000)
        self.world, self.ear = world, ear
        self.reader = Reader(world, "one", most=3)
        self.places: list[tuple[str, Place]] = []

    async def join(self, user: str, at: int, mode: Any, seq: int, most: int, presence: bool) -> Joined:
        inbox = self.world.inbox()
        where = self.place(user, at, seq)
        join = inbox.join if presence else inbox.sync
        joined = await join(user, Join(mode, where, most), ISSUED)
        self.places.append((user, Place(joined.birth, joined.run, joined.seq)))
        return joined

    def place(self, user: str, at: int, seq: int) -> Place:
        """One that this person was given before, moved a little, or one that nobody was ever given."""
        known = [place for owner, place in self.places if owner == user]
        choice = [*known, *UNKNOWN][at % (len(known) + len(UNKNOWN))]
        return Place(choice.birth, choice.run, max(0, choice.seq + seq))


class Oracle(RuleBasedStateMachine):
    """Every rule does the same in both worlds and compares what comes back; then what was heard."""

    real: RedisWorld
    real_ear: Ear

    @initialize(cap=st.integers(1, 4))
    def begin(self, cap: int) -> None:
        memory = MemoryWorld()
        self.base = int(time.time() * 1000)
        self.sent: list[bytes] = []
        self.events = self.entries = 0
        self.epochs: dict[object, object] = {}

        async def build() -> list[Side]:
            await self.real.calls.call("FLUSHALL")
            await self.real_ear.bells()
            return [Side(memory, await memory.ear(), cap), Side(self.real, self.real_ear, cap)]

        self.sides = reactor.run(build())

    def both(self, call: Callable[[Side], Coroutine[Any, Any, Any]]) -> Any:
        """The answers of both worlds; the bells are compared here."""

        async def ask() -> tuple[list[Any], list[list[Bell]]]:
            memory = self.sides[0].world
            assert isinstance(memory, MemoryWorld)
            memory.server.now = int(time.time() * 1000)
            return [await call(side) for side in self.sides], [await side.ear.bells() for side in self.sides]

        answers, heard = reactor.run(ask())
        one, two = ([self._plain(bell) for bell in bells] for bells in heard)
        assert one == two
        for ours, theirs in zip(*heard, strict=True):
            self._same_epoch(ours.user, ours, theirs)
        return answers

    @staticmethod
    def _plain(bell: Bell) -> tuple[object, ...]:
        record = without_clock(bell.record)
        accepted = bell.accepted if record[0] in (NOTIFICATION, "t") else 0
        return bell.user, bell.seq, bell.floor, bell.unread, accepted, record

    def _same_epoch(self, user: str, ours: Any, theirs: Any) -> None:
        """Births and runs differ from world to world, but they change together."""
        one, two = (user, ours.birth, ours.run), (user, theirs.birth, theirs.run)
        assert self.epochs.setdefault(("memory", one), two) == two
        assert self.epochs.setdefault(("real", two), one) == one

    def same(self, user: str, answers: list[Any]) -> None:
        ours, theirs = answers
        assert self._answer(ours) == self._answer(theirs)
        if ours.birth or theirs.birth:
            self._same_epoch(user, ours, theirs)

    @staticmethod
    def _answer(answer: Joined | Page) -> list[object]:
        seqs = [(seq, without_clock(line)) for seq, line in answer.records]
        result = answer.result if isinstance(answer, Joined) else "page"
        return [result, answer.seq, answer.floor, answer.seen, answer.unread, answer.more, seqs]

    # -- events

    def _append(self, raw: bytes) -> None:
        self.entries += 1
        # all within one millisecond: only the number tells them apart
        self.both(lambda side: side.world.append(raw, entry_id=f"{self.base}-{self.entries}"))

    @rule(batch=st.lists(acts, min_size=1, max_size=6))
    def happen(self, batch: list[tuple[str, list[str], str, str, int, str]]) -> None:
        for kind, to, actor, thing, at, name in batch:
            self.events += 1
            eid, when = (f"{name}{self.events}", self.base + at) if name else (None, None)
            self.sent.append(event(kind, to, actor=actor, thing=thing, eid=eid, at=when))
            self._append(self.sent[-1])

    @rule(which=st.integers(0, 1_000))
    def repeat(self, which: int) -> None:
        if self.sent:
            self._append(self.sent[which % len(self.sent)])

    @rule()
    def read(self) -> None:
        self.both(lambda side: side.reader.run())
        self._compare_readers()

    @rule(user=users, steps=st.integers(1, 4))
    def stumble(self, user: str, steps: int) -> None:
        """Nothing can be written for this person for a while; at most so long that some of it is buried."""

        async def spoil(side: Side) -> None:
            await side.world.spoil(user)
            for _ in range(steps):
                await side.reader.fanout.once()
            await side.world.mend(user)

        self.both(spoil)
        self._compare_readers()

    @rule()
    def take_over(self) -> None:
        """The reader forgets what it holds, as after a crash, and begins again."""

        async def drop(side: Side) -> None:
            side.reader.fanout.drop()
            await side.reader.run()

        self.both(drop)
        self._compare_readers()

    def _compare_readers(self) -> None:
        def told(side: Side) -> tuple[object, ...]:
            metrics = side.reader.metrics
            return (
                metrics.events_read, metrics.events_duplicate, metrics.events_handed_over, metrics.handover_failures,
                dict(metrics.notifications), dict(metrics.dead_letters), len(side.reader.fanout.backlog),
            )  # fmt: skip

        assert told(self.sides[0]) == told(self.sides[1])
        depths = self.both(lambda side: _depth(side))
        assert depths[0] == depths[1]

    # -- people

    @rule(
        user=users,
        at=st.integers(0, 20),
        seq=st.integers(-6, 2),
        mode=st.sampled_from(("fresh", "load", "resume", "resume", "resume")),
        most=st.sampled_from((1, 2, 5, 100)),
        presence=st.booleans(),
    )
    def join(self, user: str, at: int, seq: int, mode: str, most: int, presence: bool) -> None:
        self.same(user, self.both(lambda side: side.join(user, at, mode, seq, most, presence)))

    @rule(user=users, before=st.integers(0, 12), most=st.integers(1, 4))
    def page(self, user: str, before: int, most: int) -> None:
        self.same(user, self.both(lambda side: _page(side, user, before, most)))

    @rule(
        user=users,
        kind=st.sampled_from(("ack", "seen", "read", "read", "delete", "delete")),
        at=st.integers(0, 20),
        seq=st.integers(-4, 2),
        placed=st.booleans(),
        which=st.lists(st.integers(1, 60), max_size=4),
    )
    def mark(self, user: str, kind: Any, at: int, seq: int, placed: bool, which: list[int]) -> None:
        names = [f"{'kza'[n % 3]}{n}" for n in which] + [f"x:{self.base}-{n}" for n in which]

        def made(side: Side) -> Mark:
            place = side.place(user, at, seq)
            return Mark(user, kind, str(place.birth) if placed else "", place.run, place.seq, tuple(names))

        changes = self.both(lambda side: side.world.inbox().mark([made(side)]))  # type: ignore[arg-type, return-value]
        assert changes[0] == changes[1]

    @rule(user=users)
    def leave(self, user: str) -> None:
        self.both(lambda side: side.world.inbox().leave([user]))  # type: ignore[arg-type, return-value]

    @rule()
    def refresh(self) -> None:
        ours, theirs = self.both(lambda side: side.world.inbox().refresh(USERS))  # type: ignore[arg-type, return-value]
        for user in USERS:
            assert (ours[user].seq, ours[user].revoked) == (theirs[user].seq, theirs[user].revoked)
            assert bool(ours[user].birth) == bool(theirs[user].birth)

    @rule()
    def restart(self) -> None:
        """Another run. Places of before are dropped: in the real world only the inboxes are made to look older."""

        async def anew(side: Side) -> None:
            for user in USERS if isinstance(side.world, RedisWorld) else USERS[:1]:
                await side.world.new_run(user)
            side.places.clear()

        self.both(anew)
        self.epochs.clear()
        for user in USERS:
            self.join(user, 0, 0, "load", 100, False)

    def teardown(self) -> None:
        """At the end all is read, and everybody's inbox is the same from any place."""
        if not hasattr(self, "sides"):
            return
        self.read()
        for user in USERS:
            for at in range(8):
                for seq in (-3, -1, 0):
                    self.join(user, at, seq, "resume", 100, False)


async def _page(side: Side, user: str, before: int, most: int) -> Page | None:
    return await side.world.inbox().page(user, before, most, ISSUED)


async def _depth(side: Side) -> int:
    return (await side.reader.log.depth()).entries


def explore(valkey: Valkey, examples: int, steps: int) -> None:
    def case(world: RedisWorld) -> type[RuleBasedStateMachine]:
        return type("Case", (Oracle,), {"real": world, "real_ear": reactor.run(world.ear())})

    explored(valkey, case, examples, steps)


def test_memory_is_an_oracle_of_the_scripts(valkey: Valkey) -> None:
    explore(valkey, examples=25, steps=20)


@pytest.mark.campaign
def test_memory_is_an_oracle_of_the_scripts_at_length(valkey: Valkey) -> None:
    explore(valkey, examples=3_000, steps=50)
