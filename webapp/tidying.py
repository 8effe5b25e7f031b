"""What is over and waits for nobody: answers to old `Idempotency-Key`s, and files that nobody is shown any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from django.db import Error, close_old_connections

from webapp import idempotency
from webapp.outbox import FILES, LATER
from webapp.shards import ScatterNode, each_node, first_id_at

EVERY: Final = 60.0
"""Seconds between two looks."""
AT_ONCE: Final = 1000
"""Rows of a shard that one transaction deletes."""
FILES_HOURS: Final = 24
"""How long a picture that was replaced can still be fetched, by pages that are open and caches that lead to it."""
BUDGET: Final = 0.2
"""Seconds for one step, in which the relay moves no event."""

_LOOK: Final = (
    "SELECT '{schema}' WHERE EXISTS (SELECT FROM {schema}.answered WHERE id < %(before)s) "
    "OR EXISTS (SELECT FROM {schema}.outbox WHERE lane = %(later)s AND id < %(shown)s)"
)
# Several relays do this at the same time: none waits for rows that another is deleting. ARRAY, because the rows of an
# IN may be sought anew for each row of the table, pass over those that are gone by then, and so be more than LIMIT.
_OLD: Final = (
    "DELETE FROM {schema}.answered WHERE ctid = ANY (ARRAY (SELECT ctid "
    "FROM {schema}.answered WHERE id < %(before)s ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED))"
)
# Their own lane then: relays delete them, and try that again where the storage refuses it.
_DUE: Final = (
    "UPDATE {schema}.outbox SET lane = %(files)s WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.outbox "
    "WHERE lane = %(later)s AND id < %(shown)s ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED))"
)
_log: Final = logging.getLogger(__name__)


class Tidying:
    """Deletes what is over, a few rows at a time, once a minute.

    clock  seconds, monotonic
    now    milliseconds since 1970
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        self._clock, self._now = clock, now
        self._next = 0.0

    def __call__(self) -> None:
        """Looks if it is time to. Raises no outage: what is over can wait."""
        if self._clock() < self._next:
            return
        until, more = self._clock() + BUDGET, False
        for node in each_node(primary=True):
            try:
                more = self._tidy(node, until) or more
            except Error as outage:
                close_old_connections()
                _log.warning("what is over stays for now on node %d: %s", node.place.number, outage)
        # Much to do is done in many small steps, between which events are moved.
        self._next = self._clock() + (0.0 if more else EVERY)

    def _tidy(self, node: ScatterNode, until: float) -> bool:
        """One step on a node; whether there is more to do."""
        now, more = self._now(), False
        values = {
            "before": idempotency.horizon(now), "shown": first_id_at(int(now) - FILES_HOURS * 3_600_000),
            "most": AT_ONCE, "later": LATER, "files": FILES,
        }  # fmt: skip
        with node.cursor() as cursor:
            cursor.execute(node.union_all(_LOOK), values)
            for (name,) in cursor.fetchall():
                if self._clock() >= until:
                    return True
                for query in (_OLD, _DUE):
                    cursor.execute(query.replace("{schema}", name), values)
                    more = more or cursor.rowcount >= AT_ONCE
        return more
