"""The reverse index of follows: who follows somebody, on that one's shard. On the follower's is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from webapp import shards
from webapp.tasks import Change

# Locked in one order, so that two relays never wait for each other; and before the next statement looks at what is
# there, so that none counts what another is changing.
_LOCK: Final = "SELECT id FROM person WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE"
_APPLY: Final = """
WITH new AS (
  SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::boolean[])
  AS new(followee_id, follower_id, change, active)
), old AS (
  SELECT followee_id, follower_id, there.active FROM follower AS there
  JOIN new USING (followee_id, follower_id)
), changed AS (
  INSERT INTO follower AS there (followee_id, follower_id, change, active)
  SELECT followee_id, follower_id, change, active FROM new
  ON CONFLICT (followee_id, follower_id) DO UPDATE SET change = excluded.change, active = excluded.active
  WHERE there.change < excluded.change
  RETURNING followee_id, follower_id, active
), counted AS (
  SELECT followee_id, sum(changed.active::int - coalesce(old.active, false)::int) AS more
  FROM changed LEFT JOIN old USING (followee_id, follower_id) GROUP BY followee_id
)
UPDATE person SET followers = followers + more FROM counted WHERE id = followee_id AND more <> 0
"""


class PostgresEdges:
    """The Edges of webapp/tasks.py."""

    def shard_of(self, followee: int) -> int:
        """The shard of a person. Raises ValueError where there is no such shard."""
        number = shards.shard_of(followee)
        if number not in shards.all_shards():
            raise ValueError(f"there is no shard {number}, which person {followee} would be of")
        return number

    def apply(self, shard: int, changes: Sequence[Change]) -> None:
        """Brings changes to a shard, whole and committed; at most one of each edge.

        A change that is older than what stands has no effect, nor has one for a person who is gone.
        """
        with shards.shard(shard), shards.atomic(), shards.write_cursor() as cursor:
            cursor.execute(_LOCK, [[change.edge.followee for change in changes]])
            people = {person for (person,) in cursor.fetchall()}
            kept = [change for change in changes if change.edge.followee in people]
            columns = zip(
                *((one.edge.followee, one.edge.follower, one.id, one.edge.active) for one in kept),
                strict=True,
            )
            if kept:
                cursor.execute(_APPLY, [list(column) for column in columns])
