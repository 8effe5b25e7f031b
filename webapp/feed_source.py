"""What feeds are made of, read from PostgreSQL: one query a node, however many shards it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from webapp.feeds import CHUNK, Entry
from webapp.shards import each_node, primary_only, read_cursor, shard, shard_of

MOST_FOLLOWED: Final = 7500
"""People whose photos a feed is built from: those followed last."""

_FOLLOWING: Final = "SELECT followee_id FROM following WHERE follower_id = %s ORDER BY id DESC LIMIT %s"
_FOLLOWING_OF: Final = (
    "SELECT followee_id FROM following WHERE follower_id = %s AND followee_id = ANY(%s::bigint[])"
)
_FOLLOWERS: Final = (
    "SELECT follower_id FROM follower WHERE followee_id = %s AND active AND follower_id > %s"
    " ORDER BY follower_id LIMIT %s"
)
_SIZE: Final = "SELECT followers FROM person WHERE id = %s"
# The newest of each owner by the index on (owner, id); the newest of all of a shard; then of a node.
_NEWEST: Final = (
    "SELECT photo.id, owner.id AS owner FROM unnest(%(owners)s::bigint[]) AS owner(id), LATERAL ("
    "SELECT id FROM {schema}.photo WHERE owner_id = owner.id AND id < %(before)s"
    " ORDER BY id DESC LIMIT %(limit)s) AS photo ORDER BY photo.id DESC LIMIT %(limit)s"
)
_LAST_ID: Final = 2**63 - 1


class PostgresSource:
    """The Source of webapp/feeds.py. Feeds are caches: what fills them is read from primaries."""

    def following(self, person: int) -> list[int]:
        """Whom `person` follows, the newest first, at most 7 500."""
        with primary_only(), shard(shard_of(person)), read_cursor() as cursor:
            cursor.execute(_FOLLOWING, [person, MOST_FOLLOWED])
            return [followee for (followee,) in cursor.fetchall()]

    def following_of(self, person: int, owners: Iterable[int]) -> set[int]:
        """Those of `owners` whom `person` follows."""
        with shard(shard_of(person)), read_cursor() as cursor:
            cursor.execute(_FOLLOWING_OF, [person, list(owners)])
            return {followee for (followee,) in cursor.fetchall()}

    def followers(self, owner: int) -> Iterator[Sequence[int]]:
        """All who follow `owner`, 1 000 at a time."""
        last = 0
        while True:
            with primary_only(), shard(shard_of(owner)), read_cursor() as cursor:
                cursor.execute(_FOLLOWERS, [owner, last, CHUNK])
                portion = [follower for (follower,) in cursor.fetchall()]
            if portion:
                yield portion
                last = portion[-1]
            if len(portion) < CHUNK:
                return

    def size(self, owner: int) -> int:
        """How many follow `owner`; 0 for nobody."""
        with primary_only(), shard(shard_of(owner)), read_cursor() as cursor:
            cursor.execute(_SIZE, [owner])
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def newest(self, owners: Sequence[int], before: int | None, limit: int) -> list[Entry]:
        """The newest photos of all these together, older than photo `before`; newest first."""
        found: list[Entry] = []
        values: dict[str, Any] = {"before": _LAST_ID if before is None else before, "limit": limit}
        for node in each_node(primary=True):
            here = set(node.place.shards)
            values["owners"] = [owner for owner in owners if shard_of(owner) in here]
            if values["owners"]:
                with node.cursor() as cursor:
                    cursor.execute(node.union_all(_NEWEST) + " ORDER BY 1 DESC LIMIT %(limit)s", values)
                    found += [Entry(photo, owner) for photo, owner in cursor.fetchall()]
        return sorted(found, reverse=True)[:limit]
