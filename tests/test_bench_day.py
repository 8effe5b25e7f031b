"""What bench/day says of a run: a picture of one that kept every bound, and of ones that did not."""

from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from bench.day_report import EVERY, Plan, Sample, judge, phases, plot
from bench.phones import Arrived, Waiting

PLAN = Plan(
    rate=100, seconds=120, warm=20, burst=20, factor=3, people=1_000, online=100, android=0.3, shards=1, daemons=1
)  # fmt: skip
CLEAN = dict.fromkeys(
    ("dead", "publish_errors", "unanswered", "lost", "gaps", "duplicates", "resyncs", "server_errors"), 0.0
)


def sample(number: int) -> Sample:
    """A hundred events a second, a tenth of them to sockets; from the burst on some wait, for ten seconds after it."""
    at = number * EVERY
    busy = PLAN.burst_at < at <= PLAN.burst_at + PLAN.burst + 10
    return Sample(
        at=at, published=int(100 * at), deliveries=int(10 * at), timed=50, late=40 if busy else 0,
        p99_ms=900.0 if busy else 5.0, arrived=Arrived(int(90 * at), 0, 0, 1, 450, 1e3, 2e3, 3e3),
        left=Waiting(500 if busy else 5, 0, 0), mib={"server": 80.0, "redis": 200.0},
        cpu_s=dict.fromkeys(("server", "redis", "generator", "provider"), at / 4),
    )  # fmt: skip


SAMPLES = [sample(number) for number in range(1, 29)]
REPORT = {**CLEAN, "published": 14_000.0, "expected": 1_400.0}


def broken(samples: Sequence[Sample] = SAMPLES, fault: str = "") -> list[str]:
    """The bounds that did not hold."""
    return [one.what for one in judge(PLAN, samples, REPORT | {fault: 1.0}) if not one.holds]


def test_a_run_that_keeps_every_bound_says_so() -> None:
    assert broken() == []


def test_burst_and_recovery_are_one_phase() -> None:
    found = phases(PLAN, SAMPLES)
    assert [one.at for one in found.before] == [25, 30, 35, 40, 45, 50, 55, 60, 65, 70]
    assert [one.at for one in found.busy] == [75, 80, 85, 90, 95, 100, 105]
    assert [one.at for one in found.calm if one not in found.before] == [110, 115, 120, 125, 130, 135, 140]
    assert found.recovery == 15


@pytest.mark.parametrize("name", CLEAN)
def test_whatever_the_generator_finds_wrong_is_missed(name: str) -> None:
    assert broken(fault=name) == ["nothing lost, refused or twice"]


@pytest.mark.parametrize(
    "arrived", [{"once": 12_599}, {"again": 1}, {"unnamed": 1}], ids=["lost", "twice", "unknown"]
)
def test_a_push_that_is_lost_or_twice_is_missed(arrived: dict[str, int]) -> None:
    last = SAMPLES[-1]
    samples = [*SAMPLES[:-1], replace(last, arrived=last.arrived._replace(**arrived))]
    assert broken(samples) == ["nothing lost, refused or twice"]


def test_a_backlog_outside_the_burst_is_missed() -> None:
    samples = [replace(one, left=Waiting(60, 30, 10)) if one.at == 40 else one for one in SAMPLES]
    assert broken(samples) == ["outside the burst: backlog flat"]


def test_one_socket_in_a_hundred_may_be_late_outside_the_burst() -> None:
    calm = 50 * len(phases(PLAN, SAMPLES).calm)

    def late(count: int) -> list[str]:
        return broken([replace(one, late=count) if one.at == 40 else one for one in SAMPLES])

    assert late(calm // 100) == []
    assert late(calm // 100 + 1) == ["outside the burst: 99 % on the socket within 100 ms"]


def test_a_backlog_that_stays_is_missed() -> None:
    samples = [replace(one, left=Waiting(0, 101, 0)) if one.at > 80 else one for one in SAMPLES]
    assert broken(samples) == ["the burst's backlog gone within 180 s"]


def test_memory_that_doubles_is_missed() -> None:
    samples = [*SAMPLES[:-1], replace(SAMPLES[-1], mib={"server": 160.0, "redis": 200.0})]
    assert broken(samples) == ["the daemon's memory bounded"]


def test_the_picture_is_xml_with_a_line_for_each_figure() -> None:
    lines = ElementTree.fromstring(plot(PLAN, SAMPLES)).iter("{http://www.w3.org/2000/svg}polyline")
    counts = [len((line.get("points") or "").split()) for line in lines]
    assert counts == [27] * 2 + [28] * 7 + [27] * 4  # a rate needs two samples
