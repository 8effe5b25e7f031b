"""Google's token endpoint: the question, and every kind of answer."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.grant import Access, GrantError, GrantFault, granted, question, renewal


def test_the_question_is_a_form() -> None:
    assert parse_qs(question("a.b-_.c+/=").decode()) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:jwt-bearer"],
        "assertion": ["a.b-_.c+/="],
    }


def answer(**members: Any) -> bytes:
    return json.dumps(
        {"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"} | members
    ).encode()


def test_a_token() -> None:
    assert granted(200, answer()) == Access("ya29.x", 3599.0)
    assert granted(200, answer(token_type="bearer", expires_in="1800", scope="x")) == Access("ya29.x", 1800.0)
    assert granted(200, b'{"access_token":"t"}') == Access("t", 3600.0)


FAULTS: list[tuple[int, bytes, GrantFault, str]] = [
    (200, b"", "unreadable", "something else"),
    (200, b"<html>", "unreadable", "something else"),
    (200, b"\xff", "unreadable", "something else"),
    (200, b"[" * 10_000, "unreadable", "something else"),
    (200, b"{}", "unreadable", "something else"),
    (200, answer(access_token=""), "unreadable", "something else"),
    (200, answer(access_token="a\r\nx: y"), "unreadable", "something else"),
    (200, answer(access_token="x" * 4097), "unreadable", "something else"),
    (200, answer(access_token=7), "unreadable", "something else"),
    (200, answer(token_type="mac"), "unreadable", "something else"),
    (200, answer(expires_in="soon"), "unreadable", "something else"),
    (200, answer(expires_in="nan"), "unreadable", "expires_in"),
    (200, answer(expires_in=59), "unreadable", "expires_in"),
    (200, answer(expires_in=-1), "unreadable", "expires_in"),
    (200, answer(expires_in=86_401), "unreadable", "expires_in"),
    (302, b"", "unreadable", "302"),
    (400, b'{"error":"invalid_grant","error_description":"Invalid JWT"}', "refused", "clock is wrong"),
    (401, b'{"error":"invalid_client"}', "refused", "does not exist"),
    (403, b'{"error":"access_denied"}', "refused", "403 access_denied"),
    (400, b'{"error":"Bad <b>thing</b>"}', "refused", "answered 400"),
    (400, b"", "refused", "answered 400"),
    (404, b'{"error":"invalid_grant"}', "refused", "answered 404"),
    (408, b"", "later", "408"),
    (429, b"", "later", "429"),
    (500, b"", "later", "500"),
    (503, answer(), "later", "503"),
]


@pytest.mark.parametrize(("status", "body", "fault", "said"), FAULTS)
def test_no_token(status: int, body: bytes, fault: GrantFault, said: str) -> None:
    with pytest.raises(GrantError, match=said) as caught:
        granted(status, body)
    assert caught.value.fault == fault
    assert "<b>" not in str(caught.value)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_noise_is_taken_for_a_token(status: int, body: bytes) -> None:
    with pytest.raises(GrantError):
        granted(status, body)


def test_a_token_is_renewed_some_minutes_before_its_end() -> None:
    rule = renewal(Access("t", 3600.0))
    assert (rule.early, rule.late, rule.most) == (3000.0, 3300.0, 3600.0)
    rule = renewal(Access("t", 100.0))
    assert (rule.early, rule.late, rule.most) == (50.0, 75.0, 100.0)
    assert not rule.may_force(0.0, 59.0, accepted=True)
    assert rule.may_force(0.0, 60.0, accepted=True)


@given(st.floats(60, 86_400), st.floats(0, 1))
def test_it_is_renewed_before_it_dies(life: float, chance: float) -> None:
    rule = renewal(Access("t", life))
    assert 0 < rule.early <= rule.late < rule.most
    assert not rule.due(0.0, 0.0, chance)
    assert rule.due(0.0, life, chance)


def test_an_access_shows_no_token() -> None:
    assert "ya29" not in repr(granted(200, answer()))
