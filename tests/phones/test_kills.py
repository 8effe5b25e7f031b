"""Daemons are killed and stopped with pushes under way: each phone gets its pushes, and shows none twice."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from notifier.core.keys import GROUP
from tests.daemon import READY, Daemon, Settings
from tests.phones.failpoints import POINTS
from tests.phones.site import PATIENCE, Site
from tests.sandboxes import SandboxProcess

LONG: Final = 300.0  # s until what a stopped process holds is another's, behind all that the dead have left
FRESH: Final = 1_000  # ms
LEGACIES: Final = ("history", "claimed", "woken")  # deaths over what another has left
Report = Callable[[str], None]

SETTINGS: Final[Settings] = {"websocket": {"refresh_seconds": 30}, "push": {"breaker_cap_seconds": 1.0}}


@dataclass(frozen=True)
class Plan:
    """How bad it gets. Each comment goes to `crowd` people, with two phones each.

    failures  answers of Apple's that are 503, one now and then
    at_once   all comments are there before the first kill
    """

    people: int
    comments: int
    crowd: int
    kills: int
    pauses: int
    failures: int
    delay_ms: int
    at_once: bool = False
    shards: int = 1
    seed: int = 1


class Storm:
    """Two daemons, each with a death of its own, on a site full of phones."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site, self.plan = site, plan
        self.chance = random.Random(plan.seed)
        self.deaths: Counter[str] = Counter()
        self.takeovers = 0
        self._said = 0

    def run(self) -> None:
        plan, site = self.plan, self.site
        self._script()
        left = plan.comments
        moments = plan.kills + plan.pauses
        pauses = set(range(moments // 2, moments, max(1, moments // 2 // max(1, plan.pauses))))
        for daemon in site.daemons:
            self._arm(daemon)
        for moment in range(moments):
            share = left if plan.at_once else left // (moments - moment)
            left -= share
            for _ in range(share):
                self._comment()
            if moment in pauses and self.takeovers < plan.pauses:
                self._pause()
            else:
                self._wait_for_death()
        while not self.enough and self.deaths.total() < 4 * plan.kills:
            self._wait_for_death()
        self._settle()

    @property
    def enough(self) -> bool:
        """Was the storm as hard as it should be?"""
        return len(self.deaths.keys() & POINTS.keys()) >= min(self.plan.kills // 2, len(POINTS))

    def _script(self) -> None:
        for one in range(self.plan.failures):
            said = {"status": 503, "reason": "ServiceUnavailable", "times": 1, "skip": 5 * one}
            self.site.apns.ask("POST", "script", {"provider": "apns", **said})
        for provider, sandbox in (("apns", self.site.apns), ("fcm", self.site.fcm)):
            sandbox.ask("POST", "script", {"provider": provider, "delay_ms": self.plan.delay_ms})

    def _comment(self) -> None:
        at, plan = self._said * self.plan.crowd, self.plan
        self._said += 1
        self.site.comment([self.site.users[(at + n) % plan.people] for n in range(plan.crowd)])

    def _arm(self, daemon: Daemon) -> None:
        """Start it with one of the deaths that were met least often; now and then under the name of the dead."""
        # of what the dead have left there is nothing yet while nobody has died
        points = [point for point in POINTS if self.deaths or point not in LEGACIES]
        fewest = min(self.deaths[point] for point in points)
        point = self.chance.choice([point for point in points if self.deaths[point] == fewest])
        if point == "history" or self.chance.random() < 0.5:
            # as if the time was up after which its name is free again
            self.site.server.call("DEL", f"slot:{daemon.name}-1")
        rare = point in LEGACIES
        daemon.launch(point, str(1 if rare else self.chance.randint(1, 4)))

    def _bury(self, but: Daemon | None = None) -> None:
        """Count who died by its own hand, and start it again with another fate."""
        for daemon in self.site.daemons:
            if daemon is not but and not daemon.running:
                last = daemon.messages()[-1]
                assert last.startswith("died: "), (
                    f"{daemon.name} ended without being told to:\n{daemon.tail()}"
                )
                self.deaths[last.removeprefix("died: ")] += 1
                daemon.kill()
                self._arm(daemon)

    def _wait_for_death(self, patience: float = 1.0) -> None:
        """One daemon dies where it was told to; if none does, one is killed with pushes in hand."""
        before, until, reading = self.deaths.total(), time.monotonic() + PATIENCE, 0.0
        while self.deaths.total() == before:
            began = time.monotonic()
            time.sleep(0.02)
            self._bury()
            reading += (time.monotonic() - began) * bool(self._ready())
            if reading > patience and (victim := self._busy()) is not None:
                victim.kill()
                self.deaths["anywhere"] += 1
                self._arm(victim)
            assert time.monotonic() < until, self.site.said()

    def _ready(self) -> list[Daemon]:
        return [daemon for daemon in self.site.daemons if daemon.listening("admin") is not None]

    def _in_hand(self) -> set[str]:
        """Names of daemons that were given entries and have not settled them, dead ones too."""
        found: set[str] = set()
        for lane in self.site.lanes:
            told = self.site.server.call("XPENDING", lane, GROUP)
            consumers = told[3] if isinstance(told, list) else None
            found |= {name.decode().rpartition("-")[0] for name, count in consumers or () if int(count)}
        return found

    def _busy(self) -> Daemon | None:
        """One that lives and has pushes under way; if there is nothing to do, something is published."""
        if self._ready() and self.site.settled():
            self._comment()
        names = self._in_hand()
        return next((daemon for daemon in self._ready() if daemon.name in names), None)

    def _pause(self) -> None:
        """SIGSTOP with pushes under way, until they are another's, then SIGCONT: it settles what is not its own."""
        until = time.monotonic() + LONG
        victim, held = self._stopped(until)
        while held <= self._given(victim):
            assert time.monotonic() < until, self.site.said()
            time.sleep(0.05)
            self._bury(but=victim)
        self.takeovers += 1
        victim.resume()

    def _stopped(self, until: float) -> tuple[Daemon, set[tuple[str, bytes]]]:
        """One that was stopped with pushes under way, and the entries that it was given."""
        while True:
            assert time.monotonic() < until, self.site.said()
            self._bury()
            victim = self._busy()
            if victim is not None:
                victim.pause()
                if held := self._given(victim, FRESH):
                    return victim, held
                victim.resume()  # what it had was settled meanwhile

    def _given(self, daemon: Daemon, idle: int = 2**40) -> set[tuple[str, bytes]]:
        """Entries, by lane and id, that daemons of this name were given no longer than `idle` ms ago and still have."""
        found: set[tuple[str, bytes]] = set()
        for lane in self.site.lanes:
            told = self.site.server.call("XPENDING", lane, GROUP, "-", "+", 100_000)
            assert isinstance(told, list)
            mine = f"{daemon.name}-".encode()
            found |= {(lane, entry) for entry, name, age, _ in told if name.startswith(mine) and age < idle}
        return found

    def _settle(self) -> None:
        """Two daemons that live on, and providers that answer at once."""
        site = self.site
        for sandbox in (site.apns, site.fcm):
            sandbox.ask("DELETE", "script")
        for daemon in site.daemons:
            daemon.kill()
            daemon.launch("none", "0")
        for daemon in site.daemons:
            daemon.wait_for(READY, PATIENCE)
        site.rest(600.0 if self.plan.at_once else PATIENCE, hurry=True)

    def say(self, began: float) -> str:
        site = self.site
        taken = {"apns": site.accepted("apns"), "fcm": site.accepted("fcm")}
        sounded = sum(int(one.ask("GET", "counts")["sounded_twice"]) for one in {site.apns, site.fcm})
        points = ", ".join(f"{point}: {count}" for point, count in sorted(self.deaths.items()))
        return (
            f"{2 * site.pushes} pushes, {self.deaths.total()} kills ({points}), {self.takeovers} of {self.plan.pauses} "
            f"stops ended in a takeover; Apple took {taken['apns']}, Google {taken['fcm']}: "
            f"{sum(taken.values()) - 2 * site.pushes} came again, {sounded} of which made a sound again; "
            f"shown twice: {site.shown_twice()}; {time.monotonic() - began:.0f} s"
        )


def weather(folder: Path, plan: Plan, report: Report) -> None:
    """Run a storm and judge it."""
    program = ("-m", "tests.phones.failpoints")
    with (
        SandboxProcess(folder / "sandbox") as sandbox,
        Site(
            folder,
            sandbox,
            people=plan.people,
            settings=SETTINGS,
            daemons=("left", "right"),
            program=program,
            shards=plan.shards,
        ) as site,
    ):
        began = time.monotonic()
        storm = Storm(site, plan)
        storm.run()
        report(storm.say(began))
        site.judge()
        assert storm.deaths.total() >= plan.kills
        assert storm.takeovers == plan.pauses
        assert not [point for point in storm.deaths if "no reply seen" in point], storm.deaths
        assert storm.enough, storm.deaths
        for daemon in site.daemons:
            assert daemon.metrics()["entries_lost_total"] == 0


@pytest.fixture
def report(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Report:
    """Says what a storm was like: on the terminal, and in a report of pytest's."""

    def say(line: str) -> None:
        record_property("storm", line)
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}\n")

    return say


def test_two_thousand_pushes_under_kills(tmp_path: Path, report: Report) -> None:
    plan = Plan(people=500, comments=20, crowd=50, kills=6, pauses=1, failures=20, delay_ms=100)
    weather(tmp_path, plan, report)


@pytest.mark.campaign
def test_fifty_thousand_pushes_in_flight_under_kills(tmp_path: Path, report: Report) -> None:
    plan = Plan(
        people=25_000,
        comments=25,
        crowd=1_000,
        kills=40,
        pauses=3,
        failures=200,
        delay_ms=200,
        at_once=True,
        seed=2,
    )
    weather(tmp_path, plan, report)


@pytest.mark.campaign
def test_four_shards_under_kills(tmp_path: Path, report: Report) -> None:
    plan = Plan(
        people=2_000, comments=20, crowd=200, kills=20, pauses=2, failures=50, delay_ms=100, shards=4, seed=3
    )
    weather(tmp_path, plan, report)
