"""How often one may do what, and that guesses of passwords are counted."""

from __future__ import annotations

import pytest

from tests.webapp.caller import PASSWORD, PICTURE, Caller
from tests.webapp.stack import Stack
from webapp import config


@pytest.fixture
def limited(api: Caller, db: Stack) -> Caller:
    """A client with rates that are soon used up; a day is as good as for ever."""
    db.sections["limits"] = {
        "address": "60/day", "portraits": "5/day", "reads": "4/day", "writes": "3/day", "uploads": "1/day",
        "sign_ups": "5/day", "log_ins": "3/day", "log_ins_name": "3/day",
    }  # fmt: skip
    db.write()
    return api


def test_reads_and_writes_of_a_person(limited: Caller) -> None:
    ana, ben = limited.join("ana"), limited.join("ben")
    other = Caller()
    assert [limited("GET", "/api/me", ana).status for _ in range(4)] == [200] * 4
    refused = other("GET", "/api/feed", ana)
    assert (refused.status, refused.problem) == (429, "too-many-requests")
    assert 80_000 / 4 < int(refused.headers["Retry-After"]) <= 86_400 / 4
    assert limited("GET", "/api/me", ben).status == 200, "another person has their own"
    assert [limited("PATCH", "/api/me", ana, {"bio": "x"}).status for _ in range(4)] == [200, 200, 200, 429]


def test_what_is_refused_is_not_done(limited: Caller) -> None:
    ana = limited.join("ana")
    for number in range(4):
        limited("PATCH", "/api/me", ana, {"bio": str(number)})
    assert limited("GET", "/api/me", ana).json["bio"] == "2"


def test_uploads(limited: Caller) -> None:
    ana = limited.join("ana")
    assert limited.form("POST", "/api/photos", ana, file=PICTURE).status == 201
    assert limited.form("PUT", "/api/me/avatar", ana, file=PICTURE).problem == "too-many-requests"
    assert limited("PATCH", "/api/me", ana, {"bio": "x"}).status == 200


def test_an_address(limited: Caller) -> None:
    assert [limited("GET", "/api/discover").status for _ in range(61)] == [200] * 60 + [429]
    assert Caller()("GET", "/api/discover").status == 200
    for path in ("/api/health", "/api/ready"):
        assert limited("GET", path).status == 200, "who looks after it is not turned away"


def test_pictures_of_people(limited: Caller) -> None:
    """Of whoever they are, counted for the address and apart from the API; what is refused is kept by no cache."""
    ana = limited.join("ana")
    assert limited.form("PUT", "/api/me/avatar", ana, file=PICTURE).status == 200
    known, unknown = f"/portraits/{ana.id}", "/portraits/1"
    statuses = [limited(method, path).status for path in (known, unknown) for method in ("GET", "HEAD")]
    assert statuses == [302, 302, 404, 404]
    assert limited("GET", known, ana).status == 302
    for path in (known, unknown):
        refused = limited("GET", path)
        assert (refused.status, refused.problem) == (429, "too-many-requests")
        assert refused.headers["Cache-Control"] == "no-store"
        assert 0 < int(refused.headers["Retry-After"]) <= 86_400 / 5
    assert limited("GET", known, ana).status == 429, "whoever asks"
    assert limited("GET", "/api/discover").status == 200
    assert Caller()("GET", known).status == 302
    proxied = Caller("127.0.0.1")("GET", known, HTTP_X_FORWARDED_FOR=limited.address)
    assert proxied.status == 429, "a proxy of ours tells who asks"


def test_an_address_behind_a_proxy(limited: Caller) -> None:
    """What a trusted proxy says counts; what a client says of itself does not."""
    proxy = Caller("127.0.0.1")
    statuses = [
        proxy("GET", "/api/discover", HTTP_X_FORWARDED_FOR=f"9.9.9.{at}, 198.51.100.7").status
        for at in range(61)
    ]
    assert statuses == [200] * 60 + [429]
    assert proxy("GET", "/api/discover", HTTP_X_FORWARDED_FOR="198.51.100.8").status == 200
    liar = Caller()
    statuses = [liar("GET", "/api/discover", HTTP_X_FORWARDED_FOR=f"9.9.9.{at}").status for at in range(61)]
    assert statuses == [200] * 60 + [429]


def test_sign_ups(limited: Caller) -> None:
    for number in range(5):
        limited.join(f"p{number}")
    assert limited("POST", "/api/people", None, {"name": "p6", "password": PASSWORD}).status == 429
    assert Caller()("POST", "/api/people", None, {"name": "p6", "password": PASSWORD}).status == 201


def test_guessing_from_one_address(limited: Caller) -> None:
    for number in range(3):
        limited("POST", "/api/session", None, {"name": f"p{number}", "password": "guess"})
    assert limited("POST", "/api/session", None, {"name": "p9", "password": "guess"}).status == 429


def test_guessing_from_many_addresses(limited: Caller) -> None:
    """The right words are refused as well: or the throttle would tell which they are."""
    limited.join("ana")
    statuses = [
        Caller()("POST", "/api/session", None, {"name": name, "password": "guess"}).status
        for name in ("ana", "ANA", "Ana")
    ]
    assert statuses == [401] * 3
    refused = Caller()("POST", "/api/session", None, {"name": "ana", "password": PASSWORD})
    assert (refused.status, refused.problem) == (429, "too-many-requests")
    assert int(refused.headers["Retry-After"]) > 0


def test_guessing_the_old_password(limited: Caller, db: Stack) -> None:
    """Counted as at the log-in: for the address, and with the log-ins of the account; what is right is given back."""
    db.sections["limits"]["writes"] = "100/day"
    db.write()
    ana = limited.join("ana")

    def change(old: str, new: str = PASSWORD, caller: Caller | None = None) -> int:
        body = {"old": old, "new": new}
        return (caller or Caller())("PUT", "/api/me/password", ana, body).status

    one = Caller()
    assert [change(PASSWORD, caller=one) for _ in range(4)] == [200, 200, 200, 429]
    assert [change("guess") for _ in range(4)] == [422, 422, 422, 429]
    assert change(PASSWORD) == 429, "or the throttle would tell which is right"
    log_in = {"name": "ana", "password": PASSWORD}
    assert Caller()("POST", "/api/session", None, log_in).status == 429


def test_ending_sessions(limited: Caller) -> None:
    ana = limited.join("ana")
    assert [limited("POST", "/api/session/end", ana).status for _ in range(4)] == [204, 204, 204, 429]


def test_a_stranger_locks_nobody_out(api: Caller, db: Stack) -> None:
    api.join("ana")
    db.sections["limits"]["log_ins"] = "10/minute"
    db.write()
    attacker, owner = Caller("203.0.113.9"), Caller("198.51.100.7")
    for _ in range(10):
        attacker("POST", "/api/session", None, {"name": "ana", "password": "wrong horse"})
    assert owner("POST", "/api/session", None, {"name": "ana", "password": PASSWORD}).status == 200


def test_by_default_one_address_alone_cannot_lock_anybody_out() -> None:
    one, name = config.rate(config.Limits().log_ins), config.rate(config.Limits().log_ins_name)
    assert one.count / one.seconds < name.count / name.seconds
    assert one.count < name.count


def test_of_an_account_only_tries_that_fail_count(limited: Caller) -> None:
    limited.join("ana")

    def log_in(password: str) -> int:
        return Caller()("POST", "/api/session", None, {"name": "ana", "password": password}).status

    assert [log_in(PASSWORD) for _ in range(5)] == [200] * 5
    assert [log_in("guess"), log_in(PASSWORD), log_in("guess"), log_in(PASSWORD)] == [401, 200, 401, 200]
    assert [log_in("guess"), log_in("guess"), log_in(PASSWORD)] == [401, 429, 429]


def test_guessing_tokens_counts_too(limited: Caller) -> None:
    statuses = [limited("GET", "/api/me", HTTP_AUTHORIZATION="Bearer x").status for _ in range(61)]
    assert statuses == [401] * 60 + [429]
