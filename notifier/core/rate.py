"""How many messages a second a provider is asked to take: a token bucket that begins small and grows."""

from typing import NamedTuple

from msgspec import Struct


class RateRule(Struct, frozen=True):
    """`most`: messages a second. `burst`: s of the rate that may go at once after a pause. `ramp`: s from the first
    message to the full rate, which begins at `start` of it; so it does again after `ramp` s without any."""

    most: float = 9_000.0
    burst: float = 10.0
    ramp: float = 60.0
    start: float = 0.02


class Turn(NamedTuple):
    """`taken` messages may go in `wait` s; for more of them ask again in `pause` s."""

    taken: int
    wait: float
    pause: float


class Rate:
    """`now`: s of a clock; where it is set back, no time has gone by. `sharers`: how many keep to the rule together,
    each to its part of it."""

    def __init__(self, rule: RateRule) -> None:
        self.sharers = 1
        self._rule = rule
        self._began = self._at = float("-inf")
        self._left = 0.0

    def take(self, count: int, now: float, patience: float) -> Turn:
        """So many of `count` messages as may go within `patience` s. Only these are charged for: who takes them
        sends them, and who is refused owes nothing, or those who come again too soon would drive it into debt."""
        self._advance(now)
        rate = self._rate(now)
        taken = max(0, min(count, int(self._left + patience * rate)))
        self._left -= taken
        wait = max(0.0, -self._left / rate)
        if taken == count:
            return Turn(taken, wait, 0.0)
        return Turn(taken, wait, max(0.0, (count - taken - self._left) / rate - patience))

    def _advance(self, now: float) -> None:
        rule = self._rule
        if now < self._at:
            self._began -= self._at - now
        elif now - self._at >= rule.ramp:
            self._began = now
            self._left = self._most(now)
        else:
            self._left = min(self._most(now), self._left + (now - self._at) * self._rate(now))
        self._at = now

    def _most(self, now: float) -> float:
        # One at least, or a rate so small that its burst is a part of a message would let none through for ever.
        return max(1.0, self._rate(now) * self._rule.burst)

    def _rate(self, now: float) -> float:
        rule = self._rule
        grown = (now - self._began) / rule.ramp
        return rule.most / max(1, self.sharers) * min(1.0, max(rule.start, grown))
