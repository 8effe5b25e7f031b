"""Daemons are killed and paused while events flow; then every inbox and every client holds exactly its events."""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.chaos.checker import Inbox, judge
from tests.chaos.crowd import Crowd
from tests.chaos.diagnosis import diagnosis, holders
from tests.chaos.failpoints import LISTENS, POINTS
from tests.chaos.producer import STREAM, Producer, story
from tests.chaos.scene import Scene, read_inboxes
from tests.daemon import READY, Daemon, wait_until
from tests.servers import Valkey

Report = Callable[[str], None]

LEASE: Final = 0.5  # s
UP: Final = 120.0  # s that a daemon may take to start, on a machine that has other work
OVER_ROUTER: Final = ("append", "routed", "acknowledge")
SETTINGS: Final[dict[str, dict[str, object]]] = {
    "inbox": {"cap": 400},
    "fanout": {"lease_seconds": LEASE, "poll_ms": 50, "claim_seconds": 2},
    "websocket": {"refresh_seconds": 3, "resync_spread_seconds": 1},
    "limits": {"messages_per_second": 1000.0, "messages_burst": 1000},
    "log": {"level": "info"},
}


@dataclass(frozen=True)
class Plan:
    """How bad it gets."""

    events: int
    kills: int
    pauses: int
    shards: int = 1
    people: int = 500
    clients: int = 100
    seed: int = 1
    redis_kills: int = 0

    @property
    def points(self) -> list[str]:
        """Points that this set-up can pass."""
        return [point for point in POINTS if self.shards > 1 or point not in OVER_ROUTER]


class Storm:
    """Two daemons on one Redis, a producer and a crowd. A context manager."""

    def __init__(self, folder: Path, server: Valkey, plan: Plan) -> None:
        self.server, self.plan = server, plan
        self.chance = random.Random(plan.seed)
        self.people = [f"p{number}" for number in range(plan.people)]
        settings = SETTINGS | {"redis": {"shards": plan.shards}}
        program = ("-m", "tests.chaos.failpoints")
        self.daemons = [
            Daemon(folder, server.url, settings, name=name, program=program) for name in ("left", "right")
        ]
        self.producer = Producer(server.port, story(plan.events, self.people, plan.seed))
        self.crowd = Crowd(self.people[: plan.clients], self.ports, restless=4, reads=5)
        self.deaths: Counter[str] = Counter()
        self.takeovers = 0
        self._open: tuple[int, ...] = ()
        self.runs = [run_of(server)]
        self._heard: dict[int, int] = {}  # where the process of this id listens
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.launch()
        self._stack.enter_context(self.producer)
        self._stack.enter_context(self.crowd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for daemon in self.daemons:
            daemon.kill()

    def launch(self) -> None:
        """Two daemons that live on."""
        for daemon in self.daemons:
            daemon.launch("none", "0")
        for daemon in self.daemons:
            daemon.wait_for(READY, UP)
        self.look()

    def ports(self) -> tuple[int, ...]:
        return self._open

    def look(self) -> None:
        """Which daemons can be connected to?"""
        self._open = tuple(filter(None, map(self._port, self.daemons)))

    def _port(self, daemon: Daemon) -> int | None:
        """Where clients may connect, which is so before a daemon says that it is ready."""
        if not daemon.running:
            return None
        if daemon.pid not in self._heard:
            said = f"{LISTENS}websocket"
            found = [int(line["port"]) for line in daemon.lines() if line.get("message") == said]
            if found:
                self._heard[daemon.pid] = found[0]
        return self._heard.get(daemon.pid)

    def arm(self, daemon: Daemon) -> None:
        """Give a daemon a death: one of those that were met least often. Streams are shared between the two, so a
        point may lie on a stream that this one does not read; then it comes up again."""
        fewest = min(self.deaths[point] for point in self.plan.points)
        point = self.chance.choice([point for point in self.plan.points if self.deaths[point] == fewest])
        rare = point in ("lease", "claim", "between")
        daemon.launch(point, str(1 if rare else self.chance.randint(1, 3)))

    @property
    def met(self) -> list[str]:
        """Points at which a daemon has died."""
        return [point for point in self.plan.points if self.deaths[point]]

    @property
    def enough(self) -> bool:
        """Was the storm as hard as it should be?"""
        return len(self.met) >= min(self.plan.kills // 2, len(self.plan.points))

    def bury(self) -> None:
        """Count who died by its own hand, and start it again with another fate."""
        for daemon in self.daemons:
            if not daemon.running:
                last = daemon.messages()[-1]
                assert last.startswith("died: "), (
                    f"{daemon.name} ended without being told to:\n{daemon.tail()}"
                )
                self.deaths[last.removeprefix("died: ")] += 1
                daemon.kill()
                self.arm(daemon)
        self.look()

    def run(self) -> None:
        """All kills and pauses, with the events spread over them; then two daemons that stay."""
        plan = self.plan
        moments = plan.kills + plan.pauses
        pauses = {at * moments // plan.pauses for at in range(plan.pauses)} if plan.pauses else set()
        for daemon in self.daemons:
            daemon.kill()
            self.arm(daemon)
        reserve = plan.events // 4  # for what was not met by then
        left = plan.events - reserve
        redis_kills = {at * moments // plan.redis_kills for at in range(plan.redis_kills)}
        for moment in range(moments):
            if moment in redis_kills:
                self.server.kill()
                self.server.start()
                self.runs.append(run_of(self.server))
            share = left // (moments - moment)
            left -= share
            self.producer.release(share)
            if moment in pauses:
                self.pause_owner()
            else:
                self.wait_for_death()
        while not self.enough and self.deaths.total() < 4 * plan.kills:
            share = min(reserve, plan.events // 40)
            reserve -= share
            self.producer.release(share)
            self.wait_for_death()
        self.producer.release(reserve)
        wait_until(lambda: self.producer.idle, UP, "the producer has been answered")
        self.settle()

    def wait_for_death(self, patience: float = 3.0) -> None:
        """One daemon dies where it was told to; if none does, one is killed wherever it is.

        Only time in which somebody reads counts: on a busy machine a daemon would be killed before it was up, again and
        again.
        """
        before, read, until = self.deaths.total(), 0.0, time.monotonic() + UP
        while self.deaths.total() == before:
            began = time.monotonic()
            for _ in range(10):
                time.sleep(0.01)
                self.bury()
            owner = self.owner()
            if owner is not None:
                read += time.monotonic() - began
            if owner is not None and read > patience:
                owner.kill()
                self.deaths["anywhere"] += 1
                self.arm(owner)
            assert time.monotonic() < until, f"nobody reads: {self.stuck()}"

    def owner(self) -> Daemon | None:
        """Who reads the first shard now."""
        holder = self.server.call("GET", "lease:{0}")
        name = holders(self.server).get(holder, "") if isinstance(holder, bytes) else ""
        return next((daemon for daemon in self.daemons if daemon.name == name), None)

    def pause_owner(self) -> None:
        """SIGSTOP past the lease, then SIGCONT: it wakes with a batch in hand that is another's now."""
        paused: list[Daemon] = []

        def stopped() -> bool:
            self.bury()
            owner = self.owner()
            if owner is not None and owner.running:
                owner.pause()
                # it may have died, or lost the lease, between the look and the signal
                if self.owner() is owner:
                    paused.append(owner)
                else:
                    owner.resume()
            return bool(paused)

        wait_until(stopped, UP, "one of the daemons is reading")
        until = time.monotonic() + UP
        while self.owner() in (*paused, None) and time.monotonic() < until:
            self.bury()
            time.sleep(0.01)
        self.takeovers += int(self.owner() not in (*paused, None))
        paused[0].resume()
        self.bury()

    def settle(self) -> None:
        """Two daemons that live on; wait until nothing is left to do."""
        self.crowd.calm()
        for daemon in self.daemons:
            daemon.kill()
        self.launch()
        self.drain()
        wait_until(lambda: not self.faults(), UP, lambda: "\n".join(self.faults()[:20]), every=0.5)

    def drain(self, patience: float = 30.0) -> None:
        """Wait until the streams are empty; fails when they have not become shorter for so many seconds."""
        least, since = sum(self.backlog().values()), time.monotonic()
        while left := sum(self.backlog().values()):
            if left < least:
                least, since = left, time.monotonic()
            assert time.monotonic() < since + patience, f"{left} entries stay: {self.stuck()}"
            time.sleep(0.05)

    def backlog(self) -> dict[str, int]:
        """Entries in each stream."""
        streams = [STREAM, *(f"events:{{{shard}}}" for shard in range(self.plan.shards))]
        return {stream: int(str(self.server.call("XLEN", stream))) for stream in streams}

    def stuck(self) -> str:
        """What there is to know about a stream that does not empty."""
        said = diagnosis(self.server)
        for daemon in self.daemons:
            said += [daemon.name, daemon.get("/readyz")[1].decode(), daemon.tail()]
        return "\n".join(said)

    # -- the judgement

    def needless(self) -> list[str]:
        """Clients that were told to load anew although Redis had been started no more than once since their place."""
        at = {run: number for number, run in enumerate(self.runs)}
        return [
            f"{user}: from {before} to {after}"
            for user, copy in self.crowd.copies().items()
            for before, after in copy.moves
            if at[after.partition(".")[2]] - at[before.partition(".")[2]] < 2
        ]

    def inboxes(self) -> dict[str, Inbox]:
        return read_inboxes(self.server, self.people, self.plan.shards)

    def faults(self) -> list[str]:
        return judge(self.producer.sent, self.inboxes(), self.crowd.copies())

    def dead_letters(self) -> int:
        keys = self.server.call("KEYS", "dead:*")
        assert isinstance(keys, list)
        lengths = [self.server.call("XLEN", key) for key in keys]
        return sum(length for length in lengths if isinstance(length, int))

    def say(self, began: float) -> str:
        rows = sum(len(inbox.rows) for inbox in self.inboxes().values())
        copies = self.crowd.copies().values()
        return (
            f"{len(self.producer.accepted)} appends, {rows} rows, {self.deaths.total()} kills "
            f"({', '.join(f'{point}: {count}' for point, count in sorted(self.deaths.items()))}), "
            f"{self.takeovers} of {self.plan.pauses} pauses outlived the lease, {self.producer.retries} retries, "
            f"{self.crowd.connections} connections of {len(self.crowd.followers)} clients, "
            f"{sum(copy.resumes for copy in copies)} resumes, {sum(copy.resyncs for copy in copies)} resyncs, "
            f"{time.monotonic() - began:.0f} s"
        )


def run_of(server: Valkey) -> str:
    """The run of the server, as places name it."""
    info = server.call("INFO", "server")
    assert isinstance(info, bytes)
    found = re.search(rb"run_id:(\w{16})", info)
    assert found is not None
    return found[1].decode()


def weather(tmp_path: Path, plan: Plan, report: Report) -> None:
    """Run a storm and judge it."""
    began = time.monotonic()
    with (
        Valkey(tmp_path / "valkey", extra={"appendfsync": "always"}) as server,
        Storm(tmp_path, server, plan) as storm,
    ):
        storm.run()
        report(storm.say(began))
        assert storm.faults() == []
        assert storm.needless() == []
        assert storm.deaths.total() >= plan.kills
        if plan.redis_kills:
            # what Redis had not answered when it died was appended, or died, without an answer
            assert storm.takeovers >= plan.pauses * 0.8
        else:
            garbage = sum(letter.sent is None for letter in storm.producer.accepted)
            assert storm.dead_letters() == garbage, "each piece of garbage is buried once, and nothing else"
            assert all(copy.resyncs == 0 for copy in storm.crowd.copies().values()), (
                "nothing was lost: no resync"
            )
            assert storm.takeovers == plan.pauses
            assert not [point for point in storm.deaths if "no reply seen" in point], storm.deaths
        assert storm.enough, f"only these points were met: {storm.met}"
        for daemon in storm.daemons:
            metrics = daemon.metrics()
            assert (metrics["entries_lost_total"], metrics["group_recreated_total"]) == (0, 0)


@pytest.fixture
def report(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Report:
    """Says what a storm was like: on the terminal, and in a report of pytest's."""

    def say(line: str) -> None:
        record_property("storm", line)
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}\n")

    return say


def test_twenty_thousand_events_under_fifty_kills(tmp_path: Path, report: Report) -> None:
    weather(tmp_path, Plan(events=20_000, kills=50, pauses=4), report)


def test_shards_behind_a_router_under_kills(tmp_path: Path, report: Report) -> None:
    weather(tmp_path, Plan(events=2_000, kills=12, pauses=1, shards=2, clients=50, seed=2), report)


def test_a_stopped_owner_wakes_up_without_its_lease(tmp_path: Path, own_server: Valkey) -> None:
    """It has a batch in hand and would read on: two readers of one stream would mix its order up."""
    # no look for unfinished entries, in which it might find out by chance
    fanout: dict[str, object] = {"claim_seconds": 60}
    with Scene(tmp_path, own_server, {"fanout": fanout}, daemons=2, people=60) as scene:
        for _ in range(2):
            scene.publish(3_000, wait=False)
            time.sleep(0.15)
            owner = max(scene.daemons, key=lambda daemon: daemon.metrics()["leases_held"])
            owner.pause()
            time.sleep(LEASE * 1.6)
            owner.resume()
            time.sleep(0.2)
            assert owner.metrics()["leases_held"] == 0, "the other daemon has the lease now"
        wait_until(lambda: scene.producer.idle, 60, "the producer has been answered")
        scene.settle()
        assert scene.stayed()


@pytest.mark.campaign
@pytest.mark.parametrize(("shards", "seed"), [(1, 11), (4, 12)])
def test_a_long_storm_in_which_redis_dies_too(tmp_path: Path, report: Report, shards: int, seed: int) -> None:
    plan = Plan(events=120_000, kills=300, pauses=20, redis_kills=12, shards=shards, seed=seed, people=2_000)
    weather(tmp_path, plan, report)
