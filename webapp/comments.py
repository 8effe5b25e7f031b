"""Comments on photos, on the photo's shard, and whom they mention."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from webapp import events, outbox, people
from webapp.idempotency import Keep
from webapp.photos import owner_of, thumbnail, written
from webapp.problems import Problem
from webapp.shards import atomic, read_cursor, shard, shard_of, write_cursor

MOST_MENTIONED: Final = 20
"""People whom one comment tells; names beyond are text."""

# Not within a word, as in an address of mail; the dots that end a sentence are none of the name's.
_MENTION: Final = re.compile(r"(?<![\w@.])@([A-Za-z0-9_.]{0,29}[A-Za-z0-9_])(?![A-Za-z0-9_])")
_COUNT: Final = "UPDATE photo SET comments = comments + %s WHERE id = %s RETURNING owner_id, key"
_INSERT: Final = (
    "INSERT INTO comment (photo_id, author_id, text, mentions) VALUES (%s, %s, %s, %s::bigint[]) RETURNING id"
)
# Without the photo none: those of one that is gone are removed one after the other.
_LIST: Final = (
    "SELECT id, author_id, text FROM comment WHERE photo_id = %(photo)s AND id < %(before)s "
    "AND EXISTS (SELECT FROM photo WHERE id = %(photo)s) ORDER BY id DESC LIMIT %(limit)s"
)
_OWNER: Final = "SELECT owner_id FROM photo WHERE id = %s FOR NO KEY UPDATE"
_FIND: Final = "SELECT author_id, mentions FROM comment WHERE id = %s AND photo_id = %s FOR UPDATE"
_DELETE: Final = "DELETE FROM comment WHERE id = %s"


class Comment(Struct, frozen=True):
    """A comment as somebody sees it; `mine` if they wrote it. `created` is RFC 3339."""

    id: str
    author: people.Card
    text: str
    created: str
    mine: bool


def mentioned(text: str) -> list[str]:
    """The names that a text mentions, in lower case, once each."""
    return list(dict.fromkeys(name.lower() for name in _MENTION.findall(text)))[:MOST_MENTIONED]


def write(photo: int, author: int, text: str, keep: Keep = lambda view: None) -> Comment:
    """Writes a comment, and tells the photo's owner and whom it mentions. Raises Problem `not-found`.

    `keep` is given it before it is committed.
    """
    card = people.acting_card(author)
    mentions = sorted(people.ids_of(mentioned(text)))
    with shard(shard_of(photo)), atomic(), write_cursor() as cursor:
        cursor.execute(_COUNT, [1, photo])
        row = cursor.fetchone()
        if row is None:
            raise _not_found()
        owner, key = row
        cursor.execute(_INSERT, [photo, author, text, mentions])
        comment = int(cursor.fetchone()[0])
        made = Comment(str(comment), card, text, written(comment), True)
        keep(made)
        if to := events.hearers(owner, mentions, author):
            actor = people.as_actor(card)
            image = thumbnail(key)
            outbox.put(
                "event", photo, events.about_comment("comment", actor, to, photo, comment, image, text)
            )
    return made


def delete(photo: int, comment: int, person: int) -> None:
    """Removes a comment, and takes back what was told of it.

    Raises Problem `not-found`, or `forbidden` to all but its author and the photo's owner.
    """
    with shard(shard_of(photo)), atomic(), write_cursor() as cursor:
        # The photo first, as its own deletion does: who locks in one order never waits in a circle.
        cursor.execute(_OWNER, [photo])
        photo_row = cursor.fetchone()
        cursor.execute(_FIND, [comment, photo])
        row = cursor.fetchone()
        if photo_row is None or row is None:
            raise Problem("not-found", "there is no such comment; it may have been deleted")
        (owner,), (author, mentions) = photo_row, row
        if person not in (author, owner):
            raise Problem("forbidden", "only its author and the photo's owner can delete a comment")
        cursor.execute(_DELETE, [comment])
        cursor.execute(_COUNT, [-1, photo])
        _, key = cursor.fetchone()
        if to := events.hearers(owner, mentions, author):
            actor, image = events.Actor(author), thumbnail(key)
            outbox.put("event", photo, events.about_comment("uncomment", actor, to, photo, comment, image))


def of_photo(photo: int, before: int, limit: int, viewer: int | None) -> list[Comment]:
    """Comments of a photo, the newest first, older than comment `before`. Raises Problem `not-found`."""
    with shard(shard_of(photo)), read_cursor() as cursor:
        cursor.execute(_LIST, {"photo": photo, "before": before, "limit": limit})
        rows = cursor.fetchall()
    if not rows:
        owner_of(photo)
    authors = people.cards(author for _, author, _ in rows)
    return [
        Comment(str(id_), authors[author], text, written(id_), author == viewer)
        for id_, author, text in rows
        if author in authors
    ]


def _not_found() -> Problem:
    return Problem("not-found", "there is no such photo; it may have been deleted")
