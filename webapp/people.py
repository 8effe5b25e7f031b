"""People: who there is, what is shown of them, and how they come in."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import IO, Any, Final

from django.contrib.auth.hashers import check_password, make_password
from msgspec import Struct

from webapp import images, outbox, storage
from webapp.events import Actor
from webapp.lookup import rows_of
from webapp.problems import Fault, Problem
from webapp.shards import (
    atomic,
    on_commit,
    primary_only,
    read_cursor,
    shard,
    shard_of,
    shard_of_name,
    write_cursor,
)

_NAME: Final = re.compile(r"[a-z0-9_.]{1,30}")
_CARDS: Final = (
    "SELECT id, name, display_name, avatar FROM {schema}.person WHERE id = ANY({wanted}::bigint[])"
)
_NAMED: Final = "SELECT id FROM {schema}.person WHERE name = ANY({wanted}::text[])"
_PROFILE: Final = "SELECT id, name, display_name, avatar, bio, photos, followers, following FROM person "
_BY_NAME: Final = _PROFILE + "WHERE name = %s"
_BY_ID: Final = _PROFILE + "WHERE id = %s"
_FOLLOWED: Final = (
    "SELECT followee_id FROM following WHERE follower_id = %s AND followee_id = ANY(%s::bigint[])"
)
_INSERT: Final = (
    "INSERT INTO person (name, display_name, password) VALUES (%s, %s, %s) "
    "ON CONFLICT (name) DO NOTHING RETURNING id"
)
_HASHED: Final = "SELECT id, password, sessions FROM person WHERE name = %s"
_HASH: Final = "SELECT password, sessions FROM person WHERE id = %s"
_REHASH: Final = "UPDATE person SET password = %s WHERE id = %s AND password = %s RETURNING sessions"
_END: Final = "UPDATE person SET sessions = sessions + 1 WHERE id = %s RETURNING id"
_CHANGE: Final = (
    "UPDATE person SET display_name = coalesce(%s, display_name), bio = coalesce(%s, bio) WHERE id = %s "
    "RETURNING id"
)
# What stood there before is needed for its file: the row is locked, then read as it is.
_PICTURE: Final = (
    "WITH old AS (SELECT id, avatar FROM person WHERE id = %s FOR NO KEY UPDATE) "
    "UPDATE person SET avatar = %s FROM old WHERE person.id = old.id RETURNING old.avatar"
)


class Card(Struct, frozen=True):
    """What stands beside whatever somebody did."""

    id: str
    name: str
    display_name: str
    avatar: str | None


class Listed(Struct, frozen=True):
    """A person in a list of people: `followed` by who looks, or `you` who looks."""

    id: str
    name: str
    display_name: str
    avatar: str | None
    followed: bool
    you: bool


class Profile(Struct, frozen=True):
    """All that is shown of a person."""

    id: str
    name: str
    display_name: str
    avatar: str | None
    bio: str
    photos: int
    followers: int
    following: int
    followed: bool
    you: bool


def card(person: int, name: str, display_name: str, avatar: str) -> Card:
    """A person as a row of the table has them."""
    picture = storage.store().url(storage.avatar(avatar)) if avatar else None
    return Card(str(person), name, display_name, picture)


def cards(people: Iterable[int]) -> dict[int, Card]:
    """The cards of all of these who exist, by id: one query a node."""
    return {row[0]: card(*row) for row in rows_of(_CARDS, set(people))}


def acting_card(person: int) -> Card:
    """The card of somebody who acts. Raises Problem `not-authenticated` when they are gone, but not their token."""
    found = cards([person])
    if person not in found:
        raise nobody()
    return found[person]


def actor(person: int) -> Actor:
    """Somebody who acts, as events name them. Raises Problem `not-authenticated` when they are gone."""
    return as_actor(acting_card(person))


def as_actor(one: Card) -> Actor:
    """As events name somebody. Notifications are kept for long: their picture is whichever the person has then."""
    return Actor(int(one.id), one.name, storage.portrait_url(one.id) if one.avatar else None)


def nobody() -> Problem:
    """The problem of a token whose person is gone."""
    return Problem("not-authenticated", "there is nobody any more whose token this is")


def listed(people: Collection[int], viewer: int | None) -> list[Listed]:
    """All of these who exist, in the same order, as `viewer` sees them."""
    known, followed = cards(people), followed_of(viewer, people)
    return [
        Listed(one.id, one.name, one.display_name, one.avatar, person in followed, person == viewer)
        for person in people
        if (one := known.get(person)) is not None
    ]


def followed_of(viewer: int | None, people: Collection[int]) -> set[int]:
    """Those of `people` whom `viewer` follows."""
    if viewer is None or not people:
        return set()
    with shard(shard_of(viewer)), read_cursor() as cursor:
        cursor.execute(_FOLLOWED, [viewer, list(people)])
        return {person for (person,) in cursor.fetchall()}


def id_of(name: str) -> int:
    """The id of the person of that name, in any case. Raises Problem `not-found`."""
    return int(_row(name)[0])


def ids_of(names: Iterable[str]) -> set[int]:
    """The ids of all of these who exist: one query a node."""
    known = {name for name in map(str.lower, names) if _NAME.fullmatch(name)}
    return {row[0] for row in rows_of(_NAMED, known, where=shard_of_name)}


def profile(name: str, viewer: int | None) -> Profile:
    """The person of that name as `viewer` sees them. Raises Problem `not-found`."""
    return _profile(_row(name), viewer)


def me(person: int) -> Profile:
    """Somebody as they see themselves. Raises Problem `not-authenticated` when they are gone."""
    with shard(shard_of(person)), read_cursor() as cursor:
        cursor.execute(_BY_ID, [person])
        row = cursor.fetchone()
    if row is None:
        raise nobody()
    return _profile(row, person)


def _row(name: str) -> tuple[Any, ...]:
    plain = name.lower()
    if _NAME.fullmatch(plain):
        with shard(shard_of_name(plain)), read_cursor() as cursor:
            cursor.execute(_BY_NAME, [plain])
            row: tuple[Any, ...] | None = cursor.fetchone()
        if row is not None:
            return row
    raise Problem("not-found", "nobody has this name")


def _profile(row: tuple[Any, ...], viewer: int | None) -> Profile:
    person, name, display_name, avatar, bio, photos, followers, following = row
    shown, you = card(person, name, display_name, avatar), person == viewer
    followed = not you and bool(followed_of(viewer, [person]))
    return Profile(
        shown.id, name, display_name, shown.avatar, bio, photos, followers, following, followed, you
    )


def sign_up(name: str, password: str, display_name: str) -> int:
    """Makes a person; `name` may be in any case. Returns the id. Raises Problem `name-taken`."""
    plain = name.lower()
    hashed = make_password(password)
    with shard(shard_of_name(plain)), atomic(), write_cursor() as cursor:
        cursor.execute(_INSERT, [plain, display_name, hashed])
        row = cursor.fetchone()
    if row is None:
        raise Problem("name-taken", errors=[Fault("name", "somebody else has this name")])
    return int(row[0])


def log_in(name: str, password: str) -> tuple[int, str]:
    """The id of the person of that name and password, and their mark as `session_mark` gives it.

    It takes as long for a name that nobody has, so that nobody learns which there are.
    Raises Problem `wrong-credentials`.
    """
    plain = name.lower()
    row: tuple[int, str, int] | None = None
    if _NAME.fullmatch(plain):
        # A replica that lags would still take a password that has been changed.
        with primary_only(), shard(shard_of_name(plain)), read_cursor() as cursor:
            cursor.execute(_HASHED, [plain])
            row = cursor.fetchone()
    person, hashed, sessions = row or (0, _nobodys_password(), 0)
    if not check_password(password, hashed) or not person:
        raise Problem("wrong-credentials")
    # Of the row that was checked: what has ended the sessions meanwhile ends this one as well.
    return person, _mark(hashed, sessions)


def session_mark(person: int) -> str:
    """What renewals are bound to: another after a new password, and after `end_sessions`; it tells nothing of either.

    Raises Problem `not-authenticated` when they are gone.
    """
    return _mark(*_secrets(person))


def _secrets(person: int) -> tuple[str, int]:
    """The hash of somebody's password, and how often their sessions were ended. Raises Problem `not-authenticated`."""
    # A replica that lags would still know those of before.
    with primary_only(), shard(shard_of(person)), read_cursor() as cursor:
        cursor.execute(_HASH, [person])
        row: tuple[str, int] | None = cursor.fetchone()
    if row is None:
        raise nobody()
    return row


def _mark(hashed: str, sessions: int) -> str:
    # The first is without its number, as before they were numbered: whoever came in then stays in.
    bound = f"renewal {hashed} {sessions}" if sessions else f"renewal {hashed}"
    return hashlib.sha256(bound.encode()).hexdigest()[:32]


def change_password(person: int, old: str, new: str) -> str:
    """Gives somebody another password, which ends all their renewals; the mark of those to come.

    Raises Problem `invalid-content` when `old` is not their password, and `not-authenticated` when they are gone.
    """
    known, _ = _secrets(person)
    if check_password(old, known):
        hashed = make_password(new)
        with shard(shard_of(person)), atomic(), write_cursor() as cursor:
            # Of several at the same time one changes it: then the others' `old` is so no more.
            cursor.execute(_REHASH, [hashed, person, known])
            changed = cursor.fetchone()
        if changed is not None:
            return _mark(hashed, *changed)
    why = "this is not your password"
    raise Problem("invalid-content", f"old: {why}", errors=[Fault("old", why)])


def end_sessions(person: int) -> None:
    """Ends all renewals of a person; tokens live out their hours. Raises Problem `not-authenticated`."""
    with shard(shard_of(person)), atomic(), write_cursor() as cursor:
        cursor.execute(_END, [person])
        if cursor.fetchone() is None:
            raise nobody()


@functools.cache
def _nobodys_password() -> str:
    """The hash of a password that nobody knows, of the kind in use."""
    return str(make_password(storage.new_key("a")))


def change(person: int, changes: Mapping[str, str | None]) -> Profile:
    """Sets what `changes` has of `display_name` and `bio`. Raises Problem `not-authenticated`."""
    with shard(shard_of(person)), atomic(), write_cursor() as cursor:
        cursor.execute(_CHANGE, [changes.get("display_name"), changes.get("bio"), person])
        if cursor.fetchone() is None:
            raise nobody()
    return me(person)


def set_avatar(person: int, file: IO[bytes], limits: images.Limits) -> Profile:
    """Takes the middle of a picture as the person's. Raises Problem `bad-image` or `not-authenticated`."""
    try:
        data = images.avatar(file, limits)
    except images.BadImage as why:
        raise Problem("bad-image", str(why), errors=[Fault("file", str(why))]) from None
    store, key = storage.store(), storage.new_key("a")
    store.save(storage.avatar(key), data)
    with shard(shard_of(person)), atomic(), write_cursor() as cursor:
        cursor.execute(_PICTURE, [person, key])
        row = cursor.fetchone()
        if row is None:
            on_commit(lambda: store.delete(storage.avatar(key)))
        elif row[0]:
            # Caches and open pages still lead to it.
            files = (storage.avatar(row[0]),)
            outbox.put("withdraw", person, outbox.Withdraw(0, person, files), lane=outbox.LATER)
    return me(person)
