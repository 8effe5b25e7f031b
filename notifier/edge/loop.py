"""Drives a reader's once() for ever: waits when there is nothing to do, backs off when Redis fails, gives up its
lease at the end. Also the slot that names a process, and what is looked after every second."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from notifier.core import keys
from notifier.edge.logs import Every
from notifier.edge.redis import Connection, ReplyError
from notifier.metrics import Metrics
from notifier.ports import Depth, EventLog, Unavailable

log = Logger()

BACKOFF: Final = (0.1, 5.0)  # s: the first and the longest pause after a failure, doubling
SLOT_MS: Final = 15_000
SWEEP_EVERY: Final = 60.0


class Steps(Protocol):
    """What a loop drives (pipeline.Reader)."""

    log: EventLog
    owned: bool

    def once(self) -> Awaitable[bool]: ...
    def drop(self) -> None: ...
    def release(self) -> Awaitable[None]: ...


class Loop:
    """One reader, for ever. `poll`: seconds between looks when nobody wakes it. `beat`: when it last got through."""

    def __init__(self, reactor: Any, steps: Steps, name: str, poll: float) -> None:
        self.reactor, self.steps, self.name, self.poll = reactor, steps, name, poll
        self.beat = 0.0
        self.fault = ""
        self._running = False
        self._ended: Deferred[None] | None = None
        self._pause = BACKOFF[0]
        self._say = Every(10.0)

    def start(self) -> None:
        self._running = True
        self._ended = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """Finish the batch under way, then give the lease back."""
        self._running = False
        if self._ended is not None:
            await self._ended
        try:
            await self.steps.release()
        except (Unavailable, ReplyError) as error:
            log.info(
                "{name}: lease not given back, it will expire: {error}", name=self.name, error=str(error)
            )

    async def _run(self) -> None:
        while self._running:
            try:
                busy = await self.steps.once()
                self.beat, self.fault, self._pause = self.reactor.seconds(), "", BACKOFF[0]
                if not busy and self._running:
                    await self._wait()
            except (Unavailable, ReplyError) as error:
                await self._failed(error, None)
            except Exception as error:  # a bug: said in full, and the loop goes on
                await self._failed(error, log.failure)

    async def _wait(self) -> None:
        if self.steps.owned:
            await self.steps.log.wait(self.poll)
        else:
            await deferLater(self.reactor, self.poll, _nothing)

    async def _failed(self, error: Exception, say: Callable[..., None] | None) -> None:
        self.steps.drop()
        self.fault = f"{type(error).__name__}: {error}"
        suppressed = self._say.due()
        if say is not None:
            say("{name}: stopped by a bug; begins again", name=self.name)
        elif suppressed is not None:
            log.warn("{name}: {error}; begins again", name=self.name, error=str(error))
        if self._running:
            await deferLater(self.reactor, self._pause * random.uniform(0.5, 1.0), _nothing)
        self._pause = min(BACKOFF[1], self._pause * 2)


def _nothing() -> None:
    return None


class Slot:
    """A stable name for this process among its like: <name>-1, <name>-2 ... whichever is free."""

    def __init__(self, reactor: Any, calls: Connection, name: str, incarnation: str) -> None:
        self.reactor, self.calls, self.prefix, self.incarnation = reactor, calls, name, incarnation
        self.name = f"{name}-{incarnation}"  # until one is taken
        self._taken = False
        self._timer: Any = None

    async def take(self) -> None:
        """Take the first free name, and keep it."""
        await self._take()
        self._timer = self.reactor.callLater(SLOT_MS / 3000, self._renew)

    async def _take(self) -> None:
        for number in range(1, 1000):
            name = f"{self.prefix}-{number}"
            if await self.calls.call("SET", keys.slot(name), self.incarnation, "NX", "PX", SLOT_MS):
                if self._taken:
                    log.warn(
                        "slot {old} was lost while this process was stopped; now {new}",
                        old=self.name,
                        new=name,
                    )
                self.name, self._taken = name, True
                return

    def _renew(self) -> None:
        self._timer = self.reactor.callLater(SLOT_MS / 3000, self._renew)
        Deferred.fromCoroutine(self._keep()).addErrback(lambda _: None)  # Redis is away: tried again in 5 s

    async def _keep(self) -> None:
        if await self.calls.call("GET", keys.slot(self.name)) == self.incarnation.encode():
            await self.calls.call("PEXPIRE", keys.slot(self.name), SLOT_MS)
        else:
            await self._take()

    async def give(self) -> None:
        """Let the next process have the name."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._taken and await self.calls.call("GET", keys.slot(self.name)) == self.incarnation.encode():
            await self.calls.call("DEL", keys.slot(self.name))


class Minder:
    """Every second: how much lies in the streams, and does a producer have to wait? Every minute: old marks."""

    def __init__(
        self, reactor: Any, calls: Connection, loops: Sequence[Loop], metrics: Metrics, backlog_limit: int
    ) -> None:
        self.reactor, self.calls, self.loops, self.metrics = reactor, calls, loops, metrics
        self.backlog_limit = backlog_limit
        self._timer: Any = None
        self._due = 0.0
        self._sweep_at = 0.0
        self._pressed = False
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
        Deferred.fromCoroutine(self._mind()).addErrback(_quiet)

    async def _mind(self) -> None:
        depths = [await loop.steps.log.depth() for loop in self.loops]
        entries = sum(depth.entries for depth in depths)
        self.metrics.backlog_entries = entries
        self.metrics.oldest_unacked_seconds = max((depth.oldest for depth in depths), default=0.0)
        if self.loops[0].steps.owned:  # the front door's reader speaks for all
            await self._press(entries)
        if self.reactor.seconds() >= self._sweep_at:
            self._sweep_at = self.reactor.seconds() + SWEEP_EVERY
            for loop in self.loops:
                while loop.steps.owned and await loop.steps.log.sweep():
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


def _quiet(failure: Any) -> None:
    failure.trap(Unavailable, ReplyError, LookupError, Exception)


__all__ = ["Depth", "Loop", "Minder", "Slot", "Steps"]
