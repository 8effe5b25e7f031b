"""The slot: a stable name for this process among its like, and how many of them there are."""

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from notifier.core import keys
from notifier.edge.redis import Connection

log = Logger()

SLOT_MS: Final = 15_000


class Slot:
    """A stable name for this process among its like: <name>-1, <name>-2 ... whichever is free."""

    def __init__(self, reactor: Any, calls: Connection, name: str, incarnation: str) -> None:
        self.reactor, self.calls, self.prefix, self.incarnation = reactor, calls, name, incarnation
        self.name = f"{name}-{incarnation}"  # until one is taken
        self.processes = 1  # that live on this Redis, this one included
        self._taken = False
        self._timer: Any = None

    async def take(self) -> None:
        """Take the first free name, and keep it."""
        await self._take()
        await self._count()
        self._timer = self.reactor.callLater(SLOT_MS / 3000, self._renew)

    async def _count(self) -> None:
        """Who is alive, by the server's clock: the streams are shared among them."""
        now = int((await self.calls.call("TIME"))[0]) * 1000
        await self.calls.call("ZADD", keys.PROCESSES, now, self.incarnation)
        await self.calls.call("ZREMRANGEBYSCORE", keys.PROCESSES, "-inf", now - SLOT_MS)
        self.processes = max(1, await self.calls.call("ZCARD", keys.PROCESSES))

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
        await self._count()

    async def give(self) -> None:
        """Let the next process have the name."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if await self.calls.call("GET", keys.slot(self.name)) == self.incarnation.encode():
            await self.calls.call("DEL", keys.slot(self.name))
        await self.calls.call("ZREM", keys.PROCESSES, self.incarnation)
