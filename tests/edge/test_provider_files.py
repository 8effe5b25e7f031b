"""Files of Apple and Google as an operator has them: good ones, wrong ones, ones that others can read."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from notifier.core.credentials import CredentialError
from notifier.edge.http2.dial import place, trusted
from notifier.edge.provider_files import (
    apns_certificate_file,
    apns_key_file,
    gateway_key_file,
    service_account_file,
)
from tests.edge.provider_world import P8, PEM, World, kinds, requests, sandboxed, token_of

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = rsa.generate_private_key(65537, 2048)
TOPICS = (
    "com.example.photos",
    "com.example.photos.voip",
    "com.example.photos.complication",
    f"com.example.{'x' * 120}",
)


def secret(folder: Path, data: bytes, name: str = "5ecret") -> Path:
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def der_topics(topics: tuple[str, ...]) -> bytes:
    """As Apple writes them: each topic, and behind it what kind it is."""

    def item(tag: int, data: bytes) -> bytes:
        size = bytes((len(data),)) if len(data) < 128 else bytes((0x81, len(data)))
        return bytes((tag,)) + size + data

    parts = b"".join(item(0x0C, topic.encode()) + item(0x30, item(0x0C, b"app")) for topic in topics)
    return item(0x30, parts)


def certificate(
    begins: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=30)
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.USER_ID, TOPICS[0]),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "Apple Push Services: com.example.photos"),
        ]
    )
    root = "1.2.840.113635.100.6.3."
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
    )
    for oid, value in ((f"{root}2", b"\x05\x00"), (f"{root}6", der_topics(TOPICS))):
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
    return builder.sign(KEY, hashes.SHA256())


def p12(password: bytes, one: x509.Certificate | None = None) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"push", KEY, one or certificate(), None, BestAvailableEncryption(password)
    )


def pem(one: x509.Certificate | None = None, key: Any = KEY) -> bytes:
    private: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (one or certificate()).public_bytes(Encoding.PEM) + private


def test_a_p12_of_keychain(tmp_path: Path) -> None:
    word = secret(tmp_path, b"5ecret-word\n", "word")
    made = apns_certificate_file(secret(tmp_path, p12(b"5ecret-word")), word, NOW.timestamp())
    assert made.topics == TOPICS
    assert made.environments == {"production"}
    assert made.not_after == (NOW + timedelta(days=30)).timestamp()
    assert "KEY" not in repr(made)


def test_a_certificate_in_pem(tmp_path: Path) -> None:
    assert apns_certificate_file(secret(tmp_path, pem()), None, NOW.timestamp()).topics == TOPICS


OTHER = rsa.generate_private_key(65537, 2048)
BAD: list[tuple[bytes, str]] = [
    (p12(b"other"), "that the password opens"),
    (b"nonsense", "that the password opens"),
    (certificate().public_bytes(Encoding.PEM), "and its private key"),
    (pem(key=OTHER), "not the one of the certificate"),
    (pem(certificate(ends=timedelta(hours=-1))), "expired on"),
    (pem(certificate(begins=timedelta(hours=1))), "is the clock right"),
    (pem()[:-200] + b"-----END PRIVATE KEY-----\n", "cannot be read"),
]


@pytest.mark.parametrize(("data", "why"), BAD)
def test_certificates_that_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    word = secret(tmp_path, b"5ecret-word", "word")
    file = secret(tmp_path, data)
    with pytest.raises(CredentialError, match=why) as caught:
        apns_certificate_file(file, word, NOW.timestamp())
    assert str(file) in str(caught.value)
    assert "5ecret-word" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = secret(tmp_path, P8)
    assert apns_key_file(file, "ABC123DEFG", "TEAM123456")[0].key_id == "ABC123DEFG"
    file.chmod(0o644)
    with pytest.raises(CredentialError, match="chmod 600"):
        apns_key_file(file, "ABC123DEFG", "TEAM123456")
    with pytest.raises(CredentialError, match="chmod 600"):
        gateway_key_file(file)
    with pytest.raises(CredentialError, match="chmod 600"):
        service_account_file(file)
    with pytest.raises(CredentialError, match="cannot be read"):
        apns_key_file(tmp_path / "none", "ABC123DEFG", "TEAM123456")


def test_a_service_account(tmp_path: Path) -> None:
    told = {
        "type": "service_account",
        "project_id": "photos-12345",
        "client_email": "push@photos.iam.gserviceaccount.com",
        "private_key": PEM.decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file = secret(tmp_path, json.dumps(told).encode())
    account, sign = service_account_file(file)
    assert account.project_id == "photos-12345"
    assert len(sign(b"x")) == 256
    assert service_account_file(file, token_url="https://127.0.0.1:9/token")[0].token_uri.endswith(":9/token")
    file.write_text(json.dumps({**told, "token_uri": "https://169.254.169.254/"}))
    with pytest.raises(CredentialError, match="token_uri"):
        service_account_file(file)
    file.write_text(json.dumps({**told, "private_key": P8.decode()}))
    with pytest.raises(CredentialError, match="RSA"):
        service_account_file(file)


@pytest.mark.parametrize("data", [b"", b"two words", b"a\nb", "ä".encode()])
def test_a_gateways_key_is_one_word(tmp_path: Path, data: bytes) -> None:
    assert gateway_key_file(secret(tmp_path, b"AAAA:key\n")) == "AAAA:key"
    with pytest.raises(CredentialError):
        gateway_key_file(secret(tmp_path, data))


@pytest.mark.parametrize(
    "url", ["http://a", "https://a/path", "https://u@a", "https://a:x", "", "https://a?q"]
)
def test_places_that_are_none(url: str) -> None:
    assert place("https://api.push.apple.com:2197/").authority == "api.push.apple.com:2197"
    assert place("https://api.push.apple.com").authority == "api.push.apple.com"
    with pytest.raises(CredentialError):
        place(url)


def test_an_authority_file_without_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="no certificate"):
        trusted(secret(tmp_path, b"nothing"))
    with pytest.raises(CredentialError, match="cannot be read"):
        trusted(tmp_path / "none")


async def test_a_certificate_needs_no_provider_token(tmp_path: Path) -> None:
    """Shown in the handshake. The sandbox answers MissingProviderToken to whoever shows neither."""
    made = apns_certificate_file(secret(tmp_path, pem()), None, NOW.timestamp())
    async with sandboxed(tmp_path) as world:
        assert isinstance(world, World)
        outcomes = await world.apns(access=made).send(requests([token_of(n) for n in range(20)]))
        assert kinds(outcomes) == ["delivered 200"] * 20
