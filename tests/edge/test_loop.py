"""Loops: streams are shared evenly among processes, on a clock that the tests move and between real daemons; a stop
ends what waits; and a wake-up that was lost delays no longer than a poll."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock

from notifier.config import Config, Fanout, Redis
from notifier.core.keys import shard_of
from notifier.edge.loop import AGAIN, LESS_OFTEN, POLITE, Loop, share
from notifier.ports import EventLog, Unavailable
from notifier.service import House
from tests.client import Socket
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

POLL = 0.25
LEASE = 3.0


class Streams:
    """Who holds each lease, until when."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.leases: dict[int, tuple[object, float]] = {}
        self.count = count
        self.history: list[tuple[float, int, str]] = []

    def take(self, stream: int, who: Process) -> bool:
        holder, until = self.leases.get(stream, (None, 0.0))
        if holder not in (None, who) and until > self.clock.seconds():
            return False
        if holder is not who:
            self.history.append((self.clock.seconds(), stream, who.name))
        self.leases[stream] = (who, self.clock.seconds() + LEASE)
        return True

    def give(self, stream: int) -> None:
        del self.leases[stream]


class Steps:
    """A reader of a stream on which nothing ever happens (loop.Steps); its own log, of which a loop asks `wait`."""

    def __init__(self, streams: Streams, stream: int, process: Process) -> None:
        self.streams, self.stream, self.process = streams, stream, process
        self.log = cast("EventLog", self)
        self.owned = False
        self.looks: list[float] = []

    async def once(self) -> bool:
        if self.process.dead:
            await Deferred()
        self.looks.append(self.streams.clock.seconds())
        self.owned = self.streams.take(self.stream, self.process)
        return False

    def wait(self, seconds: float) -> Awaitable[None]:
        return deferLater(cast("Any", self.streams.clock), seconds, lambda: None)

    def drop(self) -> None:
        self.owned = False

    async def release(self) -> None:
        if self.owned:
            self.drop()
            self.streams.give(self.stream)


class Process:
    """One process with a loop for each stream, and the second in which it looks after its share."""

    def __init__(self, name: str, streams: Streams, processes: Callable[[], int]) -> None:
        self.name, self.streams, self.dead = name, streams, False
        self.steps = [Steps(streams, at, self) for at in range(streams.count)]
        self.loops = [Loop(streams.clock, steps, f"{name} {at}", POLL) for at, steps in enumerate(self.steps)]
        self.level = share(self.loops, processes)
        for loop in self.loops:
            loop.start()
        streams.clock.callLater(1.0, self._second)

    def _second(self) -> None:
        if not self.dead:
            self.level()
            self.streams.clock.callLater(1.0, self._second)

    @property
    def mine(self) -> int:
        return sum(steps.owned for steps in self.steps)


class World:
    """Processes that know of each other."""

    def __init__(self, count: int) -> None:
        self.streams = Streams(count)
        self.processes: list[Process] = []
        self.counted = 0  # beside those that are there: dead ones that still count

    def start(self) -> Process:
        alive = lambda: self.counted + sum(not process.dead for process in self.processes)  # noqa: E731
        process = Process(f"p{len(self.processes)}", self.streams, alive)
        self.processes.append(process)
        return process

    def pass_by(self, seconds: float) -> None:
        for _ in range(round(seconds * 20)):
            self.streams.clock.advance(0.05)

    @property
    def shares(self) -> list[int]:
        return [process.mine for process in self.processes if not process.dead]


def test_who_is_alone_takes_all() -> None:
    world = World(5)
    world.start()
    world.pass_by(10)
    assert world.shares == [5]
    assert len(world.streams.history) == 5, "nothing changes hands without need"


def test_who_comes_second_gets_its_half_and_the_first_takes_all_again() -> None:
    world = World(5)
    first = world.start()
    world.pass_by(5)
    second = world.start()
    world.pass_by(20)
    assert (first.mine, second.mine) == (3, 2)
    changes = len(world.streams.history)
    world.pass_by(200)
    assert len(world.streams.history) == changes, "and there it stays"
    second.dead = True
    world.counted = 1  # for a while: there seems to be somebody who wants more
    world.pass_by(LEASE + LESS_OFTEN * POLL + 0.1)
    assert first.mine == 5


@settings(max_examples=40)
@given(st.integers(1, 9), st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_shares_are_even_however_many_come_and_whenever(count: int, pauses: list[int]) -> None:
    world = World(count)
    for pause in pauses:
        world.start()
        world.pass_by(pause)
    world.pass_by(40)
    fair = -(-count // len(pauses))
    assert sum(world.shares) == count
    assert max(world.shares) <= fair


def test_a_stream_that_nobody_takes_is_offered_once_in_a_while_and_read_meanwhile() -> None:
    world = World(2)
    world.counted = 1  # another process is counted, but it reads nothing
    first = world.start()
    world.pass_by(90)
    taken = [at for at, stream, _ in world.streams.history if stream == 1]
    assert first.mine == 2
    assert 3 <= len(taken) <= 5
    assert all(AGAIN <= after - before <= AGAIN + POLITE + 2 for before, after in pairwise(taken[1:]))
    unread = [after - before for before, after in pairwise(first.steps[1].looks)]
    assert max(unread) <= POLITE + POLL + 0.2


def test_who_has_its_share_lets_others_look_first() -> None:
    world = World(4)
    world.counted = 1
    other = object()
    for stream in (0, 1, 2):
        world.streams.leases[stream] = (other, 1e9)
    first = world.start()
    world.pass_by(1)
    assert first.mine == 1, "less than its share"
    del world.streams.leases[0]
    world.pass_by(POLL * 2)
    assert first.mine == 2, "a free one is taken at the next poll"
    first.steps[2].looks.clear()
    world.pass_by(POLITE * 3)
    looks = first.steps[2].looks
    assert all(after - before >= LESS_OFTEN * POLL - 0.01 for before, after in pairwise(looks))
    assert len(looks) >= 2, "more than its share only when nobody else wants it, but then it does"


@pytest.mark.parametrize("owned", [True, False])
def test_a_loop_that_sleeps_ends_with_the_stop(owned: bool) -> None:
    world = World(1)
    if not owned:
        world.streams.leases[0] = (object(), 1e9)
    process = world.start()
    world.pass_by(1)
    ended: list[Any] = []
    Deferred.fromCoroutine(process.loops[0].stop()).addCallback(ended.append)
    world.pass_by(0 if not owned else POLL)
    assert ended == [None]
    assert process.mine == 0


def test_a_loop_that_backs_off_ends_with_the_stop() -> None:
    world = World(1)
    process = world.start()

    async def away() -> bool:
        raise Unavailable("away")

    process.steps[0].once = away  # type: ignore[method-assign]
    world.pass_by(60)
    assert process.loops[0].fault == "Unavailable: away"
    ended: list[Any] = []
    Deferred.fromCoroutine(process.loops[0].stop()).addCallback(ended.append)
    assert ended == [None]


# --- how long a reader may sleep ---------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout", "poll", "block"), [(5.0, 250, 250), (5.0, 9000, 2500), (0.4, 5000, 200)])
def test_a_blocked_read_ends_well_within_the_deadline_of_a_call(
    timeout: float, poll: int, block: int
) -> None:
    config = Config(
        redis=Redis(timeout_seconds=timeout), fanout=Fanout(poll_ms=poll, lease_seconds=30, claim_seconds=30)
    )
    house = House(config, MemoryReactorClock())  # type: ignore[no-untyped-call]
    asked: list[Any] = []

    def call(*command: Any) -> Deferred[None]:
        asked.append(command)
        return Deferred()

    house.doorbell.call = call  # type: ignore[method-assign]
    (loop,) = house.loops
    Deferred.fromCoroutine(_wait(loop))
    ((*_, block_word, ms, _, stream, last),) = asked
    assert (block_word, ms, stream, last) == ("BLOCK", block, "notifier:events", "$")


async def _wait(loop: Loop) -> None:
    await loop.steps.log.wait(loop.poll)


# --- real daemons ------------------------------------------------------------------------------------------

SHARDS = 4
SPREAD: Settings = {
    "redis": {"shards": SHARDS},
    "fanout": {"lease_seconds": 1.0, "poll_ms": 100, "claim_seconds": 1},
}


@pytest.fixture
def pair(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[list[Daemon]]:
    """Two daemons, not started."""
    with ExitStack() as stack:
        made = [Daemon(tmp_path / side, redis_url, SPREAD) for side in ("left", "right")]
        for daemon in made:
            stack.callback(daemon.kill)
        yield made


def held(daemon: Daemon) -> int:
    return int(daemon.metrics()["leases_held"])


def person(shard: int) -> str:
    return next(name for name in (f"u{n}" for n in range(100)) if shard_of(name, SHARDS) == shard)


def like(user: str, thing: str) -> str:
    thing_ = {"type": "photo", "id": thing}
    return json.dumps({"type": "like", "actor": {"id": "ana"}, "to": [user], "object": thing_})


def test_two_daemons_share_the_streams_and_one_takes_all_when_the_other_is_killed(
    pair: list[Daemon], valkey: Valkey
) -> None:
    left, right = pair
    left.start()
    wait_until(lambda: held(left) == SHARDS + 1, 20, "the first has the front door and all shards")
    right.start()
    wait_until(lambda: (held(left), held(right)) == (3, 2), 60, lambda: f"{held(left)}, {held(right)}")
    with ExitStack() as stack:
        clients = [stack.enter_context(Socket(left.port("websocket"))) for _ in range(SHARDS)]
        for shard, client in enumerate(clients):
            client.auth(person(shard))
            valkey.call("XADD", "notifier:events", "*", "event", like(person(shard), "1"))
            assert client.until("notification", 20)["seq"] == 1
        right.kill()
        wait_until(lambda: held(left) == SHARDS + 1, 60, lambda: f"{held(left)} after the other was killed")
        for shard, client in enumerate(clients):
            valkey.call("XADD", "notifier:events", "*", "event", like(person(shard), "2"))
            assert client.until("notification", 20)["seq"] == 2


def test_a_wake_up_that_is_lost_delays_no_longer_than_a_poll(pair: list[Daemon], valkey: Valkey) -> None:
    daemon = pair[0].start()
    wait_until(lambda: held(daemon) == SHARDS + 1, 20, "it reads every stream")
    user = person(2)
    with Socket(daemon.port("websocket")) as client:
        client.auth(user)
        # as the router appends, but without a word to the reader
        valkey.call(
            "XADD", "events:{2}", "*", "v", "1", "id", "1795000000000-0", "to", user, "event", like(user, "1")
        )
        assert client.until("notification", 20)["seq"] == 1
        # the doorbell's connection is gone in the middle of its wait
        killed = cast("int", valkey.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        assert killed >= 1
        valkey.call("XADD", "notifier:events", "*", "event", like(user, "2"))
        assert client.until("notification", 20)["seq"] == 2


# --- stopping ----------------------------------------------------------------------------------------------

# a call to a server that does not answer takes a minute to fail
MANY: Settings = {
    "redis": {"shards": 16, "timeout_seconds": 60},
    "drain": {"seconds": 0.0, "timeout_seconds": 3.0},
}


@pytest.mark.parametrize("away", ["paused", "killed"])
def test_many_readers_stop_within_the_limit_while_redis_is_away(
    tmp_path: Path, own_server: Valkey, away: str
) -> None:
    with Daemon(tmp_path, own_server.url, MANY) as daemon:
        wait_until(lambda: held(daemon) == 17, 30, "it reads every stream")
        if away == "paused":
            own_server.pause()
        else:
            own_server.kill()
        try:
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.ended(20) in (0, -signal.SIGTERM), daemon.tail()
        finally:
            if away == "paused":
                own_server.resume()
        assert "notifier has stopped" in daemon.messages()
