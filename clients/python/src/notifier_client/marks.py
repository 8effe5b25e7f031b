"""Marks that were made and that the inbox does not show yet: a connection may have died with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from notifier_client.inbox import Inbox, Row

READ_IDS: Final = 400  # in one `read`


def reads(ids: Iterable[str]) -> list[dict[str, Any]]:
    """The messages that mark these rows read."""
    every = list(ids)
    return [{"type": "read", "ids": every[at : at + READ_IDS]} for at in range(0, len(every), READ_IDS)]


class Marks:
    """What to say again after a resume."""

    def __init__(self) -> None:
        self._reads: dict[str, int] = {}  # notification id -> the seq that was read
        self._seen: tuple[str, int] | None = None

    def read(self, rows: Iterable[Row]) -> None:
        self._reads.update((row.id, row.seq) for row in rows)

    def seen(self, epoch: str, seq: int) -> None:
        self._seen = (epoch, seq)

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
