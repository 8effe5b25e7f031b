"""How long to wait before connecting again: full jitter, so that a thousand clients do not return in step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Backoff:
    """Any time up to a bound that doubles with each try.

    first   bound of the first wait, seconds
    most    bound of every wait, seconds
    chance  gives numbers from 0 to 1
    """

    first: float = 0.5
    most: float = 30.0
    chance: Callable[[], float] = random.random
    tries: int = 0

    def next(self) -> float:
        """Seconds to wait now; the next wait may be longer."""
        # The exponent is bounded because a float is: after days without a server 2 ** tries would be none.
        bound = min(self.most, self.first * 2.0 ** min(self.tries, 64))
        self.tries += 1
        return self.chance() * bound

    def reset(self) -> None:
        """A connection has lasted: begin small again."""
        self.tries = 0
