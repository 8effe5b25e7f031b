"""The keys that tokens are checked with, read from files: PEM public keys, HS256 secrets, a JWKS (RFC 7517).
Each algorithm's check wraps `cryptography` or the standard hmac; all faults of all files are told at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from msgspec import Struct

from notifier.core.tokens import ALGORITHMS, Key, base64url
from notifier.edge.secret_file import FileRefused, read

Check = Callable[[bytes, bytes], bool]

MIN_SECRET_BYTES: Final = 32  # RFC 7518 section 3.2: a key at least as long as the hash
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3

_CHANCE: Final = os.urandom(32)
_DER: Final = Encoding.DER
_SPKI: Final = PublicFormat.SubjectPublicKeyInfo
_PUBLIC_HALF: Final = "holds a private key; deploy only the public half: openssl pkey -in FILE -pubout"


class Fault(Struct, frozen=True):
    """One thing that is wrong: the file (or its source), and what it is and what to do about it."""

    file: str
    problem: str


class KeyringError(Exception):
    """The keys cannot be used; `faults` has every reason, and str() is a list of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults: Final = tuple(faults)
        super().__init__("token keys:" + "".join(f"\n  {each.file}: {each.problem}" for each in faults))


# Loading ----------------------------------------------------------------------------------------------------


def load(keys: Sequence[tuple[str, str, str | Path]], jwks_file: str | Path | None = None) -> list[Key]:
    """The keys of `(kid, algorithm, file)` and those of a JWKS file. Raises KeyringError with every fault."""
    found: list[tuple[str, Key]] = []
    faults: list[Fault] = []
    for kid, algorithm, file in keys:
        try:
            found.append((str(file), _from_file(kid, algorithm, Path(file))))
        except FileRefused as refusal:
            faults.append(Fault(str(file), f"key {kid!r} {refusal}"))
    if jwks_file is not None:
        try:
            found += [(str(jwks_file), key) for key in read_jwks(read(Path(jwks_file)), str(jwks_file))]
        except FileRefused as refusal:
            faults.append(Fault(str(jwks_file), str(refusal)))
        except KeyringError as error:
            faults += error.faults
    faults += _doubles(found)
    if faults:
        raise KeyringError(faults)
    return [key for _, key in found]


def _doubles(found: Sequence[tuple[str, Key]]) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for file, key in found:
        if key.kid in first:
            yield Fault(file, f"key {key.kid!r} has the kid of a key in {first[key.kid]}; give each its own")
        first.setdefault(key.kid, file)


def _from_file(kid: str, algorithm: str, path: Path) -> Key:
    if not kid:
        raise FileRefused("has an empty kid; name it")
    if algorithm not in ALGORITHMS:
        raise FileRefused(f"has algorithm {algorithm!r}; use one of {', '.join(sorted(ALGORITHMS))}")
    if algorithm == "HS256":
        secret = read(path, secret=True)
        return Key(kid, algorithm, secret_check(secret), _fingerprint(secret.strip()))
    return _public(kid, algorithm, _public_pem(read(path)))


def _public(kid: str, algorithm: str, key: Any) -> Key:
    check = public_check(algorithm, key)
    return Key(kid, algorithm, check, _fingerprint(key.public_bytes(_DER, _SPKI)))


def _fingerprint(material: bytes) -> bytes:
    # Keyed by chance, for this process alone: that of a secret helps nobody to guess it.
    return hashlib.blake2b(material, digest_size=16, key=_CHANCE).digest()


def _public_pem(data: bytes) -> object:
    if b"PRIVATE KEY-----" in data:
        raise FileRefused(_PUBLIC_HALF)
    if b"-----BEGIN CERTIFICATE-----" in data:
        raise FileRefused("is a certificate; take the key out: openssl x509 -in FILE -pubkey -noout")
    if data.count(b"-----BEGIN ") != 1:
        raise FileRefused("must be one PEM public key (-----BEGIN PUBLIC KEY-----), one to a file")
    try:
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise FileRefused("is not a PEM public key that can be read; copy the file again") from None


# JWKS -------------------------------------------------------------------------------------------------------


class _Set(Struct):
    keys: list[msgspec.Raw]


class _Jwk(Struct):
    kty: str
    kid: str = ""
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    alg: str | None = None
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    d: str | None = None  # the private half, whatever the kty (RFC 7518 section 6, RFC 8037 section 2)


def read_jwks(data: bytes, source: str) -> list[Key]:
    """The verifying keys of a JWK Set; `source` names it in faults. Raises KeyringError with every fault.

    Keys for encryption and kinds that are not supported are passed over (RFC 7517 section 5), but a set in
    which no key is left is a fault.
    """
    try:
        members = msgspec.json.decode(data, type=_Set).keys
    except (ValueError, RecursionError) as error:
        problem = f"is not a JWK Set, {{'keys': [...]}} ({_cause(error)}); fetch it again"
        raise KeyringError([Fault(source, problem)]) from None
    keys: list[Key] = []
    faults: list[Fault] = []
    for place, member in enumerate(members):
        try:
            keys += _from_jwk(member)
        except FileRefused as refusal:
            faults.append(Fault(source, f"keys[{place}] {refusal}"))
    if not keys and not faults:
        faults.append(Fault(source, "has no key to verify EdDSA, ES256 or RS256 with; add one"))
    faults += _doubles([(source, key) for key in keys])
    if faults:
        raise KeyringError(faults)
    return keys


def _from_jwk(member: msgspec.Raw) -> Iterator[Key]:
    try:
        jwk = msgspec.json.decode(member, type=_Jwk)
    except (ValueError, RecursionError) as error:
        raise FileRefused(f"is not a JWK ({_cause(error)}); correct or remove it") from None
    if jwk.kty == "oct":
        raise FileRefused("is a secret (kty oct), which has no place in a JWKS; use an HS256 key file")
    if jwk.d is not None:
        raise FileRefused("holds a private key (d); publish only the public members")
    if jwk.use != "sig" or "verify" not in jwk.key_ops:
        return
    # RFC 8725 section 3.1: the kind of key decides the algorithm; an alg that says another is none of ours.
    algorithm = _KINDS.get((jwk.kty, jwk.crv))
    if algorithm is None or jwk.alg not in (None, algorithm):
        return
    if not jwk.kid:
        raise FileRefused("has no kid; give it one, and name it in the tokens' headers")
    yield _public(jwk.kid, algorithm, _public_jwk(jwk))


_KINDS: Final = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256", ("RSA", ""): "RS256"}


def _public_jwk(jwk: _Jwk) -> object:
    try:
        if jwk.kty == "OKP":
            return ed25519.Ed25519PublicKey.from_public_bytes(_member(jwk.x, 32))
        if jwk.kty == "EC":
            # RFC 7518 section 6.2.1.2: the full size of a coordinate, leading zeros included.
            x, y = (int.from_bytes(_member(part, 32), "big") for part in (jwk.x, jwk.y))
            return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        n, e = (int.from_bytes(_member(part), "big") for part in (jwk.n, jwk.e))
        return rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        raise FileRefused(f"is not a valid {jwk.kty} public key; fetch or export it again") from None


def _member(text: str, size: int | None = None) -> bytes:
    raw = base64url(text)
    if raw is None or (size is not None and len(raw) != size):
        raise ValueError
    return raw


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.MsgspecError) else "bad UTF-8, or nested too deeply"


# Checks -----------------------------------------------------------------------------------------------------


def public_check(algorithm: str, key: object) -> Check:
    """The HS256 check of a secret's bytes, less white space at the ends. Raises ValueError if it is weak."""
    return _PUBLIC[algorithm](key)


def secret_check(data: bytes) -> Check:
    """The HS256 check of a secret file's bytes, less white space at the ends. Raises ValueError if weak."""
    secret = data.strip()
    if secret.startswith((b"-----BEGIN ", b"ssh-", b"ecdsa-sha2-")) or b"-----BEGIN " in secret:
        # RFC 8725 section 2.1: what others may know (a public key) must never key an HMAC.
        raise FileRefused(
            "is a key file in PEM or SSH form, not an HS256 secret; set the algorithm it is for"
        )
    if len(secret) < MIN_SECRET_BYTES:
        advice = f"HS256 needs {MIN_SECRET_BYTES} or more: openssl rand -base64 48"
        raise FileRefused(f"is a secret of {len(secret)} bytes; {advice}")

    # A closure, so that no repr of a Key can show the secret.
    def check(signing_input: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signing_input, hashlib.sha256), signature)

    return check


def _ed25519(key: object) -> Check:
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise FileRefused("is not an Ed25519 key, which EdDSA needs; correct the algorithm or the file")

    def check(signing_input: bytes, signature: bytes) -> bool:
        return _holds(lambda: key.verify(signature, signing_input))

    return check


def _p256(key: object) -> Check:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FileRefused("is not a P-256 key, which ES256 needs; correct the algorithm or the file")
    method = ec.ECDSA(SHA256())

    def check(signing_input: bytes, signature: bytes) -> bool:
        # RFC 7518 section 3.4: R and S, 32 bytes each, not the DER form that `cryptography` takes.
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        return _holds(lambda: key.verify(encode_dss_signature(r, s), signing_input, method))

    return check


def _rsa(key: object) -> Check:
    if not isinstance(key, rsa.RSAPublicKey):
        raise FileRefused("is not an RSA key, which RS256 needs; correct the algorithm or the file")
    if key.key_size < MIN_RSA_BITS:
        raise FileRefused(f"is an RSA key of {key.key_size} bits; make one of {MIN_RSA_BITS} or more")
    scheme, digest = padding.PKCS1v15(), SHA256()

    def check(signing_input: bytes, signature: bytes) -> bool:
        return _holds(lambda: key.verify(signature, signing_input, scheme, digest))

    return check


def _holds(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except InvalidSignature:
        return False
    return True


_PUBLIC: Final[dict[str, Callable[[object], Check]]] = {"EdDSA": _ed25519, "ES256": _p256, "RS256": _rsa}
