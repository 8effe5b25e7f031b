"""`Idempotency-Key`: what is sent twice is done once, also at the same time, also when the first answer was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from django.db import OperationalError, connections
from psycopg2 import extensions

from tests.webapp.caller import PICTURE, Answer, Caller, Someone, done_with_threads, picture, told
from tests.webapp.stack import Stack
from webapp import idempotency, images
from webapp.idempotency import HOURS, LONGEST
from webapp.models import Answered
from webapp.problems import Problem
from webapp.shards import atomic, layout, shard, shard_of
from webapp.shards.backend.base import ShardConnection

KEY = '"8e03978e-40d5-43dd-bc93-6894a57f9324"'
Post = Callable[..., Answer]


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


@pytest.fixture(params=["photo", "comment"])
def post(request: pytest.FixtureRequest, api: Caller, ana: Someone) -> Iterator[Post]:
    """Posts a photo, or a comment on one: `post(text, key, who)`."""
    photo = api.photo(ana)

    def of_photo(text: str = "x", key: str = KEY, who: Someone = ana, file: bytes = PICTURE) -> Answer:
        return api.form("POST", "/api/photos", who, key, file=file, caption=text)

    def of_comment(text: str = "x", key: str = KEY, who: Someone = ana) -> Answer:
        more = {"HTTP_IDEMPOTENCY_KEY": key} if key else {}
        return api("POST", f"/api/photos/{photo}/comments", who, {"text": text}, **more)

    yield of_photo if request.param == "photo" else of_comment


def made(api: Caller, post: Post) -> int:
    """How many there are of what `post` makes."""
    (photos,) = [api("GET", "/api/people/ana").json["photos"]]
    newest = api("GET", "/api/people/ana/photos").json["items"]
    return int(photos - 1 if post.__name__ == "of_photo" else newest[0]["comments"])


def locks(db: Stack) -> int:
    with db.primary.connect() as link, link.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        (count,) = cursor.fetchall()[0]
    link.close()
    return int(count)


def test_the_first_answer_comes_again(db: Stack, api: Caller, post: Post) -> None:
    first = post("what a view")
    assert first.status == 201
    assert [
        (again.status, again.json) for again in (post("what a view"), post("what a view", KEY.strip('"')))
    ] == [
        (201, first.json),
        (201, first.json),
    ]
    assert made(api, post) == 1
    assert locks(db) == 0


def test_without_a_key_or_with_another_it_is_a_new_one(api: Caller, post: Post) -> None:
    ids = [post(key=key).json["id"] for key in ("", "", '"one"', '"two"', '"one"')]
    assert len(set(ids)) == 4
    assert ids[2] == ids[4]
    assert made(api, post) == 4


def test_a_key_is_of_one_content(api: Caller, post: Post) -> None:
    first = post("one")
    refused = post("two")
    assert (refused.status, refused.problem) == (422, "key-reused")
    assert post("one").json == first.json
    assert made(api, post) == 1


def test_another_picture_is_another_content(api: Caller, ana: Someone) -> None:
    def send(colour: str) -> Answer:
        file = picture(colour=colour)
        return api.form("POST", "/api/photos", ana, KEY, file=file, caption="")

    assert send("teal").status == 201
    assert send("red").problem == "key-reused"
    assert send("teal").status == 201


def test_others_may_have_the_same_key(api: Caller, post: Post) -> None:
    ben = api.join("ben")
    assert post("x").json["id"] != post("x", who=ben).json["id"]
    assert post("y").problem == post("y", who=ben).problem == "key-reused"


def test_a_key_counts_for_one_photo(api: Caller, ana: Someone) -> None:
    """What is kept stands with the photo: on another one the same key says nothing."""
    for photo in (api.photo(ana), api.photo(ana)):
        path = f"/api/photos/{photo}/comments"
        said = [api("POST", path, ana, {"text": "x"}, HTTP_IDEMPOTENCY_KEY=KEY).json["id"] for _ in range(2)]
        assert said[0] == said[1]
        assert api("GET", f"/api/photos/{photo}").json["comments"] == 1


def test_what_was_refused_may_be_mended(api: Caller, ana: Someone) -> None:
    def send(file: bytes) -> Answer:
        return api.form("POST", "/api/photos", ana, KEY, file=file, caption="")

    assert send(b"no picture").problem == "bad-image"
    assert send(PICTURE).status == 201


def test_one_that_is_still_at_work(
    db: Stack, api: Caller, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    keep = idempotency._keep

    def slow(*arguments: object) -> None:
        begun.set()
        assert go_on.wait(60)
        keep(*arguments)  # type: ignore[arg-type]

    def first() -> Answer:
        try:
            return post()
        finally:
            done_with_threads()

    monkeypatch.setattr(idempotency, "_keep", slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        assert begun.wait(60)
        second = post()
        go_on.set()
        assert running.result(60).status == 201
    assert (second.status, second.problem, second.headers["Retry-After"]) == (409, "in-progress", "1")
    assert post().json == running.result().json
    assert made(api, post) == 1


def test_a_picture_is_not_taken_apart_twice(
    api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[None] = []
    real = images.picture

    def counted(*arguments: object) -> images.Picture:
        taken.append(None)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "picture", counted)
    for _ in range(2):
        assert api.form("POST", "/api/photos", ana, KEY, file=PICTURE, caption="x").status == 201
    assert len(taken) == 1


def test_many_at_once_make_one(api: Caller, post: Post) -> None:
    def send(_: int) -> Answer:
        try:
            return post()
        finally:
            done_with_threads()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(18)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.json["id"] for answer in answers if answer.status == 201}) == 1
    assert made(api, post) == 1


@pytest.mark.parametrize("done", [True, False], ids=["committed", "not committed"])
def test_after_an_answer_that_was_lost(
    api: Caller, post: Post, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    def cut_off(link: ShardConnection) -> None:
        if done:
            extensions.connection.commit(link)
        link.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as during:
        during.setattr(ShardConnection, "commit", cut_off)
        assert post().status == 503
    assert made(api, post) == done
    again = post()
    assert again.status == 201
    assert made(api, post) == 1
    assert post().json == again.json
    assert len(told("fanout")) <= 2


def test_a_connection_that_breaks_gives_the_key_back(
    db: Stack, api: Caller, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        connections[layout().nodes[0].primary].connection.close()
        raise OperationalError("gone")

    with monkeypatch.context() as during:
        during.setattr(idempotency, "_keep", broken)
        assert post().status == 503
    assert locks(db) == 0
    assert post().status == 201


def test_an_answer_is_kept_for_a_day(
    api: Caller, ana: Someone, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, since = post("one"), idempotency._since
    hours = HOURS * 3_600_000 << 23
    monkeypatch.setattr(idempotency, "_since", lambda: since() + hours - (60_000 << 23))
    assert post("one").json == first.json
    monkeypatch.setattr(idempotency, "_since", lambda: since() + hours + (60_000 << 23))
    assert post("two").status == 201
    with shard(shard_of(int(ana.id))):
        assert Answered.objects.count() == 1


def test_who_lost_their_lock_does_not_make_a_second(db: Stack, ana: Someone) -> None:
    key = idempotency.Key(int(ana.id), 0, "k", "c")
    with shard(shard_of(key.person)), pytest.raises(Problem) as refused, atomic():
        for _ in range(2):
            idempotency._keep(key, key)
    assert refused.value.kind == "in-progress"


@pytest.mark.parametrize(
    "header", ["", '""', '"', '"a', 'a"', '"a"b"', '"a\\"', "a b", "ä", '"ä"', "x" * (LONGEST + 1), "\x00", "a\tb"],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_key(header: str) -> None:
    with pytest.raises(Problem) as refused:
        idempotency.read(header)
    assert refused.value.kind == "invalid-request"


@pytest.mark.parametrize(
    ("header", "key"),
    [(None, None), ("a", "a"), ('"a b"', "a b"), (' "x" ', "x"), ("x" * LONGEST, "x" * LONGEST)],
)
def test_what_is_a_key(header: str | None, key: str | None) -> None:
    assert idempotency.read(header) == key


def test_no_key_in_a_header_is_refused(api: Caller, post: Post) -> None:
    assert post(key='"a').problem == "invalid-request"
    assert made(api, post) == 0
