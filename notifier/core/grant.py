"""Google's access tokens: what is asked of the token endpoint, and what its answers mean (RFC 6749, RFC 7523)."""

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from notifier.core.credentials import Renewal

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 section 2.1
GrantFault: TypeAlias = Literal["refused", "later", "unreadable"]
MIN_LIFE: Final = 60.0
_BEARER: Final = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)  # goes into a header as it is
_WORD: Final = re.compile(r"[a-z_]{1,64}", re.ASCII)


class Access(Struct, frozen=True, gc=False):
    """An access token and for how many seconds it is good."""

    token: str
    life: float

    def __repr__(self) -> str:
        return f"Access(life={self.life:g})"


class GrantError(Exception):
    """No access token. `fault`: refused, a human being has to act; later, the server cannot now; unreadable, what
    came is no answer of such a server."""

    def __init__(self, fault: GrantFault, message: str) -> None:
        super().__init__(message)
        self.fault: Final[GrantFault] = fault


class _Granted(Struct, frozen=True):
    access_token: str
    expires_in: float | str = 3600.0
    token_type: str = "Bearer"  # noqa: S105  # a word of the protocol

    def __repr__(self) -> str:
        return f"_Granted(expires_in={self.expires_in!r})"


class _Denied(Struct, frozen=True):
    error: str = ""


_granted: Final = msgspec.json.Decoder(_Granted).decode
_denied: Final = msgspec.json.Decoder(_Denied).decode

_ADVICE: Final[Mapping[str, str]] = {
    "invalid_grant": "the key was deleted, the account disabled, or this machine's clock is wrong",
    "invalid_client": "the account does not exist any more",
    "unauthorized_client": "the account may not ask for this scope",
    "invalid_scope": "the account may not ask for this scope",
}


def question(assertion: str) -> bytes:
    """The form to post to the token endpoint; `assertion`: the signed JWT."""
    return urlencode({"grant_type": GRANT, "assertion": assertion}).encode("ascii")


def granted(status: int, body: bytes) -> Access:
    """What a token endpoint answered (RFC 6749 sections 5.1 and 5.2). Raises GrantError."""
    if status != 200:
        raise _refusal(status, body)
    try:
        told = _granted(body)
        life = float(told.expires_in)
    except (ValueError, RecursionError):
        told, life = None, 0.0
    if told is None or told.token_type.lower() != "bearer" or _BEARER.fullmatch(told.access_token) is None:
        raise GrantError("unreadable", "answered 200 with something else than a bearer token")
    if not MIN_LIFE <= life <= 86_400:  # NaN is refused as well
        raise GrantError("unreadable", "gave a token with a life that cannot be: expires_in")
    return Access(told.access_token, life)


def _refusal(status: int, body: bytes) -> GrantError:
    if status == 429 or status == 408 or status >= 500:
        return GrantError("later", f"answered {status}")
    try:
        word = _denied(body).error
    except (ValueError, RecursionError):
        word = ""
    if status not in (400, 401, 403) or _WORD.fullmatch(word) is None:
        return GrantError("unreadable" if status < 400 else "refused", f"answered {status}")
    advice = _ADVICE.get(word)
    return GrantError("refused", f"answered {status} {word}" + (f": {advice}" if advice else ""))


def renewal(access: Access) -> Renewal:
    """When an access token is renewed: 5 to 10 minutes before its end, a short-lived one after half its life."""
    end = access.life
    early, late = (end - 600, end - 300) if end >= 1200 else (end * 0.5, end * 0.75)
    # Google has no limit like Apple's. A minute, or a token that FCM never takes would be fetched for each push.
    return Renewal(early=early, late=late, least=60.0, most=end)
