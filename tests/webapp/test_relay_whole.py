"""From calls of the API through the relay: what the notifier reads, by its own rules, and what feeds then show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from notifier.core.intake import Intake
from notifier.core.model import Event
from tests.webapp.caller import Caller, Someone
from tests.webapp.stack import Stack
from webapp import storage
from webapp.outbox import STREAM
from webapp.relay import Relay
from webapp.relay_parts import relay_of


@pytest.fixture
def relay(api: Caller) -> Iterator[Relay]:
    made = relay_of()
    yield made
    made.close()


@pytest.fixture
def client(db: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(db.redis_url) as client:
        yield client


def relayed(relay: Relay) -> None:
    while relay.once():
        pass
    relay.once()
    assert not relay.figures.counts["failures"]
    assert not relay.figures.counts["parked"]


def heard(client: redis.Redis) -> list[Event]:
    """The events of the stream as the notifier reads them; in the order of their time."""
    intake = Intake(("like", "comment", "follow"), 86_400_000, 300_000, 16_384, 1000)
    entries: Any = client.xrange(STREAM)
    found = [intake.decode(fields[b"event"], entry.decode()) for entry, fields in entries]
    events = [event for event in found if isinstance(event, Event)]
    assert events == found
    assert intake.unknown_fields == intake.self_recipients == 0
    return sorted(events, key=lambda event: (event.time, int(event.id)))


def feed(api: Caller, who: Someone) -> list[str]:
    return [item["id"] for item in api("GET", "/api/feed", who).json["items"]]


def test_all_that_people_do_is_an_event_that_the_notifier_takes(
    api: Caller, relay: Relay, client: redis.Redis
) -> None:
    ana, ben, cleo = (api.join(name) for name in ("ana", "ben", "cleo"))
    photo = api.photo(ana, "the sea")
    like = f"/api/photos/{photo}/like"
    for method in ("PUT", "DELETE", "PUT", "PUT"):
        assert api(method, like, ben).status == 204
    assert api("PUT", like, ana).status == 204  # one's own
    assert api("POST", f"/api/photos/{photo}/comments", ben, {"text": "@cleo look"}).status == 201
    for method in ("PUT", "DELETE"):
        assert api(method, "/api/people/ana/follow", ben).status == 204
    relayed(relay)
    events = heard(client)
    assert [(event.kind, event.retracts) for event in events if event.kind == "like"] == [
        ("like", False), ("like", True), ("like", False),
    ]  # fmt: skip
    assert [(event.kind, event.retracts) for event in events if event.kind == "follow"] == [
        ("follow", False), ("follow", True),
    ]  # fmt: skip
    (comment,) = (event for event in events if event.kind == "comment")
    assert set(comment.to) == {ana.id, cleo.id}
    assert comment.text == "@cleo look"
    assert {event.actor.id for event in events} == {ben.id}
    assert all(event.named for event in events)

    assert api("DELETE", f"/api/photos/{photo}", ana).status == 204
    relayed(relay)
    taken_back = heard(client)[len(events) :]
    assert sorted((event.kind, event.retracts, event.actor.id) for event in taken_back) == [
        ("comment", True, ben.id), ("like", True, ben.id),
    ]  # fmt: skip
    given = {event.object for event in events if event.kind == "like"}
    assert {event.object for event in taken_back if event.kind == "like"} == given


def test_what_is_posted_reaches_who_follows(api: Caller, relay: Relay, client: redis.Redis) -> None:
    ana, ben, cleo = (api.join(name) for name in ("ana", "ben", "cleo"))
    assert feed(api, ben) == feed(api, cleo) == []
    assert api("PUT", "/api/people/ana/follow", ben).status == 204
    relayed(relay)
    assert api("GET", "/api/people/ana", cleo).json["followers"] == 1
    first, second = api.photo(ana), api.photo(ana)
    relayed(relay)
    assert feed(api, ben) == [second, first]
    assert feed(api, cleo) == []
    client.flushall()
    assert feed(api, ben) == [second, first]
    assert api("DELETE", f"/api/photos/{second}", ana).status == 204
    assert feed(api, ben) == [first]
    relayed(relay)
    assert feed(api, ben) == [first]
    assert api("DELETE", "/api/people/ana/follow", ben).status == 204
    assert feed(api, ben) == []
    relayed(relay)
    assert api("GET", "/api/people/ana", cleo).json["followers"] == 0


def test_files_leave_a_storage_once_it_lets_them_go(
    api: Caller, relay: Relay, db: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(store: storage.Store, name: str) -> None:
        raise PermissionError(name)

    def kept() -> list[Path]:
        return list((db.folder / "photos").rglob("p/*/*.jpg"))

    def until(over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not over():
            assert time.monotonic() < deadline
            relay.once()

    before = set(kept())
    ana, ben = api.join("ana"), api.join("ben")
    photo = api.photo(ana)
    assert len(set(kept()) - before) == 2
    with monkeypatch.context() as during:
        during.setattr(storage.Store, "delete", refuses)
        assert api("DELETE", f"/api/photos/{photo}", ana).status == 204
        until(lambda: relay.figures.counts["files kept"] > 0)
        assert api("PUT", "/api/people/ana/follow", ben).status == 204
        until(lambda: relay.figures.counts["edge"] > 0)
        assert len(set(kept()) - before) == 2
    until(lambda: relay.figures.counts["files deleted"] > 0)
    assert set(kept()) == before
