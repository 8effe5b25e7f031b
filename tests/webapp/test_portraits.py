"""A person's picture in notifications: an address that stays right and that caches may keep; and no file is left."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.db import OperationalError

from tests.webapp.caller import Answer, Caller, Someone, picture, told
from tests.webapp.stack import Stack
from tests.webapp.test_relay_process import until
from webapp import people, storage
from webapp.media import KEPT
from webapp.models import Outbox, Person
from webapp.outbox import LATER
from webapp.relay import Relay
from webapp.relay_parts import relay_of
from webapp.shards import shard, shard_of
from webapp.tidying import FILES_HOURS, Tidying

HOUR = 3_600_000


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


@pytest.fixture
def relay(api: Caller) -> Iterator[Relay]:
    made = relay_of()
    yield made
    made.close()


def taken(api: Caller, who: Someone, colour: str) -> str:
    """Where a picture is that somebody takes as theirs."""
    made = api.form("PUT", "/api/me/avatar", who, file=picture(colour=colour))
    assert made.status == 200
    return str(made.json["avatar"])


def files(db: Stack) -> set[str]:
    folder = db.folder / "photos"
    return {f"/media/{path.relative_to(folder)}" for path in folder.rglob("a/*/*.jpg")}


def led(answer: Answer) -> str:
    """Where an answer leads; checked to be one that caches keep."""
    assert answer.status == 302
    assert answer.headers["Cache-Control"] == f"public, max-age={KEPT}"
    assert "Set-Cookie" not in answer.headers
    assert "Vary" not in answer.headers
    return answer.headers["Location"]


def test_an_old_notification_shows_the_picture_of_today(api: Caller, ana: Someone) -> None:
    first = taken(api, ana, "teal")
    assert api("PUT", f"/api/people/{api.join('ben').name}/follow", ana).status == 204
    photo = api.photo(api.join("cleo"))
    assert api("PUT", f"/api/photos/{photo}/like", ana).status == 204
    url = told()[-1]["actor"]["image"]
    assert led(api("GET", url)) == first
    second = taken(api, ana, "red")
    assert led(api("GET", url)) == second
    assert api("GET", second).status == 200
    assert led(api("HEAD", url)) == second


def test_a_cache_that_leads_to_the_picture_before_leads_to_a_picture(
    api: Caller, ana: Someone, db: Stack, relay: Relay
) -> None:
    """Until long after every cache has asked again; then the file goes."""
    first, second = taken(api, ana, "teal"), taken(api, ana, "red")
    now = time.time() * 1000
    assert FILES_HOURS * 3600 > 2 * KEPT
    for age, left in (
        (FILES_HOURS * HOUR - 60_000, {first, second}),
        (FILES_HOURS * HOUR + 60_000, {second}),
    ):
        Tidying(now=lambda age=age: now + age)()  # type: ignore[misc]
        for _ in range(3):
            relay.once()
        assert files(db) == left
    with shard(shard_of(int(ana.id))):
        assert not Outbox.objects.filter(lane=LATER).exists()


def test_a_storage_that_refuses_to_delete_is_asked_again(
    api: Caller, ana: Someone, db: Stack, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(store: storage.Store, name: str) -> None:
        raise PermissionError(name)

    first, second = taken(api, ana, "teal"), taken(api, ana, "red")
    Tidying(now=lambda: (time.time() + 2 * FILES_HOURS * 3600) * 1000)()
    with monkeypatch.context() as during:
        during.setattr(storage.Store, "delete", refuses)
        until(lambda: (relay.once(), relay.figures.counts["files kept"])[1])
        assert files(db) == {first, second}
    until(lambda: (relay.once(), files(db) == {second})[1])


def test_who_has_no_picture(api: Caller, ana: Someone) -> None:
    for number in (ana.id, str(int(ana.id) + 1), "0", "abc", "1" * 19, "%00", "9" * 30):
        answer = api("GET", f"/portraits/{number}")
        assert answer.status == 404, number
        assert "<" not in answer.content.decode()
    assert api("GET", f"/portraits/{ana.id}").headers["Cache-Control"] == f"public, max-age={KEPT}"


def test_no_other_method(api: Caller, ana: Someone) -> None:
    assert api("POST", f"/portraits/{ana.id}").status == 405


def test_an_outage_is_kept_by_no_cache(api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(people, "cards", fails)
    answer = api("GET", f"/portraits/{ana.id}")
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert (answer.headers["Cache-Control"], answer.headers["Retry-After"]) == ("no-store", "5")


def test_a_site_with_an_address_of_its_own_gives_it(api: Caller, ana: Someone, db: Stack) -> None:
    db.sections["site"] = {"url": "https://glimpse.example.com"}
    db.write()
    taken(api, ana, "teal")
    api("PUT", f"/api/people/{api.join('ben').name}/follow", ana)
    assert people.actor(int(ana.id)).image == f"https://glimpse.example.com/portraits/{ana.id}"


def test_who_is_gone_leaves_no_file(api: Caller, ana: Someone, db: Stack) -> None:
    with shard(shard_of(int(ana.id))):
        Person.objects.filter(id=ana.id).delete()
    assert api.form("PUT", "/api/me/avatar", ana, file=picture()).status == 401
    assert files(db) == set()
