"""A relay's hold on the outbox of one PostgreSQL server: lanes are claimed whole, their rows read, done with, deleted.

All is one transaction of a connection of its own. If the process dies, the claims are free and the rows still there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg2
from msgspec import Struct

from webapp.outbox import FILES, PARKED

LANES_AT_ONCE: Final = 4
"""Lanes that one claim takes, so that the others are left to other relays."""
ROWS: Final = 500
"""Rows of a lane that one claim reads."""

_CLAIMS: Final = 0x72656C61  # "rela": advisory locks of ours
# BETWEEN and the order by both: only the index on (lane, id) has that, so it is one step in it however many rows
# wait. "lane = 3 ORDER BY id" can as well be read off the index on id, past the rows of all other lanes.
_WORK: Final = (
    "SELECT {shard} AS shard, lane FROM generate_series({first}, {last}) AS lanes(lane), "
    "LATERAL (SELECT 1 FROM {table} AS waiting WHERE waiting.lane BETWEEN lanes.lane AND lanes.lane "
    "ORDER BY waiting.lane, waiting.id LIMIT 1) AS one"
)
_CLAIM: Final = (
    "WITH work AS MATERIALIZED (SELECT * FROM ({looks}) AS lanes ORDER BY random()) "
    "SELECT shard, lane FROM work "
    "WHERE pg_try_advisory_xact_lock({claims}, shard * 64 + lane) LIMIT {most}"
)


class Row(Struct, frozen=True):
    """A row of the outbox of shard `shard`; `payload` is JSON."""

    shard: int
    id: int
    kind: str
    payload: str


class Batch(Struct, frozen=True):
    """Rows of the lanes that were claimed. `more`: there may be others that could be claimed at once."""

    rows: list[Row]
    more: bool


class Claims:
    """The outbox tables of one node.

    connect  opens a connection to it
    shards   the logical shards it holds, with the names of their tables
    """

    def __init__(self, connect: Callable[[], Any], shards: dict[int, str]) -> None:
        self._connect = connect
        self._tables = shards
        self._connection: Any = None
        self._prepared: set[range] = set()

    def take(self, lanes: range) -> Batch:
        """Claims some of `lanes` that have rows and that no other relay holds, and reads the first rows of each.

        What is claimed stays so until `finish` or `release`. In each lane the rows are in the order of their ids.
        Raises psycopg2.Error.
        """
        with self._connected().cursor() as cursor:
            self._prepare(cursor, lanes)
            cursor.execute(f"BEGIN; EXECUTE work_{lanes.start}_{lanes.stop}")
            held = cursor.fetchall()
            if not held:
                cursor.execute("COMMIT")
                return Batch([], more=False)
            # A statement of its own: its snapshot is younger than the claim, and what the relay that held
            # the lane before has deleted is gone.
            cursor.execute(" UNION ALL ".join(self._rows_of(shard, lane) for shard, lane in held))
            rows = [Row(*row) for row in cursor.fetchall()]
            if not rows:  # the relay before us has just done all there was
                cursor.execute("COMMIT")
        return Batch(rows, more=len(held) == LANES_AT_ONCE or len(rows) >= ROWS)

    def finish(self, done: Iterable[Row], parked: Iterable[Row] = (), files: Iterable[Row] = ()) -> None:
        """Deletes the rows that are `done`, sets aside those `parked`, leaves others, and frees the lanes.

        Those in `files` go to the end of the lane `FILES`, also when they come from there.

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
        for shard, ids in _by_shard(files):
            table = self._tables[shard]
            # A new id is the last of all: of files that cannot be deleted, none is in the way of another.
            statements.append(
                f"UPDATE {table} SET lane = %s, id = {table.partition('.')[0]}.next_id() "  # noqa: S608
                "WHERE id = ANY(%s::bigint[])"
            )
            values += (FILES, ids)
        with self._connected().cursor() as cursor:
            cursor.execute("; ".join((*statements, "COMMIT")), values)

    def release(self) -> None:
        """Frees the lanes; the rows stay. Never raises: a connection that is broken has freed them."""
        if self._connection is None:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
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

    def _connected(self) -> Any:
        if self._connection is None:
            self._prepared = set()
            self._connection = self._connect()
            self._connection.autocommit = True  # BEGIN and COMMIT travel with other statements
        return self._connection

    def _prepare(self, cursor: Any, lanes: range) -> None:
        """The look for work is planned once: over many shards that takes longer than the look."""
        if lanes in self._prepared:
            return
        bounds = {"first": lanes.start, "last": lanes.stop - 1}
        looks = (_WORK.format(shard=shard, table=table, **bounds) for shard, table in self._tables.items())
        # In any order, so that all lanes get their turn, and of two relays each begins elsewhere.
        claim = _CLAIM.format(looks=" UNION ALL ".join(looks), claims=_CLAIMS, most=LANES_AT_ONCE)
        cursor.execute(f"PREPARE work_{lanes.start}_{lanes.stop} AS {claim}")
        self._prepared.add(lanes)

    def _rows_of(self, shard: int, lane: int) -> str:
        return (
            f"(SELECT {shard}, id, kind, payload::text FROM {self._tables[shard]}"  # noqa: S608  # ours and numbers
            f" WHERE lane BETWEEN {lane} AND {lane} ORDER BY lane, id LIMIT {ROWS})"
        )


def _by_shard(rows: Iterable[Row]) -> Iterable[tuple[int, Sequence[int]]]:
    shards: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        shards[row.shard].append(row.id)
    return shards.items()
