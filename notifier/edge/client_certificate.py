"""A certificate that Apple gave for an app, with its key: PKCS#12 as Keychain exports it, or PEM; what it allows and
until when."""

# mypy: allow-untyped-calls
# (twisted.internet.ssl has no annotations)

from __future__ import annotations

import re
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from msgspec import Struct
from twisted.internet import ssl

from notifier.core.credentials import CredentialError
from notifier.core.model import Environment

# Apple's own, under 1.2.840.113635.100.6.3: which environments, and the list of topics.
_SANDBOX: Final = x509.ObjectIdentifier("1.2.840.113635.100.6.3.1")
_PRODUCTION: Final = x509.ObjectIdentifier("1.2.840.113635.100.6.3.2")
_TOPICS: Final = x509.ObjectIdentifier("1.2.840.113635.100.6.3.6")
_TOPIC: Final = re.compile(rb"\x0c(?:([\x00-\x7f])|\x81([\x80-\xff]))")  # DER: a UTF8String, and its length
_PEM_MARK: Final = b"-----BEGIN "


class ClientCertificate(Struct, frozen=True):
    """`topics`: the bundle id first, then what else it names. `environments`: empty if it does not tell.
    `not_before`, `not_after`: s since 1970."""

    private: Any
    topics: tuple[str, ...]
    environments: frozenset[Environment]
    not_before: float
    not_after: float

    def __repr__(self) -> str:
        return f"ClientCertificate(topics={self.topics!r}, not_after={self.not_after:.0f})"


def client_certificate(data: bytes, password: bytes | None, now: float) -> ClientCertificate:
    """Reads one. `password`: of the file, None if it has none; `now`: s since 1970. Raises CredentialError."""
    key, certificate = _from_pem(data, password) if _PEM_MARK in data else _from_p12(data, password)
    if key is None or certificate is None:
        raise CredentialError("it must hold a certificate and its private key: export both together")
    public = certificate.public_key()
    if key.public_key() != public:
        raise CredentialError("the private key is not the one of the certificate")
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if ends <= now:
        raise CredentialError(
            f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d}: make a new one at Apple"
        )
    if begins > now:
        raise CredentialError(
            f"it is valid from {certificate.not_valid_before_utc:%Y-%m-%d} on: is the clock right?"
        )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private = ssl.PrivateCertificate.loadPEM(certificate.public_bytes(Encoding.PEM) + pem)
    return ClientCertificate(private, _topics(certificate), _environments(certificate), begins, ends)


def _from_p12(data: bytes, password: bytes | None) -> tuple[Any, x509.Certificate | None]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = "it is no PKCS#12 file that the password opens, and no PEM"
    else:
        return key, certificate
    raise CredentialError(problem)  # out here: the error of the library may hold parts of the file


def _from_pem(data: bytes, password: bytes | None) -> tuple[Any, x509.Certificate | None]:
    if b"PRIVATE KEY-----" not in data or b"-----BEGIN CERTIFICATE-----" not in data:
        return None, None
    # The library takes no password for a key that needs none.
    word = password if b"ENCRYPTED" in data else None
    try:
        return load_pem_private_key(data, word), x509.load_pem_x509_certificates(data)[0]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = (
            "its private key or certificate cannot be read (if the key is encrypted: with this password)"
        )
    raise CredentialError(problem)


def _topics(certificate: x509.Certificate) -> tuple[str, ...]:
    named = [str(each.value) for each in certificate.subject.get_attributes_for_oid(x509.NameOID.USER_ID)]
    try:
        listed = certificate.extensions.get_extension_for_oid(_TOPICS).value
    except x509.ExtensionNotFound:
        return tuple(named)
    raw = listed.value if isinstance(listed, x509.UnrecognizedExtension) else b""
    # A sequence of topics, each followed by a sequence of what kind it is: app, voip, complication.
    at = 0
    while match := _TOPIC.search(raw, at):
        size = (match[1] or match[2])[0]
        text, at = raw[match.end() : match.end() + size].decode("utf-8", "replace"), match.end() + size
        if "." in text and text not in named:
            named.append(text)
    return tuple(named)


def _environments(certificate: x509.Certificate) -> frozenset[Environment]:
    present = {each.oid for each in certificate.extensions}
    pairs: tuple[tuple[x509.ObjectIdentifier, Environment], ...] = (
        (_SANDBOX, "sandbox"), (_PRODUCTION, "production"),
    )  # fmt: skip
    return frozenset(environment for oid, environment in pairs if oid in present)
