"""A photo with very many likes: gone at once, its likes taken back in slices, none forgotten whoever is killed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from django.db import OperationalError

from tests.webapp.caller import Caller, Someone, told
from tests.webapp.stack import Stack
from tests.webapp.test_relay_process import Process, arrived, until
from webapp import clearing, outbox
from webapp.claims import Row
from webapp.models import Comment, Like, Outbox, Photo
from webapp.outbox import CLEARING, Clear
from webapp.relay import Relay
from webapp.relay_parts import relay_of
from webapp.shards import shard, shard_of
from webapp.tasks import CLEAR_BUDGET, Tasks

FIRST: Final = 1000
"""The first of the people who like; they need not exist."""


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


@pytest.fixture
def relay(api: Caller) -> Iterator[Relay]:
    made = relay_of()
    yield made
    made.close()


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of a slice: small."""
    monkeypatch.setattr(clearing, "SLICE", 10)
    return 10


def loved(api: Caller, owner: Someone, likes: int, comments: int) -> str:
    """A photo with so many of both; one like and one comment is the owner's own."""
    photo = api.photo(owner)
    people = [int(owner.id), *range(FIRST, FIRST + likes - 1)]
    with shard(shard_of(int(photo))):
        Like.objects.bulk_create(Like(photo_id=int(photo), person_id=one) for one in people)
        Comment.objects.bulk_create(
            Comment(photo_id=int(photo), author_id=one, text="x") for one in people[:comments]
        )
        Photo.objects.filter(id=int(photo)).update(likes=likes, comments=comments)
    return photo


def left(photo: str) -> tuple[int, int, int]:
    """Likes and comments that stand, and tasks to remove them."""
    with shard(shard_of(int(photo))):
        return (
            Like.objects.filter(photo_id=photo).count(),
            Comment.objects.filter(photo_id=photo).count(),
            Outbox.objects.filter(lane=CLEARING).count(),
        )


def taken_back(events: list[dict[str, Any]]) -> Counter[tuple[str, int]]:
    return Counter((event["type"], int(event["actor"]["id"])) for event in events)


def expected(likes: int, comments: int) -> Counter[tuple[str, int]]:
    """Each once, but the owner's own."""
    return Counter(
        [("unlike", FIRST + at) for at in range(likes - 1)]
        + [("uncomment", FIRST + at) for at in range(comments - 1)]
    )


def test_a_photo_is_gone_at_once(api: Caller, ana: Someone, slices: int) -> None:
    ben, photo = api.join("ben"), loved(api, ana, 35, 25)
    path = f"/api/photos/{photo}"
    assert api("DELETE", path, ana).status == 204
    assert left(photo) == (25, 25, 1)
    assert len(told()) == slices
    for method, below in (
        ("GET", ""), ("GET", "/likes"), ("GET", "/comments"), ("PUT", "/like"), ("DELETE", "/like"), ("DELETE", ""),
    ):  # fmt: skip
        assert api(method, path + below, ben).problem == "not-found", (method, below)
    assert api("POST", f"{path}/comments", ben, {"text": "late"}).problem == "not-found"
    with shard(shard_of(int(photo))):
        comment = Comment.objects.filter(photo_id=photo).first()
    assert comment is not None
    assert api("DELETE", f"{path}/comments/{comment.id}", ana).problem == "not-found"
    assert api("GET", "/api/people/ana").json["photos"] == 0
    assert left(photo) == (25, 25, 1)


def test_the_rest_follows_in_slices(
    db: Stack, api: Caller, ana: Someone, relay: Relay, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    put = outbox.put_all

    def counted(kind: outbox.Kind, key: int, payloads: Any, **more: Any) -> list[int]:
        written.append(len(payloads))
        return put(kind, key, payloads, **more)

    monkeypatch.setattr(outbox, "put_all", counted)
    photo = loved(api, ana, 35, 25)
    assert api("DELETE", f"/api/photos/{photo}", ana).status == 204
    until(lambda: (relay.once(), left(photo) == (0, 0, 0))[1])
    until(lambda: (relay.once(), not told())[1])
    assert max(written) <= slices
    assert taken_back(arrived(db.redis_url)) == expected(35, 25)


@pytest.mark.parametrize(("likes", "comments"), [(3, 2), (5, 4), (9, 0)])
def test_a_photo_with_few_is_done_with_at_once(
    api: Caller, ana: Someone, slices: int, likes: int, comments: int
) -> None:
    photo = loved(api, ana, likes, comments)
    assert api("DELETE", f"/api/photos/{photo}", ana).status == 204
    assert left(photo) == (0, 0, 0)
    assert taken_back(told()) == expected(likes, comments)


def test_relays_that_are_killed_forget_nothing(db: Stack, api: Caller, ana: Someone) -> None:
    """Real ones, real slices: each of the first three dies with one committed and the rest to do."""
    likes, comments = 5 * clearing.SLICE, 20
    photo = loved(api, ana, likes, comments)
    assert api("DELETE", f"/api/photos/{photo}", ana).status == 204
    running = Process("tests.webapp.failpoints", "cleared", "cleared", "cleared")
    try:
        until(lambda: not left(photo)[2] and not told(), lambda: running.lines)
    finally:
        running.stop()
    assert [line for line in running.lines if line.startswith("died")] == ["died: cleared"] * 3
    assert left(photo) == (0, 0, 0)
    found = {event["id"]: event for event in arrived(db.redis_url)}
    assert taken_back(list(found.values())) == expected(likes, comments)


# -- what Tasks decides, without a server


class Photos:
    """How many slices each photo has left; those in `broken` fail."""

    def __init__(self) -> None:
        self.left: Counter[int] = Counter()
        self.broken: dict[int, Exception] = {}
        self.now = 0.0

    def clear(self, task: Clear) -> bool:
        self.now += CLEAR_BUDGET / 10
        if failure := self.broken.get(task.photo):
            raise failure
        self.left[task.photo] -= 1
        return self.left[task.photo] > 0


@pytest.fixture
def photos() -> Photos:
    return Photos()


@pytest.fixture
def tasks(photos: Photos) -> Tasks:
    edges: Any = None
    feeds: Any = None
    delete: Callable[[str], None] = lambda name: None  # noqa: E731
    return Tasks(edges, feeds, delete, lambda: photos.now, photos.clear)


def row(photo: int, payload: str = "") -> Row:
    return Row(0, photo, "clear", payload or json.dumps({"photo": photo, "owner": 1, "image": "/x"}))


def test_its_time_is_short(tasks: Tasks, photos: Photos) -> None:
    photos.left.update({1: 3, 2: 100, 3: 1})
    rows = [row(1), row(2), row(3)]
    result = tasks.clear(rows)
    assert (result.done, result.more, result.failure) == ([rows[0]], True, None)
    assert photos.now < 2 * CLEAR_BUDGET
    turns = 1
    while result.more:
        result = tasks.clear(rows[1:])
        turns += 1
    assert result.done == rows[1:]
    assert turns > 5


def test_its_time_is_short_for_many_that_have_a_slice_left_each(tasks: Tasks, photos: Photos) -> None:
    """All photos of somebody, or those of many: one batch of the lane has hundreds."""
    rows = [row(photo) for photo in range(1, 101)]
    result = tasks.clear(rows)
    assert photos.now < 2 * CLEAR_BUDGET
    assert (result.done, result.more) == (rows[: len(result.done)], True)
    while result.more:
        rows = rows[len(result.done) :]
        result = tasks.clear(rows)
    assert result.done == rows


def test_what_cannot_be_understood_is_set_aside(tasks: Tasks, photos: Photos) -> None:
    photos.left.update({2: 1})
    rows = [row(1, '{"photo": "x"}'), row(2), row(3, "{")]
    result = tasks.clear(rows)
    assert (result.parked, result.done) == ([rows[0], rows[2]], [rows[1]])


def test_one_that_fails_holds_no_other_up(
    tasks: Tasks, photos: Photos, caplog: pytest.LogCaptureFixture
) -> None:
    photos.left.update({2: 1})
    photos.broken[1] = KeyError("a bug")
    rows = [row(1), row(2)]
    with caplog.at_level(logging.ERROR):
        result = tasks.clear(rows)
    assert (result.done, result.parked, result.failure) == ([rows[1]], [], photos.broken[1])
    assert "a task failed" in caplog.text


def test_an_outage_ends_the_try(tasks: Tasks, photos: Photos) -> None:
    photos.left.update({2: 1})
    photos.broken[1] = OperationalError("away")
    result = tasks.clear([row(1), row(2)])
    assert (result.done, result.failure) == ([], photos.broken[1])
