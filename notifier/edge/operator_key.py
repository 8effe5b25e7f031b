"""An operator's own key: makes an Ed25519 pair, and mints tokens with a private key (or an HS256 secret)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from notifier.core.tokens import ALGORITHMS, USER
from notifier.edge import keyring

_SIGNERS: Final = (Ed25519PrivateKey, ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)


def mint(
    private_pem: bytes,
    kid: str,
    algorithm: str,
    user: str,
    audience: str,
    life: int,
    now: float,
    scopes: str | None = None,
    issuer: str | None = None,
) -> str:
    """A signed token for `user`, issued at `now` and good for `life` seconds.

    `private_pem` is an unencrypted private key in PEM, or for HS256 the secret. `scopes` are separated by
    spaces; None leaves the claim out. Raises ValueError for a key that does not fit the algorithm, a bad user
    id and a life below 1.
    """
    if USER.fullmatch(user) is None:
        raise ValueError(f"user id {user!r} must match {USER.pattern}")
    if life < 1:
        raise ValueError(f"life is {life} seconds; it must be 1 or more")
    issued = int(now)
    claims: dict[str, Any] = {"sub": user, "aud": audience, "iat": issued, "exp": issued + life}
    if issuer is not None:
        claims["iss"] = issuer
    if scopes is not None:
        claims["scope"] = scopes
    return jwt.encode(claims, _signer(private_pem, algorithm), algorithm, headers={"kid": kid})


def _signer(private_pem: bytes, algorithm: str) -> Any:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is not one of {', '.join(sorted(ALGORITHMS))}")
    if algorithm == "HS256":
        keyring.secret_check(private_pem)  # the rules of the side that verifies
        return private_pem.strip()
    try:
        key = load_pem_private_key(private_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the signing key is not an unencrypted private key in PEM") from None
    if not isinstance(key, _SIGNERS):
        raise ValueError(f"the signing key is of a kind that {algorithm} cannot use")
    try:
        keyring.public_check(algorithm, key.public_key())
    except ValueError as error:
        raise ValueError(f"the signing key {error}") from None
    return key


def make_operator_key(folder: Path, kid: str) -> None:
    """Make an Ed25519 pair: `<kid>.key` (private PEM, mode 0600) and `<kid>.pub`, in `folder`.

    Raises ValueError for a kid that is no plain file name, FileExistsError rather than replace a file.
    """
    if USER.fullmatch(kid) is None or kid.startswith("."):
        raise ValueError(f"kid {kid!r} must match {USER.pattern}, with no dot first: it names the files")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = Ed25519PrivateKey.generate()
    key, pub = folder / f"{kid}.key", folder / f"{kid}.pub"
    _create(key, 0o600, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _create(pub, 0o644, public)
    except BaseException:
        key.unlink()  # half a pair would stand in the way of the next try
        raise


def _create(path: Path, mode: int, data: bytes) -> None:
    # O_EXCL with the mode at creation: never a moment in which another user can open the private key.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
