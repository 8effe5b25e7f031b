"""Marks that were made and that the inbox does not show yet: a connection may have died with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from notifier_client.inbox import Inbox, Row

READ_IDS: Final = 400  # in one `read`


def reads(ids: Iterable[str]) -> list[dict[str, Any]]:
    """The messages that mark these rows read."""
    every = list(ids)
    return [{"type": "read", "ids": every[at : at + READ_IDS]} for at in range(0, len(every), READ_IDS)]


class Marks:
    """What to say again. At most the rows of the inbox and the highest `seen`, however many are made."""

    def __init__(self) -> None:
        self._reads: dict[str, int] = {}  # notification id -> the seq that was read
        self._seen: tuple[str, int] | None = None

    def __bool__(self) -> bool:
        return bool(self._reads) or self._seen is not None

    @property
    def epoch(self) -> str | None:
        """Of `seen`."""
        return None if self._seen is None else self._seen[0]

    def read(self, rows: Iterable[Row]) -> None:
        self._reads.update((row.id, row.seq) for row in rows)

    def seen(self, epoch: str, seq: int) -> None:
        if self._seen is None or self._seen[0] != epoch or self._seen[1] < seq:
            self._seen = (epoch, seq)

    def join(self, later: Marks) -> None:
        """Add marks that were made later."""
        self._reads.update(later._reads)
        if later._seen is not None:
            self.seen(*later._seen)

    def forget(self, message: Mapping[str, Any]) -> None:
        """What this message says need not be said again."""
        if message["type"] == "read":
            for one in message["ids"]:
                self._reads.pop(one, None)
        elif self._seen is not None and self._seen[1] <= message["seq"]:
            self._seen = None

    def settle(self, inbox: Inbox) -> None:
        """Forget what has happened, or cannot any more."""
        if not inbox.complete:
            return
        rows = inbox.rows
        self._reads = {
            one: seq
            for one, seq in self._reads.items()
            if one in rows and not rows[one].read and rows[one].seq == seq
        }
        if self._seen is not None and (self._seen[0] != inbox.epoch or self._seen[1] <= inbox.seen):
            self._seen = None

    def due(self) -> list[dict[str, Any]]:
        """The messages that say it all."""
        seen = [] if self._seen is None else [{"type": "seen", "seq": self._seen[1]}]
        return [*reads(self._reads), *seen]
