"""A billion notifications a day on this machine: 11 600 events a second, for ten minutes, with a burst of three times that.

Redis (AOF everysec), daemon, load generator and the fake providers share its cores; every delivery is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.daemon import start_daemon, tokens
from bench.harness import (
    BenchFailed,
    Process,
    Result,
    Running,
    Variant,
    build_tools,
    command,
    event_template,
    interleave,
    machine,
    resident_mib,
)
from bench.phones import Arrived, Providers, Waiting, add_devices, waiting
from bench.plot import Line, Panel, draw
from bench.push import Sending
from bench.wire import Wire

RATE: Final = 11_600  # events a second: 1 002 240 000 a day
EVERY: Final = 5.0  # s between samples
SAY_EVERY: Final = 10.0
LATE_MS: Final = 100
RECOVER_WITHIN: Final = 180.0  # s
TICKS: Final = os.sysconf("SC_CLK_TCK")
WRONG: Final = (
    "dead",
    "publish_errors",
    "unanswered",
    "lost",
    "gaps",
    "duplicates",
    "resyncs",
    "server_errors",
)
NAMES: Final = {
    "server": "daemon",
    "redis": "Redis",
    "generator": "load generator",
    "provider": "fake providers",
}


class Plan(Struct, frozen=True):
    """Times in seconds. `warm`: FCM's rate grows for a minute after the first message, so nothing is judged before."""

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

    @property
    def burst_at(self) -> float:
        """Since the start of the load."""
        return self.warm + (self.seconds - self.burst) / 2


class Sample(Struct, frozen=True):
    """How things stand at one moment. `at`: s since the start of the load. Latencies are of the time since the last sample."""

    at: float
    published: int
    deliveries: int
    timed: int
    late: int
    socket_p50_ms: float
    socket_p99_ms: float
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


# ---- the run ----------------------------------------------------------------------------------------------


def start(plan: Plan) -> Running:
    providers = Providers.reserve()
    settings = f"redis.shards = {plan.shards}\nevents.rate = {RATE}\nlimits.connections = {2 * plan.online}\n"
    daemon = start_daemon(True, providers.settings(), pinned=False, daemons=plan.daemons, top=settings)
    server = providers.start(None)
    sending = Sending(
        daemon.port, (*daemon.processes, server), daemon.redis_port,
        {**daemon.groups, "provider": server.pids()}, daemon.admin_port, providers, plan.people,
    )  # fmt: skip
    wire = sending.wire()
    add_devices(wire, plan.people, plan.android, plan.shards)
    wire.close()
    return sending


def cpu_seconds(pids: Sequence[int]) -> float:
    """With that of children which have ended: Redis rewrites its file in one."""
    found = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return found / TICKS


class Watch:
    """A run of the generator, sampled until it ends."""

    def __init__(self, plan: Plan, running: Sending) -> None:
        self._plan, self._running = plan, running
        self._wire: Wire = running.wire()
        argv: list[str | Path] = [
            build_tools().generator, "-p", str(running.port), "-R", str(running.redis_port), "-A",
            tokens(plan.online), "-n", str(plan.online), "-a", str(plan.people), "-t", event_template(kind="comment"),
            "-r", str(plan.rate), "-o", str(plan.warm), "-d", str(plan.seconds), "-x", "1800", "-I", str(EVERY),
            "-B", f"{plan.burst_at - plan.warm},{plan.burst},{plan.factor}",
        ]  # fmt: skip
        self._generator = Process("generator", argv, None)
        self._groups = {**running.groups, "generator": self._generator.pids()}
        self.samples: list[Sample] = []

    def run(self) -> Result:
        """The generator's report, once nothing waits any more."""
        began = said = time.monotonic()
        most = 300 + self._plan.warm + self._plan.seconds + 1800
        while self._generator.running:
            if time.monotonic() - began > most:
                raise BenchFailed(f"the run did not end within {most} s: {self._generator.log()}")
            time.sleep(0.2)
            for line in self._generator.output().splitlines()[len(self.samples) :]:
                if '"label"' not in line:
                    self._sample(json.loads(line))
            if self.samples and time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                say(self._plan, self.samples)
        report: Result = json.loads(self._generator.wait(10).splitlines()[-1])
        self._drain(began)
        return report

    def _sample(self, said: Mapping[str, float]) -> None:
        groups = self._groups
        server, redis = groups["server"], groups["redis"]
        self.samples.append(
            Sample(
                said["at"], int(said["published"]), int(said["deliveries"]), int(said["timed"]), int(said["late"]),
                said["p50_us"] / 1e3, said["p99_us"] / 1e3, self._running.providers.look(),
                waiting(self._wire, self._plan.shards),
                {"server": sum(map(resident_mib, server)), "redis": sum(map(resident_mib, redis))},
                {name: cpu_seconds(pids) for name, pids in groups.items() if name != "generator"}
                | {"generator": said["cpu_s"]},
            )
        )  # fmt: skip

    def _drain(self, began: float) -> None:
        """Sockets have all; phones may still wait."""
        last = self.samples[-1]
        offset, give_up = time.monotonic() - last.at, time.monotonic() + 1800
        while self.samples[-1].backlog:
            if time.monotonic() > give_up:
                raise BenchFailed(f"after half an hour {self.samples[-1].left} wait")
            time.sleep(EVERY)
            arrived, left = self._running.providers.look(), waiting(self._wire, self._plan.shards)
            kept = {"at": time.monotonic() - offset, "arrived": arrived, "left": left}
            self.samples.append(Sample(**{**{f: getattr(last, f) for f in Sample.__struct_fields__}, **kept}))
            say(self._plan, self.samples)


def say(plan: Plan, samples: Sequence[Sample]) -> None:
    """A line of progress; on a terminal one that is drawn over and over."""
    now, whole = samples[-1], plan.warm + plan.seconds
    share = min(1.0, now.at / whole)
    bar = f"[{'#' * int(24 * share):24}] " if sys.stderr.isatty() else ""
    text = (
        f"{bar}{now.at:4.0f}/{whole} s  {_rate(samples):6.0f} handled/s  backlog {now.left.events} events"
        f" {now.left.pushes} pushes {now.left.later} later  p99 socket {now.socket_p99_ms:.0f} ms"
        f" phone {now.arrived.p99_us / 1e3:.0f} ms  daemon {now.mib['server']:.0f} Redis {now.mib['redis']:.0f} MiB"
    )
    print(f"\r{text}\x1b[K" if bar else text, end="" if bar else "\n", file=sys.stderr, flush=True)


def _rate(samples: Sequence[Sample]) -> float:
    if len(samples) < 2:
        return 0.0
    a, b = samples[-2], samples[-1]
    return (b.handled - a.handled) / (b.at - a.at)


# ---- what it is worth -------------------------------------------------------------------------------------


class Verdict(Struct, frozen=True):
    what: str
    found: str
    holds: bool


def phases(plan: Plan, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], float | None]:
    """Samples outside of burst and recovery; those within; how long the recovery took (None: it never ended)."""
    begins, ends = plan.burst_at, plan.burst_at + plan.burst
    flat = plan.rate  # what comes in one second
    recovered = next((one.at for one in samples if one.at >= ends and one.backlog < flat), None)
    stop = plan.warm + plan.seconds
    upto = stop if recovered is None else recovered
    calm = [one for one in samples if plan.warm < one.at <= begins or upto + EVERY < one.at <= stop]
    busy = [one for one in samples if begins < one.at <= max(ends, upto) + EVERY]
    return calm, busy, None if recovered is None else recovered - ends


def judge(plan: Plan, samples: Sequence[Sample], report: Result) -> Iterator[Verdict]:
    calm, busy, recovery = phases(plan, samples)
    published, online = report["published"] or 0, report["expected"] or 0
    last = samples[-1].arrived
    wrong = [f"{name} {report[name]:.0f}" for name in WRONG if report[name]]
    wrong += [
        f"{name} {value}" for name, value in (("again", last.again), ("unnamed", last.unnamed)) if value
    ]
    lost = published - online - last.once
    wrong += [f"{lost:.0f} pushes lost"] if lost else []
    counted = f"{published:,.0f} events: {online:,.0f} to sockets, {last.once:,} to phones; {', '.join(wrong) or 'none'} wrong"
    yield Verdict("nothing lost, refused or twice", counted.replace(",", " "), not wrong)
    most = max(one.backlog for one in calm)
    yield Verdict(
        "outside the burst: backlog flat", f"at most {most:,} wait".replace(",", " "), most < plan.rate
    )
    timed, late = sum(one.timed for one in calm), sum(one.late for one in calm)
    worst = max(one.socket_p99_ms for one in calm)
    typical = statistics.median(one.socket_p99_ms for one in calm)
    share = f"{late / timed:.2%} over {LATE_MS} ms; p99 of {EVERY:.0f} s: median {typical:.0f} ms, worst {worst:.0f} ms"
    yield Verdict(f"outside the burst: p99 event to socket < {LATE_MS} ms", share, late < timed / 100)
    word = (
        "never"
        if recovery is None
        else f"{recovery:.0f} s after it, from {max(one.backlog for one in busy):,}"
    )
    holds = recovery is not None and recovery <= RECOVER_WITHIN
    yield Verdict("the burst's backlog gone within 180 s", word.replace(",", " "), holds)
    memory = " → ".join(f"{_most(part, 'server'):.0f}" for part in (calm[: len(calm) // 2], samples))
    yield Verdict(
        "daemon's memory bounded", f"MiB before the burst → at most: {memory}", _bounded(calm, samples)
    )


def _most(samples: Sequence[Sample], name: str) -> float:
    return max((one.mib[name] for one in samples), default=0.0)


def _bounded(calm: Sequence[Sample], samples: Sequence[Sample]) -> bool:
    return _most(samples, "server") < 2 * calm[0].mib["server"]


def costs(title: str, part: Sequence[Sample]) -> Iterator[str]:
    """Rows of the table of CPU for one phase."""
    a, b = part[0], part[-1]
    seconds, events = b.at - a.at, b.handled - a.handled
    used = {name: b.cpu_s[name] - a.cpu_s[name] for name in NAMES}
    cells = [f"{100 * used[name] / seconds:.0f} % ({1e6 * used[name] / events:.1f} µs)" for name in NAMES]
    total = 100 * sum(used.values()) / seconds
    yield f"| {title} | {events / seconds:,.0f} | {' | '.join(cells)} | {total:.0f} % |".replace(",", " ")


def tell(plan: Plan, samples: Sequence[Sample], report: Result) -> bool:
    """Prints all; True if every bound holds."""
    verdicts = list(judge(plan, samples, report))
    calm, busy, _ = phases(plan, samples)
    print("| bound | found | |\n| --- | --- | --- |")
    for one in verdicts:
        print(f"| {one.what} | {one.found} | {'met' if one.holds else '**missed**'} |")
    print("\nCPU in percent of one core, and for each event handled:\n")
    print(f"| phase | events/s | {' | '.join(NAMES.values())} | together |\n|{' --- |' * (len(NAMES) + 3)}")
    before = [one for one in calm if one.at <= plan.burst_at]
    for title, part in (("before the burst", before), ("burst and recovery", busy)):
        if len(part) > 1:
            print("\n".join(costs(title, part)))
    last = samples[-1]
    print(
        f"\n{plan.people:,} people with a phone each ({plan.android:.0%} Android), {plan.online:,} of them on sockets, "
        f"{plan.rate:,} events/s for {plan.seconds} s after {plan.warm} s to warm up, {plan.factor:g} times that for "
        f"{plan.burst} s; {plan.shards} shard{'s' * (plan.shards > 1)}, {plan.daemons} "
        f"daemon{'s' * (plan.daemons > 1)}. Redis at the end {last.mib['redis']:,.0f} MiB. "
        f"{machine().split('; server')[0]}.\nCommand: `{command()}`".replace(",", " ", 3)
    )
    return all(one.holds for one in verdicts)


def plot(plan: Plan, samples: Sequence[Sample]) -> str:
    def line(name: str, of: object) -> Line:
        assert callable(of)
        return Line(name, [(one.at, float(of(one))) for one in samples])

    shares = [
        Line(
            NAMES[name],
            [
                (b.at, 100 * (b.cpu_s[name] - a.cpu_s[name]) / (b.at - a.at))
                for a, b in zip(samples, samples[1:], strict=False)
            ],
        )
        for name in NAMES
    ]
    return draw(
        [
            Panel(
                "waiting",
                [
                    line("events", lambda one: one.left.events),
                    line("pushes", lambda one: one.left.pushes),
                    line("pushes, later", lambda one: one.left.later),
                ],
            ),
            Panel(
                "p99 from event to arrival, ms",
                [
                    line("socket", lambda one: one.socket_p99_ms),
                    line("phone's provider", lambda one: one.arrived.p99_us / 1e3),
                ],
                log=True,
            ),
            Panel(
                "memory, MiB",
                [line("daemon", lambda one: one.mib["server"]), line("Redis", lambda one: one.mib["redis"])],
                log=True,
            ),
            Panel("CPU, % of one core", shares),
        ],
        f"{plan.rate} events a second with a burst of {plan.factor:g} times that",
        (plan.burst_at, plan.burst_at + plan.burst),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench day", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=RATE, help="events a second")
    parser.add_argument("--warm", type=int, default=60, help="seconds before that")
    parser.add_argument("--burst", type=int, default=60, help="seconds of it, in the middle")
    parser.add_argument("--factor", type=float, default=3, help="times the rate in the burst")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--online", type=float, default=0.1, help="share of the people who are on sockets")
    parser.add_argument("--android", type=float, default=0.3, help="share of the phones that FCM reaches")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path(__file__).parents[1] / "docs" / "day.svg")
    given = parser.parse_args(argv)
    plan = Plan(
        given.rate, int(given.minutes * 60), given.warm, given.burst, given.factor, given.people,
        int(given.people * given.online), given.android, given.shards, given.daemons,
    )  # fmt: skip
    holds: list[bool] = []

    def run(running: Running) -> Result:
        assert isinstance(running, Sending)
        watch = Watch(plan, running)
        report = watch.run()
        print(file=sys.stderr)
        holds.append(tell(plan, watch.samples, report))
        given.plot.write_text(plot(plan, watch.samples))
        return {}

    table = interleave([Variant("day", lambda: start(plan), run)], 1)
    for name, why in table.missing.items():
        print(f"{name}: {why}")
    sys.exit(bool(table.missing) or not all(holds))


if __name__ == "__main__":
    main()
