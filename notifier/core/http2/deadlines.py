"""When the streams of a connection are due. Ids and times grow together, so a few marks in time are enough:
no stream pays for a timer or for an entry of its own."""

from collections import deque
from typing import Final

_STEPS: Final = 64  # in the time allowed: how late a stream may be found overdue is one of these


class Deadlines:
    """`within`: seconds from a stream's opening until it is due."""

    __slots__ = ("_marks", "_step", "_within", "next_mark")

    def __init__(self, within: float) -> None:
        self._within = within
        self._step = within / _STEPS
        self._marks: deque[tuple[float, int]] = deque()  # (due, the first stream of this mark)
        self.next_mark = float("-inf")
        """A stream opened at this time or later needs `mark`."""

    def mark(self, stream: int, now: float) -> None:
        """`stream` opens now. Streams opened before `next_mark` share its mark, and are due a step late at most."""
        self.next_mark = now + self._step
        self._marks.append((self.next_mark + self._within, stream))

    def overdue(self, now: float, opened: int) -> int:
        """All streams below this one are overdue; `opened`: the first stream that is not open yet."""
        bound = 0
        while self._marks and self._marks[0][0] <= now:
            self._marks.popleft()
            bound = self._marks[0][1] if self._marks else opened
        return bound

    def clear(self) -> None:
        """No stream is open."""
        self._marks.clear()
        self.next_mark = float("-inf")

    @property
    def next(self) -> float:
        """When to ask `overdue` again; infinity if never."""
        return self._marks[0][0] if self._marks else float("inf")
