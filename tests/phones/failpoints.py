"""The daemon, with a death of its own choosing on the way to phones: `python -m tests.phones.failpoints POINT NTH ...`.

Also one with little patience: what another process was given and has not settled within seconds is taken over, by one
that has just begun as well.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from notifier import phones, sending, service
from notifier.core.backlog import Batch
from notifier.core.lanes import PushEntry
from notifier.core.model import Outcome
from notifier.core.rate import RateRule
from notifier.edge.apns import Apns
from notifier.edge.fcm import Fcm
from notifier.edge.push_store import RedisDue, RedisPushes
from notifier.edge.store import RedisLog
from notifier.ports import Handed, Look, PushesRead, PushesSettled, PushRequest, Seen, Settlement, Woken
from tests.chaos.failpoints import Fate, Mortal, die, die_when_run, main

POINTS: Final = {
    "handed": "a handover has read entries of lanes for their senders, its reply was not read",
    "given": "entries of a lane were read or given, nothing was done with them",
    "history": "what a dead process of this name had been given was read once more",
    "claimed": "what another process had been given was taken over",
    "looked": "what stands behind a batch was read, nothing was sent",
    "asked": "the requests of a batch are under way, some were answered",
    "answered": "every request of a batch was answered, nothing was settled",
    "settling": "the settlement has run in Redis, its reply was not read",
    "settled": "a batch is settled",
    "woken": "what was due is back in its lane, nothing of it was read",
}
IN_FLIGHT: Final = 0.005  # s after the requests of a batch were handed to their connections
SECONDS: Final = 1.0  # that a batch may take: whoever holds one for longer than about twice that has lost it
reactor: Any = _reactor


class MortalPushes(RedisPushes):
    """A lane that a process may not survive."""

    async def history(self, want: int, after: str) -> PushesRead:
        read = await super().history(want, after)
        if read.entries:
            Fate.pass_by("history")
        return read

    async def read(self, want: int) -> PushesRead:
        read = await super().read(want)
        if read.entries:
            Fate.pass_by("given")
        return read

    async def claim(self, idle_ms: int, want: int, after: str) -> PushesRead:
        read = await super().claim(idle_ms, want, after)
        if read.entries:
            Fate.pass_by("claimed")
        return read

    async def look(self, entries: Sequence[PushEntry], seen: Seen | None = None) -> Look:
        look = await super().look(entries, seen)
        Fate.pass_by("looked")
        return look

    async def settle(self, settlements: Sequence[Settlement]) -> PushesSettled:
        waiting = Deferred.fromCoroutine(super().settle(settlements))
        if Fate.strikes("settling"):
            die_when_run("settling", self.calls)
        settled = await waiting
        Fate.pass_by("settled")
        return settled


class MortalLog(RedisLog):
    """Handover, whose answer brings entries of lanes that a process may not live to send."""

    def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Awaitable[Handed]:
        handed = super().handover(batch, want, rooms)
        if rooms and Fate.strikes("handed"):
            die_when_run("handed", self.calls)
        return Deferred.fromCoroutine(self._given(handed))

    async def _given(self, waiting: Awaitable[Handed]) -> Handed:
        handed = await waiting
        if any(given is not None and given.read.entries for given in handed.given.values()):
            Fate.pass_by("given")
        return handed


class MortalDue(RedisDue):
    """What is due, for a process that may not live to hear what it has woken."""

    async def wake(self) -> Woken:
        woken = await super().wake()
        if woken.moved:
            Fate.pass_by("woken")
        return woken


async def _mortally(sending_: Awaitable[Sequence[Outcome]]) -> Sequence[Outcome]:
    if Fate.strikes("asked"):
        reactor.callLater(IN_FLIGHT, die, "asked")
    outcomes = await sending_
    Fate.pass_by("answered")
    return outcomes


class MortalApns(Apns):
    """Apple, for a process that may not live to hear its answers."""

    longest = SECONDS  # a property there

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        return await _mortally(super().send(requests))


class MortalFcm(Fcm):
    """The same of Google; at the full rate from the start, or every death would be followed by a minute's patience."""

    longest = SECONDS

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more | {"rate": RateRule(start=1.0)})

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        return await _mortally(super().send(requests))


MORTALS: Final[Sequence[Mortal]] = (
    (service, "RedisLog", MortalLog),
    (phones, "RedisPushes", MortalPushes),
    (phones, "RedisDue", MortalDue),
    (phones, "Apns", MortalApns),
    (phones, "Fcm", MortalFcm),
)

if __name__ == "__main__":
    sending.REDIS = sending.OTHERS_FIRST = SECONDS  # type: ignore[misc]
    main(sys.argv[1:], points=POINTS, mortals=MORTALS)
