"""A clock that does not go back, made of one that may be set."""

from collections.abc import Callable


class Steady:
    """Calling it tells the time in s: that of `seconds`, where a step back counts as no time at all."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._latest = seconds()
        self._lost = 0.0

    def __call__(self) -> float:
        now = self._seconds()
        if now < self._latest:
            self._lost += self._latest - now
        self._latest = now
        return now + self._lost
