"""Tokens of the photo API: what one says, and which are refused."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from webapp import config
from webapp.problems import Problem
from webapp.tokens import Tokens, make_key, read

SETTINGS = config.Tokens(kid="one", issuer="here", audience="there", hours=3)
PERSON = 7_000_000_000_000_000_001


def pem_of(key: Any) -> bytes:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


KEY = Ed25519PrivateKey.generate()
TOKENS = Tokens(pem_of(KEY), SETTINGS)


def test_what_a_token_says() -> None:
    issued = Tokens(pem_of(KEY), SETTINGS, clock=lambda: 1_000_000.9).issue(PERSON)
    assert issued.expires == 1_010_800
    assert jwt.get_unverified_header(issued.token) == {"alg": "EdDSA", "kid": "one", "typ": "JWT"}
    assert jwt.decode(issued.token, options={"verify_signature": False}) == {
        "iss": "here", "aud": "there", "sub": str(PERSON), "iat": 1_000_000, "exp": 1_010_800,
        "scope": "inbox photos",
    }  # fmt: skip


def test_the_public_key_opens_it() -> None:
    public = serialization.load_pem_public_key(TOKENS.public_pem())
    token = TOKENS.issue(PERSON).token
    claims = jwt.decode(token, public, algorithms=["EdDSA"], audience="there")  # type: ignore[arg-type]  # of several kinds
    assert claims["sub"] == str(PERSON)
    assert b"PRIVATE" not in TOKENS.public_pem()


def test_its_person_comes_in() -> None:
    assert TOKENS.person(TOKENS.issue(PERSON).token) == PERSON


def signed(key: Any = KEY, algorithm: str = "EdDSA", **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "here",
        "aud": "there",
        "sub": "5",
        "iat": now,
        "exp": now + 60,
        "scope": "photos",
    } | changes
    kept = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode(kept, key, algorithm)


def unsigned() -> str:
    header = urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    return f"{header}.{signed().split('.')[1]}."


def hmac_of_the_public_key() -> str:
    header = urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    signing = f"{header}.{signed().split('.')[1]}"
    digest = hmac.new(TOKENS.public_pem(), signing.encode(), hashlib.sha256).digest()
    return f"{signing}.{urlsafe_b64encode(digest).decode().rstrip('=')}"


def with_changed_claims() -> str:
    header, _, signature = signed().split(".")
    return f"{header}.{signed(sub='6').split('.')[1]}.{signature}"


BAD: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "text": lambda: "hello",
    "dots": lambda: "..",
    "control characters": lambda: "\x00.\r\n.\ud800",
    "long": lambda: "a" * 5000,
    "deep": lambda: urlsafe_b64encode(b"[" * 3000).decode().rstrip("=")[:4000] + "..",
    "another key": lambda: signed(Ed25519PrivateKey.generate()),
    "another algorithm": lambda: signed(generate_private_key(SECP256R1()), "ES256"),
    "no algorithm": unsigned,
    "the public key as a secret": hmac_of_the_public_key,
    "changed claims": with_changed_claims,
    "another issuer": lambda: signed(iss="elsewhere"),
    "another audience": lambda: signed(aud="elsewhere"),
    "no audience": lambda: signed(aud=...),
    "no end": lambda: signed(exp=...),
    "no person": lambda: signed(sub=...),
    "a person in words": lambda: signed(sub="ana"),
    "person 0": lambda: signed(sub="0"),
    "a person too large": lambda: signed(sub=str(1 << 63)),
    "digits of elsewhere": lambda: signed(sub="٣"),
    "from the future": lambda: signed(iat=int(time.time()) + 300),
    "another scope": lambda: signed(scope="inbox photoshop"),
    "no scope": lambda: signed(scope=...),
    "scopes as a list": lambda: signed(scope=["photos"]),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused(make: Callable[[], str]) -> None:
    with pytest.raises(Problem) as caught:
        TOKENS.person(make())
    assert (caught.value.kind, caught.value.status) == ("invalid-token", 401)


def test_an_old_token_is_told_from_a_bad_one() -> None:
    with pytest.raises(Problem) as caught:
        TOKENS.person(signed(iat=1, exp=2))
    assert caught.value.kind == "expired-token"


def test_a_token_that_was_good_ends() -> None:
    now = [time.time()]
    tokens = Tokens(pem_of(KEY), SETTINGS, clock=lambda: now[0])
    issued = tokens.issue(5)
    assert tokens.person(issued.token) == tokens.person(issued.token) == 5
    now[0] = issued.expires + 29
    assert tokens.person(issued.token) == 5, "clocks may differ"
    now[0] = issued.expires + 31
    with pytest.raises(Problem) as caught:
        tokens.person(issued.token)
    assert caught.value.kind == "expired-token"


def test_what_is_refused_is_refused_again() -> None:
    bad = signed(scope="inbox")
    for _ in range(2):
        with pytest.raises(Problem):
            TOKENS.person(bad)


def test_what_the_helper_signs_is_good() -> None:
    """Or all of the bad ones might be bad for another reason."""
    assert TOKENS.person(signed()) == 5


def test_a_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "tokens.pem"
    make_key(file)
    first = file.read_bytes()
    make_key(file)
    assert file.read_bytes() == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    wrong = {
        "empty": b"",
        "public": TOKENS.public_pem(),
        "other": pem_of(generate_private_key(SECP256R1())),
        "locked": KEY.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ),
    }
    for name, pem in wrong.items():
        (tmp_path / name).write_bytes(pem)
    for name in (*wrong, "missing"):
        with pytest.raises(config.ConfigError, match=r"tokens\.key_file: .*" + name):
            read(config.Tokens(key_file=str(tmp_path / name)))
    with pytest.raises(config.ConfigError, match="nobody can come in"):
        read(config.Tokens())


def test_threads_of_one_process_make_one_key(tmp_path: Path) -> None:
    file = tmp_path / "tokens.pem"
    threads = [threading.Thread(target=make_key, args=(file,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.pem"]
    read(config.Tokens(key_file=str(file)))


def test_what_renews_is_no_token_and_no_token_renews() -> None:
    renewal = TOKENS.renewal(PERSON, "mark")
    assert TOKENS.renewed(renewal) == (PERSON, "mark")
    for wrong, use in ((renewal, TOKENS.person), (TOKENS.issue(PERSON).token, TOKENS.renewed)):
        with pytest.raises(Problem) as refused:
            use(wrong)
        assert refused.value.kind == "invalid-token"


def test_one_audience_for_all_confuses_nobody() -> None:
    """Also where the configuration gives tokens the audience of what renews them."""
    odd = Tokens(pem_of(KEY), config.Tokens(issuer="here", audience="here:renewal"))
    with pytest.raises(Problem):
        odd.person(odd.renewal(PERSON, "mark"))
    assert odd.renewed(odd.issue(PERSON).token) == (PERSON, "None"), "which is no mark of anybody"


def test_a_renewal_ends() -> None:
    days = SETTINGS.renewal_days * 86_400
    for age, kind in ((days - 60, None), (days + 60, "expired-token")):
        renewal = Tokens(pem_of(KEY), SETTINGS, clock=lambda age=age: time.time() - age).renewal(1, "m")  # type: ignore[misc]
        if kind is None:
            assert TOKENS.renewed(renewal) == (1, "m")
            continue
        with pytest.raises(Problem) as refused:
            TOKENS.renewed(renewal)
        assert refused.value.kind == kind
