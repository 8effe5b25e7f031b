"""Devices: what an app may register, how one is stored, who goes when a person has too many.
A device's id is a hash of its token, so a token is one device and belongs to one person."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from hmac import digest
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from notifier.core.model import Device, Environment, Provider

Platform: TypeAlias = Literal["apns", "fcm", "gcm"]

# gcm: what fcm was called; apps and backends of that age still say so.
PROVIDERS: Final[Mapping[Platform, Provider]] = {"apns": "apns", "fcm": "fcm", "gcm": "fcm"}
MAX_BODY: Final = 4096

_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){32,100}", re.ASCII)
# No published grammar: letters, digits and a few signs, 140 to 200 characters today. Nothing that would mean
# something in a URL, a header or JSON may pass.
_FCM: Final = re.compile(r"[A-Za-z0-9_:.~%=+-]{8,1024}", re.ASCII)
_SYNTAX: Final[Mapping[Provider, tuple[re.Pattern[str], str]]] = {
    "apns": (_HEX, "an even number of hexadecimal digits, 64 to 200"),
    "fcm": (_FCM, "8 to 1024 characters of A-Z a-z 0-9 _ : . ~ % = + -"),
}


class App(Struct, frozen=True, gc=False):
    """What the registration of a device must know of a configured app: by which providers it is reached, and the
    environment of its Apple devices that do not tell."""

    providers: frozenset[Provider]
    environment: Environment = "production"


class Refused(Struct, frozen=True, gc=False):
    """Why a registration is refused: the field ("" = the body as a whole) and what to do about it."""

    field: str
    detail: str


class _Body(Struct, frozen=True, gc=False):
    platform: str
    app: str
    environment: str | UnsetType = UNSET
    locale: str = ""
    time_zone: str = ""
    app_version: str = ""


_read: Final = msgspec.json.Decoder(_Body).decode

# Fields for words and times: (pattern, words). An empty one means that the app does not tell.
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "locale": (  # RFC 5646 section 2.1, without its rarest parts
        re.compile(r"(?:[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,5})?", re.ASCII),
        "a language tag such as pt-BR",
    ),
    "time_zone": (
        re.compile(r"(?:[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2})?", re.ASCII),
        "the name of a time zone such as Europe/Berlin",
    ),
    "app_version": (re.compile(r"[ -~]{0,64}", re.ASCII), "at most 64 printable ASCII characters"),
}
_ENVIRONMENTS: Final[Mapping[str, Environment]] = {"production": "production", "sandbox": "sandbox"}


def register(token: str, body: bytes, apps: Mapping[str, App], registered: int = 0) -> Device | Refused:
    """The device that a registration describes, or why there is none. `registered`: ms since 1970, where it is not
    registered now: that is by the store's clock, and the store says when.

    No message quotes the token.
    """
    if len(body) > MAX_BODY:
        return Refused("", f"the body has {len(body)} bytes, at most {MAX_BODY} are allowed")
    try:
        told = _read(body)
    except msgspec.ValidationError as error:
        return Refused("", str(error))
    except (ValueError, RecursionError):
        return Refused("", "the body is not JSON in UTF-8")
    provider = PROVIDERS.get(told.platform)  # type: ignore[call-overload]  # any text: that is the check
    if provider is None:
        return Refused("platform", f"expected one of: {', '.join(PROVIDERS)}")
    return _checked(token, told, provider, apps, registered)


def _checked(
    token: str, told: _Body, provider: Provider, apps: Mapping[str, App], registered: int
) -> Device | Refused:
    app = apps.get(told.app)
    if app is None:
        return Refused("app", "no app of this id is configured")
    if provider not in app.providers:
        return Refused("platform", f"this app has no credentials for {provider}")
    syntax, words = _SYNTAX[provider]
    if syntax.fullmatch(token) is None:
        return Refused("token", f"expected {words}")
    environment = _ENVIRONMENTS.get(told.environment) if told.environment is not UNSET else app.environment
    if environment is None:
        return Refused("environment", f"expected one of: {', '.join(_ENVIRONMENTS)}")
    for name, (form, meaning) in _FORMS.items():
        if form.fullmatch(getattr(told, name)) is None:
            return Refused(name, f"expected {meaning}")
    locale = told.locale.replace("_", "-")
    token = canonical(token)
    return Device(
        device_id(token),
        provider,
        told.app,
        token,
        registered,
        environment,
        locale,
        told.time_zone,
        told.app_version,
    )


def canonical(token: str) -> str:
    """The one spelling of a token: Apple's hexadecimal digits count the same in both cases, nothing else does."""
    return token.lower() if _HEX.fullmatch(token) else token


def device_id(token: str) -> str:
    """The device of a token: 22 characters of `[A-Za-z0-9_-]`, from which nobody finds the token.

    It names the owner's key too. Part of the stored state: another hash would make all devices unknown.
    """
    hashed = blake2b(canonical(token).encode(), digest_size=16, person=b"notifier device").digest()
    return urlsafe_b64encode(hashed).rstrip(b"=").decode("ascii")


def surplus(devices: Iterable[Device], most: int, staying: str = "") -> list[Device]:
    """Whom to forget so that `most` stay: those that were registered longest ago, the oldest first, but never the one
    of the id `staying`."""
    ordered = sorted(devices, key=lambda device: (device.id == staying, device.registered, device.id))
    return ordered[: max(0, min(len(ordered) - most, len(ordered) - bool(staying)))]


def shown(token: str, secret: bytes) -> str:
    """What a log may say of a token: the same word for the same token, which without `secret` leads nowhere."""
    return f"tok:{digest(secret, canonical(token).encode(), sha256).hex()[:8]}"


# --- As it is stored ----------------------------------------------------------------------------------------

VERSION: Final = "1"
_LETTERS: Final[Mapping[Provider, str]] = {"apns": "a", "fcm": "f"}
# The same in every version; the rest is JSON in ours.
_head: Final = re.compile(r"(\d+)([a-z]) (\S+) (\d+) ", re.ASCII).match
_BY_LETTER: Final[Mapping[str, Provider]] = {letter: name for name, letter in _LETTERS.items()}
_OURS: Final[Mapping[str, Provider]] = {VERSION + letter: name for letter, name in _BY_LETTER.items()}


class _Stored(Struct, frozen=True, gc=False, array_like=True):
    token: str
    environment: Environment
    locale: str
    time_zone: str
    app_version: str


_encode: Final = msgspec.json.Encoder().encode
_stored: Final = msgspec.json.Decoder(_Stored).decode


# Whose a device is: "<version> <user> <registered> <who had it before>"; the same in every version, which may add more.
_owner: Final = re.compile(rb"\d+ ([!-~]+) \d+ [!-~]", re.ASCII).match


def owner(value: bytes | None) -> str:
    """Whose a device is, by what is stored of it; "" = nobody's, also where that is damaged."""
    found = _owner(value or b"")
    return found[1].decode("ascii") if found else ""


def encode(device: Device) -> str:
    """A device as the hash of its person holds it, under its id: "<version><provider> <app> <registered> <JSON>".

    What scripts decide by (lane and time) stands in front, so that they need not read JSON.
    """
    rest = _Stored(device.token, device.environment, device.locale, device.time_zone, device.app_version)
    head = f"{VERSION}{_LETTERS[device.provider]} {device.app} {device.registered}"
    return f"{head} {_encode(rest).decode()}"


def decode(device: str, line: str) -> Device | None:
    """The device of this id. One that a newer process wrote has no token here; None: its provider is none of ours
    either. Raises ValueError for a broken line."""
    provider = _OURS.get(line[:2])
    parts = line.split(" ", 3)
    if provider is None or len(parts) < 4 or len(parts[0]) != 2:
        return _decode_other(device, line)
    _, app, registered, rest = parts
    if not (app and app.isprintable() and registered.isascii() and registered.isdigit()):
        return _decode_other(device, line)
    try:
        own = _stored(rest)
    except ValueError:
        # what is wrong with it may be that the token stands elsewhere
        raise ValueError(f"not a device: {len(line)} characters, of which the JSON is damaged") from None
    return Device(
        device, provider, app, own.token, int(registered),
        own.environment, own.locale, own.time_zone, own.app_version,
    )  # fmt: skip


def _decode_other(device: str, line: str) -> Device | None:
    """One of another version, or broken. What is told of it is no part that may be a token."""
    head = _head(line)
    version, letter, app, registered = head.groups() if head else (VERSION, "", "", "")
    provider = _BY_LETTER.get(letter)
    if version != VERSION:
        return Device(device, provider, app, "", int(registered)) if provider is not None else None
    if letter and provider is None:
        raise ValueError(f"a device has the unknown provider {letter!r}")
    raise ValueError(f"not a device: {len(line)} characters that do not begin as one")
