"""What a photo leaves behind: its likes and comments go in slices, each with what takes back the notifications of it.

Nobody sees them: without the photo's row they are in no list, and no like or comment can be added.
"""

from __future__ import annotations

from typing import Any, Final

from webapp import events, outbox
from webapp.outbox import Clear
from webapp.shards import atomic, shard, shard_of, write_cursor

SLICE: Final = 500
"""Likes and comments that one transaction removes at most, and so the events that it writes."""

_LIKES: Final = (
    "DELETE FROM photo_like WHERE photo_id = %(photo)s AND person_id IN (SELECT person_id FROM photo_like "
    "WHERE photo_id = %(photo)s ORDER BY person_id LIMIT %(most)s) RETURNING person_id"
)
_COMMENTS: Final = (
    "DELETE FROM comment WHERE id IN (SELECT id FROM comment WHERE photo_id = %(photo)s "
    "ORDER BY id LIMIT %(most)s) RETURNING id, author_id, mentions"
)


def remove(cursor: Any, task: Clear) -> tuple[list[events.Event], bool]:
    """Removes a slice, in the transaction under way.

    Returns what takes back the notifications of it, to be put into the outbox, and whether more may be left.
    """
    cursor.execute(_LIKES, {"photo": task.photo, "most": SLICE})
    likers = [liker for (liker,) in cursor.fetchall()]
    told = [
        events.about_photo("unlike", events.Actor(liker), task.owner, task.photo, task.image)
        for liker in likers
        if liker != task.owner
    ]
    cursor.execute(_COMMENTS, {"photo": task.photo, "most": SLICE - len(likers)})
    comments = cursor.fetchall()
    for comment, author, mentions in comments:
        if to := events.hearers(task.owner, mentions, author):
            actor = events.Actor(author)
            told.append(events.about_comment("uncomment", actor, to, task.photo, comment, task.image))
    return told, len(likers) + len(comments) >= SLICE


def step(task: Clear) -> bool:
    """A slice of a photo that is gone, in a transaction of its own; whether more may be left."""
    with shard(shard_of(task.photo)), atomic(), write_cursor() as cursor:
        told, more = remove(cursor, task)
        outbox.put_all("event", task.photo, told)
    return more
