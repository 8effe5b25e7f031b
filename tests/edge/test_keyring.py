"""Keys from real files, checked against tokens that PyJWT signs and against PyJWT's own verdicts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from notifier.core.tokens import Key, TokenError, Verifier
from notifier.edge.keyring import Fault, KeyringError, load, read_jwks
from notifier.edge.operator_key import make_operator_key, mint

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed448.Ed448PrivateKey

NOW = int(time.time())  # PyJWT looks at the clock itself
ED = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
P384 = ec.generate_private_key(ec.SECP384R1())
ED448 = ed448.Ed448PrivateKey.generate()
SECRET = b"0123456789abcdef0123456789abcdef"
PRIVATE: dict[str, Any] = {"EdDSA": ED, "ES256": P256, "RS256": RSA, "HS256": SECRET}
ALGORITHMS = list(PRIVATE)


def public_pem(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Private, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def signing_file(algorithm: str) -> bytes:
    return SECRET if algorithm == "HS256" else private_pem(PRIVATE[algorithm])


def verifying_file(algorithm: str) -> bytes:
    return SECRET if algorithm == "HS256" else public_pem(PRIVATE[algorithm])


def jwk(key: Private, kid: str | None, **more: Any) -> dict[str, Any]:
    kinds: list[tuple[type, Any]] = [
        (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
        (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
        (object, jwt.algorithms.OKPAlgorithm),
    ]
    maker = next(maker for kind, maker in kinds if isinstance(key, kind))
    made: dict[str, Any] = maker.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | ({} if kid is None else {"kid": kid}) | more


def jwks(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


def verifier(keys: list[Key]) -> Verifier:
    return Verifier(keys, "notifier", None, 3600, 0)


def token(algorithm: str, kid: str = "k1", user: str = "ana") -> str:
    return mint(signing_file(algorithm), kid, algorithm, user, "notifier", 3000, NOW)


def accepts(keys: list[Key], text: str) -> bool:
    try:
        verifier(keys).verify(text, NOW)
    except TokenError:
        return False
    return True


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, data: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    return write


def problem(*arguments: Any) -> str:
    """The only fault of a load."""
    with pytest.raises(KeyringError) as caught:
        load(*arguments)
    (fault,) = caught.value.faults
    assert fault.file in str(caught.value)
    assert fault.problem in str(caught.value)
    return fault.problem


# Good keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_file_verifies_what_its_other_half_signed(algorithm: str, write: Callable[..., Path]) -> None:
    keys = load([("k1", algorithm, write("file", verifying_file(algorithm)))])
    assert [(key.kid, key.algorithm) for key in keys] == [("k1", algorithm)]
    assert verifier(keys).verify(token(algorithm), NOW).user == "ana"


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_jwk_verifies_what_its_other_half_signed(algorithm: str) -> None:
    (key,) = read_jwks(jwks(jwk(PRIVATE[algorithm], "k1")), "set")
    assert key.algorithm == algorithm
    assert accepts([key], token(algorithm))


def test_files_and_a_set_are_loaded_together(write: Callable[..., Path]) -> None:
    files: list[tuple[str, str, str | Path]] = [
        ("a", "EdDSA", str(write("a.pub", public_pem(ED)))),
        ("b", "HS256", write("b", SECRET)),
    ]
    keys = load(files, str(write("set", jwks(jwk(P256, "c"), jwk(RSA, "d")))))
    assert [(key.kid, key.algorithm) for key in keys] == [
        ("a", "EdDSA"),
        ("b", "HS256"),
        ("c", "ES256"),
        ("d", "RS256"),
    ]
    assert all(accepts(keys, token(key.algorithm, key.kid)) for key in keys)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_is_read_once_more_is_the_same_and_another_is_not(
    algorithm: str, write: Callable[..., Path]
) -> None:
    file = write("file", verifying_file(algorithm))
    (first,) = load([("k1", algorithm, file)])
    file.write_bytes(b"\n" + verifying_file(algorithm) + b"\n")
    (second,) = load([("k1", algorithm, file)])
    assert first.is_same(second)
    assert not first.is_same(load([("k2", algorithm, file)])[0])
    assert not first.is_same(None)
    if algorithm == "HS256":
        file.write_bytes(SECRET[::-1])
    else:
        (published,) = read_jwks(jwks(jwk(PRIVATE[algorithm], "k1")), "set")
        assert first.is_same(published), "whether from a file or from a set"
        made: dict[str, Callable[[], Private]] = {
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
        }
        file.write_bytes(public_pem(made[algorithm]()))
    assert not first.is_same(load([("k1", algorithm, file)])[0])


def test_nothing_configured_is_an_empty_ring() -> None:
    assert load([]) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checks_answer_false_to_any_other_signature(algorithm: str, write: Callable[..., Path]) -> None:
    (key,) = load([("k1", algorithm, write("file", verifying_file(algorithm)))])
    body, _, last = token(algorithm).rpartition(".")
    signature = base64.urlsafe_b64decode(last + "==")
    assert key.verify(body.encode(), signature) is True
    flipped = [
        signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :] for at in range(len(signature))
    ]
    others = [b"", b"\0", signature[:-1], signature + b"\0", b"\0" * len(signature), b"\xff" * len(signature)]
    assert not any(key.verify(body.encode(), other) for other in [*flipped, *others])
    assert key.verify(body.encode() + b"x", signature) is False


def test_es256_is_raw_r_and_s_not_der(write: Callable[..., Path]) -> None:
    (key,) = load([("k1", "ES256", write("file", public_pem(P256)))])
    der = P256.sign(b"data", ec.ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    assert key.verify(b"data", r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    assert not key.verify(b"data", der)
    assert not key.verify(b"data", r.to_bytes(33, "big") + s.to_bytes(33, "big"))
    assert not key.verify(b"data", r.to_bytes(32, "big") + s.to_bytes(33, "big"))


def test_white_space_around_a_secret_does_not_count(write: Callable[..., Path]) -> None:
    assert accepts(load([("k1", "HS256", write("file", b"\n " + SECRET + b"\r\n"))]), token("HS256"))


def test_no_repr_shows_a_secret(write: Callable[..., Path]) -> None:
    keys = load([("k1", "HS256", write("file", SECRET))])
    assert SECRET.decode() not in f"{keys!r} {verifier(keys)!r} {keys[0].verify!r}"


# Algorithm confusion ----------------------------------------------------------------------------------------


def forged(key: bytes, kid: str = "k1", alg: str = "HS256") -> str:
    parts = [{"alg": alg, "kid": kid}, {"sub": "eve", "aud": "notifier", "exp": NOW + 60}]
    body = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    )
    signature = hmac.digest(key, body.encode(), hashlib.sha256)
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_an_hmac_keyed_with_the_public_key_is_refused(algorithm: str, write: Callable[..., Path]) -> None:
    pem = public_pem(PRIVATE[algorithm])
    keys = load([("k1", algorithm, write("a", pem)), ("k2", "HS256", write("b", SECRET))])
    for secret in (pem, pem.strip(), SECRET):
        for alg in ("HS256", algorithm):
            with pytest.raises(TokenError) as caught:
                verifier(keys).verify(forged(secret, alg=alg), NOW)
            assert caught.value.reason == ("signature" if alg == algorithm else "algorithm")
    assert not accepts(keys, forged(pem, kid="k2"))
    assert accepts(keys, forged(SECRET, kid="k2"))


# Bad files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("key", [P256, RSA])
def test_a_private_key_is_refused_with_advice(
    key: Private, form: PrivateFormat, write: Callable[..., Path]
) -> None:
    said = problem([("k1", "ES256", write("file", private_pem(key, form)))])
    assert "private key; deploy only the public half: openssl pkey" in said


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_private_keys_of_other_forms_are_refused(algorithm: str, write: Callable[..., Path]) -> None:
    encrypted = ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))
    for data in (encrypted, private_pem(ED, PrivateFormat.OpenSSH), public_pem(ED) + private_pem(ED)):
        assert "deploy only the public half" in problem([("k1", algorithm, write("file", data))])


@pytest.mark.parametrize(
    ("algorithm", "data", "said"),
    [
        ("EdDSA", public_pem(P256), "not an Ed25519 key"),
        ("EdDSA", public_pem(ED448), "not an Ed25519 key"),
        ("ES256", public_pem(ED), "not a P-256 key"),
        ("ES256", public_pem(P384), "not a P-256 key"),
        ("RS256", public_pem(P256), "not an RSA key"),
        ("RS256", public_pem(WEAK), "RSA key of 1024 bits"),
        ("EdDSA", b"", "must be one PEM public key"),
        ("EdDSA", SECRET, "must be one PEM public key"),
        ("EdDSA", public_pem(ED) + public_pem(ED), "must be one PEM public key"),
        ("EdDSA", public_pem(ED).replace(b"MCow", b"MCox"), "not a PEM public key that can be read"),
        ("EdDSA", b"-----BEGIN CERTIFICATE-----\n", "openssl x509"),
        ("EdDSA", b"x" * 65_537, "larger than 65536 bytes"),
        ("HS256", SECRET[1:], "secret of 31 bytes; HS256 needs 32 or more"),
        ("HS256", b"  " + SECRET[1:] + b"\n", "secret of 31 bytes"),
        ("HS256", b"", "secret of 0 bytes"),
        ("HS256", public_pem(ED), "PEM or SSH form"),
        ("HS256", private_pem(ED), "PEM or SSH form"),
        ("HS256", b"# key\n" + public_pem(RSA), "PEM or SSH form"),
        ("HS256", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkey operator@host", "PEM or SSH form"),
        ("HS512", SECRET, "algorithm 'HS512'; use one of ES256, EdDSA, HS256, RS256"),
        ("none", SECRET, "algorithm 'none'"),
    ],
)
def test_bad_key_files(algorithm: str, data: bytes, said: str, write: Callable[..., Path]) -> None:
    told = problem([("k1", algorithm, write("file", data))])
    assert said in told
    assert "'k1'" in told
    assert SECRET.decode()[1:] not in told


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in problem([("k1", "EdDSA", tmp_path / "missing")])
    assert "cannot be read (Is a directory" in problem([("k1", "HS256", tmp_path)])
    assert "cannot be read (No such file" in problem([], tmp_path / "missing")


def test_an_empty_kid(write: Callable[..., Path]) -> None:
    assert "empty kid" in problem([("", "EdDSA", write("file", public_pem(ED)))])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o644, 0o660])
def test_a_secret_that_others_can_open_is_refused(mode: int, write: Callable[..., Path]) -> None:
    assert "open to other users: chmod 600" in problem([("k1", "HS256", write("file", SECRET, mode))])


def test_a_public_key_may_be_open_to_all(write: Callable[..., Path]) -> None:
    assert load([("k1", "EdDSA", write("file", public_pem(ED), 0o644))])


OWNER, USER, GROUP_OBJECT, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


@pytest.mark.skipif(sys.platform != "linux", reason="POSIX ACLs as extended attributes are Linux's")
@pytest.mark.parametrize(
    ("entries", "good"),
    [
        ([(OWNER, 4), (USER, 4), (GROUP_OBJECT, 0), (MASK, 4), (OTHER, 0)], True),  # as systemd sets it
        ([(OWNER, 4), (USER, 4), (GROUP_OBJECT, 4), (MASK, 4), (OTHER, 0)], False),
        ([(OWNER, 4), (USER, 4), (GROUP_OBJECT, 0), (GROUP, 4), (MASK, 4), (OTHER, 0)], False),
        ([(OWNER, 4), (USER, 4), (GROUP_OBJECT, 0), (MASK, 4), (OTHER, 4)], False),
    ],
)
def test_an_acl_for_one_user_is_no_opening(
    entries: list[tuple[int, int]], good: bool, write: Callable[..., Path]
) -> None:
    path = write("file", SECRET, 0o400)
    ids = {USER: 1234, GROUP: 1234}
    packed = [struct.pack("<HHI", tag, bits, ids.get(tag, 0xFFFFFFFF)) for tag, bits in entries]
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(packed))
    except OSError as error:
        pytest.skip(f"the file system of {path.parent} has no ACLs: {error}")
    assert path.stat().st_mode & 0o040
    if good:
        assert accepts(load([("k1", "HS256", path)]), token("HS256"))
    else:
        assert "open to other users" in problem([("k1", "HS256", path)])


def test_all_faults_are_told_at_once(write: Callable[..., Path], tmp_path: Path) -> None:
    good, open_secret = write("good", public_pem(ED)), write("open", SECRET, 0o644)
    keys = [
        ("a", "EdDSA", good),
        ("a", "EdDSA", good),
        ("b", "HS256", open_secret),
        ("c", "RS256", tmp_path / "missing"),
    ]
    with pytest.raises(KeyringError) as caught:
        load(keys, write("set", jwks(jwk(P256, None), jwk(RSA, "d", d="x"))))
    faults = caught.value.faults
    assert sorted({Path(fault.file).name for fault in faults}) == ["good", "missing", "open", "set"]
    assert len(faults) == 5
    assert len(str(caught.value).splitlines()) == 6
    assert all(isinstance(fault, Fault) for fault in faults)


def test_a_kid_is_given_once_over_all_files(write: Callable[..., Path]) -> None:
    file, keys = write("a.pub", public_pem(ED)), jwks(jwk(P256, "k1"))
    assert "kid of a key in" in problem([("k1", "EdDSA", file)], write("set", keys))
    assert "kid of a key in" in problem([], write("set", jwks(jwk(P256, "k1"), jwk(RSA, "k1"))))


# JWK sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "kids"),
    [
        ([jwk(ED, "a", alg="EdDSA", use="sig", key_ops=["verify"])], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, "b", use="enc")], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, "b", key_ops=["encrypt"])], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, "b", key_ops=["sign", "verify"])], ["a", "b"]),
        ([jwk(ED, "a"), jwk(RSA, "b", alg="RS512")], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, "b", alg="PS256")], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, "b", alg="HS256")], ["a"]),
        ([jwk(ED, "a"), jwk(P384, "b")], ["a"]),
        ([jwk(ED, "a"), jwk(ED448, "b")], ["a"]),
        ([jwk(ED, "a"), {"kty": "new", "kid": "b"}], ["a"]),
        ([jwk(ED, "a"), jwk(RSA, None, use="enc")], ["a"]),
        ([jwk(ED, "a", x5c=["AAAA"], x5u="https://evil.example/")], ["a"]),
    ],
)
def test_keys_that_are_not_for_us_are_passed_over(members: list[Any], kids: list[str]) -> None:
    assert [key.kid for key in read_jwks(jwks(*members), "set")] == kids


LONG_X = base64.urlsafe_b64encode(b"\0" + P256.public_key().public_numbers().x.to_bytes(32, "big")).decode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a JWK Set"),
        (b"[]", "is not a JWK Set"),
        (b"{}", "is not a JWK Set"),
        (b"\xff", "is not a JWK Set"),
        (b'{"keys":' + b"[" * 5000, "is not a JWK Set"),
        (public_pem(ED), "is not a JWK Set"),
        (jwks(), "has no key to verify"),
        (jwks(jwk(P384, "a")), "has no key to verify"),
        (jwks("key"), "keys[0] is not a JWK"),
        (jwks({}), "keys[0] is not a JWK"),
        (jwks(jwk(ED, "a", use=1)), "keys[0] is not a JWK"),
        (jwks(jwk(ED, None)), "keys[0] has no kid"),
        (jwks(jwk(ED, "")), "keys[0] has no kid"),
        (jwks(jwk(ED, "a", d="AAAA")), "keys[0] holds a private key"),
        (jwks(jwk(RSA, "a", use="enc", d="")), "keys[0] holds a private key"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}), "keys[0] is a secret (kty oct)"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "a", "use": "enc"}), "keys[0] is a secret"),
        (jwks(jwk(ED, "z"), jwk(WEAK, "a")), "keys[1] is an RSA key of 1024 bits"),
        (jwks(jwk(ED, "a", x="AAAA")), "keys[0] is not a valid OKP public key"),
        (jwks(jwk(ED, "a", x="")), "keys[0] is not a valid OKP public key"),
        (jwks(jwk(ED, "a") | {"x": jwk(ED, "a")["x"] + "="}), "keys[0] is not a valid OKP public key"),
        (jwks(jwk(P256, "a") | {"y": jwk(P256, "a")["x"]}), "keys[0] is not a valid EC public key"),
        (jwks(jwk(P256, "a", y="")), "keys[0] is not a valid EC public key"),
        (jwks(jwk(P256, "a", x=LONG_X)), "keys[0] is not a valid EC public key"),
        (jwks(jwk(P256, "a"), jwk(RSA, "a")), "kid of a key in"),
        (jwks(jwk(RSA, "a", n="")), "keys[0] is not a valid RSA public key"),
        (jwks(jwk(RSA, "a", e="AA")), "keys[0] is not a valid RSA public key"),
        (jwks(jwk(RSA, "a", n="/+/+")), "keys[0] is not a valid RSA public key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "set",  # keys are random, names must not be
)
def test_bad_sets(data: bytes, said: str) -> None:
    with pytest.raises(KeyringError) as caught:
        read_jwks(data, "https://id.example/jwks")
    (fault,) = caught.value.faults
    assert fault.file == "https://id.example/jwks"
    assert said in fault.problem
    assert "c2VjcmV0" not in fault.problem


# Minting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pyjwt_and_the_verifier_agree_on_a_minted_token(algorithm: str, write: Callable[..., Path]) -> None:
    data = verifying_file(algorithm)
    text = mint(signing_file(algorithm), "k1", algorithm, "ana", "notifier", 600, NOW + 0.9, "a b", "us")
    assert jwt.get_unverified_header(text) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    assert jwt.decode(text, data, algorithms=[algorithm], audience="notifier", issuer="us") == {
        "sub": "ana",
        "aud": "notifier",
        "iss": "us",
        "scope": "a b",
        "iat": NOW,
        "exp": NOW + 600,
    }
    keys = load([("k1", algorithm, write("file", data))])
    identity = Verifier(keys, "notifier", "us", 600, 0).verify(text, NOW)
    assert (identity.user, identity.issued, identity.expires) == ("ana", NOW, NOW + 600)
    assert identity.scopes == {"a", "b"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pyjwt_and_the_verifier_agree_on_bad_tokens(algorithm: str, write: Callable[..., Path]) -> None:
    data, signer = verifying_file(algorithm), signing_file(algorithm)
    keys = load([("k1", algorithm, write("file", data))])
    good = token(algorithm)
    head, body, signature = good.split(".")
    bad = [
        mint(signer, "k1", algorithm, "ana", "other", 600, NOW),
        mint(signer, "k1", algorithm, "ana", "notifier", 60, NOW - 3600),
        mint(signer, "k1", algorithm, "ana", "notifier", 600, NOW + 80_000),  # not valid yet, for hours
        f"{head}.{token(algorithm, user='bob').split('.')[1]}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.{signature[4:]}",
        *(token(other) for other in ALGORITHMS if other != algorithm),
    ]
    for text in [good, *bad]:
        try:
            jwt.decode(text, data, algorithms=[algorithm], audience="notifier")
            theirs = True
        except jwt.InvalidTokenError:
            theirs = False
        assert accepts(keys, text) is theirs is (text == good)


@pytest.mark.parametrize(
    ("algorithm", "key", "user", "life", "said"),
    [
        ("EdDSA", private_pem(ED), "a b", 60, "user id 'a b'"),
        ("EdDSA", private_pem(ED), "", 60, "user id ''"),
        ("EdDSA", private_pem(ED), "ana", 0, "life is 0"),
        ("none", private_pem(ED), "ana", 60, "algorithm 'none'"),
        ("EdDSA", public_pem(ED), "ana", 60, "not an unencrypted private key"),
        ("EdDSA", b"", "ana", 60, "not an unencrypted private key"),
        ("EdDSA", private_pem(P256), "ana", 60, "not an Ed25519 key"),
        ("EdDSA", private_pem(ED448), "ana", 60, "of a kind that EdDSA cannot use"),
        ("ES256", private_pem(P384), "ana", 60, "not a P-256 key"),
        ("RS256", private_pem(WEAK), "ana", 60, "RSA key of 1024 bits"),
        ("HS256", SECRET[1:], "ana", 60, "secret of 31 bytes"),
        ("HS256", private_pem(ED), "ana", 60, "PEM or SSH form"),
    ],
)
def test_mint_refuses(algorithm: str, key: bytes, user: str, life: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mint(key, "k1", algorithm, user, "notifier", life, NOW)


def test_minting_reads_a_secret_file_as_verifying_does(write: Callable[..., Path]) -> None:
    data = SECRET + b"\n"
    keys = load([("k1", "HS256", write("file", data))])
    assert accepts(keys, mint(data, "k1", "HS256", "ana", "notifier", 60, NOW))


@pytest.mark.parametrize(("scopes", "expected"), [(None, {"inbox"}), ("", set()), ("a", {"a"})])
def test_minted_scopes(scopes: str | None, expected: set[str], write: Callable[..., Path]) -> None:
    keys = load([("k1", "HS256", write("file", SECRET))])
    text = mint(SECRET, "k1", "HS256", "ana", "notifier", 60, NOW, scopes)
    assert verifier(keys).verify(text, NOW).scopes == expected


def test_mint_refuses_an_encrypted_key() -> None:
    encrypted = ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))
    with pytest.raises(ValueError, match="unencrypted"):
        mint(encrypted, "k1", "EdDSA", "ana", "notifier", 60, NOW)


def test_an_operator_key_signs_and_verifies(tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "operators"
    old = os.umask(0)
    try:
        make_operator_key(folder, "demo-1")
    finally:
        os.umask(old)
    assert sorted(path.name for path in folder.iterdir()) == ["demo-1.key", "demo-1.pub"]
    assert (folder / "demo-1.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    private = (folder / "demo-1.key").read_bytes()
    keys = load([("demo-1", "EdDSA", folder / "demo-1.pub")])
    assert accepts(keys, mint(private, "demo-1", "EdDSA", "ana", "notifier", 60, NOW))
    assert "deploy only the public half" in problem([("demo-1", "EdDSA", folder / "demo-1.key")])


def test_an_operator_key_is_never_replaced(tmp_path: Path) -> None:
    make_operator_key(tmp_path, "demo")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        make_operator_key(tmp_path, "demo")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "demo.key").unlink()
    with pytest.raises(FileExistsError):
        make_operator_key(tmp_path, "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.pub"]


@pytest.mark.parametrize("kid", ["", "..", ".hidden", "a/b", "../a", "a b", "x" * 65, "a\n"])
def test_an_operator_kid_is_a_plain_file_name(kid: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kid"):
        make_operator_key(tmp_path / "keys", kid)
    assert not (tmp_path / "keys").exists()
