"""Tokens that we sign, checked by PyJWT; and keys that cannot sign."""

from __future__ import annotations

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from notifier.core.credentials import CredentialError
from notifier.edge.signing import es256, jwt, rs256

P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_what_apple_would_check() -> None:
    sign = es256(pem(P256))
    # R or S begins with a zero byte once in 128 times: in both forms a signature has 64 bytes.
    assert {len(sign(b"%d" % number)) for number in range(3000)} == {64}
    for number in range(20):
        token = jwt({"alg": "ES256", "kid": "K"}, {"iss": "T", "iat": number}, sign)
        assert pyjwt.decode(token, P256.public_key(), ["ES256"], options={"verify_iat": False}) == {
            "iss": "T", "iat": number,
        }  # fmt: skip
        assert pyjwt.get_unverified_header(token) == {"alg": "ES256", "kid": "K"}
        assert "=" not in token


def test_what_google_would_check() -> None:
    token = jwt({"alg": "RS256"}, {"iss": "me@example.com"}, rs256(pem(RSA)))
    assert pyjwt.decode(token, RSA.public_key(), ["RS256"]) == {"iss": "me@example.com"}


@pytest.mark.parametrize(
    ("load", "data", "said"),
    [
        (es256, pem(RSA), "P-256"),
        (es256, pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (rs256, pem(P256), "RSA key of 2048"),
        (rs256, pem(Ed25519PrivateKey.generate()), "RSA key of 2048"),
        (rs256, pem(rsa.generate_private_key(65537, 1024)), "RSA key of 2048"),
        (es256, pem(P256, BestAvailableEncryption(b"x")), "unencrypted"),
        (es256, b"", "copy the file again"),
        (rs256, pem(RSA)[:500] + pem(RSA)[600:], "copy the file again"),
    ],
)
def test_a_key_that_cannot_sign_says_why(load: object, data: bytes, said: str) -> None:
    assert callable(load)
    with pytest.raises(CredentialError, match=said) as caught:
        load(data)
    assert caught.value.__context__ is None
