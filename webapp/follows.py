"""Who follows whom. The follower's shard has the truth; the relay brings it to the followee's."""

from __future__ import annotations

from typing import Any, Final

from webapp import events, outbox, people
from webapp.photos import tell_feeds
from webapp.problems import Problem
from webapp.shards import atomic, on_commit, read_cursor, shard, shard_of, write_cursor

_BEGIN: Final = (
    "INSERT INTO following (follower_id, followee_id) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING id"
)
_END: Final = "DELETE FROM following WHERE follower_id = %s AND followee_id = %s RETURNING id"
_COUNT: Final = "UPDATE person SET following = following + %s WHERE id = %s RETURNING id"
_FOLLOWED: Final = (
    "SELECT id, followee_id FROM following WHERE follower_id = %s AND id < %s ORDER BY id DESC LIMIT %s"
)
_FOLLOWERS: Final = (
    "SELECT change, follower_id FROM follower WHERE followee_id = %s AND active AND change < %s "
    "ORDER BY change DESC LIMIT %s"
)


def follow(person: int, followee: int) -> None:
    """`person` follows `followee`; again has no effect. Raises Problem `forbidden` for oneself."""
    if person == followee:
        raise Problem("forbidden", "nobody follows themselves")
    actor = people.actor(person)
    with shard(shard_of(person)), atomic(), write_cursor() as cursor:
        if _changed(cursor, _BEGIN, person, followee, 1):
            on_commit(lambda: tell_feeds("followed", person, followee))
            _tell("follow", actor, followee)


def unfollow(person: int, followee: int) -> None:
    """`person` does not follow `followee`, any more."""
    with shard(shard_of(person)), atomic(), write_cursor() as cursor:
        if _changed(cursor, _END, person, followee, -1):
            on_commit(lambda: tell_feeds("unfollowed", person, followee))
            _tell("unfollow", events.Actor(person), followee)


def _changed(cursor: Any, change: str, person: int, followee: int, by: int) -> bool:
    cursor.execute(change, [person, followee])
    if cursor.fetchone() is None:
        return False
    cursor.execute(_COUNT, [by, person])
    return True


def _tell(kind: events.Type, actor: events.Actor, followee: int) -> None:
    edge = outbox.Edge(actor.id, followee, kind == "follow")
    outbox.put("edge", actor.id, edge)
    outbox.put("event", actor.id, events.about_person(kind, actor, followee))


def followed_by(person: int, before: int, limit: int) -> list[tuple[int, int]]:
    """Whom `person` follows, the newest first, older than the row `before`, as (row, person)."""
    return _listed(_FOLLOWED, person, before, limit)


def followers_of(person: int, before: int, limit: int) -> list[tuple[int, int]]:
    """Who follows `person`, the newest first, older than the change `before`, as (change, person)."""
    return _listed(_FOLLOWERS, person, before, limit)


def _listed(query: str, person: int, before: int, limit: int) -> list[tuple[int, int]]:
    with shard(shard_of(person)), read_cursor() as cursor:
        cursor.execute(query, [person, before, limit])
        return [(int(row), int(other)) for row, other in cursor.fetchall()]
