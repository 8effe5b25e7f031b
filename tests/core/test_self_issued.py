"""Tokens that a process issues to itself: good for canaries, with that process, for a short time, and for no more."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode

import pytest

from notifier.core.canary import PREFIX
from notifier.core.self_issued import LEEWAY, LIFE, SelfIssued
from notifier.core.tokens import Key, TokenError, Verifier
from tests.client import KID, token

NOW = 1_700_000_000.5
ANYBODY = Verifier([Key(KID, "HS256", lambda data, signature: True)], "notifier", None, 86_400, 30)


def own(secret: bytes = b"s" * 32) -> SelfIssued:
    return SelfIssued(secret, ANYBODY)


def test_its_own_token_is_a_canarys() -> None:
    identity = own().verify(own().issue(f"{PREFIX}0", NOW), NOW)
    assert (identity.user, identity.issued, identity.expires) == (f"{PREFIX}0", int(NOW), int(NOW) + LIFE)
    assert identity.scopes == {"inbox"}


def test_other_tokens_are_the_verifiers_affair() -> None:
    assert own().verify(token("7"), time.time()).user == "7"


@pytest.mark.parametrize("user", ["7", "notifier", "notifier.canar", "Notifier.canary.0"])
def test_it_speaks_for_nobody_else(user: str) -> None:
    with pytest.raises(TokenError) as refused:
        own().verify(own().issue(user, NOW), NOW)
    assert refused.value.reason == "subject"


def test_nobody_else_speaks_for_canaries() -> None:
    with pytest.raises(TokenError) as refused:
        own().verify(token(f"{PREFIX}0"), time.time())
    assert refused.value.reason == "subject"


def test_another_process_does_not_take_it() -> None:
    with pytest.raises(TokenError) as refused:
        own().verify(own(b"t" * 32).issue(f"{PREFIX}0", NOW), NOW)
    assert refused.value.reason == "unknown_key"


def test_the_api_does_not_take_it() -> None:
    with pytest.raises(TokenError):
        ANYBODY.verify(own().issue(f"{PREFIX}0", NOW), NOW)


def test_its_head_alone_is_no_key() -> None:
    head, claims, _ = own().issue(f"{PREFIX}0", NOW).split(".")
    other = own(b"t" * 32).issue(f"{PREFIX}0", NOW).rpartition(".")[2]
    for signature in ("", other, other[:-2]):
        with pytest.raises(TokenError):
            own().verify(f"{head}.{claims}.{signature}", NOW)


def test_it_is_short_lived() -> None:
    issued = own().issue(f"{PREFIX}0", NOW)
    own().verify(issued, NOW - LEEWAY)
    with pytest.raises(TokenError) as refused:
        own().verify(issued, NOW + LIFE + LEEWAY)
    assert refused.value.reason == "expired"


def test_it_tells_nothing_of_the_key() -> None:
    header, claims, _ = own(b"secret" * 8).issue(f"{PREFIX}0", NOW).split(".")
    for part in (header, claims):
        assert b"secret" not in urlsafe_b64decode(part + "=" * (-len(part) % 4))
    assert json.loads(urlsafe_b64decode(header + "==="))["alg"] == "HS256"
