"""A relay as a process: its loop, what wakes it, what it tells, and how it ends within two seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final

import redis

from webapp.outbox import CHANNEL
from webapp.relay import ALL, CLEARING, EVENTS, TASKS, Figures, Relay

POLL: Final = 1.0
"""Seconds after which a relay looks for work that no wake-up told of."""
REPORT: Final = 10.0
"""Seconds between two lines of figures, while there is something to tell."""
GRACE: Final = 1.5
"""Seconds from SIGTERM until the process ends in the middle of whatever it does, which loses nothing."""

_SLICE: Final = 0.1  # s between two looks at whether to stop
_WAKES: Final = {b"events": (EVENTS,), b"tasks": (TASKS, CLEARING)}


class Bell:
    """Hears the wake-ups on the channel of the outbox. Without Redis it is a clock."""

    def __init__(self, client: redis.Redis, stop: threading.Event) -> None:
        self._redis = client
        self._stop = stop
        self._channel: Any = None

    def wait(self, seconds: float) -> set[range]:
        """What there is work in, by the wake-ups; nothing after `seconds`, or when the process shall stop."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                if heard := self._heard(min(left, _SLICE)):
                    return heard
            except redis.RedisError:
                self.close()
                self._stop.wait(left)
        return set()

    def close(self) -> None:
        """Ends the subscription."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _heard(self, seconds: float) -> set[range]:
        if self._channel is None:
            self._channel = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py has not typed it
            self._channel.subscribe(CHANNEL)
        heard: set[range] = set()
        # One look at the outbox answers all wake-ups that have come.
        while (message := self._channel.get_message(timeout=0.0 if heard else seconds)) is not None:
            if message["type"] == "message":
                heard.update(_WAKES.get(message["data"], ALL))
        return heard


def run(
    relay: Relay, bell: Bell, stop: threading.Event, tell: Callable[[str], None], tidy: Callable[[], None]
) -> None:
    """Moves rows until `stop` is set. `tell` gets a line of JSON every 10 s in which something was done.

    `tidy` is called again and again, and knows itself when there is something to do.
    """
    look_at = told_at = time.monotonic()
    which: Collection[range] = ALL
    try:
        while not stop.is_set():
            if time.monotonic() >= look_at:
                which, look_at = ALL, time.monotonic() + POLL
            tidy()
            more = relay.once(which)
            # Whatever takes long, events are looked for in between.
            which = more | {EVENTS} if more else bell.wait(look_at - time.monotonic())
            if time.monotonic() >= told_at + REPORT:
                told_at = _report(relay, told_at, tell)
    finally:
        _report(relay, told_at, tell)
        bell.close()
        relay.close()


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set `stop`; a process that does not come to look at it ends itself after the grace.

    A call that waits for a server that has stopped answering lets no signal handler of Python run. So the handler does
    nothing, and a thread of its own reads what the interpreter writes at once to the wake-up descriptor.
    """
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def watch() -> None:
        hears.recv(1)
        stop.set()
        time.sleep(GRACE)
        tells.close()  # named here also so that both sockets live as long as the thread
        os._exit(0)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _report(relay: Relay, since: float, tell: Callable[[str], None]) -> float:
    """Tells what was done since `since`, if anything was; returns the moment."""
    figures, relay.figures = relay.figures, Figures(Counter())
    now = time.monotonic()
    if figures.counts:
        done = {name.replace(" ", "_"): count for name, count in sorted(figures.counts.items())}
        about = {"relay": os.getpid(), "seconds": round(now - since, 1)}
        tell(json.dumps({**about, **done, "lag_ms": figures.lag_ms}))
    return now
