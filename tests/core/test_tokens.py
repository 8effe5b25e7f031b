"""Token rules, with keys made of the standard hmac only; PyJWT is the second opinion."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notifier.core.tokens import MAX_BYTES, REASONS, Identity, Key, Reason, TokenError, Verifier, base64url

NOW = 1_800_000_000
LEEWAY = 30
MAX_LIFE = 3600
SECRET = b"a secret of the tests, 32 bytes and more"
OTHER = b"another secret of the tests, as long as that"
CLAIMS = {"sub": "ana", "aud": "notifier", "iat": NOW - 60, "exp": NOW + 600}
HEADER = {"alg": "HS256", "kid": "k1", "typ": "JWT"}


def mac(secret: bytes, data: bytes) -> bytes:
    return hmac.digest(secret, data, hashlib.sha256)


def hs256(kid: str, secret: bytes) -> Key:
    return Key(kid, "HS256", lambda data, signature: hmac.compare_digest(mac(secret, data), signature))


def pinned(kid: str, algorithm: str) -> Key:
    """A key of another algorithm whose check says yes to all: only the pin stands in the way."""
    return Key(kid, algorithm, lambda _data, _signature: True)


def verifier(*keys: Key, issuer: str | None = None) -> Verifier:
    return Verifier(keys or (hs256("k1", SECRET),), "notifier", issuer, MAX_LIFE, LEEWAY)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: Any = HEADER, claims: Any = CLAIMS, secret: bytes = SECRET) -> str:
    """A token of a header and claims given as objects, or as the raw bytes of a segment."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    body = ".".join(b64(part) for part in parts)
    return f"{body}.{b64(mac(secret, body.encode()))}"


def claims(**changes: Any) -> dict[str, Any]:
    """The good claims with changes; `...` takes a claim out."""
    return {name: value for name, value in (CLAIMS | changes).items() if value is not ...}


def header(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (HEADER | changes).items() if value is not ...}


def refusal(token: str, by: Verifier | None = None, now: float = NOW) -> TokenError:
    with pytest.raises(TokenError) as caught:
        (by or verifier()).verify(token, now)
    return caught.value


def outcome(token: str, by: Verifier | None = None, now: float = NOW) -> Reason | None:
    try:
        (by or verifier()).verify(token, now)
    except TokenError as error:
        return error.reason
    return None


# The good ---------------------------------------------------------------------------------------------------


def test_a_good_token_names_its_person() -> None:
    checked = verifier()
    found = checked.verify(sign(), NOW)
    assert found == Identity("ana", NOW - 60, NOW + 600, frozenset({"inbox"}), found.key)
    assert found.key is not None
    assert checked.holds(found.key)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (..., {"inbox"}),
        ("", set()),
        (" ", set()),
        ("inbox", {"inbox"}),
        ("events:write inbox", {"events:write", "inbox"}),
        ("inbox  inbox ", {"inbox"}),
    ],
)
def test_scopes(scope: object, expected: set[str]) -> None:
    assert verifier().verify(sign(claims=claims(scope=scope)), NOW).scopes == expected


def test_without_iat_issued_is_zero() -> None:
    assert verifier().verify(sign(claims=claims(iat=...)), NOW).issued == 0


def test_fractions_of_a_second_are_cut_off() -> None:
    identity = verifier().verify(sign(claims=claims(iat=NOW - 0.5, exp=NOW + 9.9)), NOW)
    assert (identity.issued, identity.expires) == (NOW - 1, NOW + 9)


def test_unknown_members_are_ignored() -> None:
    assert outcome(sign(header(x="y"), claims(jti="1", name={"first": "ana"}))) is None


@pytest.mark.parametrize("sub", ["a", "7", "A-b_c.9", "x" * 64])
def test_good_subs(sub: str) -> None:
    assert verifier().verify(sign(claims=claims(sub=sub)), NOW).user == sub


@pytest.mark.parametrize("aud", ["notifier", ["notifier"], ["web", "notifier"]])
def test_good_audiences(aud: object) -> None:
    assert outcome(sign(claims=claims(aud=aud))) is None


# The bad claims ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sub": ...}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": "x" * 65}, "subject"),
        ({"sub": "ana "}, "subject"),
        ({"sub": "ana\n"}, "subject"),
        ({"sub": "a:b"}, "subject"),
        ({"sub": "a/b"}, "subject"),
        ({"sub": "a{b}"}, "subject"),
        ({"sub": "añà"}, "subject"),
        ({"sub": "٣"}, "subject"),
        ({"sub": "a\0"}, "subject"),
        ({"sub": 7}, "claims"),
        ({"sub": None}, "claims"),
        ({"sub": ["ana"]}, "claims"),
        ({"aud": ...}, "audience"),
        ({"aud": "other"}, "audience"),
        ({"aud": "notifier2"}, "audience"),
        ({"aud": "Notifier"}, "audience"),
        ({"aud": "the notifier of others"}, "audience"),
        ({"aud": ""}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": ["notifier", 1]}, "claims"),
        ({"aud": {"notifier": 1}}, "claims"),
        ({"aud": None}, "claims"),
        ({"exp": ...}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": str(NOW + 600)}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": -1}, "claims"),
        ({"exp": 1e300}, "claims"),
        ({"exp": 10**400}, "claims"),
        ({"iat": str(NOW)}, "claims"),
        ({"iat": None}, "claims"),
        ({"nbf": "now"}, "claims"),
        ({"nbf": [NOW]}, "claims"),
        ({"iss": 7}, "claims"),
        ({"scope": ["inbox"]}, "claims"),
        ({"scope": None}, "claims"),
        ({"scope": "inbox\tevents"}, "claims"),
        ({"scope": 'in"box'}, "claims"),
        ({"scope": "in\\box"}, "claims"),
        ({"scope": "inböx"}, "claims"),
    ],
)
def test_bad_claims(changes: dict[str, Any], reason: Reason) -> None:
    assert outcome(sign(claims=claims(**changes))) == reason


@pytest.mark.parametrize(
    ("iss", "reason"),
    [
        ("https://id.example", None),
        (..., "issuer"),
        ("https://id.example/", "issuer"),
        ("", "issuer"),
        (["https://id.example"], "claims"),
    ],
)
def test_issuer_when_configured(iss: object, reason: Reason | None) -> None:
    assert outcome(sign(claims=claims(iss=iss)), verifier(issuer="https://id.example")) == reason


def test_issuer_is_free_when_not_configured() -> None:
    assert outcome(sign(claims=claims(iss="anyone"))) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - LEEWAY + 1}, None),
        ({"exp": NOW - LEEWAY}, "expired"),
        ({"exp": NOW - LEEWAY + 0.9}, "expired"),
        ({"exp": 0, "iat": 0}, "expired"),
        ({"nbf": NOW + LEEWAY}, None),
        ({"nbf": NOW + LEEWAY + 1}, "not_yet"),
        ({"iat": NOW + LEEWAY}, None),
        ({"iat": NOW + LEEWAY + 1}, "not_yet"),
        ({"iat": ..., "nbf": NOW + LEEWAY + 1}, "not_yet"),
        ({"iat": NOW + LEEWAY + 1, "nbf": NOW}, "not_yet"),
        ({"iat": NOW, "exp": NOW + MAX_LIFE}, None),
        ({"iat": NOW, "exp": NOW + MAX_LIFE + 1}, "lifetime"),
        ({"iat": NOW - MAX_LIFE, "exp": NOW + 1}, "lifetime"),
        ({"iat": NOW - MAX_LIFE, "exp": NOW}, None),
        ({"iat": 0}, "lifetime"),
        ({"iat": ..., "exp": NOW + MAX_LIFE}, None),
        ({"iat": ..., "exp": NOW + MAX_LIFE + 1}, "lifetime"),
        ({"iat": ..., "exp": 253_402_300_799}, "lifetime"),
    ],
)
def test_times_at_their_boundaries(changes: dict[str, Any], reason: Reason | None) -> None:
    assert outcome(sign(claims=claims(**changes))) == reason


def test_now_has_fractions_too() -> None:
    token = sign(claims=claims(exp=NOW))
    assert outcome(token, now=NOW + LEEWAY - 0.001) is None
    assert outcome(token, now=NOW + LEEWAY) == "expired"


# Keys and algorithms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS384", "hs256", "HS256 ", "EdDSA", "RS256"])
def test_the_header_cannot_choose_the_algorithm(alg: str) -> None:
    assert outcome(sign(header(alg=alg))) == "algorithm"


@pytest.mark.parametrize("alg", ["none", "HS256", "ES256"])
def test_a_key_is_pinned_even_when_its_check_would_agree(alg: str) -> None:
    assert outcome(sign(header(alg=alg)), verifier(pinned("k1", "EdDSA"))) == "algorithm"


def test_a_kid_does_not_borrow_another_keys_algorithm() -> None:
    by = verifier(hs256("k1", SECRET), pinned("k2", "EdDSA"))
    assert outcome(sign(header(kid="k2")), by) == "algorithm"


def test_a_token_without_signature() -> None:
    unsigned = ".".join(sign(header(alg="none")).split(".")[:2])
    assert outcome(f"{unsigned}.") == "algorithm"
    assert outcome(unsigned) == "malformed"
    assert outcome(".".join(sign().split(".")[:2]) + ".") == "signature"


@pytest.mark.parametrize(
    "kid", ["", "K1", "k1 ", "k1\0", "../k1", "' OR 1=1 --", "http://evil.example/jwks", "k2"]
)
def test_an_unknown_kid_selects_nothing(kid: str) -> None:
    assert outcome(sign(header(kid=kid))) == "unknown_key"


@pytest.mark.parametrize("kid", [None, 1, ["k1"], {"k1": 1}])
def test_a_kid_is_a_string(kid: object) -> None:
    assert outcome(sign(header(kid=kid))) == "malformed"


def test_the_kid_may_be_missing_only_beside_a_single_key() -> None:
    token = sign(header(kid=...))
    assert outcome(token) is None
    assert outcome(token, verifier(hs256("k1", SECRET), hs256("k2", OTHER))) == "unknown_key"
    assert outcome(token, Verifier((), "notifier", None, MAX_LIFE, LEEWAY)) == "unknown_key"


def test_each_kid_has_its_own_secret() -> None:
    by = verifier(hs256("k1", SECRET), hs256("k2", OTHER))
    assert outcome(sign(header(kid="k2"), secret=OTHER), by) is None
    assert outcome(sign(header(kid="k2"), secret=SECRET), by) == "signature"
    assert outcome(sign(secret=OTHER), by) == "signature"


@pytest.mark.parametrize(
    "extension",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": None},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
    ],
)
def test_extensions_are_refused(extension: dict[str, Any]) -> None:
    assert outcome(sign(header(**extension))) == "malformed"


def test_keys_offered_by_the_token_are_not_looked_at() -> None:
    offered = {
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/cert",
        "jwk": {"kty": "oct", "k": b64(OTHER), "kid": "k1"},
        "x5c": [base64.b64encode(b"certificate").decode()],
    }
    assert outcome(sign(header(**offered), secret=OTHER)) == "signature"
    assert outcome(sign(header(**offered))) is None


def test_who_has_let_tokens_in_hears_which_keys_are_gone() -> None:
    gone: list[list[Key]] = []
    one, two = (Key(kid, "HS256", lambda _data, _signature: True, b"1") for kid in ("k1", "k2"))
    again = Key("k1", "HS256", lambda _data, _signature: True, b"1")
    other = Key("k2", "HS256", lambda _data, _signature: True, b"2")
    by = verifier(one, two)
    by.voided = gone.append
    by.replace([again, two, pinned("k3", "RS256")])
    assert gone == [], "read once more, and one more"
    by.replace([again, other])
    assert [[key.kid for key in keys] for keys in gone] == [["k2", "k3"]]
    assert (by.holds(one), by.holds(two), by.holds(other)) == (True, False, True)
    with pytest.raises(ValueError, match="two keys"):
        by.replace([again, one, again])
    assert len(gone) == 1, "a refused set changes nothing"
    by.replace([])
    assert [key.kid for key in gone[-1]] == ["k1", "k2"]


def test_keys_can_be_replaced_while_running() -> None:
    by = verifier()
    old, new = sign(), sign(header(kid="k2"), secret=OTHER)
    assert (outcome(old, by), outcome(new, by)) == (None, "unknown_key")
    by.replace(iter([hs256("k2", OTHER)]))
    assert (outcome(old, by), outcome(new, by)) == ("unknown_key", None)


@pytest.mark.parametrize(
    "keys",
    [
        [hs256("k1", SECRET), hs256("k1", OTHER)],
        [pinned("k1", "none")],
        [pinned("k1", "HS512")],
        [pinned("k1", "")],
    ],
)
def test_bad_sets_of_keys_are_refused_and_the_old_ones_stay(keys: list[Key]) -> None:
    with pytest.raises(ValueError, match="k1"):
        verifier(*keys)
    by = verifier()
    with pytest.raises(ValueError, match="k1"):
        by.replace(keys)
    assert outcome(sign(), by) is None


# The form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "A.A.A",
        sign() + ".",
        sign() + "\n",
        " " + sign(),
        sign() + "=",
        sign().replace(".", ".."),
        sign().replace(".", "=."),
        sign() + ".e30.e30",
        "Bearer " + sign(),
        sign().replace("e", "е", 1),  # a Cyrillic letter
        sign().replace(".", "\u3002"),
        sign()[:-1] + "+",
        sign()[:-1] + "\ud800",
        "{}." + sign().split(".", 1)[1],
        sign(b""),
        sign(b"null"),
        sign(b"[]"),
        sign(b'"HS256"'),
        sign(b"{"),
        sign({}),
        sign({"kid": "k1"}),
        sign(header(alg=None)),
        sign(header(alg=["HS256"])),
        sign(b'{"alg":"HS256"}\xff'),
        sign(b'{"alg":"HS256","kid":"k1","x":"\xff"}'),
        sign(b'\xef\xbb\xbf{"alg":"HS256"}'),
        sign(b'{"alg":"HS256","x":' + b"[" * 2000),
    ],
)
def test_malformed(token: str) -> None:
    assert outcome(token) == "malformed"


@pytest.mark.parametrize(
    "payload", [b"x", b"null", b"[]", b"{", b"\xff", b'{"a":"\xff"}', b'{"a":' + b"[" * 2000, b"{}{}"]
)
def test_a_signed_payload_that_is_no_object(payload: bytes) -> None:
    assert outcome(sign(claims=payload)) == "claims"


def test_a_payload_is_utf_8_to_its_last_member() -> None:
    good = json.dumps(CLAIMS)[:-1].encode()
    assert outcome(sign(claims=good + b',"x":"\xc3\xbf"}')) is None
    assert outcome(sign(claims=good + b',"x":"\xff"}')) == "claims"


@pytest.mark.parametrize(("size", "reason"), [(MAX_BYTES, None), (MAX_BYTES + 1, "malformed")])
def test_the_size_limit_is_exact(size: int, reason: Reason | None) -> None:
    # base64url skips every fourth length, so both segments are filled until the sum fits.
    tokens = (
        sign(header(x="x" * more), claims(jti="j" * fill)) for more in range(4) for fill in range(2600, 3000)
    )
    assert outcome(next(token for token in tokens if len(token) == size)) == reason


def test_the_last_of_two_equal_members_counts() -> None:
    # RFC 7519 section 4: refuse duplicates, or use the last; so both halves of a check see the same one.
    assert outcome(sign(b'{"alg":"HS256","kid":"k1","alg":"none"}')) == "algorithm"
    twice = json.dumps(CLAIMS)[:-1] + ',"sub":"bob"}'
    assert verifier().verify(sign(claims=twice.encode()), NOW).user == "bob"


def test_every_bit_of_a_token_matters() -> None:
    token = sign()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    by = verifier(hs256("k1", SECRET), hs256("k2", OTHER))
    for place, letter in enumerate(token):
        for other in alphabet if letter != "." else "A":
            if other != letter:
                assert outcome(token[:place] + other + token[place + 1 :], by) is not None


def test_every_truncation_is_refused() -> None:
    token = sign()
    first, second, third = token.split(".")
    for cut in range(len(token)):
        assert outcome(token[:cut]) is not None
        assert outcome(token[cut + 1 :]) is not None
    for part in (first, second, third):
        for cut in range(len(part)):
            assert outcome(token.replace(part, part[:cut])) is not None


def test_segments_of_two_good_tokens_do_not_mix() -> None:
    a, b = sign().split("."), sign(claims=claims(sub="bob")).split(".")
    assert outcome(".".join([a[0], b[1], a[2]])) == "signature"
    assert outcome(".".join([b[0], a[1], b[2]])) == "signature"


# Whatever comes ---------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
UNHURRIED = settings(deadline=None)  # a busy machine is no failure
SEGMENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


@UNHURRIED
@given(st.text())
@example("\ud800.\ud800.\ud800")
def test_garbage_raises_nothing_but_token_errors(token: str) -> None:
    assert outcome(token) in REASONS


@UNHURRIED
@given(SEGMENT, SEGMENT)
def test_signed_garbage_raises_nothing_but_token_errors(first: bytes, second: bytes) -> None:
    assert outcome(sign(first, second)) in REASONS
    assert outcome(sign(claims=second)) in REASONS


@UNHURRIED
@given(
    st.dictionaries(st.sampled_from(["sub", "aud", "exp", "iat", "nbf", "iss", "scope"]), JSON, min_size=1)
)
def test_claims_of_any_type_raise_nothing_but_token_errors(changes: dict[str, Any]) -> None:
    assert outcome(sign(claims=CLAIMS | changes)) in (None, *REASONS)


@UNHURRIED
@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "jku", "x5u"]), JSON, min_size=1))
def test_headers_of_any_type_raise_nothing_but_token_errors(changes: dict[str, Any]) -> None:
    assert outcome(sign(HEADER | changes)) in (None, *REASONS)


# Silence ----------------------------------------------------------------------------------------------------

CANARY = "canary.in-a_mine"
REFUSED: dict[str, str] = {
    "no dots": b64(CANARY.encode()),
    "not ASCII": sign() + CANARY + "é",
    "long": sign(claims=claims(jti=CANARY * 400)),
    "header bytes": sign(CANARY.encode() + b"\xff"),
    "header type": sign(header(alg=[CANARY])),
    "header alg": sign(header(alg=CANARY)),
    "header kid": sign(header(kid=CANARY)),
    "header crit": sign(header(crit=[CANARY])),
    "signature": sign(claims=claims(jti=CANARY), secret=OTHER),
    "payload bytes": sign(claims=CANARY.encode() + b"\xff"),
    "payload type": sign(claims=claims(exp=CANARY)),
    "exp": sign(claims=claims(exp=1, jti=CANARY)),
    "nbf": sign(claims=claims(nbf=NOW + 99, jti=CANARY)),
    "life": sign(claims=claims(iat=1, jti=CANARY)),
    "aud": sign(claims=claims(aud=CANARY)),
    "aud type": sign(claims=claims(aud=[CANARY, {CANARY: 1}])),
    "iss": sign(claims=claims(iss=CANARY)),
    "sub": sign(claims=claims(sub=CANARY + "!", iss="us")),
    "scope": sign(claims=claims(scope=CANARY + '"', iss="us")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_error_tells_anything_of_the_token(case: str) -> None:
    token = REFUSED[case]
    error = refusal(token, verifier(issuer="us"))
    told = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert CANARY not in told
    assert not any(part in told for part in [token, *token.split(".")] if part)
    assert error.__context__ is None


def test_the_silent_cases_cover_every_reason() -> None:
    found = {refusal(token, verifier(issuer="us")).reason for token in REFUSED.values()}
    assert found == set(REASONS)


# A second opinion -------------------------------------------------------------------------------------------


def second_opinion(token: str) -> bool:
    """What PyJWT says. It takes its clock from the system, so it is told not to look at the times."""
    try:
        jwt.decode(
            token,
            SECRET,
            algorithms=["HS256"],
            audience="notifier",
            options={"require": ["exp", "sub", "aud"], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError:
        return False
    return True


@pytest.mark.parametrize(
    ("token", "good"),
    [
        (sign(), True),
        (sign(claims=claims(aud=["x", "notifier"])), True),
        (sign(claims=claims(iat=...)), True),
        (sign(secret=OTHER), False),
        (sign(claims=claims(aud="x")), False),
        (sign(claims=claims(aud=...)), False),
        (sign(claims=claims(aud=["notifier", 1])), False),
        (sign(claims=claims(sub=...)), False),
        (sign(claims=claims(sub=7)), False),
        (sign(claims=claims(exp=...)), False),
        (sign(header(alg="none")), False),
        (sign(header(alg="HS512")), False),
        (sign(header(kid=7)), False),
        (sign(header(crit=["x"])), False),
        (sign(header(crit=[])), False),
        (sign(header(b64=False, crit=["b64"])), False),
        (sign(b"[]"), False),
        (sign(claims=b"[]"), False),
        (sign(claims=b"x"), False),
        (sign()[:-1], False),
        (sign() + "A", False),
        ("x", False),
        ("", False),
    ],
)
def test_pyjwt_agrees(token: str, good: bool) -> None:
    assert second_opinion(token) is good
    assert (outcome(token) is None) is good


@UNHURRIED
@given(st.data())
def test_what_pyjwt_refuses_is_refused(data: st.DataObject) -> None:
    token = list(sign())
    for _ in range(data.draw(st.integers(1, 3))):
        token[data.draw(st.integers(0, len(token) - 1))] = data.draw(st.sampled_from("Ab0_-.=/ "))
    if not second_opinion("".join(token)):
        assert outcome("".join(token)) is not None


@UNHURRIED
@given(st.one_of(st.binary(max_size=40).map(b64), st.text("Ab0_-+/= é!", max_size=12), st.text(max_size=12)))
@example("QQ")
@example("QR")  # stray bits at the end: the same byte, spelled in another way
@example("+/+/")
@example("!!!!")
@example("Q=Q=")
def test_base64url_is_the_encoders_own_spelling_and_nothing_else(text: str) -> None:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    assert base64url(text) == (raw if b64(raw) == text else None)
