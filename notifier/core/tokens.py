"""Who a client is: parses a compact JWS (RFC 7515), puts its signature to a key and its claims (RFC 7519) to
the rules. No cryptography here: a key brings its own check. No message quotes anything out of a token.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from notifier.core.canary import is_reserved

Reason = Literal[
    "malformed", "unknown_key", "algorithm", "signature", "expired", "not_yet",
    "audience", "issuer", "lifetime", "subject", "claims",
]  # fmt: skip

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
ALGORITHMS: Final = frozenset({"EdDSA", "ES256", "RS256", "HS256"})
MAX_BYTES: Final = 4096
DEFAULT_SCOPES: Final = frozenset({"inbox"})
USER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3, scope-token

# RFC 4648 section 5 into section 4. What only section 4 has becomes what neither has.
_STANDARD: Final = bytes.maketrans(b"-_+/", b"+/!!")

# RFC 7519 section 2: a NumericDate may have a fraction. The bound (year 9999) keeps the arithmetic exact.
NumericDate = Annotated[float, Meta(ge=0, le=253_402_300_799)]
T = TypeVar("T")


class TokenError(Exception):
    """Why a token was refused: `reason` for counters and close codes, the message for a person."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Final[Reason] = reason


class Key(Struct, frozen=True):
    """One configured key. `verify(signing_input, signature)` answers True or False and never raises.

    `fingerprint`: equal for equal keys, whatever file or key set they were read from.
    """

    kid: str
    algorithm: str
    verify: Callable[[bytes, bytes], bool]
    fingerprint: bytes = b""

    def is_same(self, other: Key | None) -> bool:
        """Is it this key, perhaps read once more?"""
        mine = (self.kid, self.algorithm, self.fingerprint)
        return other is not None and mine == (other.kid, other.algorithm, other.fingerprint)


class Identity(Struct, frozen=True, gc=False):
    """What a good token says. `issued` (0 without `iat`) and `expires` are `iat` and `exp` in whole seconds
    since the epoch. No leeway is added: `expires` may lie up to the leeway before now. `key` has signed it."""

    user: str
    issued: int
    expires: int
    scopes: frozenset[str]
    key: Key | None = None


class _Header(Struct, frozen=True):
    # jku, jwk, x5u and x5c are not even fields here: no key ever comes from a token (RFC 8725 section 3.10).
    alg: str
    kid: str | UnsetType = UNSET
    crit: Any = UNSET
    b64: Any = UNSET


class _Claims(Struct, frozen=True):
    exp: NumericDate
    sub: str | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    iat: NumericDate | UnsetType = UNSET
    nbf: NumericDate | UnsetType = UNSET
    scope: str | UnsetType = UNSET


_HEADER: Final = msgspec.json.Decoder(_Header)
_CLAIMS: Final = msgspec.json.Decoder(_Claims)


class Verifier:
    """Checks tokens against a set of keys that may be replaced while running.

    `audience` must be in `aud`; `issuer`, unless None, must equal `iss`; `max_life` and `leeway` are seconds.
    `reserved`: whether these keys speak for the reserved users of canaries, and for nobody else.
    `unknown` is called when a token names a kid that no key has, before that token is refused: whoever can
    fetch keys may set it; `voided` with the keys that `replace` has taken out: whoever let their tokens in may
    set that. Raises ValueError for two keys of one kid and for an algorithm outside ALGORITHMS.
    """

    def __init__(
        self, keys: Iterable[Key], audience: str, issuer: str | None, max_life: int, leeway: int, *,
        reserved: bool = False,
    ) -> None:  # fmt: skip
        self._reserved = reserved
        self.demand(audience, issuer, max_life, leeway)
        self._keys = _by_kid(keys)
        self.unknown: Callable[[], None] = _nobody
        self.voided: Callable[[list[Key]], None] = _unheard

    def demand(self, audience: str, issuer: str | None, max_life: int, leeway: int) -> None:
        """Ask this of tokens from now on; the arguments are those of the constructor."""
        self._audience, self._issuer, self._max_life, self._leeway = audience, issuer, max_life, leeway

    def replace(self, keys: Iterable[Key]) -> None:
        """Use these keys from now on. Raises ValueError as the constructor does; the old keys then stay."""
        before, self._keys = self._keys, _by_kid(keys)
        if gone := [key for key in before.values() if not self.holds(key)]:
            self.voided(gone)

    def holds(self, key: Key) -> bool:
        """Is a token of this key still good?"""
        return key.is_same(self._keys.get(key.kid))

    def verify(self, token: str, now: float) -> Identity:
        """The identity in `token` at `now` (seconds since the epoch). Raises TokenError, and nothing else."""
        header, claims, signature = _segments(token)
        key = self._key(_parse(_HEADER, _decode(header, "header"), "header", "malformed"))
        if not key.verify(f"{header}.{claims}".encode(), _decode(signature, "signature")):
            raise TokenError("signature", "the token's signature does not fit its key")
        # RFC 8725 section 3.3: nothing in the claims is looked at before the signature holds.
        return self._identity(_parse(_CLAIMS, _decode(claims, "payload"), "payload", "claims"), key, now)

    def _key(self, header: _Header) -> Key:
        if header.crit is not UNSET or header.b64 is not UNSET:
            # RFC 7515 section 4.1.11: an extension that is not understood makes a token invalid; all are.
            # b64 (RFC 7797) changes what is signed, so it is refused also where crit does not announce it.
            raise TokenError("malformed", "the header asks for an extension (crit, b64); none is supported")
        key = self._named(header.kid)
        if header.alg != key.algorithm:
            # RFC 8725 section 3.1: the key decides, the header may only agree; so never `none`, and never an
            # HMAC keyed with a public key.
            raise TokenError("algorithm", f"the token's alg is not {key.algorithm}, the one of its key")
        return key

    def _named(self, kid: str | UnsetType) -> Key:
        keys = self._keys
        if kid is UNSET:
            if len(keys) != 1:
                raise TokenError("unknown_key", "the token names no kid, and there is not exactly one key")
            return next(iter(keys.values()))
        key = keys.get(kid)
        if key is None:
            self.unknown()
            raise TokenError("unknown_key", "no configured key has the kid that the token names")
        return key

    def _identity(self, claims: _Claims, key: Key, now: float) -> Identity:
        issued = None if claims.iat is UNSET else int(claims.iat)
        self._check_times(int(claims.exp), issued, None if claims.nbf is UNSET else int(claims.nbf), now)
        self._check_parties(claims)
        if claims.sub is UNSET or USER.fullmatch(claims.sub) is None:
            raise TokenError("subject", f"the token's sub is missing or not a user id ({USER.pattern})")
        if is_reserved(claims.sub) != self._reserved:
            whose = "is reserved for" if is_reserved(claims.sub) else "is none of"
            raise TokenError("subject", f"the token's sub {whose} the server's own canaries")
        return Identity(claims.sub, issued or 0, int(claims.exp), _scopes(claims.scope), key)

    def _check_times(self, expires: int, issued: int | None, not_before: int | None, now: float) -> None:
        # RFC 7519 section 4.1.4: "on or after" exp is too late; section 4.1.5: "before" nbf is too early.
        if now >= expires + self._leeway:
            raise TokenError("expired", "the token has expired (exp)")
        if now < max(issued or 0, not_before or 0) - self._leeway:
            raise TokenError("not_yet", "the token is from the future (iat, nbf): compare the clocks")
        if expires - (now if issued is None else issued) > self._max_life:
            since = "now" if issued is None else "iat"
            raise TokenError("lifetime", f"the token lives over {self._max_life} seconds (exp - {since})")

    def _check_parties(self, claims: _Claims) -> None:
        # RFC 7519 section 4.1.3: one string or a list of them; we must be among them.
        named = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if named is UNSET or self._audience not in named:
            raise TokenError("audience", f"the token's aud does not name {self._audience!r}")
        if self._issuer is not None and claims.iss != self._issuer:
            raise TokenError("issuer", f"the token's iss is not {self._issuer!r}")


def _nobody() -> None:
    """Keys come from nowhere else."""


def _unheard(gone: list[Key]) -> None:
    """Nobody's tokens are let in for longer than a request."""


def _by_kid(keys: Iterable[Key]) -> dict[str, Key]:
    found: dict[str, Key] = {}
    for key in keys:
        if key.algorithm not in ALGORITHMS:
            raise ValueError(f"key {key.kid!r}: {key.algorithm!r} is not one of {sorted(ALGORITHMS)}")
        if found.setdefault(key.kid, key) is not key:
            raise ValueError(f"two keys have the kid {key.kid!r}; give each its own")
    return found


def _segments(token: str) -> tuple[str, str, str]:
    if len(token) > MAX_BYTES:
        raise TokenError("malformed", f"the token is longer than {MAX_BYTES} bytes")
    match = _COMPACT.fullmatch(token)
    if match is None:
        # RFC 7515 section 7.1: three base64url parts; section 2: without padding, line breaks or white space.
        raise TokenError("malformed", "the token is not three base64url parts joined by dots")
    return match[1], match[2], match[3]


def base64url(text: str) -> bytes | None:
    """The bytes that `text` spells in base64url without padding (RFC 7515 section 2), or None."""
    try:
        ours = text.encode("ascii").translate(_STANDARD)
        raw = a2b_base64(ours + b"=" * (-len(ours) % 4))
    except ValueError:
        return None
    # The decoder skips what it does not know. RFC 4648 sections 3.3 and 3.5: foreign characters and stray
    # bits at the end are refused, or one token could be spelled in several ways.
    return raw if b2a_base64(raw, newline=False).rstrip(b"=") == ours else None


def _decode(segment: str, part: str) -> bytes:
    raw = base64url(segment)
    if raw is None:
        raise TokenError("malformed", f"the token's {part} is not base64url")
    return raw


def _parse(decoder: msgspec.json.Decoder[T], raw: bytes, part: str, reason: Reason) -> T:
    try:
        return decoder.decode(raw.decode())
    except msgspec.ValidationError as error:
        problem = str(error)  # names fields of ours and JSON types, never a value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = "not JSON in UTF-8, or nested too deeply"
    # Raised out here so that no __context__ (a UnicodeDecodeError holds the bytes) travels with the error.
    raise TokenError(reason, f"the token's {part} cannot be used: {problem}")


def _scopes(scope: str | UnsetType) -> frozenset[str]:
    if scope is UNSET:
        return DEFAULT_SCOPES
    # RFC 8693 section 4.2: space-separated; an empty string is a token that may do nothing.
    scopes = frozenset(scope.split(" ")) - {""}
    if any(_SCOPE.fullmatch(each) is None for each in scopes):
        raise TokenError("claims", "the token's scope has a character that RFC 6749 does not allow in one")
    return scopes
