"""Relays that die of their own choosing: `python -m tests.webapp.failpoints [POINT...] [--count N]`.

Each is the real relay, which kills itself (SIGKILL) when it passes its point; then N follow that die nowhere.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import django

POINTS: Final = {
    "claimed": "lanes are claimed and rows read, nothing was done with them",
    "half": "half of a batch is in the stream, the rest was not sent",
    "appended": "the batch is in the stream, no row was deleted",
    "edges": "edges are in the index, no feed was told, no row was deleted",
    "fan-out": "a photo is in the feeds, no row was deleted",
    "committed": "the rows are gone and the lanes free, nobody was told",
}
CLEARED: Final = {"cleared": "a slice of what a photo has left behind is committed, the rest is left"}
LAST: Final = "alive"


def die_at(point: str) -> None:
    """Has this process kill itself when it passes `point`."""
    from webapp import claims, clearing, edges, feeds, relay

    def strike(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(owner: Any, method: str, name: str, when: Callable[[Any], object] = lambda _: True) -> None:
        real = getattr(owner, method)

        @functools.wraps(real)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            if when(result):
                strike(name)
            return result

        setattr(owner, method, wrapped)

    append = relay.Stream.append

    def half(self: relay.Stream, events: Sequence[bytes]) -> None:
        if point == "half" and len(events) > 1:
            append(self, events[: len(events) // 2])
            strike("half")
        append(self, events)

    relay.Stream.append = half  # type: ignore[method-assign]
    after(claims.Claims, "take", "claimed", lambda batch: batch.rows)
    after(relay.Stream, "append", "appended")
    after(claims.Claims, "finish", "committed")
    after(edges.PostgresEdges, "apply", "edges")
    after(feeds.Feeds, "fan_out", "fan-out")
    after(clearing, "step", "cleared")


def relay(point: str) -> None:
    """Runs one relay in this process."""
    from django.core.management import call_command

    if point != LAST:
        die_at(point)
    call_command("relay")


def born(point: str) -> int:
    """A child that runs a relay; its process id. Nothing is connected here, and there are no threads."""
    child = os.fork()
    if child == 0:
        relay(point)
        os._exit(0)
    return child


def main(points: Sequence[str], count: int) -> None:
    """A child for each point, one after the other; then `count` at once that live until SIGTERM. Says who died."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    django.setup()
    assert threading.active_count() == 1
    for point in points:
        _, status = os.waitpid(born(point), 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(f"died: {point}\n" if killed else f"ended: {point}, status {status}\n")
        sys.stdout.flush()
    children = [born(LAST) for _ in range(count)]

    def stop(number: int, _frame: Any) -> None:
        for child in children:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, stop)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("points", nargs="*")
    words.add_argument("--count", type=int, default=1)
    chosen = words.parse_args()
    assert (POINTS | CLEARED).keys() >= set(chosen.points), chosen.points
    main(chosen.points, chosen.count)
