"""A relay's hold on the outbox of one PostgreSQL server: lanes are claimed whole, their rows read, done with, deleted.

All is one transaction of a connection of its own. If the process dies, the claims are free and the rows still there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg2
from msgspec import Struct

from webapp.outbox import PARKED

LANES_AT_ONCE: Final = 4
"""Lanes that one claim takes, so that the others are left to other relays."""
ROWS: Final = 500
"""Rows of a lane that one claim reads."""

_CLAIMS: Final = 0x72656C61  # "rela": advisory locks of ours
# The order by id makes it one step of the index on (lane, id), however many rows wait.
_WORK: Final = (
    "SELECT {shard} AS shard, lane FROM generate_series({first}, {last}) AS lanes(lane), "
    "LATERAL (SELECT 1 FROM {table} AS waiting WHERE waiting.lane = lanes.lane ORDER BY id LIMIT 1) AS one"
)


class Row(Struct, frozen=True):
    """A row of the outbox of shard `shard`; `payload` is JSON."""

    shard: int
    id: int
    kind: str
    payload: str


class Claims:
    """The outbox tables of one node.

    connect  opens a connection to it
    shards   the logical shards it holds, with the names of their tables
    """

    def __init__(self, connect: Callable[[], Any], shards: dict[int, str]) -> None:
        self._connect = connect
        self._tables = shards
        self._connection: Any = None
        self._work: dict[range, str] = {}

    def take(self, lanes: range) -> list[Row]:
        """Claims some of `lanes` that have rows and that no other relay holds, and reads the first rows of each.

        What is claimed stays so until `finish` or `release`. In each lane the rows are in the order of their ids.
        Raises psycopg2.Error.
        """
        if self._connection is None:
            self._connection = self._connect()
        with self._connection.cursor() as cursor:
            cursor.execute(self._work_of(lanes))
            held = cursor.fetchall()
            if not held:
                self._connection.rollback()
                return []
            # A statement of its own: its snapshot is younger than the claim, and what the relay that held
            # the lane before has deleted is gone.
            cursor.execute(" UNION ALL ".join(self._rows_of(shard, lane) for shard, lane in held))
            rows = [Row(*row) for row in cursor.fetchall()]
        if not rows:
            self._connection.rollback()  # the relay before us has just done all there was
        return rows

    def finish(self, done: Iterable[Row], parked: Iterable[Row] = ()) -> None:
        """Deletes the rows that are `done`, sets aside those `parked`, leaves others, and frees the lanes.

        Raises psycopg2.Error; all rows then stay.
        """
        statements: list[str] = []
        values: list[Any] = []
        for shard, ids in _by_shard(done):
            statements.append(f"DELETE FROM {self._tables[shard]} WHERE id = ANY(%s::bigint[])")  # noqa: S608
            values.append(ids)
        for shard, ids in _by_shard(parked):
            statements.append(f"UPDATE {self._tables[shard]} SET lane = %s WHERE id = ANY(%s::bigint[])")  # noqa: S608
            values += (PARKED, ids)
        if statements:
            with self._connection.cursor() as cursor:
                cursor.execute("; ".join(statements), values)
        self._connection.commit()

    def release(self) -> None:
        """Frees the lanes; the rows stay. Never raises: a connection that is broken has freed them."""
        try:
            if self._connection is not None:
                self._connection.rollback()
        except psycopg2.Error:
            self.close()

    def close(self) -> None:
        """Ends the connection, and with it all claims."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except psycopg2.Error:
                pass  # it was broken

    def _work_of(self, lanes: range) -> str:
        if lanes not in self._work:
            bounds = {"first": lanes.start, "last": lanes.stop - 1}
            looks = (
                _WORK.format(shard=shard, table=table, **bounds) for shard, table in self._tables.items()
            )
            # In any order, so that all lanes get their turn, and of two relays each begins elsewhere.
            self._work[lanes] = (
                f"WITH work AS MATERIALIZED (SELECT * FROM ({' UNION ALL '.join(looks)}) AS lanes ORDER BY random()) "
                f"SELECT shard, lane FROM work WHERE pg_try_advisory_xact_lock({_CLAIMS}, shard * 64 + lane) "
                f"LIMIT {LANES_AT_ONCE}"  # noqa: S608  # ours and numbers
            )
        return self._work[lanes]

    def _rows_of(self, shard: int, lane: int) -> str:
        return (
            f"(SELECT {shard}, id, kind, payload::text FROM {self._tables[shard]}"  # noqa: S608  # ours and numbers
            f" WHERE lane = {lane} ORDER BY id LIMIT {ROWS})"
        )


def _by_shard(rows: Iterable[Row]) -> Iterable[tuple[int, Sequence[int]]]:
    shards: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        shards[row.shard].append(row.id)
    return shards.items()
