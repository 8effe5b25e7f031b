"""What providers want to know of us: the claims of Apple's provider token and of Google's assertion, when to renew
them, and whether the files that an operator was given can be used. Signing and sending are the edge's."""

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

MAX_FILE: Final = 65_536
MAX_URL: Final = 2048


class CredentialError(Exception):
    """A credential cannot be used; the message says why and what to do. It never quotes a secret."""


# Apple ------------------------------------------------------------------------------------------------------

_APPLE_ID: Final = re.compile(r"[A-Z0-9]{10}", re.ASCII)
_BUNDLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,154}", re.ASCII)


class ApnsKey(Struct, frozen=True):
    """The names of an APNs authentication key: its own (`kid`) and that of the team."""

    key_id: str
    team_id: str

    def header(self) -> dict[str, str]:
        """The header of a provider token; Apple takes ES256 and nothing else."""
        return {"alg": "ES256", "kid": self.key_id}

    def claims(self, now: float) -> dict[str, Any]:
        """The claims of a provider token made at `now` (s since 1970)."""
        return {"iss": self.team_id, "iat": int(now)}


def apns_key(key_id: str, team_id: str) -> ApnsKey:
    """The two names, checked. Raises CredentialError."""
    for value, what, where in (
        (key_id, "key id", "it is part of the name of the file, AuthKey_<key id>.p8"),
        (team_id, "team id", "see Membership in the developer account"),
    ):
        if _APPLE_ID.fullmatch(value) is None:
            raise CredentialError(f"the {what} must be 10 capital letters and digits: {where}")
    return ApnsKey(key_id, team_id)


def p8(data: bytes) -> bytes:
    """A .p8 file as Apple gives it, checked as far as text goes. Raises CredentialError."""
    return _pem(data, "the .p8 file that Apple gives once")


def topic(bundle: str) -> str:
    """A bundle id, checked. Raises CredentialError."""
    if _BUNDLE.fullmatch(bundle) is None:
        raise CredentialError("a topic is the app's bundle id, such as com.example.photos, without a suffix")
    return bundle


class Renewal(Struct, frozen=True, gc=False):
    """When a token is renewed, s after it was made: between `early` and `late`, each process at a moment of its own.
    Where the provider refuses it: not before `least`. After `most` it is worth nothing."""

    early: float
    late: float
    least: float
    most: float

    def due(self, made: float, now: float, chance: float) -> bool:
        """Is it time? `chance`: drawn from 0 to 1 once for each token. A clock that was set back says yes."""
        return not 0 <= now - made < self.early + chance * (self.late - self.early)

    def may_force(self, made: float, now: float, accepted: bool) -> bool:
        """May a token that was just refused be made anew? At once only if it never was accepted."""
        return not accepted or not 0 <= now - made < self.least

    def is_dead(self, made: float, now: float) -> bool:
        """Is there no use in sending it any more?"""
        return now - made >= self.most


# Apple: not more than once in 20 minutes (429 TooManyProviderTokenUpdates), not older than an hour (403).
APNS_RENEWAL: Final = Renewal(early=2700, late=3000, least=1200, most=3600)


# Google -----------------------------------------------------------------------------------------------------

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
TOKEN_HOSTS: Final = ("oauth2.googleapis.com",)
LIFE: Final = 3600  # s, of an assertion: the most that Google takes

# The older form has the organisation's domain in front: example.com:project.
_PROJECT: Final = re.compile(r"(?:[a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{4,61}[a-z0-9]", re.ASCII)
_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,190}", re.ASCII)
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{0,128}", re.ASCII)


class ServiceAccount(Struct, frozen=True):
    """A Google service account: whom an assertion is from, with which key, and where it goes to."""

    project_id: str
    client_email: str
    private_key_id: str
    private_key: bytes
    token_uri: str

    def __repr__(self) -> str:
        return f"ServiceAccount({self.client_email}, project {self.project_id})"

    def header(self) -> dict[str, str]:
        """The header of an assertion."""
        named = {"kid": self.private_key_id} if self.private_key_id else {}
        return {"alg": "RS256", "typ": "JWT", **named}

    def claims(self, now: float) -> dict[str, Any]:
        """The claims of an assertion made at `now` (s since 1970); RFC 7523 section 3."""
        issued = int(now)
        return {
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": issued,
            "exp": issued + LIFE,
        }


class _AccountFile(Struct, frozen=True):
    type: str
    project_id: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105  # an address

    def __repr__(self) -> str:
        return f"_AccountFile({self.client_email!r})"


_account: Final = msgspec.json.Decoder(_AccountFile).decode


def service_account(data: bytes, hosts: Collection[str] = TOKEN_HOSTS) -> ServiceAccount:
    """A service account's JSON file, checked. `hosts`: where its token_uri may lead. Raises CredentialError."""
    told = _account_file(data)
    if told.type != "service_account":
        # google-services.json and web credentials look alike and are what people upload by mistake.
        raise CredentialError(
            '`type` is not "service_account": make a key under Service accounts in Firebase'
        )
    for name, form in (("project_id", _PROJECT), ("client_email", _EMAIL), ("private_key_id", _KEY_ID)):
        if form.fullmatch(getattr(told, name)) is None:
            raise CredentialError(f"`{name}` is none: download the file again")
    key = _pem(told.private_key.encode(), "`private_key`, as Google writes it")
    try:
        check_url(told.token_uri, hosts)
    except CredentialError as error:
        raise CredentialError(f"`token_uri` {error}") from None
    return ServiceAccount(told.project_id, told.client_email, told.private_key_id, key, told.token_uri)


def _account_file(data: bytes) -> _AccountFile:
    if len(data) > MAX_FILE:
        raise CredentialError(f"larger than {MAX_FILE} bytes: this is no service account's file")
    try:
        return _account(data)
    except msgspec.ValidationError as error:
        problem = str(error)  # names fields and types, never a value
    except (ValueError, RecursionError):
        problem = "not JSON in UTF-8"
    # Out here, or the bytes would travel along as __context__ of the error.
    raise CredentialError(f"not a service account's file: {problem}")


def check_url(url: str, hosts: Collection[str]) -> None:
    """Raise CredentialError unless requests may go to `url`: https, port 443, a host of `hosts`, no address.

    `*.example.com` in `hosts` allows the hosts below that name. For URLs that come with a file or from outside:
    without the list, whoever writes the file sends us wherever we can reach and they cannot.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise CredentialError("is no URL") from None
    if (
        parts.scheme != "https"
        or not host
        or len(url) > MAX_URL
        or not url.isascii()
        or not url.isprintable()
    ):
        raise CredentialError("must be an https:// URL")
    if "@" in parts.netloc or parts.fragment or port not in (None, 443):
        raise CredentialError("must have no user, no fragment and no port but 443")
    if _is_address(host):
        raise CredentialError("must name a host, not an address")
    # By whole labels of the parsed host: "googleapis.com.example.net" and "evilgoogleapis.com" are others.
    below = {f"*.{host.split('.', at)[at]}" for at in range(1, host.count(".") + 1)}
    if host not in hosts and not below & set(hosts):
        raise CredentialError(f"leads to {host}, which is not among the allowed hosts: {', '.join(hosts)}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        # "127.1", "0x7f000001" and "2130706433" are addresses to some resolvers; no name ends in such a label.
        return re.fullmatch(r"(?:0x[0-9a-f]*|\d+)", host.rpartition(".")[2]) is not None
    return True


# Both -------------------------------------------------------------------------------------------------------

_PEM: Final = re.compile(
    rb"\s*-----BEGIN PRIVATE KEY-----\s[A-Za-z0-9+/=\s]+-----END PRIVATE KEY-----\s*", re.ASCII
)
# What people have by mistake, and what to do then.
_MISTAKES: Final[Sequence[tuple[bytes, str]]] = (
    (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", "it is encrypted: openssl pkcs8 -in FILE -out PLAIN"),
    (b"-----BEGIN CERTIFICATE-----", "it is a certificate, not a key"),
    (b"-----BEGIN PUBLIC KEY-----", "it is the public half, the private one is needed"),
    (b"-----BEGIN EC PRIVATE KEY-----", "it is in the older form: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW"),
    (b"-----BEGIN RSA PRIVATE KEY-----", "it is in the older form: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW"),
)  # fmt: skip


def _pem(data: bytes, what: str) -> bytes:
    """A PKCS#8 private key in PEM, whatever is in it. Raises CredentialError."""
    if len(data) > MAX_FILE:
        raise CredentialError(f"larger than {MAX_FILE} bytes: this is not {what}")
    for mark, advice in _MISTAKES:
        if mark in data:
            raise CredentialError(f"this is not {what}: {advice}")
    if _PEM.fullmatch(data) is None:
        raise CredentialError(f"this is not {what}: it must hold one PRIVATE KEY in PEM and nothing else")
    return data
