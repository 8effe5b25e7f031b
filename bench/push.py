"""From XADD to a phone: event, inbox, delivery, the provider's answer, settled; CPU of daemon and Redis for each push.

The providers are one program in C that speaks HTTP/2 over TLS, on the core of Redis and the producer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from bench.daemon import Daemon, start_daemon
from bench.harness import (
    LOAD_CORE,
    BenchFailed,
    Column,
    Result,
    Running,
    Table,
    Variant,
    cpu_ns,
    event_template,
    interleave,
    load,
    resident_mib,
)
from bench.phones import CHUNK, LANES, STREAMS, Producer, Providers, add_devices, settled, waiting
from bench.wire import Wire
from notifier.cli.progress import progress
from notifier.core import keys

PEOPLE = 10_000  # with a device each, where a row does not say otherwise
BOUND_US = 25.0
RATE = 2_000  # events a second of the open loop
WITHIN_MS = 5.0
DRAIN = 60.0  # s
SETTLE = 900.0  # s for what has waited
FOUND = 90.0  # s until a provider that is back is found to be
IMPATIENT = "[push]\nbreaker_cap_seconds = 2.0\n"  # a provider that is back is found soon

COSTS = (
    Column("server_us", "daemon CPU µs/push", 1),
    Column("redis_us", "Redis CPU µs/push", 1),
    Column("provider_us", "push server µs", 1),
    Column("pushes_per_s", "pushes/s", 0),
    Column("connections", "connections", 0),
)
PACED = (
    *COSTS[:2],
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("max_ms", "max ms", 1),
)
WAITED = (
    Column("waiting", "waiting", 0),
    Column("before_mib", "daemon MiB before", 0),
    Column("during_mib", "while they wait", 0),
    Column("most_mib", "at most, sent too", 0),
    Column("lane_bytes", "Redis bytes/push", 0),
    Column("event_bytes", "with the inbox row", 0),
    *COSTS[:4],
)


@dataclass
class Sending(Daemon):
    """A daemon with providers and people who have phones."""

    providers: Providers = field(default_factory=Providers.reserve)
    people: int = 0

    def wire(self) -> Wire:
        assert self.redis_port is not None
        return Wire(self.redis_port)


def start(
    people: int = PEOPLE,
    connections: int | None = None,
    aof: bool = False,
    settings: str = "",
    up: bool = True,
) -> Sending:
    """`connections`: that the daemon may open, each with its share of the streams; None: as it comes, up to 8."""
    providers = Providers.reserve()
    all_settings = settings + providers.settings()
    if connections:
        daemon = start_daemon(aof, all_settings, ("-m", "bench.pushers.daemon", str(connections)))
    else:
        daemon = start_daemon(aof, all_settings)
    sending = Sending(
        daemon.port, daemon.processes, daemon.redis_port, daemon.groups, daemon.admin_port, providers, people
    )
    if up:
        _start_providers(sending, connections or 1)
    wire = sending.wire()
    add_devices(wire, people)
    wire.close()
    return sending


def _start_providers(sending: Sending, connections: int) -> None:
    process = sending.providers.start(LOAD_CORE, STREAMS if connections == 1 else 320 // connections)
    sending.processes = (*sending.processes, process)
    sending.groups = {**sending.groups, "provider": process.pids()}


def _cpu(running: Running) -> dict[str, int]:
    return {name: sum(map(cpu_ns, pids)) for name, pids in running.groups.items()}


def _costs(before: dict[str, int], after: dict[str, int], pushes: int) -> dict[str, float]:
    return {f"{name}_us": (after[name] - before[name]) / 1000 / pushes for name in after}


# ---- one run ----------------------------------------------------------------------------------------------


def saturated(seconds: float, connections: int, running: Running) -> Result:
    """As fast as it goes, with some thousand events and pushes waiting all the time."""
    assert isinstance(running, Sending)
    wire, providers = running.wire(), running.providers
    producer = Producer(wire, running.people)
    producer.run(2)
    give_up = time.monotonic() + 30
    while providers.look().connections < connections:
        if time.monotonic() > give_up:
            raise BenchFailed(f"{connections} connections were wanted: {providers.look()}")
        producer.run(0.5)
    began, before, cpu = time.monotonic(), providers.look().once, _cpu(running)
    producer.run(seconds)
    took, after, used = time.monotonic() - began, providers.look(), _cpu(running)
    settled(wire, providers, producer.written, DRAIN)
    pushes = after.once - before
    costs = _costs(cpu, used, pushes)
    return {**costs, "pushes_per_s": pushes / took, "connections": after.connections}


def paced(seconds: float, running: Running) -> Result:
    """RATE events a second, whatever becomes of them; how long each takes to the provider."""
    assert isinstance(running, Sending)
    providers = running.providers
    arguments = ("-n", "0", "-a", str(running.people), "-r", str(RATE), "-t", event_template(kind="comment"))
    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(load, running, *arguments, "-o", "2", "-d", str(seconds))
        while not providers.look().once and not figures.done():
            time.sleep(0.05)
        time.sleep(2)
        providers.look()
        listened = figures.result()
    arrived = providers.look()
    settled(running.wire(), providers, int(listened["published"] or 0), DRAIN)
    costs = {f"{name}_us": (listened[f"{name}.cpu_percent"] or 0) * 1e4 / RATE for name in running.groups}
    return {
        **costs, "p50_ms": arrived.p50_us / 1e3, "p99_ms": arrived.p99_us / 1e3, "max_ms": arrived.max_us / 1e3,
    }  # fmt: skip


def waited(count: int, running: Running) -> Result:
    """`count` pushes wait for providers that are down; then these come back and all of it is sent."""
    assert isinstance(running, Sending)
    wire, server = running.wire(), running.groups["server"][0]
    before_mib, before_bytes = resident_mib(server), _used(wire)
    _pile_up(wire, Producer(wire, running.people), count)
    left = waiting(wire)
    lane = wire.call("MEMORY", "USAGE", keys.pushes(keys.tag(0), LANES[0]), "SAMPLES", 0)
    figures = {
        "waiting": left.pushes + left.later, "before_mib": before_mib, "during_mib": resident_mib(server),
        "lane_bytes": lane / left.pushes, "event_bytes": (_used(wire) - before_bytes) / count,
    }  # fmt: skip
    _start_providers(running, 1)
    _await_first(running.providers)
    began, before, cpu = time.monotonic(), running.providers.look().once, _cpu(running)
    settled(wire, running.providers, count, SETTLE)
    costs = _costs(cpu, _cpu(running), count - before)
    rate = (count - before) / (time.monotonic() - began)
    return {**figures, **costs, "pushes_per_s": rate, "most_mib": resident_mib(server, most=True)}


def _await_first(providers: Providers) -> None:
    """Until the breaker has tried."""
    give_up = time.monotonic() + FOUND
    while not providers.look().once:
        if time.monotonic() > give_up:
            raise BenchFailed(f"no push came within {FOUND:.0f} s after the providers were up again")
        time.sleep(0.01)


def _used(wire: Wire) -> int:
    lines = wire.call("INFO", "memory").decode().splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith("used_memory:"))


def _pile_up(wire: Wire, producer: Producer, count: int) -> None:
    with progress("events", "events", count) as bar:
        while producer.written < count:
            if waiting(wire).events > 10 * CHUNK:
                time.sleep(0.002)
                continue
            part = min(CHUNK, count - producer.written)
            producer.write(part)
            bar.advance(part, part)
    give_up = time.monotonic() + DRAIN
    while waiting(wire).events:
        if time.monotonic() > give_up:
            raise BenchFailed(f"events were not handed over within {DRAIN:.0f} s: {waiting(wire)}")
        time.sleep(0.05)


# ---- tables -----------------------------------------------------------------------------------------------


def connection_rows(seconds: float) -> list[Variant]:
    rows = [
        Variant(
            f"{count} connection{'s' * (count > 1)}",
            partial(start, connections=count),
            partial(saturated, seconds, count),
        )
        for count in (1, 4, 16)
    ]
    with_aof = partial(start, connections=1, aof=True)
    return [*rows, Variant("1 connection, AOF everysec", with_aof, partial(saturated, seconds, 1))]


def device_rows(seconds: float) -> list[Variant]:
    return [
        Variant(
            f"{people:,} devices".replace(",", " "), partial(start, people), partial(saturated, seconds, 1)
        )
        for people in (1_000, 100_000, 1_000_000)
    ]


def paced_rows(seconds: float) -> list[Variant]:
    name = f"{RATE:,} events/s".replace(",", " ")
    return [
        Variant(name, start, partial(paced, seconds)),
        Variant(f"{name}, AOF everysec", partial(start, aof=True), partial(paced, seconds)),
    ]


def waiting_rows(count: int) -> list[Variant]:
    begin = partial(start, 100_000, settings=IMPATIENT, up=False)
    return [Variant(f"{count:,} pushes".replace(",", " "), begin, partial(waited, count))]


def judge(table: Table, key: str, bound: float, unit: str) -> None:
    """Says of each row whether it keeps a bound."""
    for name in table.names:
        if (value := table.median(name, key)) is not None:
            print(f"{name}: {value:.1f} {unit}, bound {bound:g}: {'met' if value <= bound else 'MISSED'}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench push", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all but the last table, which is made once")
    parser.add_argument("--seconds", type=float, default=5, help="measured time of each run")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="pushes while the providers are down")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    chosen = parser.parse_args(argv)
    seconds = chosen.seconds
    tables: list[tuple[list[Variant], Sequence[Column], int, Callable[[Table], None]]] = [
        (connection_rows(seconds), COSTS, chosen.rounds, partial(judge, key="server_us", bound=BOUND_US, unit="µs")),
        (device_rows(seconds), COSTS, chosen.rounds, partial(judge, key="server_us", bound=BOUND_US, unit="µs")),
        (paced_rows(seconds), PACED, chosen.rounds, partial(judge, key="p99_ms", bound=WITHIN_MS, unit="ms")),
        (waiting_rows(chosen.waiting), WAITED, 1, lambda _: None),
    ]  # fmt: skip
    failed = False
    for variants, columns, rounds, say in tables:
        wanted = [variant for variant in variants if chosen.only in variant.name]
        if wanted:
            table = interleave(wanted, rounds)
            print(table.markdown(columns), end="\n\n", flush=True)
            say(table)
            failed = failed or bool(table.missing)
    sys.exit(failed)


if __name__ == "__main__":
    main()
