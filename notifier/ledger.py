"""What providers have answered and Redis would not write down yet."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from notifier.core.lanes import Drop
from notifier.ports import Settlement

PAGE: Final = 100  # settlements in one call
PAUSES: Final = (1.0, 60.0)  # s until what could not be settled twice is tried again: at first, and at most


class Unsettled(Struct):
    """What is still to be written down, how often that failed and when it is tried again (by our clock), and why
    nothing was sent, if nothing had to be. `alone`: in a call of its own, for a call it was in failed as a whole."""

    settlement: Settlement
    drop: Drop | None
    tries: int = 0
    at: float = 0.0
    alone: bool = False

    @property
    def id(self) -> str:
        """Of its entry in the stream."""
        return self.settlement.entry.id

    def failed(self, now: float) -> bool:
        """Once more; True if that is to be told."""
        first, longest = PAUSES
        self.at = now + (min(longest, first * 2.0 ** min(self.tries, 30)) if self.tries else 0.0)
        self.tries += 1
        return self.tries & (self.tries - 1) == 0


class Ledger:
    """What providers have answered and Redis would not write down. It is never sent again for that: settling alone is
    repeated, for as long as this process lives."""

    def __init__(self) -> None:
        self._waiting: dict[str, Unsettled] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)

    def __contains__(self, entry: str) -> bool:
        return entry in self._waiting

    def put(self, batch: Iterable[Unsettled]) -> None:
        """To be settled at their time."""
        self._waiting.update((one.id, one) for one in batch)

    def take(self, now: float) -> Iterator[list[Unsettled]]:
        """Batches of those whose time has come, now in the hands of whoever asks."""
        due = [one for one in self._waiting.values() if one.at <= now]
        for one in due:
            del self._waiting[one.id]
        together = [one for one in due if not one.alone]
        batches = [together[at : at + PAGE] for at in range(0, len(together), PAGE)]
        return iter([*batches, *([one] for one in due if one.alone)])
