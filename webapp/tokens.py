"""Tokens people come in with, here and at the notifier: JSON Web Tokens (RFC 7519) signed with Ed25519."""

from __future__ import annotations

import functools
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from webapp import config
from webapp.problems import Problem

SCOPE: Final = "photos"
"""What a token must be for to come in here; `inbox` is the notifier's."""

_ALGORITHM: Final = "EdDSA"  # RFC 8037 section 3.1
_LEEWAY: Final = 30  # s between the clocks of the processes that sign and those that check
_LONGEST: Final = 4096
_KNOWN: Final = 4096  # tokens of people who were here last
_PERSON: Final = re.compile(r"[1-9][0-9]{0,18}")


class Issued(NamedTuple):
    """A token and when it ends, in whole seconds since 1970."""

    token: str
    expires: int


class Tokens:
    """Signs and checks tokens with one key.

    `clock` gives the Unix time, by which tokens are issued and end. Raises ValueError when `pem` is no Ed25519
    private key.
    """

    def __init__(self, pem: bytes, settings: config.Tokens, clock: Callable[[], float] = time.time) -> None:
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key is not an Ed25519 private key")
        self._key, self._public = key, key.public_key()
        self._settings, self._clock = settings, clock
        # A signature costs 150 microseconds, and a person sends the same token with each request.
        self._checked = functools.lru_cache(maxsize=_KNOWN)(self._check)

    def issue(self, person: int) -> Issued:
        """A new token of a person."""
        now, settings = int(self._clock()), self._settings
        expires = now + settings.hours * 3600
        claims = {
            "iss": settings.issuer, "aud": settings.audience, "sub": str(person),
            "iat": now, "exp": expires, "scope": f"inbox {SCOPE}",
        }  # fmt: skip
        return Issued(jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": settings.kid}), expires)

    def renewal(self, person: int, mark: str) -> str:
        """A token of a person that is good for nothing but new tokens, as long as `mark` stays the same."""
        now, settings = int(self._clock()), self._settings
        claims = {
            "iss": settings.issuer, "aud": self._renewing, "sub": str(person), "mark": mark,
            "iat": now, "exp": now + settings.renewal_days * 86_400,
        }  # fmt: skip
        return jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": settings.kid})

    def renewed(self, renewal: str) -> tuple[int, str]:
        """Whose renewal token it is, and its mark. Raises Problem `expired-token` or `invalid-token`."""
        claims = self._claims(renewal, self._renewing)
        return _subject(claims), str(claims.get("mark"))

    def person(self, token: str) -> int:
        """Whose token it is. Raises Problem `expired-token` or `invalid-token`."""
        person, expires = self._checked(token)
        if self._clock() >= expires + _LEEWAY:
            raise _expired()
        return person

    def _check(self, token: str) -> tuple[int, int]:
        """Whose token it is, and when it ends. Raises as `person` does."""
        claims = self._claims(token, self._settings.audience)
        scope = claims.get("scope")
        if not isinstance(scope, str) or SCOPE not in scope.split(" "):
            raise Problem("invalid-token", f"the token's scope must include {SCOPE}")
        return _subject(claims), int(claims["exp"])

    @property
    def _renewing(self) -> str:
        """The audience of what renews tokens: nobody else takes it, and no token is taken for it."""
        return f"{self._settings.issuer}:renewal"

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        if len(token) > _LONGEST:
            raise Problem("invalid-token", f"the token is longer than {_LONGEST} characters")
        try:
            # RFC 8725 section 3.1: the algorithm is ours to say, not the token's.
            claims: dict[str, Any] = jwt.decode(
                token, self._public, algorithms=[_ALGORITHM], leeway=_LEEWAY, issuer=self._settings.issuer,
                audience=audience, options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise Problem("invalid-token", "the token was not issued here, or is damaged") from None
        return claims

    def public_pem(self) -> bytes:
        """The public key, for `tokens.keys` of the notifier."""
        return self._public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def _subject(claims: dict[str, Any]) -> int:
    subject = claims["sub"]
    if _PERSON.fullmatch(subject) is None or int(subject) >= 1 << 63:
        raise Problem("invalid-token", "the token's sub is no person")
    return int(subject)


def _expired() -> Problem:
    return Problem("expired-token", "log in again")


def make_key(file: Path) -> None:
    """Writes a new private key that only this user can read, unless there is one. Several at once make one."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    written = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(descriptor, "wb") as out:
        out.write(pem)
    try:
        os.link(written, file)  # fails where there is one, unlike a rename
    except FileExistsError:
        pass
    finally:
        written.unlink()


def read(settings: config.Tokens) -> Tokens:
    """The tokens of the configuration. Raises ConfigError when its key file cannot be used."""
    if settings.key_file is None:
        raise config.ConfigError(
            [config.Fault("tokens.key_file", "missing: nobody can come in without a key")]
        )
    try:
        return Tokens(Path(settings.key_file).read_bytes(), settings)
    except OSError as fault:
        why = f"{settings.key_file} cannot be read: {fault.strerror}"
    except (ValueError, TypeError):  # TypeError: the key is encrypted
        why = f"{settings.key_file} is not the PEM file of an Ed25519 private key without a password"
    raise config.ConfigError([config.Fault("tokens.key_file", why)])


def tokens() -> Tokens:
    """Those of the configuration in force; the key is read once. Raises ConfigError."""
    from django.conf import settings

    return _read(settings.CONFIG.tokens)


_read = functools.lru_cache(maxsize=8)(read)
