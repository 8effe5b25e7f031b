"""Tokens that a process issues to itself, for its canaries: signed with a key that never leaves its memory, good for
the reserved users and nobody else."""

import base64
import hashlib
import hmac
from typing import Final

import msgspec

from notifier.core.tokens import Identity, Key, Verifier

AUDIENCE: Final = "notifier.canary"
LIFE: Final = 600  # s: a canary's client is replaced long before
LEEWAY: Final = 30  # s by which the wall clock may be set back while one is under way

_encode: Final = msgspec.json.Encoder().encode


class SelfIssued:
    """Issues such tokens and takes them; all others go to `others`. `secret`: 32 random bytes or more."""

    def __init__(self, secret: bytes, others: Verifier) -> None:
        def sign(data: bytes) -> bytes:
            return hmac.digest(secret, data, "sha256")

        def verify(data: bytes, signature: bytes) -> bool:
            return hmac.compare_digest(sign(data), signature)

        # Named after the key, but not by it: two processes can tell their tokens apart, and a token tells nothing.
        kid = "canary." + hashlib.sha256(b"kid" + secret).hexdigest()[:32]
        self._sign, self._others = sign, others
        self._head = _segment(_encode({"alg": "HS256", "kid": kid}))
        self._own = Verifier([Key(kid, "HS256", verify)], AUDIENCE, None, LIFE, LEEWAY, reserved=True)

    def issue(self, user: str, now: float) -> str:
        """A token for a reserved user, at `now` (seconds since the epoch)."""
        claims = {"sub": user, "aud": AUDIENCE, "iat": int(now), "exp": int(now) + LIFE}
        signed = f"{self._head}.{_segment(_encode(claims))}"
        return f"{signed}.{_segment(self._sign(signed.encode()))}"

    def verify(self, token: str, now: float) -> Identity:
        """The identity in `token`, as Verifier.verify. Raises TokenError."""
        return (self._own if token.startswith(self._head) else self._others).verify(token, now)


def _segment(raw: bytes) -> str:
    # RFC 7515 section 2: base64url without padding
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
