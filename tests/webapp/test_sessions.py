"""Sessions end: all of a person at once, by themselves, by a new password, or by who runs the site."""

from __future__ import annotations

import hashlib
import threading
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.hashers import check_password
from django.core.management import CommandError, call_command

from tests.webapp.caller import PASSWORD, Answer, Caller, Someone, done_with_threads
from tests.webapp.stack import Stack
from tests.webapp.test_replicas import paused
from webapp import people, tokens
from webapp.models import Person
from webapp.shards import read_cursor, shard, shard_of

ANOTHER = "another horse"


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


def log_in(api: Caller, password: str = PASSWORD) -> Answer:
    return api("POST", "/api/session", None, {"name": "ana", "password": password})


def renewed(api: Caller, renewal: str) -> bool:
    """Does it renew a token? Checked to be refused as it should, if not."""
    made = api("POST", "/api/session/renewal", None, {"renewal": renewal})
    assert made.status == 200 or (made.status, made.problem) == (401, "invalid-token")
    return made.status == 200


def change(api: Caller, who: Someone, old: str, new: str) -> Answer:
    return api("PUT", "/api/me/password", who, {"old": old, "new": new})


def test_all_sessions_of_a_person_end_and_no_others(api: Caller, ana: Someone) -> None:
    ben, second = api.join("ben"), log_in(api).json["renewal"]
    ended = api("POST", "/api/session/end", ana)
    assert (ended.status, ended.content) == (204, b"")
    assert [renewed(api, one) for one in (ana.renewal, second, ben.renewal)] == [False, False, True]
    assert api("GET", "/api/me", ana).status == 200, "tokens live out their hours"


def test_who_logs_in_afterwards_stays_in_until_the_next_time(api: Caller, ana: Someone) -> None:
    renewals = [ana.renewal]
    for _ in range(3):
        api("POST", "/api/session/end", ana)
        renewals.append(log_in(api).json["renewal"])
        assert [renewed(api, one) for one in renewals] == [False] * (len(renewals) - 1) + [True]


def test_who_has_left_for_good_ends_nothing(api: Caller, ana: Someone) -> None:
    with shard(shard_of(int(ana.id))):
        Person.objects.filter(id=ana.id).delete()
    for refused in (api("POST", "/api/session/end", ana), change(api, ana, PASSWORD, ANOTHER)):
        assert (refused.status, refused.problem) == (401, "not-authenticated")


def test_a_session_of_before_there_was_a_number_goes_on(api: Caller, ana: Someone) -> None:
    with shard(shard_of(int(ana.id))):
        hashed = Person.objects.get(id=ana.id).password
    mark = hashlib.sha256(f"renewal {hashed}".encode()).hexdigest()[:32]
    renewal = tokens.tokens().renewal(int(ana.id), mark)
    assert renewed(api, renewal)
    api("POST", "/api/session/end", ana)
    assert not renewed(api, renewal)


def test_a_log_in_whose_password_is_changed_meanwhile_gives_nothing_that_lasts(
    api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was right when it was looked at."""

    def slow(password: str, hashed: str) -> bool:
        monkeypatch.undo()
        changed.append(change(api, ana, PASSWORD, ANOTHER).status)
        return bool(check_password(password, hashed))

    changed: list[int] = []
    monkeypatch.setattr(people, "check_password", slow)
    came = log_in(api)
    assert (came.status, changed) == (200, [200])
    assert not renewed(api, came.json["renewal"])


def test_a_new_password_ends_all_sessions_but_the_one_that_chose_it(api: Caller, ana: Someone) -> None:
    second = log_in(api).json["renewal"]
    made = change(api, ana, PASSWORD, ANOTHER)
    assert (made.status, made.json["person"]["id"]) == (200, ana.id)
    assert [renewed(api, one) for one in (ana.renewal, second, made.json["renewal"])] == [False, False, True]
    assert api("GET", "/api/me", Someone(ana.id, "ana", made.json["token"])).status == 200
    assert (log_in(api).problem, log_in(api, ANOTHER).status) == ("wrong-credentials", 200)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("wrong horse", ANOTHER, "old"),
        ("", ANOTHER, "old"),
        (PASSWORD, "1234567", "new"),
        (PASSWORD, "x" * 201, "new"),
        ("x" * 201, ANOTHER, "old"),
        (PASSWORD, None, "new"),
    ],
    ids=["wrong", "empty", "too short", "too long", "too long to be right", "none"],
)
def test_a_password_that_is_not_changed(
    api: Caller, ana: Someone, old: str, new: str | None, fault: str
) -> None:
    refused = api("PUT", "/api/me/password", ana, {"old": old, "new": new})
    assert (refused.status, refused.problem) == (422, "invalid-content")
    assert [each["path"] for each in refused.json["errors"]] == [fault]
    assert (renewed(api, ana.renewal), log_in(api).status) == (True, 200)


def test_of_several_new_passwords_at_once_one_counts(api: Caller, ana: Someone) -> None:
    made: dict[str, Answer] = {}

    def run(new: str) -> None:
        try:
            made[new] = change(Caller(), ana, PASSWORD, new)
        finally:
            done_with_threads()

    threads = [threading.Thread(target=run, args=(f"horse number {each}",)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [new for new, answer in made.items() if answer.status == 200]
    assert sorted(answer.status for answer in made.values()) == [200, 422, 422, 422]
    assert log_in(api, taken[0]).status == 200
    assert renewed(api, made[taken[0]].json["renewal"])


@pytest.fixture
def behind(api: Caller, ana: Someone, replicated: Stack) -> Any:
    """A replica that stands still, and is read from for who has not just written."""
    replicated.sections["shards"] = {"settle_seconds": 0}
    replicated.write(replicated=True)
    with paused(replicated):
        with shard(shard_of(int(ana.id))), read_cursor() as cursor:
            assert cursor.db.alias == "node0_replica0"
        yield


@pytest.mark.usefixtures("behind")
def test_a_replica_that_lags_keeps_no_session_alive(api: Caller, ana: Someone) -> None:
    """Nobody's request has written, so nothing says that the replica is too old for anybody."""
    assert renewed(api, ana.renewal)
    people.end_sessions(int(ana.id))
    assert not renewed(api, ana.renewal)


@pytest.mark.usefixtures("behind")
def test_a_replica_that_lags_lets_nobody_in_with_the_old_password(api: Caller, ana: Someone) -> None:
    people.change_password(int(ana.id), PASSWORD, ANOTHER)
    assert (log_in(api).status, log_in(api, ANOTHER).status) == (401, 200)


def test_the_command_ends_them_and_tells_what_is_left_to_do(api: Caller, ana: Someone) -> None:
    said = StringIO()
    call_command("end_sessions", "Ana", stdout=said)
    assert not renewed(api, ana.renewal)
    assert "24 hours" in said.getvalue()
    assert said.getvalue().endswith(f"notifier revoke {ana.id}\n")


@pytest.mark.parametrize("name", ["ben", "ana/../ben", ""])
def test_the_command_knows_who_there_is(api: Caller, ana: Someone, name: str) -> None:
    with pytest.raises(CommandError, match=f"nobody has the name {name}"):
        call_command("end_sessions", name)
    assert renewed(api, ana.renewal)
