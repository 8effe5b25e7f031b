"""Signing JWTs as ourselves, for providers: ES256 for Apple, RS256 for Google (RFC 7515, RFC 7518)."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from notifier.core.credentials import CredentialError

Sign: TypeAlias = Callable[[bytes], bytes]

MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3

_encode = msgspec.json.Encoder().encode


def jwt(header: Mapping[str, Any], claims: Mapping[str, Any], sign: Sign) -> str:
    """A signed token in the compact form (RFC 7515 section 7.1)."""
    body = b".".join(_base64url(_encode(part)) for part in (header, claims))
    return b".".join((body, _base64url(sign(body)))).decode("ascii")


def es256(pem: bytes) -> Sign:
    """What signs with a P-256 key in PEM. Raises CredentialError."""
    key = _load(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialError("this is no P-256 key, which ES256 needs: use the .p8 file as Apple gave it")
    method = ec.ECDSA(SHA256())

    # A closure, so that no repr can show the key.
    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, method))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")  # RFC 7518 section 3.4: not the DER form

    return sign


def rs256(pem: bytes) -> Sign:
    """What signs with an RSA key in PEM. Raises CredentialError."""
    key = _load(pem)
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < MIN_RSA_BITS:
        raise CredentialError(f"this is no RSA key of {MIN_RSA_BITS} bits or more, which RS256 needs")
    scheme, digest = padding.PKCS1v15(), SHA256()

    def sign(data: bytes) -> bytes:
        return key.sign(data, scheme, digest)

    return sign


def _load(pem: bytes) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = "the private key cannot be read: copy the file again, whole and unencrypted"
    raise CredentialError(problem)  # out here: the error of the library may hold parts of the key


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
