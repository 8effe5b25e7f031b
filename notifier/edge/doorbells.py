"""Doorbells of lanes: whoever has nothing to send sleeps here until handover, or what is due, rings."""

from collections import deque
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater


class Doorbells:
    """One for each (shard, lane). A ring wakes one sleeper; one that nobody hears is remembered for the next."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._asleep: dict[tuple[int, str], deque[Deferred[None]]] = {}
        self._rung: set[tuple[int, str]] = set()

    def heard(self, shard: int, lanes: bytes) -> None:
        """A message of the shard's channel: names of lanes, parted by spaces."""
        for lane in lanes.decode("ascii", "replace").split():
            self.ring(shard, lane)

    def ring(self, shard: int, lane: str) -> None:
        """Something may lie in this lane."""
        asleep = self._asleep.get((shard, lane))
        if asleep:
            asleep.popleft().cancel()
        elif asleep is not None:  # else nobody here reads it
            self._rung.add((shard, lane))

    async def wait(self, shard: int, lane: str, seconds: float) -> None:
        """Return when it rings, or has rung since the last wait; at the latest after so many seconds."""
        place = (shard, lane)
        asleep = self._asleep.setdefault(place, deque())
        if place in self._rung:
            self._rung.discard(place)
            return
        woken: Deferred[None] = deferLater(self.reactor, seconds, _nothing)
        asleep.append(woken)
        try:
            await woken
        except CancelledError:
            pass  # it rang
        finally:
            if woken in asleep:
                asleep.remove(woken)

    def wake_all(self) -> None:
        """Everybody looks for themselves, as before a stop."""
        for asleep in self._asleep.values():
            while asleep:
                asleep.popleft().cancel()


def _nothing() -> None:
    return None
