"""Lanes that nobody reads here: how they are counted, and when they are named."""

# mypy: allow-untyped-calls
# (Twisted's Clock has no annotations)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from notifier.core.lanes import Lane
from notifier.edge.unread import AGAIN, EVERY, Unread
from notifier.metrics import Metrics
from notifier.ports import Depth, Unavailable
from notifier.sending import labels

PHOTOS = Lane("photos", "apns")


class Looks:
    """Lanes as Redis has them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(labels([PHOTOS]))
        self.found: Mapping[str, Depth] = {}
        self.asked = 0
        self.unread = Unread(self.clock, self.depths, [PHOTOS], self.metrics.push_backlog)

    async def depths(self) -> Mapping[str, Depth]:
        self.asked += 1
        if not self.found:
            raise Unavailable("Redis is away")
        return self.found

    def waiting(self) -> dict[str, int]:
        gauge = self.metrics.push_backlog
        return {name: gauge[f"(unconfigured) {name}"] for name in ("apns", "fcm", "other")}


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Lanes that the log names."""
    heard: list[str] = []

    def note(event: LogEvent) -> None:
        if "lane" in event:
            heard.append(str(event["lane"]))

    hear: Any = note
    globalLogPublisher.addObserver(hear)
    yield heard
    globalLogPublisher.removeObserver(hear)


def deep(**entries: int) -> dict[str, Depth]:
    return {name.replace("_", ":"): Depth(count, 9.0, 0) for name, count in entries.items()}


def test_what_waits_in_lanes_of_no_app_is_counted_and_named(said: list[str]) -> None:
    looks = Looks()
    looks.found = deep(photos_apns=5, photos_fcm=2, old_apns=3, older_apns=4, old_web=1, gone_apns=0)
    looks.unread.start()
    assert looks.waiting() == {"apns": 7, "fcm": 2, "other": 1}
    assert looks.metrics.push_backlog["photos apns"] == 0, "that is for who reads it to say"
    assert said == ["old:apns", "old:web", "older:apns", "photos:fcm"]
    looks.found = deep(old_apns=3)
    looks.clock.advance(EVERY)
    assert looks.waiting() == {"apns": 3, "fcm": 0, "other": 0}
    assert len(said) == 4, "not each time"
    looks.clock.pump([EVERY] * int(AGAIN / EVERY))
    assert said[4:] == ["old:apns"]


def test_while_redis_is_away_it_goes_on_looking_until_it_is_stopped() -> None:
    looks = Looks()
    looks.unread.start()
    looks.clock.advance(EVERY)
    looks.found = deep(old_apns=3)
    looks.clock.advance(EVERY)
    assert (looks.asked, looks.waiting()["apns"]) == (3, 3)
    looks.unread.stop()
    looks.clock.advance(10 * EVERY)
    assert looks.asked == 3
    assert not looks.clock.getDelayedCalls()
