"""The API's lists: pages that hold still, the feed, discovery, search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.webapp.caller import Caller, Someone, told
from tests.webapp.stack import Stack
from tests.webapp.test_api_people import arrived
from tests.webapp.test_replicas import caught_up
from webapp.models import Following, Person, Photo
from webapp.redis_clients import client
from webapp.shards import all_shards, shard, shard_of
from webapp.shards.backend.base import ShardCursor

Item = dict[str, Any]


def pages(api: Caller, path: str, who: Someone | None = None, limit: int = 2) -> Iterator[list[Item]]:
    """Page after page, each asked for when the one before was used."""
    joint, cursor = "&" if "?" in path else "?", ""
    while True:
        answer = api("GET", f"{path}{joint}limit={limit}{cursor}", who)
        assert answer.status == 200, answer
        yield answer.json["items"]
        if answer.json["next"] is None:
            return
        cursor = f"&cursor={answer.json['next']}"


def every(api: Caller, path: str, who: Someone | None = None, limit: int = 2, key: str = "id") -> list[str]:
    """All ids of a list."""
    return [item[key] for page in pages(api, path, who, limit) for item in page]


def rows(owner: Someone, count: int, caption: str = "") -> list[str]:
    """Photos without files, the newest first."""
    with shard(shard_of(int(owner.id))):
        like = {"owner_id": int(owner.id), "key": "p/00/0", "width": 9, "height": 9, "caption": caption}
        made = [Photo.objects.create(**like) for _ in range(count)]
        return [str(each.id) for each in reversed(made)]


Maker = Callable[[Caller, Someone, Someone], None]


def likes(api: Caller, ana: Someone, other: Someone) -> None:
    api("PUT", f"/api/photos/{newest(api)}/like", other)


def newest(api: Caller) -> str:
    return str(api("GET", "/api/people/ana/photos?limit=1").json["items"][0]["id"])


def comments(api: Caller, ana: Someone, other: Someone) -> None:
    api("POST", f"/api/photos/{newest(api)}/comments", other, {"text": "x"})


def followers(api: Caller, ana: Someone, other: Someone) -> None:
    api("PUT", "/api/people/ana/follow", other)
    arrived(told("edge"))


def following(api: Caller, ana: Someone, other: Someone) -> None:
    api("PUT", f"/api/people/{other.name}/follow", ana)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (likes, "/api/photos/{photo}/likes"),
        (comments, "/api/photos/{photo}/comments"),
        (followers, "/api/people/ana/followers"),
        (following, "/api/people/ana/following"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_lists_of_people_hold_still(api: Caller, make: Maker, path: str) -> None:
    """What is added while somebody turns pages neither moves nor repeats what follows."""
    ana = api.join("ana")
    (photo,) = rows(ana, 1)
    others = [api.join(f"p{number}") for number in range(8)]
    for other in others[:5]:
        make(api, ana, other)
    before = every(api, path.format(photo=photo), ana)
    assert len(before) == 5
    turned: list[str] = []
    for number, page in enumerate(pages(api, path.format(photo=photo), ana)):
        turned += [item["id"] for item in page]
        make(api, ana, others[5 + number])
    assert turned == before
    assert every(api, path.format(photo=photo), ana)[3:] == before


@pytest.mark.parametrize(
    "path", ["/api/people/ana/photos", "/api/discover", "/api/feed", "/api/search?q=tide&kind=photos"]
)
def test_lists_of_photos_hold_still(api: Caller, path: str) -> None:
    ana = api.join("ana")
    before = rows(ana, 5, "low tide")
    turned: list[str] = []
    for page in pages(api, path, ana):
        turned += [item["id"] for item in page]
        rows(ana, 1, "low tide")
    assert turned == before


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_the_last_page_says_that_it_is(api: Caller, count: int) -> None:
    ana = api.join("ana")
    made = rows(ana, count)
    sizes = [len(page) for page in pages(api, "/api/people/ana/photos")]
    assert sizes == {0: [0], 1: [1], 2: [2], 3: [2, 1], 4: [2, 2]}[count]
    assert every(api, "/api/people/ana/photos", limit=50) == made


LISTS = [
    "/api/people/ana/photos", "/api/people/ana/followers", "/api/people/ana/following", "/api/feed", "/api/discover",
    "/api/photos/{photo}/likes", "/api/photos/{photo}/comments", "/api/search?q=ana", "/api/search?q=x&kind=photos",
]  # fmt: skip
NO_PLACES = {
    "limit=0": (422, "invalid-content"),
    "limit=51": (422, "invalid-content"),
    "limit=x": (422, "invalid-content"),
    "limit=%00": (422, "invalid-content"),
    "cursor=": (400, "gone-cursor"),
    "cursor=x": (400, "gone-cursor"),
    "cursor=%00": (400, "gone-cursor"),
    "cursor=" + "a" * 300: (422, "invalid-content"),
    "cursor=b3RoZXIuNQ": (400, "gone-cursor"),
}


@pytest.mark.parametrize("path", LISTS)
def test_places_that_are_none(api: Caller, path: str) -> None:
    ana = api.join("ana")
    where = path.format(photo=rows(ana, 1)[0])
    for query, expected in NO_PLACES.items():
        refused = api("GET", f"{where}{'&' if '?' in where else '?'}{query}", ana)
        assert (refused.status, refused.problem) == expected, query


def test_discovering(api: Caller) -> None:
    """Everybody's, over all shards, in the order of their making."""
    made: list[str] = []
    for number in range(12):
        made[:0] = rows(api.join(f"p{number}"), 1)
    assert len({shard_of(int(photo)) for photo in made}) > 2
    assert every(api, "/api/discover", limit=5) == made


@pytest.fixture
def circle(api: Caller) -> tuple[Someone, Someone, Someone]:
    """Ana follows ben, not cleo; one photo each."""
    ana, ben, cleo = (api.join(name) for name in ("ana", "ben", "cleo"))
    api("PUT", "/api/people/ben/follow", ana)
    return ana, ben, cleo


def test_a_feed(api: Caller, circle: tuple[Someone, Someone, Someone]) -> None:
    ana, ben, cleo = circle
    own, bens, cleos = rows(ana, 1), rows(ben, 2), rows(cleo, 1)
    assert every(api, "/api/feed", ana) == [*bens, *own]
    assert every(api, "/api/feed", cleo) == cleos
    item = api("GET", "/api/feed", ana).json["items"][0]
    assert item == api("GET", f"/api/photos/{item['id']}", ana).json


def test_a_feed_shows_what_its_reader_does_at_once(
    api: Caller, circle: tuple[Someone, Someone, Someone]
) -> None:
    ana, ben, cleo = circle
    old = rows(cleo, 2)
    assert every(api, "/api/feed", ana) == []
    mine = api.photo(ana)
    assert every(api, "/api/feed", ana) == [mine]
    api("PUT", "/api/people/cleo/follow", ana)
    assert every(api, "/api/feed", ana) == [mine, *old]
    api("DELETE", "/api/people/cleo/follow", ana)
    api("DELETE", f"/api/photos/{mine}", ana)
    assert every(api, "/api/feed", ana) == []
    assert every(api, "/api/feed", ben) == []


def test_a_feed_leaves_out_what_it_should_not_hold(
    api: Caller, circle: tuple[Someone, Someone, Someone]
) -> None:
    """Redis may still have what is no longer followed, or gone: PostgreSQL decides."""
    ana, ben, _ = circle
    first, second = rows(ben, 2)
    assert every(api, "/api/feed", ana) == [first, second]
    with shard(shard_of(int(ben.id))):
        Photo.objects.filter(id=int(first)).delete()
    assert every(api, "/api/feed", ana) == [second]
    with shard(shard_of(int(ana.id))):
        Following.objects.filter(follower_id=int(ana.id)).delete()
    assert every(api, "/api/feed", ana) == []


def test_a_feed_without_redis(api: Caller, circle: tuple[Someone, Someone, Someone], db: Stack) -> None:
    ana, ben, _ = circle
    made = rows(ben, 2)
    db.redis_url, kept = "redis://127.0.0.1:1/0", db.redis_url
    try:
        db.write()
        assert every(api, "/api/feed", ana) == made
        assert api("PUT", f"/api/photos/{made[0]}/like", ana).status == 204
        assert api("POST", "/api/session", None, {"name": "ana", "password": "x"}).problem == "unavailable"
        assert api("GET", "/api/ready").status == 503
    finally:
        db.redis_url = kept
        db.write()


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to PostgreSQL and to Redis and waits for an answer."""
    seen: list[str] = []
    execute, send = ShardCursor.execute, redis.connection.AbstractConnection.send_packed_command

    def executed(self: ShardCursor, query: Any, variables: Any = None) -> None:
        seen.append(f"{self.connection.alias} {query}")
        execute(self, query, variables)

    def sent(self: Any, command: Any, **more: Any) -> Any:
        seen.append("redis")
        return send(self, command, **more)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(ShardCursor, "execute", executed)
    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", sent)
    return seen


def test_a_feed_takes_three_round_trips(
    api: Caller, circle: tuple[Someone, Someone, Someone], trips: list[str]
) -> None:
    """One for what may be asked how often, one for the feed, one for all there is to show of it."""
    ana, ben, _ = circle
    rows(ana, 3)
    rows(ben, 3)
    assert len(every(api, "/api/feed", ana, 50)) == 6
    trips.clear()
    assert len(api("GET", "/api/feed", ana).json["items"]) == 6
    assert [trip.split()[0] for trip in trips] == ["redis", "redis", "node0"]


def test_a_feed_takes_three_round_trips_with_a_replica_too(
    api: Caller, circle: tuple[Someone, Someone, Someone], trips: list[str], replicated: Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Once their last write is a while ago, what a reader wrote is looked up with what they may ask."""
    ana, ben, _ = circle
    photos = [*rows(ben, 3), *rows(ana, 3)]
    monkeypatch.setattr("webapp.shards.replicas.CHECK_SECONDS", 3600)
    caught_up(replicated)
    client("marks").flushall()
    for _ in range(3):
        # The first ones connect, build the feed, and look whether the replica keeps up.
        trips.clear()
        assert len(every(api, "/api/feed", ana, 50)) == len(photos)
    assert [trip.split()[0] for trip in trips] == ["redis", "redis", "node0_replica0"]
    trips.clear()
    assert api("PATCH", "/api/me", ana, {"bio": "new"}).status == 200
    assert client("marks").hlen(f"wrote:{ana.id}") == 1
    trips.clear()
    assert api("GET", "/api/me", ana).json["bio"] == "new"
    assert [trip.split()[0] for trip in trips] == ["redis", "node0"]


@pytest.mark.parametrize(
    ("method", "path", "most"),
    [
        ("GET", "/api/photos/{photo}", 2),
        ("GET", "/api/photos/{photo}/comments", 3),
        ("GET", "/api/discover", 2),
        ("GET", "/api/people/ben", 3),
        ("GET", "/api/people/ben/photos", 3),
        ("GET", "/api/search?q=be", 4),
        # count, card, like, number, outbox; and the wake-up, after the commit
        ("PUT", "/api/photos/{photo}/like", 6),
    ],
    ids=lambda each: str(each)[:40],
)
def test_how_often_others_are_asked(
    api: Caller, circle: tuple[Someone, Someone, Someone], trips: list[str], method: str, path: str, most: int
) -> None:
    """However many shards there are."""
    ana, ben, cleo = circle
    photo, _ = rows(ben, 2)
    for who in circle:
        api("POST", f"/api/photos/{photo}/comments", who, {"text": "x"})
    api("PUT", f"/api/photos/{photo}/like", cleo)
    api("GET", "/api/me", ana)
    trips.clear()
    assert api(method, path.format(photo=photo), ana).status in (200, 204)
    assert len(trips) <= most, trips


def found(api: Caller, text: str, kind: str = "people") -> list[str]:
    """Names, or captions."""
    return every(
        api, f"/api/search?kind={kind}&q={quote(text)}", key="name" if kind == "people" else "caption"
    )


def test_finding_people(api: Caller) -> None:
    for name, shown in {
        "ana": "Ana Lima", "ana.lima": "", "anabel": "", "x1": "Ana Maria", "ben": "Benjamin Õ", "mariana": "",
    }.items():  # fmt: skip
        api.join(name, display_name=shown)
    assert found(api, "ana") == ["ana", "ana.lima", "anabel", "x1"]
    assert found(api, "@ANA") == ["ana", "ana.lima", "anabel", "x1"]
    assert found(api, "lima") == ["ana", "ana.lima"]
    assert found(api, "ana m") == ["x1"]
    assert found(api, "benj") == ["ben"]
    assert found(api, "nobody") == found(api, "...") == found(api, "ana & !lima xyz") == []


def test_finding_photos(api: Caller) -> None:
    ana = api.join("ana")
    for caption in ("Low tide at the pier", "High tide", "tidal", "Ebbe und Flut, Grüße"):
        rows(ana, 1, caption)
    assert found(api, "tide", "photos") == ["High tide", "Low tide at the pier"]
    assert found(api, '"low tide"', "photos") == ["Low tide at the pier"]
    assert found(api, "tide -pier", "photos") == ["High tide"]
    assert found(api, "GRÜSSE", "photos") == []
    assert found(api, "grüße", "photos") == ["Ebbe und Flut, Grüße"]


@pytest.mark.parametrize("query", ["", "?q=", "?q=%20", "?q=" + "x" * 101, "?q=%00", "?q=a&kind=x"])
def test_questions_that_are_none(api: Caller, query: str) -> None:
    assert api("GET", f"/api/search{query}").problem == "invalid-content"


INJECTIONS = [
    "'; DROP TABLE person; --", "' OR '1'='1", "\\'; SELECT pg_sleep(10); --", "%(text)s", "%s", "{schema}", "{wanted}",
    "a' | b:*", ":*", "!", "& |", "((", "a:* <-> b", "\\", "'a", "$$", "/*", "a\u2028b", "\U0001f4a9", "a\tb", "<b>",
    "%",
]  # fmt: skip


def test_injections(api: Caller) -> None:
    """What looks like SQL, or like a language of search, is text: it comes back as it was sent."""
    ana = api.join("ana")
    photo = api.photo(ana)
    for text in INJECTIONS:
        changed = api("PATCH", "/api/me", ana, {"bio": text, "display_name": text.replace("\t", "")})
        assert changed.json["bio"] == api("GET", "/api/me", ana).json["bio"] == text
        assert api("POST", f"/api/photos/{photo}/comments", ana, {"text": text}).json["text"] == text
        assert api("GET", f"/api/photos/{photo}/comments?limit=1").json["items"][0]["text"] == text
        other = rows(ana, 1, text)[0]
        assert api("GET", f"/api/photos/{other}").json["caption"] == text
        for kind in ("people", "photos"):
            found(api, text, kind)
    count = 0
    for number in all_shards():
        with shard(number):
            count += Person.objects.count()
    assert count == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
)
def test_any_text_can_be_searched_for(api: Caller, text: str) -> None:
    for kind in ("people", "photos"):
        answer = api("GET", f"/api/search?kind={kind}&q={quote(text)}")
        # What counts as space is not the same in every language: then either will do.
        assert answer.status in ((200,) if any(map(str.isalnum, text)) else (200, 422))
