"""Home feeds in Redis: written when a photo is posted, pulled for big accounts, rebuilt when they are missing.

PostgreSQL has the truth. A feed is a cache of it, and a photo that should not be in it is left out when it is read.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import redis
from msgspec import Struct

CHUNK: Final = 1000
"""Feeds that one script call writes to: about 2 ms of Redis' time."""
KEPT: Final = 30 * 24 * 3600
"""Seconds for which a feed is kept that nobody reads."""
BUILDING: Final = 30.0
"""Seconds after which the builder of a feed is taken for dead."""
PATIENCE: Final = 2.0
"""Seconds to wait for another process that builds the feed; then it is read from PostgreSQL alone."""
PULLED: Final = "feed:pulled"

_DIGITS: Final = 19  # of the largest bigint: with leading zeros ids sort as strings
_WAIT: Final = 0.02
_LUA: Final = Path(__file__).parent / "lua"
_log: Final = logging.getLogger(__name__)


class Entry(Struct, frozen=True, order=True):
    """A photo of a feed, by id, and whose it is."""

    photo: int
    owner: int


class Page(Struct, frozen=True):
    """Entries, newest first. `next`: the `before` of the following page, None at the end."""

    entries: tuple[Entry, ...]
    next: int | None


class Source(Protocol):
    """What feeds are made of, as PostgreSQL has it: from the primary, never from a replica that may lag."""

    def following(self, person: int) -> Sequence[int]:
        """Whom `person` follows; the newest first where that is bounded."""
        ...

    def following_of(self, person: int, owners: Iterable[int]) -> set[int]:
        """Those of `owners` whom `person` follows. This one may come from a replica."""
        ...

    def followers(self, owner: int) -> Iterator[Sequence[int]]:
        """All who follow `owner`, in portions of at most `CHUNK`."""
        ...

    def size(self, owner: int) -> int:
        """How many follow `owner`; 0 for nobody."""
        ...

    def newest(self, owners: Sequence[int], before: int | None, limit: int) -> list[Entry]:
        """The newest photos of all these together, older than photo `before`; newest first."""
        ...


class Feeds:
    """All home feeds.

    length      photos that a feed holds
    pull_above  accounts with more followers than this are not written to each follower's feed, but pulled
    """

    def __init__(self, client: redis.Redis, source: Source, *, length: int, pull_above: int) -> None:
        self._redis = client
        self._source = source
        self._length = length
        self._pull_above = pull_above
        self._page, self._add, self._ready, self._abandon, self._remove = (
            client.register_script((_LUA / f"feed_{name}.lua").read_text())
            for name in ("page", "add", "ready", "abandon", "remove")
        )

    # --- reading ---------------------------------------------------------------------------------------------

    def page(self, person: int, before: int | None, limit: int) -> Page:
        """The next `limit` photos, older than photo `before`, of whom `person` follows, and their own.

        Two round trips: one to Redis, one to the person's shard. A photo that was deleted may still be named.
        Without Redis the page comes from PostgreSQL.
        """
        try:
            entries = self._read(person, before, limit)
        except redis.RedisError as failure:
            _log.warning("feed of %s: read from PostgreSQL, because Redis fails: %s", person, failure)
            entries = None
        if entries is None:
            entries = self._source.newest(self._circle(person), before, limit)
        last = entries[-1].photo if len(entries) == limit else None
        # Whatever Redis still holds of somebody who is not followed any more is not shown.
        others = {entry.owner for entry in entries} - {person}
        shown = self._source.following_of(person, others) if others else set()
        return Page(tuple(entry for entry in entries if entry.owner in shown or entry.owner == person), last)

    def _read(self, person: int, before: int | None, limit: int) -> list[Entry] | None:
        """The page as Redis has it, built first where it is missing; None if another is too slow to build it."""
        token = secrets.token_hex(8)
        deadline = time.monotonic() + PATIENCE
        while True:
            state, *rest = self._page(
                keys=[feed_key(person), lock_key(person)],
                args=[
                    "+" if before is None else f"({_padded(before)}",
                    limit,
                    KEPT,
                    int(BUILDING * 1000),
                    token,
                    photos_key(""),
                ],
            )
            if state == b"ready":
                return self._pulled(rest[0], rest[1], before, limit)
            if state == b"build":
                try:
                    self._build(person, token)
                except Exception:
                    with contextlib.suppress(redis.RedisError):  # then the lock goes by its time
                        self._abandon(keys=[lock_key(person)], args=[token])
                    raise
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(_WAIT)

    def _pulled(
        self, members: Sequence[bytes], missing: Sequence[bytes], before: int | None, limit: int
    ) -> list[Entry]:
        entries = [_entry(member) for member in members]
        if not missing:
            return entries
        for account in missing:
            self._gather(int(account))
        more = self._source.newest([int(account) for account in missing], before, limit)
        return sorted({*entries, *more}, reverse=True)[:limit]

    def _build(self, person: int, token: str) -> None:
        circle = self._circle(person)
        big = self._are_pulled(circle)
        photos = self._source.newest([one for one in circle if one not in big], None, self._length)
        members = [*(_account(one) for one in big), *map(_member, photos)]
        self._ready(keys=[feed_key(person), lock_key(person)], args=[token, self._length, *members])

    def _circle(self, person: int) -> list[int]:
        return [person, *self._source.following(person)]

    # --- what the actor sees at once; the relay makes sure of it -----------------------------------------------

    def posted(self, owner: int, photo: int) -> None:
        """A photo was posted: into the owner's own feed. Raises redis.RedisError."""
        self._add_to([owner], [_member(Entry(photo, owner))])

    def followed(self, person: int, followee: int) -> None:
        """`person` follows `followee`: the newest photos join the feed. Raises redis.RedisError."""
        if self.existing([person]):
            self._join(person, followee)

    def existing(self, people: Collection[int]) -> set[int]:
        """Those of `people` who have a feed. Raises redis.RedisError.

        Whoever builds that of another reads PostgreSQL after this, and finds there what was committed before.
        """
        with self._redis.pipeline(transaction=False) as batch:
            for person in people:
                batch.exists(feed_key(person))
            return {person for person, there in zip(people, batch.execute(), strict=True) if there}

    def _join(self, person: int, followee: int) -> None:
        if self._are_pulled([followee]):
            self._add_to([person], [_account(followee)])
            return
        newest = self._source.newest([followee], None, self._length)
        if newest:
            self._add_to([person], list(map(_member, newest)))

    def unfollowed(self, person: int, followee: int) -> None:
        """`person` follows `followee` no more: the photos leave the feed. Raises redis.RedisError."""
        self._remove(keys=[feed_key(person)], args=["account", followee])

    def deleted(self, owner: int, photo: int) -> None:
        """A photo is gone: out of the owner's own feed and list. Raises redis.RedisError."""
        member = _member(Entry(photo, owner))
        self._remove(keys=[feed_key(owner), photos_key(owner)], args=["photo", member])

    # --- what the relay does -----------------------------------------------------------------------------------

    def fan_out(self, owner: int, photo: int) -> int:
        """Puts a photo into the feeds of all who follow `owner`. Idempotent. Raises redis.RedisError.

        Returns how many feeds it was written to; a feed that does not exist is built when it is read.
        """
        state = self._redis.hget(PULLED, str(owner))
        if state is None and self._source.size(owner) <= self._pull_above:
            return self._to_followers(owner, _member(Entry(photo, owner)))
        if state != b"1":
            # Known as pulled before the followers are told, so that who follows meanwhile is told as well;
            # "1" only after all are told, so that a relay that dies here tells them again.
            self._redis.hset(PULLED, str(owner), "0")
            self._to_followers(owner, _account(owner))
            self._redis.hset(PULLED, str(owner), "1")
        if not self._add(keys=[photos_key(owner)], args=[self._length, _member(Entry(photo, owner))]):
            self._gather(owner)
        return 1

    def withdraw(self, owner: int, photo: int) -> None:
        """Takes a photo out of the feeds of all who follow `owner`. Idempotent. Raises redis.RedisError."""
        self.deleted(owner, photo)
        if self._redis.hget(PULLED, str(owner)) == b"1":
            return  # what feeds hold from smaller days is left out when they are read
        member = _member(Entry(photo, owner))
        for portion in self._source.followers(owner):
            self._remove(keys=[feed_key(person) for person in portion], args=["photo", member])

    def _to_followers(self, owner: int, member: str) -> int:
        portions = itertools.chain([[owner]], self._source.followers(owner))
        return sum(self._add_to(portion, [member]) for portion in portions)

    def _add_to(self, people: Iterable[int], members: Sequence[str]) -> int:
        written: int = self._add(keys=[feed_key(person) for person in people], args=[self._length, *members])
        return written

    def _gather(self, owner: int) -> None:
        """The newest photos of a big account, into its own list.

        No lock: a relay that finds no list makes one, so none is made without the photo that is being posted.
        """
        key, members = photos_key(owner), self._source.newest([owner], None, self._length)
        with self._redis.pipeline(transaction=True) as batch:
            batch.zadd(key, {"!": 0, **{_member(entry): 0 for entry in members}})
            batch.expire(key, KEPT)
            batch.execute()

    def _are_pulled(self, accounts: Sequence[int]) -> set[int]:
        states: Any = self._redis.hmget(PULLED, [str(account) for account in accounts])
        return {account for account, state in zip(accounts, states, strict=True) if state is not None}


def feed_key(person: int) -> str:
    """The home feed of a person."""
    return f"feed:{person}"


def lock_key(person: int) -> str:
    """Held by whoever builds the feed of a person."""
    return f"feed:building:{person}"


def photos_key(owner: int | str) -> str:
    """The newest photos of a big account."""
    return f"feed:photos:{owner}"


def _member(entry: Entry) -> str:
    return f"{_padded(entry.photo)}:{entry.owner}"


def _account(person: int) -> str:
    return f"#{person}"


def _entry(member: bytes) -> Entry:
    photo, _, owner = member.partition(b":")
    return Entry(int(photo), int(owner))


def _padded(photo: int) -> str:
    return str(photo).zfill(_DIGITS)


@functools.cache
def home_feeds() -> Feeds:
    """The feeds of this site, by the configuration in force. They may be shared by threads."""
    from django.conf import settings

    from webapp.feed_source import PostgresSource  # it needs the models, and the models need Django set up
    from webapp.redis_clients import client

    feed = settings.CONFIG.feed
    return Feeds(client("feeds"), PostgresSource(), length=feed.length, pull_above=feed.pull_above)
