"""Credentials: claims, when to renew, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.credentials import (
    APNS_RENEWAL,
    MAX_FILE,
    TOKEN_HOSTS,
    CredentialError,
    apns_key,
    check_url,
    p8,
    service_account,
    topic,
)

NOW = 1_795_335_933.9
PEM = "-----BEGIN PRIVATE KEY-----\nTUlHSEFnRUFNQk1HQnlxR1NNNDk=\n-----END PRIVATE KEY-----\n"
SECRET = "TUlHSEFnRUFNQk1HQnlxR1NNNDk"
ACCOUNT = {
    "type": "service_account",
    "project_id": "photos-1234",
    "private_key_id": "0a1b2c",
    "private_key": PEM,
    "client_email": "push@photos-1234.iam.gserviceaccount.com",
    "client_id": "1",
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def file(**changes: Any) -> bytes:
    """A service account's file; `...` takes a member out."""
    return json.dumps({k: v for k, v in (ACCOUNT | changes).items() if v is not ...}).encode()


def test_apples_token() -> None:
    key = apns_key("ABC123DEFG", "TEAM123456")
    assert key.header() == {"alg": "ES256", "kid": "ABC123DEFG"}
    assert key.claims(NOW) == {"iss": "TEAM123456", "iat": 1_795_335_933}


@pytest.mark.parametrize("bad", ["", "ABC", "abc123defg", "ABC123DEFGH", "ABC123DEF\n", "ÀBC123DEFG"])
def test_names_that_are_none_of_apples(bad: str) -> None:
    with pytest.raises(CredentialError, match="key id"):
        apns_key(bad, "TEAM123456")
    with pytest.raises(CredentialError, match="team id"):
        apns_key("ABC123DEFG", bad)


def test_a_topic_is_a_bundle_id() -> None:
    assert topic("com.example.photos-2") == "com.example.photos-2"
    for bad in ("", "com.example photos", "com.example\r\nx: y", "-x", "x" * 156):
        with pytest.raises(CredentialError, match="bundle id"):
            topic(bad)


def test_googles_assertion() -> None:
    account = service_account(file())
    assert account.header() == {"alg": "RS256", "typ": "JWT", "kid": "0a1b2c"}
    assert account.claims(NOW) == {
        "iss": "push@photos-1234.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_795_335_933,
        "exp": 1_795_339_533,
    }
    assert account.private_key == PEM.encode()
    assert account.project_id == "photos-1234"


def test_what_may_be_missing_from_the_file() -> None:
    account = service_account(file(token_uri=..., private_key_id=...))
    assert account.token_uri == "https://oauth2.googleapis.com/token"
    assert account.header() == {"alg": "RS256", "typ": "JWT"}
    assert service_account(file(project_id="example.com:photos-1")).project_id == "example.com:photos-1"


BAD_FILES = [
    (b"", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"x":' * 10_000, "not JSON"),
    (b"[]", "array"),
    (b"{}", "type"),
    (b" " * (MAX_FILE + 1), "larger"),
    (file(type="authorized_user"), "Service accounts"),
    (file(private_key=...), "private_key"),
    (file(private_key=7), "private_key"),
    (file(project_id=""), "project_id"),
    (file(project_id="../../x"), "project_id"),
    (file(project_id="photos/x"), "project_id"),
    (file(client_email="nobody"), "client_email"),
    (file(private_key_id="a b"), "private_key_id"),
    (file(private_key="x"), "PRIVATE KEY in PEM"),
    (file(private_key=PEM + PEM), "one PRIVATE KEY"),
    (file(private_key=PEM.replace("PRIVATE", "RSA PRIVATE")), "older form"),
    (file(private_key=PEM.replace("PRIVATE", "ENCRYPTED PRIVATE")), "encrypted"),
    (file(token_uri="http://oauth2.googleapis.com/token"), "token_uri"),
    (file(token_uri="https://169.254.169.254/latest"), "token_uri"),
]


@pytest.mark.parametrize(("data", "said"), BAD_FILES)
def test_a_file_that_cannot_be_used_says_why_and_shows_no_secret(data: bytes, said: str) -> None:
    with pytest.raises(CredentialError, match=said) as caught:
        service_account(data)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or SECRET not in repr(caught.value.__context__)


def test_no_repr_shows_a_key() -> None:
    assert SECRET not in repr(service_account(file()))


BAD_KEYS = [
    (b"", "one PRIVATE KEY"),
    (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "one PRIVATE KEY"),
    (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "certificate"),
    (b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "public half"),
    (b"-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n", "older form"),
    (b"x" * (MAX_FILE + 1), "larger"),
    (b"-----BEGIN PRIVATE KEY-----" + b"\n" * 60_000, "one PRIVATE KEY"),
]


@pytest.mark.parametrize(("data", "said"), BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_key_file_that_is_none(data: bytes, said: str) -> None:
    with pytest.raises(CredentialError, match=said):
        p8(data)


def test_a_key_file_as_apple_gives_it() -> None:
    for data in (PEM.encode(), PEM.rstrip().encode(), PEM.replace("\n", "\r\n").encode()):
        assert p8(data) == data


HOSTS = (*TOKEN_HOSTS, "*.example.com")
GOOD_URLS = [
    "https://oauth2.googleapis.com/token",
    "https://OAUTH2.googleapis.com:443/token?x=y",
    "https://oauth2.googleapis.com./token",
    "https://a.example.com",
    "https://a.b.example.com/",
]
BAD_URLS = [
    "", "https://", "oauth2.googleapis.com/token", "http://oauth2.googleapis.com/token", "ftp://a.example.com",
    "https://oauth2.googleapis.com:8443/token", "https://oauth2.googleapis.com:x/", "https://user@a.example.com/",
    "https://a.example.com@evil.test/", "https://a.example.com/#x", "https://oauth2.googleapis.com.evil.test/",
    "https://evil-oauth2.googleapis.com/", "https://x.oauth2.googleapis.com/", "https://example.com/",
    "https://badexample.com/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
    "https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://a.example.com\\@evil.test/",
    "https://a.example.com/\r\nHost: x", "https://ä.example.com/", "https://a.example.com/" + "x" * 2048,
    "file:///etc/passwd", "https:///etc/passwd", "https://[", "https://a.example.com:0443x/",
]  # fmt: skip


def test_where_requests_may_go() -> None:
    for url in GOOD_URLS:
        check_url(url, HOSTS)


@pytest.mark.parametrize("url", BAD_URLS)
def test_where_they_may_not(url: str) -> None:
    with pytest.raises(CredentialError):
        check_url(url, HOSTS)


def test_an_address_is_refused_even_where_it_is_listed() -> None:
    for host in ("127.0.0.1", "2130706433", "0x7f000001"):
        with pytest.raises(CredentialError, match="address"):
            check_url(f"https://{host}/", (host,))


def test_apples_token_is_renewed_between_45_and_50_minutes() -> None:
    for chance, minutes in ((0.0, 45), (0.5, 47.5), (1.0, 50)):
        assert not APNS_RENEWAL.due(NOW, NOW + minutes * 60 - 1, chance)
        assert APNS_RENEWAL.due(NOW, NOW + minutes * 60, chance)


def test_a_clock_that_was_set_back_renews_at_once() -> None:
    assert APNS_RENEWAL.due(NOW, NOW - 1, 0.5)
    assert APNS_RENEWAL.may_force(NOW, NOW - 1, accepted=True)


def test_a_token_that_was_refused_is_not_made_anew_too_soon() -> None:
    assert not APNS_RENEWAL.may_force(NOW, NOW + 1199, accepted=True)
    assert APNS_RENEWAL.may_force(NOW, NOW + 1200, accepted=True)
    assert APNS_RENEWAL.may_force(NOW, NOW, accepted=False)


def test_after_an_hour_a_token_is_dead() -> None:
    assert not APNS_RENEWAL.is_dead(NOW, NOW + 3599)
    assert APNS_RENEWAL.is_dead(NOW, NOW + 3600)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode()))
def test_no_file_makes_it_fail_in_another_way(data: bytes) -> None:
    for check in (service_account, p8):
        with pytest.raises(CredentialError):
            check(data)
