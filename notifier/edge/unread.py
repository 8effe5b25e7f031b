"""Lanes that hold pushes while no app of this configuration sends on them: counted, and told by name."""

# mypy: allow-untyped-calls
# (twisted.python.failure has no annotations)

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core.lanes import UNCONFIGURED, Lane, unconfigured
from notifier.edge.logs import Every
from notifier.edge.redis import ReplyError
from notifier.metrics import Labelled
from notifier.ports import Depth, Unavailable

log = Logger()

EVERY: Final = 30.0  # s between looks
AGAIN: Final = 3600.0  # s until a lane is named again in the log


class Unread:
    """`depths`: how much lies in every lane there is, by name. `gauge`: entries by "<app> <provider>"."""

    def __init__(
        self, reactor: Any, depths: Callable[[], Awaitable[Mapping[str, Depth]]], read: Collection[Lane],
        gauge: Labelled,
    ) -> None:  # fmt: skip
        self.reactor, self.depths, self.gauge = reactor, depths, gauge
        self.read = {str(lane) for lane in read}
        self._timer: Any = None
        self._named: dict[str, float] = {}
        self._bug = Every(60.0)

    def start(self) -> None:
        """Look now, and from time to time."""
        self._timer = self.reactor.callLater(EVERY, self.start)
        Deferred.fromCoroutine(self.look()).addErrback(self._failed)

    def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    async def look(self) -> None:
        """How much lies in lanes that are not read here."""
        found = await self.depths()
        left = {name: depth for name, depth in found.items() if depth.entries and name not in self.read}
        waiting = dict.fromkeys(UNCONFIGURED, 0)
        for name, depth in left.items():
            waiting[unconfigured(name)] += depth.entries
        self.gauge.update(waiting)
        now = self.reactor.seconds()
        self._named = {name: at for name, at in self._named.items() if name in left}
        for name in sorted(left.keys()):
            if now - self._named.get(name, float("-inf")) >= AGAIN:
                self._named[name] = now
                _warn(name, left[name])

    def _failed(self, failure: Failure) -> None:
        """Redis is away: the next look finds it."""
        if failure.check(Unavailable, ReplyError) is None and self._bug.due() is not None:
            log.failure("while looking for lanes that nobody reads", failure)


def _warn(lane: str, depth: Depth) -> None:
    log.warn(
        "lane {lane}: {entries} pushes wait, the oldest for {oldest} s, and this configuration has no such app: "
        "configure it, or take its devices out; what is past its deadline is buried",
        lane=lane, entries=depth.entries, oldest=int(depth.oldest),
    )  # fmt: skip
