"""How many messages a second a provider is asked to take: a token bucket that begins small and grows."""

from msgspec import Struct


class RateRule(Struct, frozen=True):
    """`most`: messages a second. `burst`: s of the rate that may go at once after a pause. `ramp`: s from the first
    message to the full rate, which begins at `start` of it; so it does again after `ramp` s without any."""

    most: float = 9_000.0
    burst: float = 10.0
    ramp: float = 60.0
    start: float = 0.02


class Rate:
    """`now`: s of a clock that does not go back."""

    def __init__(self, rule: RateRule) -> None:
        self._rule = rule
        self._began = self._at = float("-inf")
        self._left = 0.0

    def take(self, count: int, now: float) -> float:
        """Seconds until `count` messages may go, 0 for now. They are counted: who takes them sends them."""
        rule = self._rule
        if now - self._at >= rule.ramp:
            self._began = now
            self._left = rule.most * rule.start * rule.burst
        else:
            rate = self._rate(now)
            self._left = min(rate * rule.burst, self._left + (now - self._at) * rate)
        self._at = max(self._at, now)
        self._left -= count
        return max(0.0, -self._left / self._rate(now))

    def _rate(self, now: float) -> float:
        rule = self._rule
        grown = (now - self._began) / rule.ramp
        return rule.most * min(1.0, max(rule.start, grown))
