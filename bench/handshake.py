"""From the first byte of the upgrade to `ready`: HTTP, the token's signature, the join of the inbox."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bench import peers
from bench.daemon import start_daemon, tokens
from bench.harness import Column, Result, Running, Variant, interleave, load, start_floor

COLUMNS = (
    Column("server.cpu_us_per_handshake", "CPU µs/handshake", 0),
    Column("redis.cpu_us_per_handshake", "Redis µs", 0),
    Column("handshakes_per_s", "handshakes/s", 0),
)


def variants(connections: int) -> list[Variant]:
    """A row for each kind of token; the floor and the peers, which check nothing."""
    common = ("-n", str(connections), "-d", "0")

    def signed(algorithm: str) -> Callable[[Running], Result]:
        return lambda running: load(running, "-A", tokens(connections, algorithm), *common)

    return [
        Variant("floor", start_floor, lambda running: load(running, "-F", *common)),
        *(Variant(algorithm, start_daemon, signed(algorithm)) for algorithm in ("ES256", "EdDSA", "HS256")),
        *peers.rows(*common),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.handshake", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=5_000)
    chosen = parser.parse_args(argv)
    table = interleave(variants(chosen.connections), chosen.rounds)
    print(table.markdown(COLUMNS))
    others = [peer.name for peer in peers.PEERS]
    key, title = "server.cpu_us_per_handshake", "server CPU per handshake"
    print("\n" + peers.ratios(table, "ES256", others, [key], title))
    sys.exit(peers.failed(table))


if __name__ == "__main__":
    main()
