"""A dozen people with pictures, follows, likes and comments, for a site that nobody has used yet. No events."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from random import Random
from typing import Final

from django.contrib.auth.hashers import make_password

from webapp import images, scenery, storage
from webapp.cast import PASSWORD, PEOPLE, REMARKS, Somebody
from webapp.models import Comment, Follower, Following, Like, Person, Photo
from webapp.shards import atomic, first_id_at, shard, shard_of_name

__all__ = ["LIMITS", "Seed", "ids"]

LIMITS: Final = images.Limits(bytes=20_000_000, pixels=20_000_000)
DAY: Final = 86_400_000  # ms
JOINED: Final = 1_735_689_600_000  # 2025-01-01: from here on they came, one a day
PHOTOS_EACH: Final = 3


Told = Callable[[int, int], None]


def ids() -> dict[str, int]:
    """The id of each person of the seed: the same in every place with as many shards."""
    return {one.name: _id(JOINED + DAY * at, shard_of_name(one.name)) for at, one in enumerate(PEOPLE)}


class Seed:
    """Writes what is missing; each person in one transaction with all that is theirs, so a break does no harm.

    now: Unix time in ms; the photos are of the three weeks before it.
    """

    def __init__(self, now: int | None = None) -> None:
        self.now = round(time.time() * 1000) if now is None else now
        self.ids = ids()

    def run(self, told: Told = lambda done, of: None) -> int:
        """Returns how many people were added; `told(done, of)` hears of the progress."""
        added = 0
        for at, one in enumerate(PEOPLE):
            added += self._add(at, one)
            told(at + 1, len(PEOPLE))
        return added

    def _add(self, at: int, one: Somebody) -> bool:
        person = self.ids[one.name]
        with shard(shard_of_name(one.name)):
            if Person.objects.filter(pk=person).exists():
                return False
            photos = [self._photo(at, number, *drawn) for number, drawn in enumerate(one.photos)]
            avatar = _avatar(at)
            with atomic():
                following, followers = self._follows(one.name)
                Person(
                    id=person, name=one.name, display_name=one.display_name, bio=one.bio, avatar=avatar,
                    password=self._password, photos=len(photos), followers=len(followers),
                    following=len(following),
                ).save(force_insert=True)  # fmt: skip
                Following.objects.bulk_create(
                    Following(id=row, follower_id=person, followee_id=other)
                    for row, other in self._dated(person, following)
                )
                Follower.objects.bulk_create(
                    Follower(followee_id=person, follower_id=other, change=row, active=True)
                    for row, other in self._dated(person, followers)
                )
                for photo, likes, comments in photos:
                    photo.save(force_insert=True)
                    Like.objects.bulk_create(likes)
                    Comment.objects.bulk_create(comments)
        return True

    @cached_property
    def _password(self) -> str:
        return str(make_password(PASSWORD))

    def _follows(self, name: str) -> tuple[list[int], list[int]]:
        """Whom somebody follows, and who follows them."""
        names = [one.name for one in PEOPLE]
        chosen = {who: _chance("follows", who).sample([x for x in names if x != who], 6) for who in names}
        return (
            [self.ids[other] for other in chosen[name]],
            [self.ids[other] for other in names if name in chosen[other]],
        )

    def _dated(self, person: int, others: list[int]) -> Iterator[tuple[int, int]]:
        """Ids for rows of a person's shard, each of its own moment in the spring of their first year."""
        place = person >> 10 & 8191
        for at, other in enumerate(others):
            yield _id(JOINED + 60 * DAY + at * 3_600_000 + person % 1000, place), other

    def _photo(
        self, at: int, number: int, scene: str, caption: str
    ) -> tuple[Photo, list[Like], list[Comment]]:
        owner, place = self.ids[PEOPLE[at].name], shard_of_name(PEOPLE[at].name)
        chance = _chance("photo", PEOPLE[at].name, number)
        # The newest of everybody within the last day or so, so that a feed begins with something fresh.
        age = (PHOTOS_EACH - 1 - number) * 6 * DAY + chance.randrange(1, 30 * 3_600_000)
        taken = self.now - age
        size = chance.choice(((960, 1200), (1200, 960), (1080, 1080), (960, 1200)))
        made = images.picture(io.BytesIO(scenery.draw(scene, at * 10 + number, size)), LIMITS)
        key = _key("p", PEOPLE[at].name, number)
        _store(storage.square(key), made.square)
        _store(storage.display(key), made.display)
        others = [other for other in self.ids.values() if other != owner]
        photo = _id(taken, place)
        moments = iter(range(taken + 60_000, self.now, max(1, (self.now - taken - 60_000) // 40)))
        likes = [
            Like(photo_id=photo, person_id=who, id=_id(next(moments), place))
            for who in chance.sample(others, chance.randrange(3, 11))
        ]
        said = chance.sample(REMARKS, chance.randrange(0, 4))
        comments = [
            Comment(id=_id(next(moments), place), photo_id=photo, author_id=who, text=text)
            for who, text in zip(chance.sample(others, len(said)), said, strict=True)
        ]
        row = Photo(
            id=photo, owner_id=owner, caption=caption, key=key, width=made.width, height=made.height,
            likes=len(likes), comments=len(comments),
        )  # fmt: skip
        return row, likes, comments


def _avatar(at: int) -> str:
    key = _key("a", PEOPLE[at].name, 0)
    _store(storage.avatar(key), images.avatar(io.BytesIO(scenery.face(at)), LIMITS))
    return key


def _store(name: str, data: bytes) -> None:
    files = storage.store()
    files.delete(name)  # of a seed that was broken off
    files.save(name, data)


def _key(kind: str, name: str, number: int) -> str:
    digits = hashlib.blake2b(f"{kind} {name} {number}".encode(), digest_size=20).hexdigest()
    return f"{kind}/{digits[:2]}/{digits[2:]}"


def _id(milliseconds: int, place: int) -> int:
    """The first id that the shard `place` could have made at that time."""
    return first_id_at(milliseconds) | place << 10


def _chance(*what: object) -> Random:
    return Random(" ".join(map(str, what)))
