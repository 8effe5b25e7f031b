"""Memory of a connection that is authenticated, joined, subscribed to its inbox, and silent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import peers
from bench.daemon import start_daemon, tokens
from bench.harness import Column, Result, Running, Variant, interleave, load, start_floor

COLUMNS = (
    Column("server.kib_per_connection", "KiB/connection", 2),
    Column("server.base_mib", "MiB without connections", 1),
    Column("redis.kib_per_connection", "Redis KiB/person", 2),
    Column("connections", "connections", 0),
)


def variants(connections: int, idle: int) -> list[Variant]:
    """The daemon; the floor, which keeps a descriptor and a user for each connection; the peers."""
    common = ("-n", str(connections), "-i", str(idle), "-d", "0")

    def floor(running: Running) -> Result:
        return load(running, "-F", *common)

    def daemon(running: Running) -> Result:
        return load(running, "-A", tokens(connections), *common)

    ours = [Variant("floor", start_floor, floor), Variant("notifier", start_daemon, daemon)]
    return [*ours, *peers.rows(*common)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=35, help="seconds: a round of pings and of refreshes")
    chosen = parser.parse_args(argv)
    table = interleave(variants(chosen.connections, chosen.idle), chosen.rounds)
    print(table.markdown(COLUMNS))
    others = [peer.name for peer in peers.PEERS]
    print("\n" + peers.ratios(table, "notifier", others, ["server.kib_per_connection"], "memory"))
    sys.exit(peers.failed(table))


if __name__ == "__main__":
    main()
