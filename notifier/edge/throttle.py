"""How often somebody may do something: token buckets by name, one number for each name that is not full again."""

from __future__ import annotations


class Buckets:
    """`rate` a second, `burst` at once. Who is unknown has a full bucket; at most `most` names are kept."""

    __slots__ = ("_full", "burst", "most", "rate")

    def __init__(self, rate: float, burst: float, most: int = 100_000) -> None:
        self.rate, self.burst, self.most = rate, burst, most
        self._full: dict[str, float] = {}  # name -> when its bucket is full again

    def __len__(self) -> int:
        return len(self._full)

    def take(self, name: str, now: float) -> float:
        """Take one at `now` (s). 0.0 when there was one; otherwise in how many seconds there will be."""
        full = max(now, self._full.get(name, now))
        wait = full - now - (self.burst - 1) / self.rate
        if wait > 1e-9:  # not zero: sums of fractions miss it by a hair
            return wait
        if name not in self._full and len(self._full) >= self.most:
            self._make_room(now)
        self._full[name] = full + 1 / self.rate
        return 0.0

    def give_back(self, name: str) -> None:
        """What was taken last was not needed."""
        if name in self._full:
            self._full[name] -= 1 / self.rate

    def _make_room(self, now: float) -> None:
        """Forget whose buckets are full; if all are in use, whoever came first."""
        self._full = {name: full for name, full in self._full.items() if full > now}
        if len(self._full) >= self.most:
            del self._full[next(iter(self._full))]
