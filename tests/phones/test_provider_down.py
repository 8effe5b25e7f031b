"""One provider fails in every way that it can; the other, and the sockets, get theirs meanwhile, and nothing is lost.

No time is measured in `make test`: while nothing arrives at the one, each new notification has to arrive at the others
before the next is sent. `make campaign` has the long outage, with figures.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos.crowd import Company, Crowd, Follower
from tests.client import Message
from tests.daemon import Settings, wait_until
from tests.phones.site import PAGE, PATIENCE, Site, android
from tests.sandboxes import SandboxProcess

PEOPLE: Final = 20
COMMENTS: Final = 6
DELIVERED: Final = 'push_outcomes_total{app="demo",outcome="delivered",provider="apns"}'
# Breakers that look again soon: an outage of these tests is seconds long.
SETTINGS: Final[Settings] = {
    "push": {"breaker_base_seconds": 0.2, "breaker_floor_seconds": 0.1, "breaker_cap_seconds": 0.5},
    "drain": {"seconds": 0.0, "timeout_seconds": 10.0},
}


@pytest.fixture(scope="module")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("apple")) as running:
        yield running


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("google")) as running:
        yield running


@contextmanager
def a_503(apple: SandboxProcess) -> Iterator[None]:
    apple.ask("POST", "script", {"provider": "apns", "status": 503, "reason": "ServiceUnavailable"})
    yield
    apple.ask("DELETE", "script")


@contextmanager
def closed_lines(apple: SandboxProcess) -> Iterator[None]:
    """Each connection ends without a word as soon as something is asked."""
    apple.ask("POST", "script", {"provider": "apns", "status": 500, "action": "close"})
    yield
    apple.ask("DELETE", "script")


@contextmanager
def stands_still(apple: SandboxProcess) -> Iterator[None]:
    """Half-open: the kernel takes bytes and new connections, nobody answers."""
    apple.pause()
    try:
        yield
    finally:
        apple.resume()


@contextmanager
def wrong_set_up(apple: SandboxProcess) -> Iterator[None]:
    apple.ask("POST", "script", {"provider": "apns", "status": 403, "reason": "InvalidProviderToken"})
    yield
    apple.ask("DELETE", "script")


FAULTS: Final = {
    "503": a_503,
    "closed-lines": closed_lines,
    "half-open": stands_still,
    "wrong-key": wrong_set_up,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_provider_and_the_sockets_get_theirs(
    tmp_path: Path, apple: SandboxProcess, google: SandboxProcess, fault: str
) -> None:
    with Site(tmp_path, apple, google, people=PEOPLE, settings=SETTINGS) as site:
        site.start()
        with Crowd(site.users, lambda: (site.daemon.port("websocket"),)) as crowd:
            wait_until(lambda: all(copy.complete for copy in crowd.copies().values()), PATIENCE, site.said)
            site.comment()
            site.rest()
            assert site.daemon.metrics()[DELIVERED] == PEOPLE
            with FAULTS[fault](apple):
                for _ in range(COMMENTS):
                    comment = site.comment()
                    wait_until(lambda last=comment: site.missing("fcm", [last]) == [], PATIENCE, site.said)  # type: ignore[misc]
                    wait_until(lambda last=comment: have(crowd, last), PATIENCE, site.said)  # type: ignore[misc]
                metrics = site.daemon.metrics()
                assert metrics[DELIVERED] == PEOPLE, "nothing came through to Apple's phones meanwhile"
                assert breaker(metrics, "fcm") == 0
            assert len(site.comments) == COMMENTS + 1
            if fault == "wrong-key":  # somebody has mended it, and says so
                mended(site)
            site.rest(hurry=True)
            assert crowd.connections == PEOPLE
        site.judge()
        assert site.accepted("fcm") == site.pushes, "each once"
        if fault == "503":  # what was answered was surely not delivered
            assert site.accepted("apns") == site.pushes


def breaker(metrics: Mapping[str, float], provider: str) -> float:
    """0 while all breakers of the lane are closed."""
    lines = [
        name for name in metrics if name.startswith("push_breaker{") and f'provider="{provider}"' in name
    ]
    assert lines
    return max(metrics[name] for name in lines)


def have(crowd: Company[Any], comment: str) -> bool:
    """Everybody has it on their socket."""
    return all(comment in copy.rows for copy in crowd.copies().values())


def mended(site: Site) -> None:
    """A reload with another team: what was heard of the old one says nothing of it."""
    site.reconfigure("SANDBOXTEA", "ANOTHERTEA")


def test_a_storm_of_goaways_sends_nothing_twice(
    tmp_path: Path, apple: SandboxProcess, google: SandboxProcess
) -> None:
    """No connection lives for long, at either provider."""
    with Site(tmp_path, apple, google, people=PEOPLE, settings=SETTINGS) as site:
        for provider, sandbox in (("apns", apple), ("fcm", google)):
            for skip in range(0, COMMENTS * PEOPLE, PEOPLE):
                rule = {"provider": provider, "action": "goaway", "times": 1, "skip": skip}
                sandbox.ask("POST", "script", rule)
        before = [
            one.ask("GET", "counts")[name]["goaways"] for name, one in (("apns", apple), ("fcm", google))
        ]
        site.start()
        for _ in range(COMMENTS):
            site.comment()
        site.rest(hurry=True)
        site.judge()
        assert site.accepted("apns") == site.accepted("fcm") == site.pushes
        after = [
            one.ask("GET", "counts")[name]["goaways"] for name, one in (("apns", apple), ("fcm", google))
        ]
        assert [now - was for now, was in zip(after, before, strict=True)] == [COMMENTS] * 2


def test_slow_providers_hold_up_nobody(tmp_path: Path, apple: SandboxProcess, google: SandboxProcess) -> None:
    """Every answer of Apple's takes two seconds: more come at once, and none is sent again for it."""
    with Site(tmp_path, apple, google, people=PEOPLE, settings=SETTINGS) as site:
        apple.ask("POST", "script", {"provider": "apns", "delay_ms": 2_000})
        site.start()
        for _ in range(COMMENTS):
            comment = site.comment()
            wait_until(lambda last=comment: site.missing("fcm", [last]) == [], PATIENCE, site.said)  # type: ignore[misc]
        site.rest()
        site.judge()
        assert site.accepted("apns") == site.accepted("fcm") == site.pushes


# --- at length ---------------------------------------------------------------------------------------------

RATE: Final = 20.0  # comments a second, each to one person
BEFORE: Final = 30.0  # s
AUDIENCE: Final = 300


class Listener(Follower):
    """A client that notes when it heard of each notification first."""

    def __init__(self, user: str, ports: Callable[[], Sequence[int]], seed: int) -> None:
        super().__init__(user, ports, seed=seed)
        self.heard: dict[str, float] = {}

    def take(self, message: Message) -> int:
        if message["type"] == "notification":
            self.heard.setdefault(message["id"], time.time())
        return super().take(message)


def publish(site: Site, seconds: float) -> dict[str, float]:
    """Comments at an even rate, whatever becomes of them; when each was sent."""
    sent: dict[str, float] = {}
    began = time.monotonic()
    while (due := began + len(sent) / RATE) < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        at = time.time()
        sent[site.comment([site.users[len(site.comments) % AUDIENCE]])] = at
    return sent


def figures(name: str, waits: Sequence[float]) -> str:
    """Median, 99th percentile and longest, in ms."""
    row = sorted(waits)
    at = [1000 * row[min(len(row) - 1, int(share * len(row)))] for share in (0.5, 0.99, 1.0)]
    return f"{name}: p50 {at[0]:.1f} p99 {at[1]:.1f} longest {at[2]:.0f} ms of {len(row)}"


def arrivals(site: Site) -> Mapping[str, float]:
    """When each comment came to the Android phone of its person."""
    tokens = [android(number) for number in range(AUDIENCE)]
    pages = [tokens[at : at + PAGE] for at in range(0, AUDIENCE, PAGE)]
    found = [
        one for page in pages for one in site.fcm.ask("GET", f"devices?tokens={','.join(page)}")["devices"]
    ]
    return {push["data"]["nid"]: push["at"] for one in found for push in one["shown"]}


@pytest.mark.campaign
def test_ten_minutes_without_apple(
    tmp_path: Path, apple: SandboxProcess, google: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of it 503, half of it silence. NOTIFIER_OUTAGE_SECONDS shortens it."""
    outage = float(os.environ.get("NOTIFIER_OUTAGE_SECONDS", "600"))

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}")
            sys.stdout.flush()

    with Site(tmp_path, apple, google, people=AUDIENCE) as site:
        site.start()
        ports = (site.daemon.port("websocket"),)
        listeners = [Listener(user, lambda: ports, at) for at, user in enumerate(site.users)]
        with Company(listeners) as crowd:
            wait_until(lambda: all(copy.complete for copy in crowd.copies().values()), PATIENCE, site.said)
            publish(site, 3.0)  # tokens are fetched, connections are made
            phases = {"before": publish(site, BEFORE)}
            with a_503(apple):
                phases["apns answers 503"] = publish(site, outage / 2)
            with stands_still(apple):
                phases["apns is silent"] = publish(site, outage / 2)
            back, metrics = time.monotonic(), site.daemon.metrics()
            say(f"when Apple is back {site.backlog()} entries are in the lane, {site.waiting()} retries wait")
            phases["after"], gone = {}, 0.0
            while time.monotonic() < back + BEFORE or not gone:
                phases["after"] |= publish(site, 0.5)
                if not gone and site.backlog() < RATE:
                    gone = time.monotonic() - back
                    say(
                        f"{gone:.1f} s later the lane is as short as ever; {site.waiting()} retries wait still"
                    )
            site.rest(300.0, hurry=True)
            came = arrivals(site)
            heard = {name: at for listener in listeners for name, at in listener.heard.items()}
            for phase, sent in phases.items():
                say(f"{phase}: " + figures("fcm", [came[name] - at for name, at in sent.items()]))
                say(f"{phase}: " + figures("sockets", [heard[name] - at for name, at in sent.items()]))
            say(f"{site.pushes} comments, memory {site.daemon.memory() >> 20} MiB\n")
            assert breaker(metrics, "fcm") == 0
            assert crowd.connections == AUDIENCE
        site.judge()
        assert site.accepted("fcm") == site.pushes, "each once"
