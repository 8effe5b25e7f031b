"""Looked after every second: how much lies in the streams, whether producers must wait, who has too many streams;
and every minute: idempotency marks that nothing can need any more."""

# mypy: allow-untyped-calls
# (Failure has no annotations)

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core import keys
from notifier.edge.logs import Every
from notifier.edge.loop import Loop
from notifier.edge.redis import Connection, ReplyError
from notifier.metrics import Metrics
from notifier.ports import EventLog, LeaseLost, Unavailable

log = Logger()

SWEEP_EVERY: Final = 60.0


class Minder:
    """Every second: how much lies in the streams, and does a producer have to wait? Every minute: old marks."""

    def __init__(
        self, reactor: Any, calls: Connection, loops: Sequence[Loop], metrics: Metrics, backlog_limit: int,
        level: Callable[[], None],
    ) -> None:  # fmt: skip
        self.reactor, self.calls, self.loops, self.metrics = reactor, calls, loops, metrics
        self.backlog_limit, self.level = backlog_limit, level
        self._timer: Any = None
        self._due = 0.0
        self._sweep_at = 0.0
        self._pressed = False
        self._bug = Every(60.0)
        metrics.watch("leases_held", lambda: sum(loop.steps.owned for loop in loops))

    def start(self) -> None:
        self._due = self.reactor.seconds() + 1.0
        self._timer = self.reactor.callLater(1.0, self._look)

    def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        now = self.reactor.seconds()
        self.metrics.reactor_lag_seconds = max(0.0, now - self._due)
        self._due = now + 1.0
        self._timer = self.reactor.callLater(1.0, self._look)
        Deferred.fromCoroutine(self._mind()).addErrback(self._failed)

    async def _mind(self) -> None:
        self.level()
        depths = [await _log(loop).depth() for loop in self.loops]
        entries = sum(depth.entries for depth in depths)
        self.metrics.backlog_entries = entries
        self.metrics.oldest_unacked_seconds = max((depth.oldest for depth in depths), default=0.0)
        if self.loops[0].steps.owned:  # the front door's reader speaks for all
            await self._press(entries)
        if self.reactor.seconds() >= self._sweep_at:
            self._sweep_at = self.reactor.seconds() + SWEEP_EVERY
            # What still waits at the front door may repeat what the shards have applied.
            before = depths[0].accepted if len(self.loops) > 1 else 0
            for loop in self.loops[1:] or self.loops:
                while loop.steps.owned and await _log(loop).sweep(before):
                    pass

    async def _press(self, entries: int) -> None:
        """The key that producers on Redis may look at: there while they should wait, gone soon after."""
        over = entries > self.backlog_limit
        self.metrics.pressure = float(over)
        if over:
            await self.calls.call("SET", keys.PRESSURE, entries, "EX", 10)
            if not self._pressed:
                log.warn(
                    "backlog of {entries} is over its limit: producers are told to wait", entries=entries
                )
        elif self._pressed:
            await self.calls.call("DEL", keys.PRESSURE)
        self._pressed = over

    def _failed(self, failure: Failure) -> None:
        """Redis is away, or a lease has gone elsewhere meanwhile: the next second looks again."""
        if failure.check(Unavailable, ReplyError, LeaseLost) is None and self._bug.due() is not None:
            log.failure("while minding the streams", failure)


def _log(loop: Loop) -> EventLog:
    """Only readers of events are minded."""
    return cast("EventLog", loop.steps.log)
