"""A billion notifications a day on this machine: 11 600 events a second for ten minutes, a burst of three times that.

Redis (AOF everysec), daemon, load generator and the fake providers share its cores; every delivery is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from bench.daemon import start_daemon, tokens
from bench.day_report import (
    EVERY,
    Plan,
    Sample,
    cost_table,
    described,
    grouped,
    judge,
    plot,
    verdict_table,
)
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
    jemalloc,
    machine,
    resident_mib,
)
from bench.phones import Providers, add_devices, waiting
from bench.push import Sending

RATE: Final = 11_600  # events a second: 1 002 240 000 a day
SAY_EVERY: Final = 10.0
DRAIN: Final = 1_800  # s that are waited for what is left
TICKS: Final = os.sysconf("SC_CLK_TCK")
PICTURE: Final = Path(__file__).parents[1] / "docs" / "day.svg"


def start(plan: Plan) -> Running:
    """Redis, daemon, providers and people with phones; nothing pinned."""
    providers = Providers.reserve()
    top = f"redis.shards = {plan.shards}\nevents.rate = {RATE}\n"
    daemon = start_daemon(
        True, providers.settings(), pinned=False, daemons=plan.daemons, top=top, allocator=plan.allocator,
    )  # fmt: skip
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
        found += sum(map(int, fields[11:15]))  # proc(5): utime, stime, cutime, cstime
    return found / TICKS


class Watch:
    """A run of the generator, sampled until nothing waits any more."""

    def __init__(self, plan: Plan, running: Sending) -> None:
        self._plan, self._running = plan, running
        self._wire = running.wire()
        argv: list[str | Path] = [
            build_tools().generator, "-p", str(running.port), "-R", str(running.redis_port),
            "-A", tokens(plan.online), "-n", str(plan.online), "-a", str(plan.people),
            "-t", event_template(kind="comment"), "-r", str(plan.rate), "-o", str(plan.warm),
            "-d", str(plan.seconds), "-B", f"{plan.burst_at - plan.warm},{plan.burst},{plan.factor}",
            "-x", str(DRAIN), "-I", str(EVERY),
        ]  # fmt: skip
        self._generator = Process("generator", argv, None)
        self._said = 0.0
        self._began = 0.0
        self.samples: list[Sample] = []

    def run(self) -> Result:
        """The generator's report. Raises BenchFailed if it has none, or something stays."""
        give_up = time.monotonic() + self._plan.ends + 2 * DRAIN
        while self._generator.running:
            if time.monotonic() > give_up:
                raise BenchFailed(f"the run did not end: {self._generator.log()}")
            time.sleep(0.2)
            for line in self._generator.output().splitlines()[len(self.samples) :]:
                if line.startswith('{"at"') and line.endswith("}"):
                    self._take(json.loads(line))
        report: dict[str, Any] = json.loads(self._generator.wait(10).splitlines()[-1])
        self._drain()
        return report

    def _take(self, said: Mapping[str, float]) -> None:
        """What the generator said just now, and the rest of how things stand."""
        self._began = self._began or time.monotonic() - said["at"]
        self.samples.append(
            Sample(
                at=said["at"],
                published=int(said["published"]),
                deliveries=int(said["deliveries"]),
                timed=int(said["timed"]),
                late=int(said["late"]),
                p99_ms=said["p99_us"] / 1e3,
                arrived=self._running.providers.look(),
                left=waiting(self._wire, self._plan.shards),
                **self._used(said["cpu_s"]),
            )
        )
        self._say()

    def _used(self, by_generator: float) -> dict[str, Any]:
        groups = self._running.groups
        return {
            "mib": {name: sum(map(resident_mib, groups[name])) for name in ("server", "redis")},
            "cpu_s": {name: cpu_seconds(pids) for name, pids in groups.items()} | {"generator": by_generator},
        }

    def _drain(self) -> None:
        """Sockets have all; phones may still wait."""
        give_up, last = time.monotonic() + DRAIN, self.samples[-1]
        while True:
            left = waiting(self._wire, self._plan.shards)
            now = replace(
                last, at=time.monotonic() - self._began, timed=0, late=0, p99_ms=0.0, left=left,
                arrived=self._running.providers.look(), **self._used(last.cpu_s["generator"]),
            )  # fmt: skip
            self.samples.append(now)
            self._say()
            if not any(left):
                return
            if time.monotonic() > give_up:
                raise BenchFailed(f"{left} wait after {DRAIN} s")
            time.sleep(EVERY)

    def _say(self) -> None:
        """A line of progress now and then; on a terminal one that is drawn over and over."""
        now, plan, terminal = self.samples[-1], self._plan, sys.stderr.isatty()
        if not terminal and time.monotonic() - self._said < SAY_EVERY - 1:
            return
        self._said = time.monotonic()
        left = now.left
        text = (
            f"{now.at:4.0f}/{plan.ends} s · {grouped(self._rate())} events/s · waiting {grouped(left.events)} events, "
            f"{grouped(left.pushes)} pushes, {grouped(left.later)} later · p99 socket {now.p99_ms:.0f} ms, phone "
            f"{now.arrived.p99_us / 1e3:.0f} ms · daemon {now.mib['server']:.0f} MiB, Redis {now.mib['redis']:.0f} MiB"
        )
        bar = f"[{'#' * min(20, int(20 * now.at / plan.ends)):20}] "
        print(f"\r{bar}{text}\x1b[K" if terminal else text, end="" if terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def _rate(self) -> float:
        if len(self.samples) < 2:
            return 0.0
        before, now = self.samples[-2:]
        return (now.handled - before.handled) / max(0.001, now.at - before.at)


def measure(plan: Plan, picture: Path, running: Running) -> Result:
    """One run, and all that is to be told of it; `missed` is the number of bounds that did not hold."""
    assert isinstance(running, Sending)
    watch = Watch(plan, running)
    report = watch.run()
    print(file=sys.stderr)
    verdicts = list(judge(plan, watch.samples, report))
    print(verdict_table(verdicts))
    print(f"\nCPU in percent of one core, and for each event:\n\n{cost_table(plan, watch.samples)}\n")
    print(f"{described(plan)} {machine().partition('; server')[0]}.\nCommand: `{command()}`")
    picture.write_text(plot(plan, watch.samples))
    return {"missed": sum(not one.holds for one in verdicts)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench day", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=RATE, help="events a second")
    parser.add_argument("--warm", type=int, default=60, help="seconds before that")
    parser.add_argument("--burst", type=int, default=60, help="seconds of the burst, which is in the middle")
    parser.add_argument("--factor", type=float, default=3, help="times the rate in the burst")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--online", type=float, default=0.1, help="share of the people who are on sockets")
    parser.add_argument("--android", type=float, default=0.3, help="share of the phones that FCM reaches")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument(
        "--allocator", default=jemalloc(),
        help="what Redis allocates with, a library; jemalloc where it is installed, '' = its program's own",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, default=PICTURE, help="the picture to write")
    given = parser.parse_args(argv)
    plan = Plan(
        rate=given.rate, seconds=int(given.minutes * 60), warm=given.warm, burst=given.burst,
        factor=given.factor, people=given.people, online=int(given.people * given.online),
        android=given.android, shards=given.shards, daemons=given.daemons,
        allocator=given.allocator,
    )  # fmt: skip
    if plan.burst_at - plan.warm < 3 * EVERY:
        parser.error(f"at least {3 * EVERY:.0f} s before the burst are needed: take more --minutes")
    table = interleave([Variant("day", partial(start, plan), partial(measure, plan, given.plot))], 1)
    for name, why in table.missing.items():
        print(f"{name}: {why}")
    sys.exit(bool(table.missing) or table.median("day", "missed") != 0)


if __name__ == "__main__":
    main()
