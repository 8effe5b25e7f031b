"""From XADD through the inbox to the socket, everything on: CPU for each notification of daemon, Redis and generator.

The floor in the table only reads a stream and writes sockets: no inbox, no order, no marks, no tokens, no acks.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from bench import peers
from bench.daemon import Daemon, start_daemon, tokens
from bench.harness import (
    BenchFailed,
    Column,
    Result,
    Running,
    Variant,
    cpu_ns,
    event_json,
    event_template,
    floor_variants,
    interleave,
    load,
    redis_command,
)
from bench.wire import Wire

COLUMNS = (
    Column("server.cpu_us_per_delivery", "server CPU µs", 1),
    Column("redis.cpu_us_per_delivery", "Redis CPU µs", 1),
    Column("own_cpu_us_per_delivery", "generator CPU µs", 1),
    Column("server.cpu_percent", "server %", 0),
    Column("deliveries_per_s", "deliveries/s", 0),
    Column("p50_us", "p50 µs", 0),
    Column("p99_us", "p99 µs", 0),
    Column("messages_per_read", "messages/read", 2),
)
OFFLINE_COLUMNS = (
    Column("server.us_per_event", "daemon CPU µs/event", 1),
    Column("redis.us_per_event", "Redis CPU µs/event", 1),
    Column("events_per_s", "events/s", 0),
    Column("deliveries_per_s", "deliveries/s", 0),
)

CHUNK = 200  # events a producer writes at once
BACKLOG = 2_000  # entries in the stream beyond which it waits


def through(connections: int, seconds: int, *arguments: str) -> Callable[[Running], Result]:
    """A run of the generator as so many clients; `arguments` are its own."""
    return lambda running: load(
        running, "-A", tokens(connections), "-n", str(connections), "-d", str(seconds), "-o", "2",
        "-t", event_template(), *arguments,
    )  # fmt: skip


class Producer:
    """Appends events for people of whom most have no socket, as fast as they are handled.

    `people` are drawn at random; those below `online` are connected.
    """

    def __init__(self, port: int, people: int, online: int) -> None:
        self._wire = Wire(port)
        self._online = online
        self._chunks = [self._chunk(people, random.Random(seed)) for seed in range(50)]
        self.written = self.expected = 0

    def _chunk(self, people: int, chance: random.Random) -> tuple[bytes, int]:
        users = [chance.randrange(people) for _ in range(CHUNK)]
        events = [event_json().replace("U" * 6, f"{user:06d}") for user in users]
        commands = b"".join(redis_command("XADD", "notifier:events", "*", "event", event) for event in events)
        return commands, sum(user < self._online for user in users)

    def backlog(self) -> int:
        """Entries that wait in the stream."""
        count: int = self._wire.call("XLEN", "notifier:events")
        return count

    def run(self, seconds: float) -> None:
        """Keep the daemon busy for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.backlog() > BACKLOG:
                time.sleep(0.002)
                continue
            commands, online = self._chunks[self.written // CHUNK % len(self._chunks)]
            self._wire.ask(commands, CHUNK)
            self.written += CHUNK
            self.expected += online

    def drain(self, seconds: float = 30.0) -> None:
        """Until nothing is left. Raises BenchFailed when something stays."""
        end = time.monotonic() + seconds
        while self.backlog():
            if time.monotonic() > end:
                raise BenchFailed(f"{self.backlog()} events were not handled within {seconds:.0f} s")
            time.sleep(0.05)


def mostly_offline(people: int, online: int, seconds: int, running: Running) -> Result:
    """Cost of an event when only so many of all people are connected; every one of theirs must arrive."""
    assert isinstance(running, Daemon) and running.redis_port is not None
    producer = Producer(running.redis_port, people, online)
    with _clients(running, online, seconds) as figures:
        producer.run(1)
        before, written, since = _cpu(running), producer.written - producer.backlog(), time.monotonic()
        producer.run(seconds)
        after, handled = _cpu(running), producer.written - producer.backlog() - written
        took = time.monotonic() - since
        producer.drain()
        listened = figures.result()
    if listened["deliveries"] != producer.expected:
        raise BenchFailed(f"{producer.expected} notifications were due, {listened['deliveries']} came")
    costs = {f"{name}.us_per_event": (after[name] - before[name]) / 1000 / handled for name in after}
    deliveries = handled * producer.expected / producer.written
    return {**costs, "events_per_s": handled / took, "deliveries_per_s": deliveries / took}


@contextmanager
def _clients(running: Daemon, online: int, seconds: int) -> Iterator[Future[Result]]:
    """Clients that only listen, from before the producer writes until after; gives what will be their figures."""
    quiet = Running(running.port, ())
    arguments = ("-A", tokens(online), "-n", str(online), "-s", "0", "-o", "0", "-d", str(seconds + 6))
    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(load, quiet, *arguments)
        while running.metric("sessions") < online and not figures.done():
            time.sleep(0.1)
        time.sleep(0.2)  # the last `ready` is on its way
        yield figures


def _cpu(running: Running) -> dict[str, int]:
    return {name: sum(map(cpu_ns, pids)) for name, pids in running.groups.items()}


def online_variants(seconds: int) -> list[Variant]:
    """Rows for which every event is a delivery; the floor's beside ours."""
    with_aof = partial(start_daemon, aof=True)
    floor = {variant.name: variant for variant in floor_variants(1000, seconds)}
    return [
        floor["floor, unicast"],
        Variant("1 000 connections", start_daemon, through(1000, seconds)),
        Variant("1 000 connections, AOF everysec", with_aof, through(1000, seconds)),
        Variant("5 000 connections", start_daemon, through(5000, seconds)),
        floor["floor, 50 hot users"],
        Variant("50 hot users", start_daemon, through(1000, seconds, "-k", "50")),
        floor["floor, 4 000 events/s"],
        Variant("4 000 events/s", start_daemon, through(1000, seconds, "-r", "4000")),
        Variant("4 000 events/s, AOF everysec", with_aof, through(1000, seconds, "-r", "4000")),
    ]


def offline_variants(seconds: int) -> list[Variant]:
    """Rows for which most events meet nobody: the cost of an event is that of its inbox."""
    run = partial(mostly_offline, 10_000, 1_000, seconds)
    return [
        Variant("10 % of 10 000 people online", start_daemon, run),
        Variant("10 % of 10 000 people online, AOF everysec", partial(start_daemon, aof=True), run),
    ]


RATE = "4000"  # events a second of the open loop
AT_RATE = ", 4 000 events/s"


def peer_variants(seconds: int) -> list[Variant]:
    """One person for each event, 1 000 connections, ours beside the peers: as fast as each can, then at one rate."""
    common = ("-n", "1000", "-d", str(seconds), "-o", "2")
    return [
        Variant("notifier", start_daemon, through(1000, seconds)),
        *peers.rows(*common, event="one"),
        Variant("notifier" + AT_RATE, start_daemon, through(1000, seconds, "-r", RATE)),
        *peers.rows(*common, "-r", RATE, event="one", suffix=AT_RATE),
    ]


def beside_peers(seconds: int, rounds: int) -> bool:
    """Measures and prints the table with the peers, and what ours costs in terms of each; False if a run failed."""
    table = interleave(peer_variants(seconds), rounds)
    print(table.markdown((*COLUMNS, Column("bytes_per_message", "bytes/message", 0))))
    server = "server.cpu_us_per_delivery"
    for keys, title in (
        ([server], "server CPU per delivery"),
        ([server, "redis.cpu_us_per_delivery"], "server and Redis CPU per delivery"),
    ):
        for suffix in ("", AT_RATE):
            others = [peer.name + suffix for peer in peers.PEERS]
            print("\n" + peers.ratios(table, "notifier" + suffix, others, keys, title))
    return not peers.failed(table)


def _own_tables(seconds: int) -> list[tuple[list[Variant], Sequence[Column]]]:
    return [(online_variants(seconds), COLUMNS), (offline_variants(seconds), OFFLINE_COLUMNS)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="measured time of each run")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--peers", action="store_true", help="the table with the peers, and no other")
    chosen = parser.parse_args(argv)
    failed = False
    for variants, columns in () if chosen.peers else _own_tables(chosen.seconds):
        wanted = [variant for variant in variants if chosen.only in variant.name]
        if wanted:
            table = interleave(wanted, chosen.rounds)
            print(table.markdown(columns), end="\n\n", flush=True)
            failed = failed or bool(table.missing)
    if chosen.peers or not chosen.only:
        failed = not beside_peers(chosen.seconds, chosen.rounds) or failed
    sys.exit(failed)


if __name__ == "__main__":
    main()
