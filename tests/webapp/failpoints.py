"""Relays that die of their own choosing: `python -m tests.webapp.failpoints [POINT...]`, one process after the other.

Each is the real relay, which kills itself (SIGKILL) when it passes its point. One that dies nowhere follows.
"""

from __future__ import annotations

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
LAST: Final = "alive"


def die_at(point: str) -> None:
    """Has this process kill itself when it passes `point`."""
    from webapp import claims, edges, feeds, relay

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


def relay(point: str) -> None:
    """Runs one relay in this process."""
    from django.core.management import call_command

    if point != LAST:
        die_at(point)
    call_command("relay")


def main(points: Sequence[str]) -> None:
    """A child for each point, then one that lives until SIGTERM. Says on stdout which died."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    django.setup()
    children: list[int] = []

    def stop(_number: int, _frame: Any) -> None:
        os.kill(children[-1], signal.SIGTERM)

    for point in (*points, LAST):
        child = os.fork()  # nothing is connected yet, and there are no threads
        if child == 0:
            relay(point)
            os._exit(0)
        children.append(child)
        if point == LAST:
            signal.signal(signal.SIGTERM, stop)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            print("died:", point, flush=True)
        else:
            print("ended:", point, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    assert threading.active_count() == 1
    main(sys.argv[1:])
