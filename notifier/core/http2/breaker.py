"""When to try again with a server that does not work: how long to pause, and when to ask nothing of it at all."""

from typing import Final

_NEVER: Final = float("-inf")


class Backoff:
    """Pauses that double from `first` to `longest` seconds, each cut by chance so that not all come back at once."""

    __slots__ = ("_failures", "_first", "_longest")

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def pause(self, chance: float) -> float:
        """Seconds to wait after one more failure; `chance` from 0 to 1."""
        pause = min(self._longest, self._first * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return pause * chance

    def reset(self) -> None:
        """It works."""
        self._failures = 0


class Breaker:
    """Opens after `failures` in a row without a success, for `pause` seconds; then lets one try through.

          failures in a row, trip()          the pause is over
    CLOSED ---------------------------> OPEN -----------------> HALF OPEN
      ^                                  ^--------- failure ----------+
      +------------------------------- success -----------------------+
    """

    __slots__ = ("_count", "_failures", "_pause", "until")

    def __init__(self, failures: int = 5, pause: float = 30.0) -> None:
        self._failures = failures
        self._pause = pause
        self._count = 0
        self.until = _NEVER
        """Open until this time."""

    def open(self, now: float) -> bool:
        """Nothing may be tried now."""
        return now < self.until

    def failed(self, now: float) -> bool:
        """One more failure. True if the breaker has opened by it. In half open, one is enough."""
        self._count += 1
        if self._count < self._failures:
            return False
        self.trip(now, self._pause)
        return True

    def trip(self, now: float, seconds: float) -> None:
        """Opens for `seconds`, for a reason of the caller's; the next failure after that opens it again."""
        self._count = self._failures
        self.until = max(self.until, now + seconds)

    def succeeded(self) -> None:
        """It works."""
        self._count = 0
        self.until = _NEVER
