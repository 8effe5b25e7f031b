"""What a run of `bench.day` is worth: its phases, its bounds, where the CPU went, and a picture of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

from bench.harness import Result
from bench.phones import Arrived, Waiting
from bench.plot import Line, Panel, draw

EVERY: Final = 5.0  # s between samples
RECOVER_WITHIN: Final = 180.0  # s
# Of the generator's report: each is zero in a run without fault.
WRONG: Final = (
    "dead", "publish_errors", "unanswered", "lost", "gaps", "duplicates", "resyncs", "server_errors",
)  # fmt: skip
NAMES: Final = {
    "server": "daemon", "redis": "Redis", "generator": "load generator", "provider": "fake providers",
}  # fmt: skip


class Plan(Struct, frozen=True, kw_only=True):
    """What is to happen. Times in seconds; `warm`: FCM's rate grows for a minute after the first message, and nothing
    is judged before."""

    rate: int
    seconds: int
    warm: int
    burst: int
    factor: float
    people: int
    online: int
    android: float
    shards: int
    daemons: int
    allocator: str = ""

    @property
    def burst_at(self) -> float:
        """Since the start of the load, as all times here."""
        return self.warm + (self.seconds - self.burst) / 2

    @property
    def ends(self) -> int:
        return self.warm + self.seconds


class Sample(Struct, frozen=True, kw_only=True):
    """How things stand `at` so many seconds. Latencies are of what came since the last sample."""

    at: float
    published: int
    deliveries: int
    timed: int
    late: int
    p99_ms: float
    arrived: Arrived
    left: Waiting
    mib: Mapping[str, float]
    cpu_s: Mapping[str, float]

    @property
    def backlog(self) -> int:
        return sum(self.left)

    @property
    def handled(self) -> int:
        return self.deliveries + self.arrived.once


class Verdict(Struct, frozen=True):
    what: str
    found: str
    holds: bool


class Phases(Struct, frozen=True):
    """`calm`: outside of burst and recovery; `busy`: within; `recovery`: s from the burst's end until less waits than
    comes in a second, None if that never was."""

    before: list[Sample]
    calm: list[Sample]
    busy: list[Sample]
    recovery: float | None


def phases(plan: Plan, samples: Sequence[Sample]) -> Phases:
    begins, over = plan.burst_at, plan.burst_at + plan.burst
    recovered = next((one.at for one in samples if one.at >= over and one.backlog < plan.rate), None)
    upto = samples[-1].at if recovered is None else recovered
    before = [one for one in samples if plan.warm < one.at <= begins]
    # The sample that finds it over tells of latencies while it was not.
    after = [one for one in samples if upto < one.at <= plan.ends]
    busy = [one for one in samples if begins < one.at <= upto]
    return Phases(before, before + after, busy, None if recovered is None else recovered - over)


# ---- bounds -----------------------------------------------------------------------------------------------


def judge(plan: Plan, samples: Sequence[Sample], report: Result) -> Iterator[Verdict]:
    """Every bound, and whether it held."""
    found = phases(plan, samples)
    yield _counted(samples[-1].arrived, report)
    most = max(one.backlog for one in found.calm)
    yield Verdict(
        "outside the burst: backlog flat", f"never more than {grouped(most)} waiting", most < plan.rate
    )
    yield _prompt(found.calm)
    peak = grouped(max(one.backlog for one in found.busy))
    word = "never" if found.recovery is None else f"{found.recovery:.0f} s after the burst"
    holds = found.recovery is not None and found.recovery <= RECOVER_WITHIN
    yield Verdict(f"the burst's backlog gone within {RECOVER_WITHIN:.0f} s", f"{word}; {peak} at most", holds)
    calm, most_mib = found.before[0].mib["server"], max(one.mib["server"] for one in samples)
    yield Verdict(
        "the daemon's memory bounded", f"{calm:.0f} MiB, at most {most_mib:.0f} MiB", most_mib < 2 * calm
    )


def _counted(arrived: Arrived, report: Result) -> Verdict:
    published, online = int(report["published"] or 0), int(report["expected"] or 0)
    faults = {name: int(report[name] or 0) for name in WRONG}
    faults |= {"sent twice": arrived.again, "unknown": arrived.unnamed}
    faults["pushes lost"] = published - online - arrived.once
    wrong = [f"{grouped(count)} {name}" for name, count in faults.items() if count]
    told = f"{grouped(online)} to sockets, {grouped(arrived.once)} to phones"
    return Verdict(
        "nothing lost, refused or twice", f"{told}; {', '.join(wrong) or 'each of them once'}", not wrong
    )


def _prompt(calm: Sequence[Sample]) -> Verdict:
    timed, late = sum(one.timed for one in calm), sum(one.late for one in calm)
    of_samples = [one.p99_ms for one in calm]
    told = (
        f"{late / max(1, timed):.2%} later; p99 of {EVERY:.0f} s: median {statistics.median(of_samples):.0f} ms, "
        f"worst {max(of_samples):.0f} ms"
    )
    return Verdict("outside the burst: 99 % on the socket within 100 ms", told, late * 100 < timed)


# ---- words ------------------------------------------------------------------------------------------------


def grouped(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [f"| {one.what} | {one.found} | {'met' if one.holds else '**missed**'} |" for one in verdicts]
    return "\n".join(["| bound | found | |", "| --- | --- | --- |", *rows])


def cost_table(plan: Plan, samples: Sequence[Sample]) -> str:
    """CPU of each by phase, in percent of one core and for each event handled."""
    found = phases(plan, samples)
    lines = [
        f"| phase | events/s | {' | '.join(NAMES.values())} | together |",
        "|" + " --- |" * (len(NAMES) + 3),
    ]
    for title, part in (("before the burst", found.before), ("burst and recovery", found.busy)):
        if len(part) > 1:
            lines.append(_costs(title, part))
    return "\n".join(lines)


def _costs(title: str, part: Sequence[Sample]) -> str:
    first, last = part[0], part[-1]
    seconds, events = last.at - first.at, max(1, last.handled - first.handled)
    used = {name: last.cpu_s[name] - first.cpu_s[name] for name in NAMES}
    cells = [f"{100 * spent / seconds:.0f} %, {1e6 * spent / events:.1f} µs" for spent in used.values()]
    whole = f"{100 * sum(used.values()) / seconds:.0f} %"
    return f"| {' | '.join([title, grouped(events / seconds), *cells, whole])} |"


def described(plan: Plan) -> str:
    return (
        f"{grouped(plan.people)} people with a phone each, {plan.android:.0%} of them Androids; {grouped(plan.online)} "
        f"people on sockets. {grouped(plan.rate)} events/s for {plan.seconds} s after {plan.warm} s to warm up, "
        f"{plan.factor:g} times that for {plan.burst} s in the middle. Shards: {plan.shards}; daemons: {plan.daemons}; "
        f"Redis on {plan.allocator or 'its own allocator'}."
    )


# ---- the picture ------------------------------------------------------------------------------------------


def plot(plan: Plan, samples: Sequence[Sample]) -> str:
    """An SVG."""

    def line(name: str, of: Callable[[Sample], float]) -> Line:
        return Line(name, [(one.at, of(one)) for one in samples])

    def rate(name: str, of: Callable[[Sample], float]) -> Line:
        return Line(name, [(b.at, (of(b) - of(a)) / (b.at - a.at)) for a, b in pairwise(samples)])

    panels = [
        Panel(
            "events a second",
            [rate("published", lambda one: one.published), rate("handled", lambda one: one.handled)],
        ),
        Panel(
            "waiting",
            [
                line("events", lambda one: one.left.events),
                line("pushes", lambda one: one.left.pushes),
                line("pushes, later", lambda one: one.left.later),
            ],
        ),
        Panel(
            "p99 from the event to the socket, to the phone's provider, ms",
            [line("socket", lambda one: one.p99_ms), line("provider", lambda one: one.arrived.p99_us / 1e3)],
            log=True,
        ),
        Panel(
            "memory, MiB",
            [line("daemon", lambda one: one.mib["server"]), line("Redis", lambda one: one.mib["redis"])],
            log=True,
        ),
        Panel("CPU, percent of one core", [_share(name, rate) for name in NAMES]),
    ]
    title = f"{grouped(plan.rate)} events a second with a burst of {plan.factor:g} times that"
    return draw(panels, title, (plan.burst_at, plan.burst_at + plan.burst))


def _share(name: str, rate: Callable[[str, Callable[[Sample], float]], Line]) -> Line:
    return rate(NAMES[name], lambda one: 100 * one.cpu_s[name])
