"""People of the seed who do what people do: like, follow and comment, at a steady rate."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from webapp import comments, follows, photos
from webapp.cast import REMARKS
from webapp.problems import Problem
from webapp.seed import LIMITS, ids
from webapp.shards import acting, first_id_at

__all__ = ["LIMITS", "Crowd", "rate"]

RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|m)")
FASTEST: Final = 1000.0
KEPT: Final = 60  # comments of the crowd that stand at a time; older ones are taken back
LOOK: Final = 5.0  # s between looks for new photos
NEWEST: Final = 200  # photos that it knows of

_log: Final = logging.getLogger(__name__)


def rate(text: str) -> float:
    """`5/s` or `30/m` as actions a second. Raises ValueError."""
    found = RATE.fullmatch(text.strip())
    value = float(found[1]) / (1 if found[2] == "s" else 60) if found else 0.0
    if not 0 < value <= FASTEST:
        raise ValueError(f"{text!r} is no rate: a number and /s or /m, as 5/s; at most {FASTEST:g}/s")
    return value


class Crowd:
    """The crowd. `visitors`: whether it may touch people who are not of the seed."""

    def __init__(self, chance: Random, visitors: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.chance, self.visitors, self.clock = chance, visitors, clock
        self.people = sorted(ids().values())
        self.liked: set[tuple[int, int]] = set()
        self.followed: set[tuple[int, int]] = set()
        self.said: deque[tuple[int, int, int]] = deque()
        self._photos: Sequence[tuple[int, int]] = ()
        self._looked = -LOOK

    def act(self) -> str:
        """Does one thing; what. One that is no longer possible (the photo is gone) is none."""
        who = self.chance.choice(self.people)
        deeds = (self._like, self._like, self._like, self._comment, self._follow)
        try:
            with acting(who):
                return self.chance.choice(deeds)(who)
        except Problem as problem:
            self._looked = -LOOK
            _log.info("the crowd could not do something: %s", problem)
            return "nothing"

    def _others(self, who: int) -> list[tuple[int, int]]:
        """(photo, owner) of others, as far as it knows."""
        now = self.clock()
        if now - self._looked >= LOOK:
            newest = photos.newest(first_id_at(round(time.time() * 1000) + 60_000), NEWEST, None)
            found = [(int(one.id), int(one.owner.id)) for one in newest]
            self._photos = [one for one in found if self.visitors or one[1] in self.people]
            self._looked = now
        return [one for one in self._photos if one[1] != who]

    def _like(self, who: int) -> str:
        others = self._others(who)
        if not others:
            return "nothing"
        photo, _ = self.chance.choice(others)
        if (who, photo) in self.liked and self.chance.random() < 0.7:
            self.liked.discard((who, photo))
            photos.unlike(photo, who)
            return "unlike"
        photos.like(photo, who)
        self.liked.add((who, photo))
        return "like"

    def _comment(self, who: int) -> str:
        if len(self.said) >= KEPT:
            photo, comment, author = self.said.popleft()
            with acting(author):
                comments.delete(photo, comment, author)
            return "uncomment"
        others = self._others(who)
        if not others:
            return "nothing"
        photo, _ = self.chance.choice(others)
        made = comments.write(photo, who, self.chance.choice(REMARKS))
        self.said.append((photo, int(made.id), who))
        return "comment"

    def _follow(self, who: int) -> str:
        known = {*self.people, *(owner for _, owner in self._others(who))}
        other = self.chance.choice(sorted(known - {who}))
        if (who, other) in self.followed:
            self.followed.discard((who, other))
            follows.unfollow(who, other)
            return "unfollow"
        follows.follow(who, other)
        self.followed.add((who, other))
        return "follow"
