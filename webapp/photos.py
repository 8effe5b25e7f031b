"""Photos, and who likes them. All of a photo is on one shard, its owner's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Final

import redis
from django.db import DatabaseError, InterfaceError
from msgspec import Struct

from webapp import clearing, events, images, outbox, people, storage
from webapp.feed_source import PostgresSource
from webapp.feeds import Entry, Feeds, home_feeds
from webapp.idempotency import Keep
from webapp.lookup import rows_of
from webapp.problems import Fault, Problem
from webapp.redis_clients import client
from webapp.shards import (
    atomic,
    datetime_of,
    each_node,
    node_of,
    on_commit,
    read_cursor,
    schema,
    shard,
    shard_of,
    write_cursor,
)

LAST: Final = (1 << 63) - 1
"""Larger than every id: where a list begins that goes from the newest on."""

_VIEW: Final = (
    "SELECT photo.id, photo.caption, photo.key, photo.width, photo.height, photo.likes, photo.comments, "
    "owner.id, owner.name, owner.display_name, owner.avatar, "
    "EXISTS (SELECT FROM {schema}.photo_like WHERE photo_id = photo.id AND person_id = %(viewer)s)"
)
_FROM: Final = " FROM {schema}.photo AS photo JOIN {schema}.person AS owner ON owner.id = photo.owner_id "
_OF_IDS: Final = _VIEW + _FROM + "WHERE photo.id = ANY({wanted}::bigint[])"
_OF_OWNER: Final = (
    _VIEW
    + _FROM
    + "WHERE photo.owner_id = ANY({wanted}::bigint[]) AND photo.id < %(before)s ORDER BY photo.id DESC LIMIT %(limit)s"
)
_NEWEST: Final = _VIEW + _FROM + "WHERE photo.id < %(before)s ORDER BY photo.id DESC LIMIT %(limit)s"
# The viewer's own shard, where the people stand whom they follow, is on the node that is asked.
_IN_FEED: Final = (
    f"{_VIEW}, EXISTS (SELECT FROM {{home}}.following "
    f"WHERE follower_id = %(viewer)s AND followee_id = owner.id){_FROM}WHERE photo.id = ANY({{wanted}}::bigint[])"
)
_INSERT: Final = (
    "INSERT INTO photo (owner_id, caption, key, width, height) VALUES (%s, %s, %s, %s, %s) RETURNING id"
)
_COUNT_PHOTO: Final = (
    "UPDATE person SET photos = photos + %s WHERE id = %s RETURNING id, name, display_name, avatar"
)
_FIND: Final = "SELECT owner_id, key FROM photo WHERE id = %s"
_LOCK: Final = _FIND + " FOR NO KEY UPDATE"
# A like waits for nobody until it counts; where that finds no photo, it is one that was deleted meanwhile.
_GIVE: Final = (
    "INSERT INTO photo_like (photo_id, person_id) SELECT id, %s FROM photo WHERE id = %s "
    "ON CONFLICT DO NOTHING RETURNING id"
)
_TAKE: Final = "DELETE FROM photo_like WHERE photo_id = %s AND person_id = %s RETURNING id"
_COUNT: Final = "UPDATE photo SET likes = likes + %s WHERE id = %s RETURNING owner_id, key"
_LIKES: Final = (
    "SELECT id, person_id FROM photo_like WHERE photo_id = %s AND id < %s ORDER BY id DESC LIMIT %s"
)
_GONE: Final = "DELETE FROM photo WHERE id = %s"

_log: Final = logging.getLogger(__name__)


class Image(Struct, frozen=True):
    """One of a photo's pictures, in pixels."""

    url: str
    width: int
    height: int


class Images(Struct, frozen=True):
    """A photo's pictures: a square for grids, and one to look at."""

    square: Image
    display: Image


class Photo(Struct, frozen=True):
    """A photo as somebody sees it. `width` and `height` are those of the upload; `created` is RFC 3339."""

    id: str
    owner: people.Card
    caption: str
    width: int
    height: int
    images: Images
    likes: int
    comments: int
    liked: bool
    created: str


def written(id: int) -> str:  # noqa: A002  # an id is what it is
    """When the row of an id was made, as RFC 3339 with milliseconds."""
    return datetime_of(id).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view(row: tuple[Any, ...]) -> Photo:
    """A photo as a row of `_VIEW` has it."""
    id_, caption, key, width, height, likes, comments, *owner, liked = row
    store, side = storage.store(), images.square_side(width, height)
    made = Images(
        Image(store.url(storage.square(key)), side, side),
        Image(store.url(storage.display(key)), *images.display_size(width, height)),
    )
    who = people.card(*owner)
    return Photo(str(id_), who, caption, width, height, made, likes, comments, liked, written(id_))


def of_ids(ids: Iterable[int], viewer: int | None) -> dict[int, Photo]:
    """All of these that exist, by id: one query a node."""
    return {row[0]: view(row) for row in rows_of(_OF_IDS, ids, {"viewer": viewer})}


def feed(viewer: int, before: int | None, limit: int) -> tuple[list[Photo], int | None]:
    """The next photos of a home feed, older than photo `before`, and the `before` of the page that follows.

    Two round trips: Redis, and each node.
    """
    place = _feeds().page(viewer, before, limit)
    return _of_feed(place.entries, viewer), place.next


def _feeds() -> Feeds:
    from django.conf import settings

    limits = settings.CONFIG.feed
    return Feeds(client("feeds"), _Unchecked(), length=limits.length, pull_above=limits.pull_above)


class _Unchecked(PostgresSource):
    """Whom the viewer follows is looked up with the photos, in the same query."""

    def following_of(self, person: int, owners: Iterable[int]) -> set[int]:
        """All of them."""
        return set(owners)


def _of_feed(entries: Sequence[Entry], viewer: int) -> list[Photo]:
    """The photos that exist, in the feed's order, without those of people whom `viewer` does not follow any more.

    One query a node; one more where not all are on the viewer's.
    """
    home = node_of(shard_of(viewer))
    near = [entry.photo for entry in entries if node_of(shard_of(entry.photo)) is home]
    query = _IN_FEED.replace("{home}", schema(shard_of(viewer)))
    rows = rows_of(query, near, {"viewer": viewer})
    shown = {row[0]: view(row[:-1]) for row in rows if row[-1] or row[7] == viewer}
    far = {entry.photo: entry.owner for entry in entries if entry.photo not in set(near)}
    if far:
        followed = people.followed_of(viewer, set(far.values()))
        shown |= of_ids((photo for photo, owner in far.items() if owner in followed), viewer)
    return [shown[entry.photo] for entry in entries if entry.photo in shown]


def one(photo: int, viewer: int | None) -> Photo:
    """A photo as `viewer` sees it. Raises Problem `not-found`."""
    found = of_ids([photo], viewer).get(photo)
    if found is None:
        raise _not_found()
    return found


def of_owner(owner: int, before: int, limit: int, viewer: int | None) -> list[Photo]:
    """The newest photos of somebody that are older than photo `before`."""
    values = {"viewer": viewer, "before": before, "limit": limit}
    return [view(row) for row in rows_of(_OF_OWNER, [owner], values)]


def newest(before: int, limit: int, viewer: int | None) -> list[Photo]:
    """The newest photos of everybody that are older than photo `before`: one query a node."""
    values = {"viewer": viewer, "before": before, "limit": limit}
    rows: list[tuple[Any, ...]] = []
    for node in each_node():
        with node.cursor() as cursor:
            cursor.execute(node.union_all(_NEWEST) + " ORDER BY 1 DESC LIMIT %(limit)s", values)
            rows += cursor.fetchall()
    return [view(row) for row in sorted(rows, key=lambda row: int(row[0]), reverse=True)[:limit]]


def owner_of(photo: int) -> int:
    """Whose photo it is. Raises Problem `not-found`."""
    with shard(shard_of(photo)), read_cursor() as cursor:
        cursor.execute(_FIND, [photo])
        row = cursor.fetchone()
    if row is None:
        raise _not_found()
    return int(row[0])


def post(
    owner: int, file: IO[bytes], caption: str, limits: images.Limits, keep: Keep = lambda view: None
) -> Photo:
    """Stores the pictures of an upload and makes a photo of them. `keep` is given it before it is committed.

    Raises Problem `bad-image`, or `not-authenticated` when the owner is gone.
    """
    try:
        made = images.picture(file, limits)
    except images.BadImage as why:
        raise Problem("bad-image", str(why), errors=[Fault("file", str(why))]) from None
    store, key = storage.store(), storage.new_key("p")
    files = {storage.square(key): made.square, storage.display(key): made.display}
    begun: list[int] = []
    try:
        for name, data in files.items():
            store.save(name, data)
        photo = _insert(owner, (caption, key, made.width, made.height), begun, keep)
    except BaseException as failure:
        if begun and _unanswered(failure):
            _log.warning("photo %d may be made or not, its pictures %s stay: %s", begun[0], key, failure)
        else:
            _remove(store, files)
        raise
    tell_feeds("posted", owner, begun[0])
    return photo


def _insert(owner: int, columns: tuple[str, str, int, int], begun: list[int], keep: Keep) -> Photo:
    """The new photo; it stands in `begun` from when nothing is left but to commit."""
    with shard(shard_of(owner)), atomic(), write_cursor() as cursor:
        cursor.execute(_COUNT_PHOTO, [1, owner])
        card = cursor.fetchone()
        if card is None:
            raise people.nobody()
        cursor.execute(_INSERT, [owner, *columns])
        photo = int(cursor.fetchone()[0])
        made = view((photo, *columns, 0, 0, *card, False))
        keep(made)
        outbox.put("fanout", photo, outbox.Fanout(photo, owner))
        begun.append(photo)
    return made


def _unanswered(failure: BaseException) -> bool:
    """Whether the server did not say that it failed: a commit may be done although its answer was lost."""
    return isinstance(failure, DatabaseError | InterfaceError) and not getattr(
        failure.__cause__, "pgcode", None
    )


def _remove(store: storage.Store, files: Mapping[str, bytes]) -> None:
    for name in files:
        try:
            store.delete(name)
        except Exception as failure:
            _log.warning("picture %s of a photo that was not made stays in the storage: %s", name, failure)


def tell_feeds(change: str, *arguments: int) -> None:
    """What somebody did shows in their own feed at once; the relay makes sure of it if Redis fails now."""
    try:
        getattr(home_feeds(), change)(*arguments)
    except redis.RedisError as failure:
        _log.warning("a feed is told later that %s%s: %s", change, arguments, failure)


def like(photo: int, person: int) -> None:
    """`person` likes a photo; again has no effect. Raises Problem `not-found`."""
    actor = people.actor(person)
    with shard(shard_of(photo)), atomic(), write_cursor() as cursor:
        cursor.execute(_GIVE, [person, photo])
        if cursor.fetchone() is None:
            cursor.execute(_FIND, [photo])
            if cursor.fetchone() is None:
                raise _not_found()
            return
        cursor.execute(_COUNT, [1, photo])
        row = cursor.fetchone()
        if row is None:
            raise _not_found()
        _tell_owner("like", actor, photo, row)


def unlike(photo: int, person: int) -> None:
    """`person` does not like a photo, any more. Raises Problem `not-found`."""
    with shard(shard_of(photo)), atomic(), write_cursor() as cursor:
        # The photo first, as its deletion does: who locks in one order never waits in a circle.
        cursor.execute(_LOCK, [photo])
        if cursor.fetchone() is None:
            raise _not_found()
        cursor.execute(_TAKE, [photo, person])
        if cursor.fetchone() is None:
            return
        cursor.execute(_COUNT, [-1, photo])
        _tell_owner("unlike", events.Actor(person), photo, cursor.fetchone())


def _tell_owner(kind: events.Type, actor: events.Actor, photo: int, row: tuple[int, str]) -> None:
    owner, key = row
    if actor.id != owner:
        outbox.put("event", photo, events.about_photo(kind, actor, owner, photo, thumbnail(key)))


def thumbnail(key: str) -> str:
    """Where the square picture of a photo is served."""
    return storage.store().url(storage.square(key))


def likes(photo: int, before: int, limit: int) -> list[tuple[int, int]]:
    """Likes of a photo, the newest first, older than like `before`, as (like, person). Raises Problem `not-found`."""
    owner_of(photo)
    with shard(shard_of(photo)), read_cursor() as cursor:
        cursor.execute(_LIKES, [photo, before, limit])
        return [(int(id_), int(person)) for id_, person in cursor.fetchall()]


def delete(photo: int, person: int) -> None:
    """Removes a photo with all that belongs to it, and takes back what its owner was told of it.

    The photo is gone at once; where it has very many likes and comments the relay takes back the rest in slices.

    Raises Problem `not-found`, or `forbidden` when it is another's.
    """
    with shard(shard_of(photo)), atomic(), write_cursor() as cursor:
        cursor.execute(_LOCK, [photo])
        row = cursor.fetchone()
        if row is None:
            raise _not_found()
        owner, key = row
        if owner != person:
            raise Problem("forbidden", "only its owner can delete a photo")
        task = outbox.Clear(photo, owner, thumbnail(key))
        told, more = clearing.remove(cursor, task)
        cursor.execute(_GONE, [photo])
        cursor.execute(_COUNT_PHOTO, [-1, owner])
        outbox.put_all("event", photo, told)
        files = (storage.square(key), storage.display(key))
        outbox.put("withdraw", photo, outbox.Withdraw(photo, owner, files))
        if more:
            outbox.put("clear", photo, task)
        on_commit(lambda: tell_feeds("deleted", owner, photo))


def _not_found() -> Problem:
    return Problem("not-found", "there is no such photo; it may have been deleted")
