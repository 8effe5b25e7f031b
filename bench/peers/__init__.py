"""Other servers beside ours in one interleaved run; one that is missing is skipped, and named with its install."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.harness import Result, Running, Table, Variant, load
from bench.peers.centrifugo import CENTRIFUGO
from bench.peers.nchan import NCHAN
from bench.peers.node import SOCKET_IO, WS
from bench.peers.peer import Event, Peer

PEERS: tuple[Peer, ...] = (NCHAN, WS, SOCKET_IO, CENTRIFUGO)


def rows(*arguments: str, event: Event | None = None, suffix: str = "") -> list[Variant]:
    """A row for each peer. `arguments` are the generator's; without `event` nothing is published.

    `suffix` follows the peer's name in the table.
    """
    return [Variant(peer.name + suffix, peer.start, partial(_run, peer, event, arguments)) for peer in PEERS]


def _run(peer: Peer, event: Event | None, arguments: Sequence[str], running: Running) -> Result:
    words: list[str | Path] = [*peer.clients(event or "one"), *arguments]
    if event is not None:
        words += ["-t", peer.template(event)]
    return load(running, *words)


def ratios(table: Table, ours: str, others: Sequence[str], keys: Sequence[str], title: str) -> str:
    """Our figure divided by each other's, round by round: the median and the range; below 1 ours is cheaper.

    The `keys` are summed on both sides, and one that a server does not have counts 0. Neighbours in one round
    share the machine's mood, so a quotient of medians would be less sure.
    """
    lines = [f"| {title} | ratio |", "| --- | --- |"]
    mine = _sums(table, ours, keys)
    for other in others:
        theirs = _sums(table, other, keys)
        pairs = [a / b for a, b in zip(mine, theirs, strict=False) if a and b]
        if other in table.missing or ours in table.missing or not pairs:
            lines.append(f"| {ours} / {other} | not measured |")
        else:
            spread = f" [{min(pairs):.2f}–{max(pairs):.2f}]" if len(pairs) > 1 else ""
            lines.append(f"| {ours} / {other} | {statistics.median(pairs):.2f}{spread} |")
    return "\n".join(lines)


def failed(table: Table) -> bool:
    """Whether a row is missing that had to be there; a peer that is not installed is no failure."""
    names = tuple(peer.name for peer in PEERS)
    return any(
        not (name.startswith(names) and reason.startswith("not installed"))
        for name, reason in table.missing.items()
    )


def _sums(table: Table, name: str, keys: Sequence[str]) -> list[float]:
    return [sum(result.get(key) or 0.0 for key in keys) for result in table.results.get(name, ())]
