"""The API's people: signing up and logging in, profiles, follows."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher, make_password
from django.test import override_settings
from PIL import Image

from tests.webapp.caller import PASSWORD, PICTURE, Answer, Caller, Someone, done_with_threads, told
from tests.webapp.stack import Stack
from webapp import people, storage, tokens
from webapp.edges import PostgresEdges
from webapp.models import Person
from webapp.outbox import Edge
from webapp.shards import shard, shard_of, shard_of_name
from webapp.tasks import Change


def test_signing_up(api: Caller) -> None:
    made = api(
        "POST", "/api/people", None, {"name": "Ana.Lima", "password": PASSWORD, "display_name": " Ana "}
    )
    assert made.status == 201
    assert made.headers["Cache-Control"] == "no-store"
    person = made.json["person"]
    assert {name: person[name] for name in ("name", "display_name", "avatar", "bio")} == {
        "name": "ana.lima", "display_name": "Ana", "avatar": None, "bio": "",
    }  # fmt: skip
    assert (person["photos"], person["followers"], person["following"]) == (0, 0, 0)
    assert (person["you"], person["followed"]) == (True, False)
    assert tokens.tokens().person(made.json["token"]) == int(person["id"])
    assert shard_of(int(person["id"])) == shard_of_name("ana.lima")
    assert PASSWORD.encode() not in made.content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"password": PASSWORD}, "name"),
        ({"name": "ana"}, "password"),
        ({"name": "", "password": PASSWORD}, "name"),
        ({"name": "a" * 31, "password": PASSWORD}, "name"),
        ({"name": "ana lima", "password": PASSWORD}, "name"),
        ({"name": "ana/../ben", "password": PASSWORD}, "name"),
        ({"name": "..", "password": PASSWORD}, "name"),
        ({"name": "ána", "password": PASSWORD}, "name"),
        ({"name": "ana\n", "password": PASSWORD}, "name"),
        ({"name": "ana\x00", "password": PASSWORD}, "name"),
        ({"name": 7, "password": PASSWORD}, "name"),
        ({"name": "ana", "password": "1234567"}, "password"),
        ({"name": "ana", "password": "x" * 201}, "password"),
        ({"name": "ana", "password": PASSWORD, "display_name": "x" * 61}, "display_name"),
        ({"name": "ana", "password": PASSWORD, "display_name": "a\nb"}, "display_name"),
        ({"name": "ana", "password": PASSWORD, "followers": 7}, "followers"),
        ({"name": "ana", "password": PASSWORD, "id": 7}, "id"),
        ([], "given"),
        (None, "given"),
    ],
    ids=lambda each: None if isinstance(each, str) else ascii(each)[:60],
)
def test_a_sign_up_that_is_wrong_says_where(api: Caller, content: Any, fault: str) -> None:
    refused = api("POST", "/api/people", None, content)
    assert (refused.status, refused.problem) == (422, "invalid-content")
    assert [each["path"] for each in refused.json["errors"]] == [fault]
    assert all(each["message"] for each in refused.json["errors"])


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b'{"name": "\\ud800", "password": "12345678"}', b"[" * 5000, b'{"name": NaN}', b"{} {}"],
    ids=lambda each: ascii(each)[:30],
)
def test_what_is_not_json_is_refused(api: Caller, content: bytes) -> None:
    refused = api("POST", "/api/people", None, content)
    assert (refused.status, refused.problem) == (400, "not-json")


def test_content_that_is_too_large_is_refused(api: Caller) -> None:
    refused = api("POST", "/api/people", None, b" " * 70_000)
    assert (refused.status, refused.problem) == (413, "too-large")


def test_a_name_is_taken_in_every_case(api: Caller) -> None:
    api.join("ana")
    refused = api("POST", "/api/people", None, {"name": "ANA", "password": PASSWORD})
    assert (refused.status, refused.problem) == (409, "name-taken")
    assert refused.json["errors"][0]["path"] == "name"


def test_of_many_who_want_a_name_one_gets_it(api: Caller) -> None:
    answers: list[Answer] = []

    def want() -> None:
        answers.append(Caller()("POST", "/api/people", None, {"name": "ana", "password": PASSWORD}))
        done_with_threads()

    run(want, 8)
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7


def run(work: Any, count: int) -> None:
    """Runs `work` in that many threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_logging_in(api: Caller) -> None:
    ana = api.join("ana")
    made = api("POST", "/api/session", None, {"name": "Ana", "password": PASSWORD})
    assert made.status == 200
    assert made.json["person"]["id"] == ana.id
    assert tokens.tokens().person(made.json["token"]) == int(ana.id)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ana", "wrong words"),
        ("ben", PASSWORD),
        ("", ""),
        ("ana' OR 1=1 --", PASSWORD),
        ("a\x00", "b"),
        ("ana", ""),
    ],
    ids=ascii,
)
def test_a_wrong_name_and_a_wrong_password_are_told_alike(api: Caller, name: str, password: str) -> None:
    api.join("ana")
    refused = api("POST", "/api/session", None, {"name": name, "password": password})
    wrong = api("POST", "/api/session", None, {"name": "ana", "password": "something else"})
    assert (refused.status, refused.problem) == (401, "wrong-credentials")
    assert refused == wrong


class CountingHasher(MD5PasswordHasher):  # type: ignore[misc]  # Django has no types
    """Counts how often a password is hashed."""

    algorithm = "md5"
    hashed = 0

    def encode(self, password: str, salt: str) -> str:
        """As MD5PasswordHasher has it."""
        type(self).hashed += 1
        return str(super().encode(password, salt))


def test_a_name_that_nobody_has_costs_as_much_as_a_wrong_password(api: Caller) -> None:
    """The hash is what takes the time; so it is made as often."""
    with override_settings(PASSWORD_HASHERS=[f"{__name__}.CountingHasher"]):
        people._nobodys_password.cache_clear()
        api.join("ana")
        counts: dict[str, list[int]] = {}
        for name in ("nobody", "ana", "nobody", "no body", "ana"):
            before = CountingHasher.hashed
            assert api("POST", "/api/session", None, {"name": name, "password": "wrong words"}).status == 401
            counts.setdefault(name, []).append(CountingHasher.hashed - before)
    people._nobodys_password.cache_clear()
    # The very first makes the hash that all the others are compared with.
    assert counts == {"nobody": [counts["nobody"][0], 1], "no body": [1], "ana": [1, 1]}


def test_without_a_key_nobody_comes_in(api: Caller, db: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a name taken by somebody who got no token; and those who set it up can see why."""
    ana, key = api.join("ana"), db.sections.pop("tokens")
    db.write()
    for method, path, who, body in (
        ("POST", "/api/people", None, {"name": "ben", "password": PASSWORD}),
        ("POST", "/api/session", None, {"name": "ana", "password": PASSWORD}),
        ("GET", "/api/me", ana, None),
    ):
        assert api(method, path, who, body).problem == "unavailable"
    assert "tokens.key_file: missing" in caplog.text
    assert json.loads(api("GET", "/api/ready").content)["parts"]["tokens"] == "ConfigError"
    assert api("GET", "/api/discover").status == 200
    db.sections["tokens"] = key
    db.write()
    assert api("GET", "/api/people/ben").status == 404


def test_yourself(api: Caller) -> None:
    ana = api.join("ana")
    assert api("GET", "/api/me", ana).json["name"] == "ana"
    changed = api("PATCH", "/api/me", ana, {"bio": "Light\r\nand water", "display_name": "Ana L."})
    assert changed.json["bio"] == "Light\nand water"
    assert api("PATCH", "/api/me", ana, {"display_name": None}).json["display_name"] == "Ana L."
    assert api("PATCH", "/api/me", ana, {"bio": ""}).json["bio"] == ""
    assert api("GET", "/api/people/ana").json["display_name"] == "Ana L."
    assert api("PATCH", "/api/me", ana, {"name": "ben"}).status == 422


def test_a_token_of_somebody_who_is_gone(api: Caller, db: Stack) -> None:
    ana, before = api.join("ana"), set(files())
    db.empty()
    for method, path, body in (
        ("GET", "/api/me", None),
        ("PATCH", "/api/me", {"bio": "x"}),
        ("GET", "/api/feed", None),
    ):
        answer = api(method, path, ana, body)
        assert answer.status in (200, 401), path
    assert api("GET", "/api/me", ana).problem == "not-authenticated"
    assert api.form("POST", "/api/photos", ana, file=PICTURE).problem == "not-authenticated"
    assert api.form("PUT", "/api/me/avatar", ana, file=PICTURE).problem == "not-authenticated"
    assert set(files()) == before


def files() -> list[str]:
    """All that the storage holds."""
    store = storage.store().files
    return [
        f"{kind}/{digits}/{name}"
        for kind in ("p", "a") if store.exists(kind)
        for digits in store.listdir(kind)[0]
        for name in store.listdir(f"{kind}/{digits}")[1]
    ]  # fmt: skip


def test_a_picture_of_oneself(api: Caller) -> None:
    ana = api.join("ana")
    before = set(files())
    first = api.form("PUT", "/api/me/avatar", ana, file=PICTURE).json["avatar"]
    shown = api("GET", first)
    assert Image.open(io.BytesIO(shown.content)).size == (48, 48)
    second = api.form("PUT", "/api/me/avatar", ana, file=PICTURE).json["avatar"]
    assert second != first
    for url in (first, second):  # the one before for those who are shown it now; see test_portraits.py
        assert api("GET", url).status == 200
    assert len(set(files()) - before) == 2
    assert api("GET", "/api/people/ana").json["avatar"] == second
    refused = api.form("PUT", "/api/me/avatar", ana, file=b"GIF89a")
    assert (refused.status, refused.problem) == (422, "bad-image")
    assert refused.json["errors"][0]["path"] == "file"


@pytest.mark.parametrize(
    "name", ["nobody", "..", "%00", "a%2Fb", "x" * 31, "%27", "ána", "'; DROP TABLE person; --"]
)
def test_nobody_has_this_name(api: Caller, name: str) -> None:
    for path in ("", "/photos", "/followers", "/following"):
        assert api("GET", f"/api/people/{name}{path}").status == 404


def arrived(edges: list[dict[str, Any]]) -> None:
    """Does what the relay does with edges."""
    for number, edge in enumerate(edges, 1):
        change = Change(number, Edge(**edge))
        PostgresEdges().apply(shard_of(edge["followee"]), [change])


def test_following(api: Caller) -> None:
    ana, ben = api.join("ana"), api.join("ben")
    for _ in range(2):
        assert api("PUT", "/api/people/Ana/follow", ben).status == 204
    assert told("edge") == [{"follower": int(ben.id), "followee": int(ana.id), "active": True}]
    assert told() == [{"type": "follow", "actor": {"id": ben.id, "name": "ben"}, "to": [ana.id]}]
    arrived(told("edge"))
    assert api("GET", "/api/people/ana", ben).json["followed"] is True
    assert api("GET", "/api/people/ana", ana).json["followed"] is False
    assert api("GET", "/api/people/ana").json["followers"] == 1
    assert api("GET", "/api/me", ben).json["following"] == 1
    assert names(api, "/api/people/ana/followers", ana) == [("ben", False, False)]
    assert names(api, "/api/people/ben/following", ben) == [("ana", True, False)]
    for _ in range(2):
        assert api("DELETE", "/api/people/ana/follow", ben).status == 204
    arrived(told("edge"))
    assert [event["type"] for event in told()] == ["follow", "unfollow"]
    assert names(api, "/api/people/ana/followers", ana) == names(api, "/api/people/ben/following", ben) == []
    assert api("GET", "/api/me", ben).json["following"] == 0


def names(api: Caller, path: str, who: Someone) -> list[tuple[str, bool, bool]]:
    """A list of people, as (name, followed, you)."""
    return [(one["name"], one["followed"], one["you"]) for one in api("GET", path, who).json["items"]]


def test_nobody_follows_themselves(api: Caller) -> None:
    ana = api.join("ana")
    assert api("PUT", "/api/people/ana/follow", ana).problem == "forbidden"
    assert api("DELETE", "/api/people/ana/follow", ana).status == 204
    assert told() == []


def test_following_at_once_counts_once(api: Caller) -> None:
    ben = api.join("ben")
    api.join("ana")

    def follow() -> None:
        assert Caller()("PUT", "/api/people/ana/follow", ben).status == 204
        done_with_threads()

    run(follow, 8)
    assert api("GET", "/api/me", ben).json["following"] == 1
    assert len(told()) == len(told("edge")) == 1


def renew(api: Caller, renewal: str) -> Any:
    return api("POST", "/api/session/renewal", None, {"renewal": renewal})


def test_a_token_is_renewed(api: Caller) -> None:
    ana = api.join("ana")
    found = api("POST", "/api/session", None, {"name": "ana", "password": PASSWORD}).json
    for renewal in (ana.renewal, found["renewal"]):
        made = renew(api, renewal)
        assert (made.status, made.json["renewal"], made.json["person"]["id"]) == (200, renewal, ana.id)
        assert api("GET", "/api/me", Someone(ana.id, "ana", made.json["token"])).status == 200


def test_what_renews_opens_nothing_else(api: Caller) -> None:
    ana = api.join("ana")
    assert api("GET", "/api/me", Someone(ana.id, "ana", ana.renewal)).problem == "invalid-token"
    for wrong in (ana.token, ana.renewal[:-8] + "AAAAAAAA", "", "a.b.c"):
        assert renew(api, wrong).problem == "invalid-token"


def test_an_old_token_beside_it_is_not_looked_at(api: Caller) -> None:
    ana = api.join("ana")
    header = {"HTTP_AUTHORIZATION": "Bearer a.b.c"}
    assert api("POST", "/api/session/renewal", None, {"renewal": ana.renewal}, **header).status == 200


def test_with_another_password_nothing_is_renewed(api: Caller) -> None:
    ana = api.join("ana")
    with shard(shard_of(int(ana.id))):
        Person.objects.filter(id=ana.id).update(password=make_password("another one"))
    assert (renew(api, ana.renewal).status, renew(api, ana.renewal).problem) == (401, "invalid-token")
    with shard(shard_of(int(ana.id))):
        Person.objects.filter(id=ana.id).delete()
    assert renew(api, ana.renewal).problem == "not-authenticated"
