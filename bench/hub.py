"""A notification that is ready, from the bus to the socket, beside a C program that only sends ready frames.

The hub's side does everything that a client is owed: order, window, acks, metrics. The floor's does none of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.daemon import token_keys, tokens
from bench.harness import (
    SERVER_CORE,
    Column,
    Process,
    Result,
    Running,
    Variant,
    event_json,
    free_port,
    interleave,
    load,
    ready_frames,
)

COLUMNS = (
    Column("server.cpu_us_per_delivery", "server CPU µs/delivery", 2),
    Column("own_cpu_us_per_delivery", "generator µs", 2),
    Column("server.cpu_percent", "server %", 0),
    Column("deliveries_per_s", "deliveries/s", 0),
    Column("messages_per_read", "messages/read", 2),
    Column("bytes_per_message", "bytes/message", 0),
)
BYTES = "328"  # of the floor's frame: as long as ours


def variants(connections: int, seconds: int) -> list[Variant]:
    """The hub and the floor, one frame a write, round robin over all connections."""

    def start() -> Running:
        port = free_port()
        key = ":".join(map(str, token_keys()[0]))
        event = event_json().replace("U" * 6, "000000").replace("E" * 10, "0" * 10)
        argv: list[str | Path] = [sys.executable, "-m", "bench.hub_server", "--port", str(port)]
        argv += ["--people", str(connections), "--key", key, "--event", event]
        server = Process("hub", argv, SERVER_CORE)
        server.wait_for_port(port)
        return Running(port, (server,), groups={"server": server.pids()})

    def run(running: Running) -> Result:
        arguments = ("-A", tokens(connections), "-n", str(connections), "-o", "2", "-d", str(seconds))
        return load(running, *arguments)

    return [ready_frames(connections, seconds, "-l", BYTES), Variant("hub", start, run)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hub", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=4, help="measured time of each run")
    chosen = parser.parse_args(argv)
    table = interleave(variants(chosen.connections, chosen.seconds), chosen.rounds)
    print(table.markdown(COLUMNS))
    floor, hub = (table.median(name, "server.cpu_us_per_delivery") for name in table.names)
    if floor and hub:
        print(f"\nThe hub takes {hub / floor:.2f} times the floor's CPU.")
    sys.exit(bool(table.missing))


if __name__ == "__main__":
    main()
