"""Drives a reader's once() for ever: waits when there is nothing to do, backs off when Redis fails, gives its lease
back at the end, and before that when other processes have less than their share."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from notifier.edge.logs import Every
from notifier.edge.redis import ReplyError
from notifier.ports import Unavailable, Unburied

log = Logger()

BACKOFF: Final = (0.1, 5.0)  # s: the first and the longest pause after a failure, doubling
AGAIN: Final = 30.0  # s before a stream that nobody took is offered once more
POLITE: Final = 2.0  # s in which who gave a stream away does not look for it
LESS_OFTEN: Final = 2  # times the poll between looks of who has its share, so that others come first


class Sleeps(Protocol):
    """Where a loop waits for more to do."""

    def wait(self, seconds: float) -> Awaitable[None]: ...


class Steps(Protocol):
    """What a loop drives (pipeline.Reader, sending.Sender, sending.Due)."""

    @property
    def log(self) -> Sleeps: ...

    @property
    def owned(self) -> bool: ...

    def once(self) -> Awaitable[bool]: ...
    def drop(self) -> None: ...
    def release(self) -> Awaitable[None]: ...


class Loop:
    """One reader, for ever. `poll`: seconds between looks when nobody wakes it. `beat`: when it last got through,
    `turned`: when it last tried."""

    def __init__(self, reactor: Any, steps: Steps, name: str, poll: float) -> None:
        self.reactor, self.steps, self.name, self.poll = reactor, steps, name, poll
        self.beat = self.turned = 0.0
        self.fault = ""
        self._running = False
        self._ended: Deferred[None] | None = None
        self._asleep: Deferred[None] | None = None
        self._pause = BACKOFF[0]
        self._say = Every(10.0)
        self.polite: Callable[[], bool] = lambda: False
        self._yielding = False

    def yield_lease(self) -> None:
        """Let another process have this stream, after the batch under way."""
        self._yielding = True

    def start(self) -> None:
        self._running = True
        self.beat = self.reactor.seconds()
        self._ended = Deferred.fromCoroutine(self._run())

    def halt(self) -> None:
        """Begin nothing more; what is in hand is given back after the batch under way."""
        self._running = False
        if self._asleep is not None:
            self._asleep.cancel()

    async def stop(self) -> None:
        """Finish the batch under way, then give the lease back."""
        self.halt()
        if self._ended is not None:
            await self._ended
        await self._release()  # what has come in since

    async def _release(self) -> None:
        try:
            await self.steps.release()
        except (Unavailable, ReplyError) as error:
            log.info(
                "{name}: lease not given back, it will expire: {error}", name=self.name, error=str(error)
            )

    async def _run(self) -> None:
        while self._running:
            self.turned = self.reactor.seconds()
            try:
                busy = not self._yielding and await self.steps.once()
                if self._yielding:
                    await self.steps.release()
                self.beat, self.fault, self._pause = self.reactor.seconds(), "", BACKOFF[0]
                if not busy and self._running:
                    await self._wait()
            except (Unavailable, ReplyError, Unburied) as error:
                await self._failed(error, None)
            except Exception as error:  # a bug: said in full, and the loop goes on
                await self._failed(error, log.failure)
        await self._release()  # now: between halt() and stop() sockets drain, for many seconds

    async def _wait(self) -> None:
        if self.steps.owned:
            await self.steps.log.wait(self.poll)
        else:
            await self._sleep(self._patience())
            self._yielding = False

    def _patience(self) -> float:
        """Seconds until the next look at a stream of another. Short even for who has its share: the owner may have
        died, and who died counts among those that want a share for a while."""
        if self._yielding:
            return POLITE
        return LESS_OFTEN * self.poll if self.polite() else self.poll

    async def _sleep(self, seconds: float) -> None:
        """Pause, until it is over or the loop is stopped."""
        self._asleep = deferLater(self.reactor, seconds, _nothing)
        try:
            await self._asleep
        except CancelledError:
            pass  # stopped meanwhile
        finally:
            self._asleep = None

    async def _failed(self, error: Exception, say: Callable[..., None] | None) -> None:
        self.steps.drop()
        self.fault = f"{type(error).__name__}: {error}"
        suppressed = self._say.due()
        if say is not None:
            say("{name}: stopped by a bug; begins again", name=self.name)
        elif suppressed is not None:
            log.warn("{name}: {error}; begins again", name=self.name, error=str(error))
        if self._running:
            await self._sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(BACKOFF[1], self._pause * 2)


def share(loops: Sequence[Loop], processes: Callable[[], int]) -> Callable[[], None]:
    """Spread streams over processes: who has its share takes more only when nobody else wants it. Returns what to
    call now and then: it gives one stream away while this process has more than its share."""

    def fair() -> int:
        return -(-len(loops) // max(1, processes()))

    def owned() -> list[Loop]:
        return [loop for loop in loops if loop.steps.owned]

    offered: tuple[Loop | None, float] = (None, 0.0)

    def level() -> None:
        nonlocal offered
        mine, now = owned(), loops[0].reactor.seconds()
        if len(mine) <= fair():
            return
        if offered[0] in mine and now < offered[1]:
            return  # nobody took it: who is counted may have died, or does not read yet
        offered = (mine[-1], now + AGAIN)
        mine[-1].yield_lease()

    for loop in loops:
        loop.polite = lambda: len(owned()) >= fair()
    return level


def _nothing() -> None:
    return None
