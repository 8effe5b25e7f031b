"""One event to 1 000 people who are all connected: CPU for each of them, and how long until all have it.

Ours names the thousand in `to` and writes a thousand inboxes; the floor and the peers send one text to everybody.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import peers
from bench.daemon import start_daemon, tokens
from bench.harness import (
    Column,
    Result,
    Running,
    Variant,
    event_template,
    floor_template,
    interleave,
    load,
    start_floor,
)

COLUMNS = (
    Column("server.cpu_us_per_delivery", "server CPU µs", 2),
    Column("redis.cpu_us_per_delivery", "Redis CPU µs", 2),
    Column("own_cpu_us_per_delivery", "generator CPU µs", 2),
    Column("server.cpu_percent", "server %", 0),
    Column("deliveries_per_s", "deliveries/s", 0),
    Column("p50_us", "p50 µs", 0),
    Column("p99_us", "p99 µs", 0),
    Column("max_us", "max µs", 0),
    Column("messages_per_read", "messages/read", 2),
)

PEOPLE = 1000  # as many as an event may name
AT_ONCE = "4"  # events under way in the closed loop
RATE = "10"  # events a second of the open loop: 10 000 deliveries
AT_RATE = f", {RATE} events/s"


def _variants(suffix: str, *arguments: str) -> list[Variant]:
    common = ("-n", str(PEOPLE), *arguments)

    def floor(running: Running) -> Result:
        return load(running, "-F", *common, "-t", floor_template(broadcast=True))

    def daemon(running: Running) -> Result:
        fan_out = ("-f", str(PEOPLE), "-t", event_template(PEOPLE))
        return load(running, "-A", tokens(PEOPLE), *common, *fan_out)

    return [
        Variant("floor" + suffix, start_floor, floor),
        Variant("notifier" + suffix, start_daemon, daemon),
        *peers.rows(*common, event="all", suffix=suffix),
    ]


def variants(seconds: int) -> list[Variant]:
    """As fast as each can with a few events under way, then at one rate."""
    common = ("-d", str(seconds), "-o", "2")
    window = str(int(AT_ONCE) * PEOPLE)
    return [*_variants("", *common, "-W", window), *_variants(AT_RATE, *common, "-r", RATE)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.broadcast", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="measured time of each run")
    chosen = parser.parse_args(argv)
    table = interleave(variants(chosen.seconds), chosen.rounds)
    print(table.markdown(COLUMNS))
    key, title = "server.cpu_us_per_delivery", "server CPU per delivery"
    for suffix in ("", AT_RATE):
        others = [name + suffix for name in ("floor", *(peer.name for peer in peers.PEERS))]
        print("\n" + peers.ratios(table, "notifier" + suffix, others, [key], title))
    sys.exit(peers.failed(table))


if __name__ == "__main__":
    main()
