# ruff: noqa: E501  (the tree is a table: one setting, one line)
"""Every setting of notifier: one frozen typed tree, read from TOML and then the environment.

The default file, the reference page and every error message are made from the same lines.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import operator
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.inspect import (
    DictType,
    FloatType,
    IntType,
    LiteralType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)
from msgspec.inspect import Metadata as Annotation

__all__ = [
    "Admin", "Api", "Apns", "App", "Config", "ConfigError", "DeadLetters", "Drain", "Events", "Fanout", "Fault",
    "Fcm", "Gcm", "Inbox", "Key", "Limits", "Log", "Push", "Redis", "Tokens", "TypePush", "WebSocket", "default_toml",
    "load", "reference_markdown",
]  # fmt: skip


class Fault(Struct, frozen=True):
    """One thing that is wrong: where (a setting, a variable or a file) and what, with the cure."""

    path: str
    message: str


class ConfigError(Exception):
    """The configuration cannot be used; `faults` holds all that is wrong with it, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        count = len(self.faults)
        lines = [f"{count} fault{'s' * (count > 1)} in the configuration:"]
        return "\n".join(lines + [f"  {fault.path}: {fault.message}" for fault in self.faults])


# --- What a value must look like, beyond its type ------------------------------------------------------


class _RefusedError(Exception):
    """A value is of the right type and still wrong; the text says why and never quotes a possible secret."""


def _split(url: str) -> tuple[SplitResult, str, int | None]:
    """(parts, host, port) of a URL. The errors of urllib quote the URL, so they are replaced."""
    parts = SplitResult("", "", "", "", "")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = " ", None
    if port == 0 or not re.fullmatch(r"[\w.-]*|[0-9a-f:.]+", host):
        raise _RefusedError("this is not a URL: check the host, the brackets and the port (1 to 65535)")
    return parts, host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host  # RFC 3986 section 3.2.2


def _redis_url(url: str) -> str:
    if "@" in url:
        raise _RefusedError(
            "a user name or password does not belong in the URL: put the password alone into a file, name that "
            "file in redis.password_file, and the user in redis.username"
        )
    parts, host, port = _split(url)
    if parts.query or parts.fragment:
        raise _RefusedError(
            "nothing may follow ? or #: use the other settings of [redis] (for a password: password_file)"
        )
    if parts.scheme not in ("redis", "rediss") or not host:
        raise _RefusedError("expected redis://host:port/db, or rediss:// for TLS")
    database = parts.path.removeprefix("/") or "0"
    if not re.fullmatch(r"[0-9]{1,5}", database):
        raise _RefusedError("expected the number of a database after the host, as in redis://host:port/0")
    return f"{parts.scheme}://{_bracketed(host)}:{port or 6379}/{int(database)}"


def _https_url(url: str) -> str:
    parts, host, _ = _split(url)
    if "@" in parts.netloc:
        raise _RefusedError("a user name or password does not belong in the URL")
    loopback = host in ("127.0.0.1", "::1", "localhost")
    if not host or parts.fragment or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
        raise _RefusedError("expected an https:// URL (http:// only on this machine), without #")
    return url


_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def _origin(text: str) -> str:
    if text == "*":
        return text
    parts, host, port = _split(text)
    if not text.isascii():
        raise _RefusedError(f"found {_shown(text)}, expected the host as browsers send it (xn--...)")
    if not parts.scheme or not host or "@" in parts.netloc:
        raise _RefusedError(f"found {_shown(text)}, expected scheme://host, scheme://host:port or *")
    # RFC 6454 section 6.2: an origin is sent in lower case, without a path and without the scheme's own port.
    default = port is None or port == _DEFAULT_PORTS.get(parts.scheme)
    exact = f"{parts.scheme}://{_bracketed(host)}" + ("" if default else f":{port}")
    if text != exact:
        raise _RefusedError(f"found {_shown(text)}, which no browser sends: write {_shown(exact)}")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        near = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _RefusedError(
            f"found {_shown(text)}, expected an address or a network such as 10.0.0.0/8 or fd00::/8"
        ) from None
    raise _RefusedError(
        f"found {_shown(text)}, which has bits set behind the prefix: write {_shown(str(near))}"
    )


def _event_types(types: list[str]) -> list[str]:
    for name in types:
        if types.count(name) > 1:
            raise _RefusedError(f"{_shown(name)} is in the list twice")
        if "un" + name in types:
            raise _RefusedError(
                f"{_shown('un' + name)} cannot be a type: it is the event that takes back {_shown(name)}"
            )
    return types


def _distinct_kids(keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kids = [key["kid"] for key in keys]
    for kid in kids:
        if kids.count(kid) > 1:
            raise _RefusedError(
                f"kid {_shown(kid)} names {kids.count(kid)} keys: each needs a name of its own"
            )
    return keys


def _one_way_in(apns: dict[str, Any]) -> dict[str, Any]:
    """APNs takes a key or a certificate. Names of what is missing, never a value."""
    key = [name for name in ("key_file", "key_id", "team_id") if name in apns]
    if key and "certificate_file" in apns:
        raise _RefusedError("key_file and certificate_file are two ways to say who you are: keep one")
    if key and len(key) < 3:
        raise _RefusedError(f"{', '.join(key)} alone will not do: key_file, key_id and team_id go together")
    if not key and "certificate_file" not in apns:
        raise _RefusedError("expected key_file, key_id and team_id, or certificate_file")
    if "password_file" in apns and "certificate_file" not in apns:
        raise _RefusedError("password_file is for certificate_file: an APNs key has no password")
    return apns


def _some_provider(app: dict[str, Any]) -> dict[str, Any]:
    if not app:
        raise _RefusedError("expected a table for a provider: apns, fcm or gcm")
    if "fcm" in app and "gcm" in app:
        raise _RefusedError(
            "fcm and gcm serve the same devices: keep gcm only to send through a gateway of your own"
        )
    return app


def _host(name: str) -> str:
    if not re.fullmatch(r"(?:\*\.)?(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{1,62}", name):
        raise _RefusedError(
            f"found {_shown(name)}, expected a host in lower case, or *.example.com for all below one"
        )
    return name


def _in_order(literal: Any) -> dict[str, Any]:
    """The values of a Literal as they are written: msgspec.inspect sorts them."""
    return {"values": get_args(literal)}


# fmt: off
# `title` is what an error message and the reference call the type; `read` turns a value of the right type into the
# one that is kept, or refuses it; a `private` value may be a secret in the wrong place and is never shown.
_PRINTABLE = r"\A[^\x00-\x1f\x7f]+\Z"
_Text = Annotated[str, Meta(pattern=_PRINTABLE, title="text")]
_File = Annotated[str, Meta(pattern=_PRINTABLE, title="the path of a file", extra={"file": True, "private": True})]
_Slug = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z", title="1 to 64 characters of A-Z a-z 0-9 _ . -")]
_Kid = Annotated[str, Meta(pattern=r"\A[!-~]{1,128}\Z", title="1 to 128 printable ASCII characters without spaces")]
_EventType = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,31}\Z", title="1 to 32 characters of a-z 0-9 _, a letter first")]
_RedisUrl = Annotated[str, Meta(pattern=_PRINTABLE, title="redis://host:port/db or rediss://host:port/db", extra={"read": _redis_url, "private": True})]
_HttpsUrl = Annotated[str, Meta(pattern=_PRINTABLE, title="an https:// URL", extra={"read": _https_url, "private": True})]
_Endpoint = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9]*:[^\x00-\x1f\x7f]+\Z", title="a Twisted server endpoint such as tcp:8081:interface=127.0.0.1")]
_UrlPath = Annotated[str, Meta(pattern=r"\A/[A-Za-z0-9._~!$&'()*+,;=:@/-]*\Z", title="a URL path that begins with /")]
_Origin = Annotated[str, Meta(pattern=_PRINTABLE, title="scheme://host[:port] or *", extra={"read": _origin})]
_Network = Annotated[str, Meta(pattern=_PRINTABLE, title="an address or a CIDR network", extra={"read": _network})]
_Algorithm = Literal["EdDSA", "ES256", "RS256", "HS256"]
_Level = Literal["debug", "info", "warn", "error"]
_Format = Literal["json", "text"]
_Switch = Literal["off", "on"]
_Environment = Literal["production", "sandbox"]
_When = Literal["offline", "always", "off"]
_PushType = Literal[
    "alert", "background", "voip", "complication", "fileprovider", "mdm", "liveactivity", "location", "pushtotalk",
    "widgets", "controls",
]
_Priority = Literal["high", "normal", "low"]
_Collapse = Literal["group", "notification"]
_Interruption = Literal["passive", "active", "time-sensitive"]
_AppId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,32}\Z", title="1 to 32 characters of A-Z a-z 0-9 _ -")]
_AppleId = Annotated[str, Meta(pattern=r"\A[A-Z0-9]{10}\Z", title="10 capital letters and digits")]
_Bundle = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.-]{0,154}\Z", title="a bundle id such as com.example.photos")]
_Host = Annotated[str, Meta(pattern=_PRINTABLE, title="the name of a host", extra={"read": _host})]
_Word = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{0,128}\Z", title="text of at most 128 characters, or \"\" for none")]
_EventTypes = Annotated[tuple[_EventType, ...], Meta(min_length=1, max_length=64, extra={"read": _event_types})]


# --- The tree ------------------------------------------------------------------------------------------


class Redis(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the state lives."""

    url: Annotated[_RedisUrl, Meta(description="Server that holds all state; rediss:// speaks TLS; port 6379 and database 0 may be left out.")] = "redis://127.0.0.1:6379/0"
    username: Annotated[_Text | None, Meta(description="ACL user to log in as; without it the password is that of the default user.", examples=["notifier"])] = None
    password_file: Annotated[_File | None, Meta(description="File that holds the password, alone; one that other users can open is refused.", examples=["redis.password"])] = None
    ca_file: Annotated[_File | None, Meta(description="PEM certificates to trust for rediss://, in place of those of the system.", examples=["redis-ca.pem"])] = None
    shards: Annotated[int, Meta(ge=1, le=64, description="Parts that the people are divided into; fixed when the state is first set up.")] = 1
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Deadline of every call, in seconds.")] = 5.0
    connect_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Deadline for opening a connection, in seconds.")] = 5.0


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """What producers may send."""

    types: Annotated[_EventTypes, Meta(description="Accepted event types; each also accepts its retraction, the name with \"un\" before it.")] = ("follow", "like", "comment")
    window_hours: Annotated[int, Meta(ge=1, le=168, description="Idempotency window, in hours: a repeat within it changes nothing, an older event is refused.")] = 24
    future_seconds: Annotated[int, Meta(ge=0, le=3600, description="How far ahead of the server's clock an event's time may be, in seconds.")] = 300
    max_bytes: Annotated[int, Meta(ge=1024, le=65_536, description="Largest event, in bytes.")] = 16_384
    max_recipients: Annotated[int, Meta(ge=1, le=1000, description="Most people one event may be addressed to.")] = 1000
    backlog_limit: Annotated[int, Meta(ge=1000, le=1_000_000_000, description="Unhandled events beyond which the key notifier:pressure is set and the API answers 429.")] = 1_000_000
    rate: Annotated[int, Meta(ge=1, le=1_000_000, description="Expected events times recipients per second; sizes the idempotency sets; fixed when the state is first set up.")] = 1000


class Inbox(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept for each person."""

    cap: Annotated[int, Meta(ge=1, le=400, description="Most notifications kept per person; the oldest go first.")] = 100
    retention_days: Annotated[int, Meta(ge=1, le=3650, description="Days after its last change that an inbox is kept; up to a day less, of one day half.")] = 90
    page: Annotated[int, Meta(ge=1, le=256, description="Records that a resuming client is sent per read of the inbox.")] = 100


class DeadLetters(Struct, frozen=True, forbid_unknown_fields=True):
    """Events that could not be applied."""

    per_reason: Annotated[int, Meta(ge=1, le=1_000_000, description="Most dead letters kept per reason; the oldest go first.")] = 10_000
    days: Annotated[int, Meta(ge=1, le=90, description="Days that a dead letter is kept.")] = 14


class Fanout(Struct, frozen=True, forbid_unknown_fields=True):
    """How events become notifications."""

    batch: Annotated[int, Meta(ge=1, le=100, description="Most pairs of event and recipient in one call to Redis.")] = 100
    batch_bytes: Annotated[int, Meta(ge=4096, le=262_144, description="Most bytes in one call to Redis.")] = 262_144
    lease_seconds: Annotated[float, Meta(ge=0.5, le=60, description="Seconds after which another process takes over the shards of one that fell silent.")] = 3.0
    poll_ms: Annotated[int, Meta(ge=1, le=10_000, description="Milliseconds between looks for new events when no wake-up arrives.")] = 250
    claim_seconds: Annotated[float, Meta(ge=1, le=600, description="Seconds between looks for events that were read and never finished.")] = 15.0
    tries: Annotated[int, Meta(ge=1, le=100, description="Tries before an event that keeps failing goes to the dead letters.")] = 3


class WebSocket(Struct, frozen=True, forbid_unknown_fields=True):
    """The listener for clients."""

    listen: Annotated[_Endpoint, Meta(description="Where clients connect, as a Twisted endpoint.")] = "tcp:8081:interface=127.0.0.1"
    path: Annotated[_UrlPath, Meta(description="URL path of the WebSocket.")] = "/v1/websocket"
    origins: Annotated[tuple[_Origin, ...], Meta(description="Web origins that may connect, exactly as browsers send them; empty: only pages of the same host; \"*\": any.")] = ()
    auth_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Time a client has to send its token, in seconds.")] = 5.0
    handshake_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Time a client has to finish the opening handshake, in seconds.")] = 5.0
    close_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Time a client has to answer a close before the connection is cut, in seconds.")] = 5.0
    ping_seconds: Annotated[int, Meta(ge=1, le=3600, description="Seconds between pings to a client.")] = 25
    pong_seconds: Annotated[int, Meta(ge=1, le=3600, description="Seconds a client has to answer a ping.")] = 20
    reauth_seconds: Annotated[int, Meta(ge=1, le=1800, description="Seconds before its token ends that a client is asked for a new one.")] = 60
    refresh_seconds: Annotated[int, Meta(ge=1, le=30, description="Seconds between checks that every client has all it should have; they also renew who is online.")] = 30
    resync_spread_seconds: Annotated[int, Meta(ge=0, le=600, description="Seconds over which clients are sent to reload after a restart of Redis.")] = 30


class Api(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API."""

    listen: Annotated[_Endpoint, Meta(description="Where the HTTP API listens, as a Twisted endpoint.")] = "tcp:8082:interface=127.0.0.1"
    origins: Annotated[tuple[_Origin, ...], Meta(description="Web origins that may call the API from a browser (CORS); empty: none; \"*\": any.")] = ()
    body_bytes: Annotated[int, Meta(ge=1024, le=16_777_216, description="Largest request body, in bytes, but for events.")] = 65_536
    events_bytes: Annotated[int, Meta(ge=1024, le=16_777_216, description="Largest body of POST /v1/events, in bytes.")] = 2_097_152
    event_source: Annotated[_Switch, Meta(extra=_in_order(_Switch), description="Whether /v1/stream also takes the token as ?access_token=, for a browser's EventSource; URLs end up in the logs of proxies.")] = "off"


class Admin(Struct, frozen=True, forbid_unknown_fields=True):
    """The operators' listener."""

    listen: Annotated[_Endpoint, Meta(description="Where health checks and metrics are served, as a Twisted endpoint; keep it off public networks.")] = "tcp:8083:interface=127.0.0.1"
    canary_seconds: Annotated[float, Meta(ge=0.2, le=5, description="Seconds between canaries, small events of a reserved user that show /readyz whether the whole path is open.")] = 3.0


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """One key that signs tokens."""

    kid: Annotated[_Kid, Meta(description="Name of the key, as the kid of a token's header gives it.", examples=["2026-11"])]
    algorithm: Annotated[_Algorithm, Meta(extra=_in_order(_Algorithm), description="The one algorithm that tokens of this key may use.", examples=["EdDSA"])]
    file: Annotated[_File, Meta(description="PEM file of the public key; for HS256 the file of the shared secret.", examples=["2026-11.pub"])]


class Tokens(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may come in."""

    audience: Annotated[_Text, Meta(description="Value that a token's aud must have or contain.")] = "notifier"
    issuer: Annotated[_Text | None, Meta(description="Value that a token's iss must have; without it any issuer is accepted.", examples=["https://accounts.example.com"])] = None
    max_life_hours: Annotated[int, Meta(ge=1, le=24, description="Longest life of a token, in hours.")] = 24
    leeway_seconds: Annotated[int, Meta(ge=0, le=120, description="Difference of clocks that is forgiven, in seconds.")] = 30
    keys: Annotated[tuple[Key, ...], Meta(max_length=64, description="Keys whose tokens are accepted.", extra={"read": _distinct_kids})] = ()
    jwks_file: Annotated[_File | None, Meta(description="JSON Web Key Set with more public keys.", examples=["jwks.json"])] = None
    jwks_url: Annotated[_HttpsUrl | None, Meta(description="Address of a JSON Web Key Set with more public keys.", examples=["https://accounts.example.com/jwks.json"])] = None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one process bears, and one client may do."""

    connections: Annotated[int, Meta(ge=1, le=10_000_000, description="Most open WebSocket connections of one process.")] = 100_000
    unauthenticated: Annotated[int, Meta(ge=1, le=10_000_000, description="Most connections of one process that have not authenticated yet.")] = 1000
    per_address: Annotated[int, Meta(ge=1, le=10_000_000, description="Most connections of one process from one address (IPv6: one /64).")] = 100
    per_address_rate: Annotated[float, Meta(ge=0.1, le=1_000_000, description="New connections per second from one address, with bursts of twice that.")] = 10.0
    per_user: Annotated[int, Meta(ge=1, le=10_000, description="Most connections of one process for one person; the oldest is closed.")] = 20
    trusted_proxies: Annotated[tuple[_Network, ...], Meta(description="Proxies whose X-Forwarded-For is believed and which are not counted per address.")] = ("127.0.0.0/8", "::1/128")
    message_bytes: Annotated[int, Meta(ge=256, le=1_048_576, description="Largest message from a client, in bytes.")] = 16_384
    unauthenticated_bytes: Annotated[int, Meta(ge=256, le=1_048_576, description="Largest message from a client that has not authenticated yet, in bytes.")] = 4096
    messages_per_second: Annotated[float, Meta(ge=0.1, le=100_000, description="Messages per second from one client.")] = 10.0
    messages_burst: Annotated[int, Meta(ge=1, le=1_000_000, description="Messages one client may send at once before messages_per_second holds.")] = 30
    pings_per_minute: Annotated[int, Meta(ge=1, le=100_000, description="WebSocket pings per minute from one client.")] = 60
    fragments: Annotated[int, Meta(ge=1, le=100_000, description="Most fragments of one message from a client.")] = 64
    window: Annotated[int, Meta(ge=1, le=65_536, description="Notifications a client may leave unacknowledged before it counts as slow.")] = 256
    unsent_bytes: Annotated[int, Meta(ge=65_536, le=67_108_864, description="Bytes that may wait for one client before it counts as slow.")] = 262_144
    header_bytes: Annotated[int, Meta(ge=1024, le=65_536, description="Largest opening handshake, in bytes.")] = 8192
    requests_per_user: Annotated[float, Meta(ge=0.1, le=1_000_000, description="API requests per second of one person.")] = 10.0
    requests_per_user_burst: Annotated[int, Meta(ge=1, le=1_000_000, description="API requests that one person may send at once before requests_per_user holds.")] = 60
    requests_per_address: Annotated[float, Meta(ge=0.1, le=1_000_000, description="API requests per second from one address (IPv6: one /64).")] = 50.0
    requests_per_address_burst: Annotated[int, Meta(ge=1, le=1_000_000, description="API requests that may come from one address at once before requests_per_address holds.")] = 300


class Push(Struct, frozen=True, forbid_unknown_fields=True):
    """How pushes are sent to phones."""

    devices_per_user: Annotated[int, Meta(ge=1, le=1000, description="Most devices of one person; the one registered longest ago goes first.")] = 50
    in_flight: Annotated[int, Meta(ge=1, le=64, description="Batches of up to 100 pushes that one process has under way on each lane of a shard.")] = 4
    poll_ms: Annotated[int, Meta(ge=10, le=10_000, description="Milliseconds between looks for pushes to make when no wake-up arrives, and for what has come due.")] = 500
    claim_seconds: Annotated[float, Meta(ge=1, le=600, description="Seconds between looks for pushes that another process was given and never settled.")] = 15.0
    drain_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Seconds that a stop waits for the answers of providers.")] = 20.0
    token_hosts: Annotated[tuple[_Host, ...], Meta(max_length=16, description="Hosts that the token_uri of a service account's file may lead to.")] = ("oauth2.googleapis.com",)
    tries: Annotated[int, Meta(ge=1, le=100, description="Tries after which a push that the provider refuses for the sake of its device goes to the dead letters; while the provider is away only the deadline ends it.")] = 8
    free_tries: Annotated[int, Meta(ge=0, le=100, description="Tries that do not count, because the provider surely never saw them, before they do.")] = 3
    mend_seconds: Annotated[float, Meta(ge=1, le=3600, description="Seconds between tries while the provider says that the set-up is wrong.")] = 60.0
    doubt_seconds: Annotated[float, Meta(ge=1, le=3600, description="Seconds until a token that may be bad is asked for again.")] = 60.0
    retry_share: Annotated[float, Meta(ge=0, le=10, description="Retries allowed for each first try.")] = 0.2
    retry_burst: Annotated[float, Meta(ge=1, le=1_000_000, description="Retries that may be made at once before retry_share holds.")] = 100.0
    retry_trickle: Annotated[float, Meta(ge=0.1, le=1_000_000, description="Retries a second that are allowed in any case.")] = 10.0
    guard_window_seconds: Annotated[float, Meta(ge=1, le=86_400, description="Seconds over which answers that call tokens bad are counted.")] = 300.0
    guard_least: Annotated[int, Meta(ge=1, le=100_000, description="Bad answers before the guard against losing tokens in mass may act.")] = 50
    guard_suspect_share: Annotated[float, Meta(ge=0.01, le=1, description="Share of answers that blame the token, and may be the set-up's fault, at which an app is suspended.")] = 0.2
    guard_dead_share: Annotated[float, Meta(ge=0.01, le=1, description="Share of all bad answers at which an app is suspended.")] = 0.6
    guard_recent_suspect: Annotated[float, Meta(ge=0.01, le=1, description="The same as guard_suspect_share among the last guard_least answers.")] = 0.5
    guard_recent_dead: Annotated[float, Meta(ge=0.01, le=1, description="The same as guard_dead_share among the last guard_least answers.")] = 0.9
    guard_hold_seconds: Annotated[float, Meta(ge=1, le=86_400, description="Seconds that an app stays suspended.")] = 300.0
    breaker_failures: Annotated[int, Meta(ge=1, le=1000, description="Failures in a row after which a lane stops asking its provider.")] = 5
    breaker_base_seconds: Annotated[float, Meta(ge=0.01, le=3600, description="Longest first pause of a lane, in seconds; it doubles with each that follows.")] = 1.0
    breaker_cap_seconds: Annotated[float, Meta(ge=0.01, le=3600, description="Longest pause of a lane, in seconds.")] = 60.0
    breaker_floor_seconds: Annotated[float, Meta(ge=0.01, le=3600, description="Shortest pause of a lane, in seconds.")] = 0.5
    breaker_mend_seconds: Annotated[float, Meta(ge=0.01, le=3600, description="Pause of a lane whose set-up the provider calls wrong, in seconds.")] = 60.0
    breaker_patience_seconds: Annotated[float, Meta(ge=1, le=3600, description="Seconds until a try that is not answered gives way to another.")] = 60.0


class Apns(Struct, frozen=True, forbid_unknown_fields=True):
    """An app on Apple's devices."""

    topic: Annotated[_Bundle, Meta(description="Bundle id of the app.", examples=["com.example.photos"])]
    key_file: Annotated[_File | None, Meta(description="The .p8 file of an APNs key; one that other users can open is refused.", examples=["AuthKey_ABC1234567.p8"])] = None
    key_id: Annotated[_AppleId | None, Meta(description="Id of that key; it is part of the file's name.", examples=["ABC1234567"])] = None
    team_id: Annotated[_AppleId | None, Meta(description="Id of the developer team.", examples=["TEAM123456"])] = None
    certificate_file: Annotated[_File | None, Meta(description="Instead of a key: a certificate with its private key, as PEM or PKCS#12 (.p12).", examples=["photos.p12"], extra={"instead": True})] = None
    password_file: Annotated[_File | None, Meta(description="File that holds the password of a PKCS#12 file, alone.", examples=["photos.password"], extra={"instead": True})] = None
    environment: Annotated[_Environment, Meta(extra=_in_order(_Environment), description="Environment of devices that do not tell theirs: production for apps from the App Store or TestFlight.")] = "production"
    connections: Annotated[int, Meta(ge=1, le=1000, description="HTTP/2 connections that each process opens to each of the two addresses below at most. Another one is opened while pushes wait because what is there is in full use.")] = 8
    production_url: Annotated[_HttpsUrl, Meta(description="APNs for production; another address is for tests and proxies.")] = "https://api.push.apple.com"
    sandbox_url: Annotated[_HttpsUrl, Meta(description="APNs for development builds.")] = "https://api.sandbox.push.apple.com"
    authority_file: Annotated[_File | None, Meta(description="PEM certificates to trust in place of those of the system, for `notifier sandbox`.", examples=["authority.pem"])] = None


class Fcm(Struct, frozen=True, forbid_unknown_fields=True):
    """An app on Android devices, through FCM HTTP v1."""

    service_account_file: Annotated[_File, Meta(description="JSON file of a service account; one that other users can open is refused.", examples=["firebase.json"])]
    rate: Annotated[float, Meta(ge=1, le=1_000_000, description="Messages a second that the project may be sent by all processes together, which share it evenly; Google's quota is 600 000 a minute unless it was raised.")] = 9_000.0
    connections: Annotated[int, Meta(ge=1, le=1000, description="HTTP/2 connections that each process opens to FCM at most. Another one is opened while pushes wait because what is there is in full use.")] = 8
    url: Annotated[_HttpsUrl, Meta(description="FCM; another address is for tests and proxies.")] = "https://fcm.googleapis.com"
    token_url: Annotated[_HttpsUrl | None, Meta(description="Where access tokens are had, in place of the file's token_uri; for `notifier sandbox`.", examples=["https://127.0.0.1:8445/token"])] = None
    authority_file: Annotated[_File | None, Meta(description="PEM certificates to trust in place of those of the system, for `notifier sandbox`.", examples=["authority.pem"])] = None


class Gcm(Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway of your own that speaks the JSON of GCM. Google's GCM itself is gone."""

    url: Annotated[_HttpsUrl, Meta(description="Address that messages are posted to.", examples=["https://push.example.com/fcm/send"])]
    key_file: Annotated[_File, Meta(description="File that holds the gateway's server key, alone.", examples=["gateway.key"])]
    authority_file: Annotated[_File | None, Meta(description="PEM certificates to trust in place of those of the system.", examples=["authority.pem"])] = None


class App(Struct, frozen=True, forbid_unknown_fields=True):
    """One app, and the providers that reach its devices."""

    apns: Annotated[Apns | None, Meta(description="The app on Apple's devices.", extra={"read": _one_way_in})] = None
    fcm: Annotated[Fcm | None, Meta(description="The app on Android devices, through FCM HTTP v1.")] = None
    gcm: Annotated[Gcm | None, Meta(description="In place of fcm: a gateway of your own that speaks the JSON of GCM, which Google itself has switched off.", extra={"instead": True})] = None


class TypePush(Struct, frozen=True, forbid_unknown_fields=True):
    """How phones are told of one type of event."""

    push: Annotated[_When, Meta(extra=_in_order(_When), description="When phones are told: to people who are not connected, always, or never.")] = "offline"
    priority: Annotated[_Priority, Meta(extra=_in_order(_Priority), description="high wakes the phone, normal waits for a good moment, low never lights the screen.")] = "high"
    collapse: Annotated[_Collapse, Meta(extra=_in_order(_Collapse), description="What replaces its predecessor on the screen: the newest of a group, or only the same notification.")] = "notification"
    ttl_seconds: Annotated[Annotated[int, Meta(ge=1, le=2_419_200)] | None, Meta(description="Seconds after which a phone need not be told any more; not set: 86400, for likes 21600.", examples=[21600])] = None
    sound: Annotated[_Word, Meta(description="Name of the sound; \"\" for silence.")] = "default"
    channel: Annotated[_Word, Meta(description="Android's notification channel.")] = ""
    click_action: Annotated[_Word, Meta(description="What Android opens.")] = ""
    category: Annotated[_Word, Meta(description="Apple's category, which gives a notification its buttons.")] = ""
    interruption: Annotated[_Interruption | None, Meta(extra=_in_order(_Interruption), description="Apple's interruption level.", examples=["active"])] = None
    push_type: Annotated[_PushType, Meta(extra=_in_order(_PushType), description="Apple's apns-push-type.")] = "alert"
    mutable: Annotated[_Switch, Meta(extra=_in_order(_Switch), description="Whether an extension of the app on Apple's devices may change it before it is shown.")] = "off"
    data_only: Annotated[_Switch, Meta(extra=_in_order(_Switch), description="Whether the app on Android draws it itself.")] = "off"
    hidden: Annotated[_Switch, Meta(extra=_in_order(_Switch), description="Whether to say only that there is something, not what: the words then never pass Apple or Google.")] = "off"


class Drain(Struct, frozen=True, forbid_unknown_fields=True):
    """How the server stops."""

    seconds: Annotated[float, Meta(ge=0, le=3600, description="Seconds over which clients are told to go elsewhere.")] = 10.0
    timeout_seconds: Annotated[float, Meta(ge=1, le=3600, description="Seconds after which a stop no longer waits for anything.")] = 30.0


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What the server says."""

    level: Annotated[_Level, Meta(extra=_in_order(_Level), description="Least severe level that is logged.")] = "info"
    format: Annotated[_Format, Meta(extra=_in_order(_Format), description="One JSON object a line, or plain text.")] = "json"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration. It holds no secret, only paths to them, so its repr may be logged."""

    name: Annotated[_Slug, Meta(description="Name of this server; its consumer slots in Redis are called name-1, name-2 and so on.")] = "notifier"
    redis: Annotated[Redis, Meta(description="Redis or Valkey, where all state lives.")] = Redis()
    events: Annotated[Events, Meta(description="The events that producers append.")] = Events()
    inbox: Annotated[Inbox, Meta(description="The notifications kept for each person.")] = Inbox()
    dead_letters: Annotated[DeadLetters, Meta(description="Events that could not be applied, kept with the reason.")] = DeadLetters()
    fanout: Annotated[Fanout, Meta(description="The workers that turn events into notifications.")] = Fanout()
    websocket: Annotated[WebSocket, Meta(description="The WebSocket listener.")] = WebSocket()
    api: Annotated[Api, Meta(description="The HTTP API.")] = Api()
    admin: Annotated[Admin, Meta(description="Health checks and metrics, on a listener of their own.")] = Admin()
    tokens: Annotated[Tokens, Meta(description="The tokens by which clients and services say who they are.")] = Tokens()
    limits: Annotated[Limits, Meta(description="Limits of one process, and of each client.")] = Limits()
    push: Annotated[Push, Meta(description="The senders of pushes to phones; docs/providers.md shows the set-up.")] = Push()
    drain: Annotated[Drain, Meta(description="What happens on SIGTERM.")] = Drain()
    log: Annotated[Log, Meta(description="The log.")] = Log()
    apps: Annotated[dict[_AppId, App], Meta(max_length=64, description="Apps on phones, each by an id of its own, which its devices are registered with.", examples=["photos"], extra={"read_item": _some_provider})] = {}
    types: Annotated[dict[_EventType, TypePush], Meta(max_length=64, description="How phones are told of each type of event; a type that is not here has the defaults.", examples=["like"])] = {}


# fmt: on
# --- What must hold between two settings ---------------------------------------------------------------


class _Rule(NamedTuple):
    path: str
    must: str  # completed by the other setting
    other: str
    holds: Callable[[Any, Any], bool]
    why: str


def _two_ports(one: str, two: str) -> bool:
    """Can both be listened at? Of TCP the port counts; without an interface it is taken on all of them."""
    (port, host), (other_port, other_host) = _tcp(one), _tcp(two)
    if not port or not other_port:
        return one != two
    same = port == other_port and (host == other_host or _EVERYWHERE & {host, other_host})
    return port == "0" or not same  # port 0: a free port for each


_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104  # compared with, not bound to


def _tcp(endpoint: str) -> tuple[str, str]:
    """(port, interface) of a TCP or TLS endpoint; without a port for every other kind."""
    kind, *parts = re.split(r"(?<!\\):", endpoint)
    if kind not in ("tcp", "tcp6", "ssl"):
        return "", ""
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    port = named.get("port", plain[0] if plain else "")
    return port.lstrip("0") or (port and "0"), named.get("interface", "").replace("\\:", ":")


_RULES = (
    _Rule("redis.url", "must be rediss:// with {}", "redis.ca_file", lambda url, ca: ca is None or url.startswith("rediss:"),
          "the certificates are for TLS"),
    _Rule("redis.password_file", "must be set together with {}", "redis.username", lambda file, user: file is not None or user is None,
          "Redis takes a user only together with a password"),
    _Rule("fanout.batch_bytes", "must be at least {}", "events.max_bytes", operator.ge, "one event has to fit into a call"),
    _Rule("fanout.lease_seconds", "must be longer than twice {}", "fanout.poll_ms", lambda lease, poll: lease * 1000 > 2 * poll,
          "a lease has to outlive a missed poll"),
    _Rule("fanout.claim_seconds", "must be at least {}", "fanout.lease_seconds", operator.ge,
          "work is not abandoned before its lease has ended"),
    _Rule("websocket.pong_seconds", "must be less than {}", "websocket.ping_seconds", operator.lt,
          "a pong is due before the next ping"),
    _Rule("api.listen", "must be different from {}", "websocket.listen", _two_ports, "each listener needs its own address"),
    _Rule("admin.listen", "must be different from {}", "websocket.listen", _two_ports, "each listener needs its own address"),
    _Rule("admin.listen", "must be different from {}", "api.listen", _two_ports, "each listener needs its own address"),
    _Rule("api.events_bytes", "must be at least {}", "events.max_bytes", operator.ge, "one event has to fit into a request"),
    _Rule("limits.unsent_bytes", "must be at least four times {}", "events.max_bytes", lambda unsent, event: unsent >= 4 * event,
          "a client that is sent its history must not be slow by that alone"),
    _Rule("limits.unauthenticated_bytes", "must be at most {}", "limits.message_bytes", operator.le,
          "a stranger gets no more room than a client"),
    _Rule("inbox.page", "must be at most {}", "limits.window", operator.le,
          "a page beyond the window would make every resuming client slow"),
    _Rule("push.breaker_floor_seconds", "must be at most {}", "push.breaker_cap_seconds", operator.le,
          "the shortest pause is not longer than the longest"),
    _Rule("drain.seconds", "must be at most {}", "drain.timeout_seconds", operator.le, "the closes have to end before the stop does"),
)  # fmt: skip


# --- The tree as data: what errors, the default file and the reference are made from --------------------


class _Shape(NamedTuple):
    """A type taken apart: its bare kind, its annotations in words and for code, and whether it may be unset."""

    kind: Type
    words: dict[str, Any]
    extra: dict[str, Any]
    optional: bool

    @property
    def description(self) -> str:
        return str(self.words.get("description", ""))

    @property
    def item(self) -> _Shape:
        """For a list, or tables by name, the shape of its items; for all else this one."""
        if isinstance(self.kind, DictType):
            return _shape(self.kind.value_type)
        return _shape(self.kind.item_type) if isinstance(self.kind, VarTupleType) else self

    @property
    def named(self) -> bool:
        """Tables by name?"""
        return isinstance(self.kind, DictType)

    @property
    def defaults(self) -> dict[str, Any]:
        """What the fields of a table are when they are left out; those that must not be are missing."""
        kind = self.item.kind
        fields = kind.fields if isinstance(kind, StructType) else ()
        return {field.name: field.default for field in fields if not field.required}

    @property
    def fields(self) -> dict[str, _Shape]:
        """For a table, or a list of tables, what a table holds."""
        kind = self.item.kind
        return (
            {field.name: _shape(field.type) for field in kind.fields} if isinstance(kind, StructType) else {}
        )

    @property
    def private(self) -> bool:
        return bool(self.fields) or "private" in self.item.extra

    @property
    def example(self) -> Any:
        return self.words.get("examples", [""])[0]


class _Setting(NamedTuple):
    path: str
    shape: _Shape
    default: Any

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def variable(self) -> str:
        return "NOTIFIER_" + self.path.replace(".", "__").upper()

    @property
    def tables(self) -> bool:
        return bool(self.shape.fields)


class _Section(NamedTuple):
    name: str
    description: str
    settings: tuple[_Setting, ...]


def _shape(kind: Type) -> _Shape:
    words: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    optional = False
    while True:
        if isinstance(kind, Annotation):
            words = {**(kind.extra_json_schema or {}), **words}
            extra = {**(kind.extra or {}), **extra}
            kind = kind.type
        elif isinstance(kind, UnionType):
            optional = True
            (kind,) = (part for part in kind.types if not isinstance(part, NoneType))
        else:
            return _Shape(kind, words, extra, optional)


def _sections() -> Iterator[_Section]:
    """The settings at the top, as a section without a name, then each section in the order of the tree."""
    # A table is a section; a list of tables, or tables by name, are one setting.
    fields = [
        (field.name, _shape(type_info(field.type)), getattr(Config(), field.name))
        for field in msgspec.structs.fields(Config)
    ]
    tables = [name for name, shape, _ in fields if isinstance(shape.kind, StructType)]
    yield _Section("", "", tuple(_Setting(*field) for field in fields if field[0] not in tables))
    for name, shape, default in fields:
        if name in tables:
            inner = (
                _Setting(f"{name}.{key}", what, getattr(default, key)) for key, what in shape.fields.items()
            )
            yield _Section(name, shape.description, tuple(inner))


_SECTIONS = {section.name: section for section in _sections()}
_SETTINGS = {setting.path: setting for section in _SECTIONS.values() for setting in section.settings}
_VARIABLES = {setting.variable: setting for setting in _SETTINGS.values()}
_SINGLE = {name.replace("__", "_"): name for name in _VARIABLES}


# --- Words ---------------------------------------------------------------------------------------------


def _toml(value: Any) -> str:
    """A value as TOML text, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return str(value)


def _key(name: str) -> str:
    """A TOML key as one would write it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _shown(name)


def _shown(value: Any) -> str:
    """A value for an error message: short and on one line."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if isinstance(value, int) and abs(value) > 10**30:
        return "an enormous number"  # and Python refuses to print the largest of them
    return _kind_name(value) if isinstance(value, list | dict) else _toml(value)


def _printable(text: str) -> str:
    """Text that any terminal and log takes: names of variables and files may hold what is no character."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _kind_name(value: Any) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    count = f" of {len(value)}" if isinstance(value, list) else ""
    return names.get(type(value), "a date or time") + count


def _found(shape: _Shape, value: Any) -> str:
    return _kind_name(value) if shape.private else _shown(value)


def _expected(shape: _Shape) -> str:
    """What a setting takes, in words."""
    kind = shape.kind
    if isinstance(kind, IntType | FloatType):
        number = "a whole number" if isinstance(kind, IntType) else "a number"
        return f"{number} from {_toml(kind.ge)} to {_toml(kind.le)}"
    if isinstance(kind, LiteralType):
        return "one of " + ", ".join(_toml(value) for value in shape.extra["values"])
    if isinstance(kind, VarTupleType):
        low, high = kind.min_length, kind.max_length
        size = "" if high is None else f" of {low} to {high} items" if low else f" of up to {high} items"
        return f"a list{size}, each {_expected(shape.item)}"
    if isinstance(kind, DictType):
        return f"up to {kind.max_length} tables by name, each {_expected(shape.item)}"
    if isinstance(kind, StructType):
        return "a table with " + ", ".join(shape.fields)
    return str(shape.words["title"])


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return close[0] if close else ""


def _unknown(name: str, section: str, known: Sequence[str]) -> str:
    """The message for a name that is not in a table: the likeliest one that is meant, or all there are."""
    near = _nearest(name, known)
    leaf = _nearest(name, [setting.name for setting in _SETTINGS.values()])
    elsewhere = [setting.path for setting in _SETTINGS.values() if setting.name == leaf]
    if near:
        return f"unknown setting; did you mean {section}{'.' * bool(section)}{near}?"
    if elsewhere and section in _SECTIONS:  # not for the tables of a list
        return f"unknown setting; did you mean {elsewhere[0]}?"
    return "unknown setting; known are " + ", ".join(known)


# --- Loading -------------------------------------------------------------------------------------------


class _Given(NamedTuple):
    """A value that somebody set: `origin` is what an error about it is filed under."""

    value: Any
    origin: str


class _Reader:
    """Turns raw values into those of the tree, and gathers every fault on the way."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.faults: list[Fault] = []

    def fault(self, path: str, message: str) -> None:
        self.faults.append(Fault(_printable(path), _printable(message)))

    def value(self, shape: _Shape, raw: Any, path: str) -> Any:
        before = len(self.faults)
        kind = shape.kind
        if isinstance(kind, VarTupleType) and isinstance(raw, list) and _sized(kind, raw):
            raw = [self.value(shape.item, inner, f"{path}[{index}]") for index, inner in enumerate(raw)]
        elif isinstance(kind, StructType) and isinstance(raw, dict):
            raw = self._table(shape, raw, path)
        elif isinstance(kind, DictType) and isinstance(raw, dict) and len(raw) <= (kind.max_length or 0):
            raw = self._named(shape, raw, path)
        elif not _fits(kind, raw):
            self.fault(path, f"found {_found(shape, raw)}, expected {_expected(shape)}")
        if len(self.faults) > before:
            return raw
        return self._kept(shape, raw, path)

    def _named(self, shape: _Shape, raw: dict[str, Any], path: str) -> dict[str, Any]:
        assert isinstance(shape.kind, DictType)
        names = _shape(shape.kind.key_type)
        for name in (name for name in raw if not _fits(names.kind, name)):
            self.fault(f"{path}.{_key(name)}", f"found this name, expected {_expected(names)}")
        item = shape.item
        if "read_item" in shape.extra:
            item = item._replace(extra={**item.extra, "read": shape.extra["read_item"]})
        return {name: self.value(item, inner, f"{path}.{_key(name)}") for name, inner in raw.items()}

    def _table(self, shape: _Shape, raw: dict[str, Any], path: str) -> dict[str, Any]:
        fields, defaults = shape.fields, shape.defaults
        for name in (name for name in raw if name not in fields):
            self.fault(f"{path}.{_key(name)}", _unknown(name, path, tuple(fields)))
        for name in (name for name in fields if name not in raw and name not in defaults):
            self.fault(f"{path}.{name}", f"missing, expected {_expected(fields[name])}")
        return {name: self.value(fields[name], raw[name], f"{path}.{name}") for name in fields if name in raw}

    def _kept(self, shape: _Shape, value: Any, path: str) -> Any:
        try:
            if "file" in shape.extra:
                return self._file(value)
            return shape.extra["read"](value) if "read" in shape.extra else value
        except _RefusedError as refusal:
            self.fault(path, str(refusal))
            return value

    def _file(self, name: str) -> str:
        places = [(folder / name).absolute() for folder in self.folders]
        for place in dict.fromkeys(places):
            try:
                if place.is_file():
                    return str(place)
            except OSError as error:
                raise _RefusedError(f"cannot look at {_shown(str(place))}: {error.strerror}") from None
        looked = " nor ".join(json.dumps(str(place), ensure_ascii=False) for place in dict.fromkeys(places))
        raise _RefusedError(f"there is no file {looked}: create it, or correct the path")


def _sized(kind: VarTupleType, items: list[Any]) -> bool:
    return (kind.min_length or 0) <= len(items) and (kind.max_length is None or len(items) <= kind.max_length)


def _fits(kind: Type, value: Any) -> bool:
    """Whether a plain value has the type and keeps the bounds. "5" and true are no numbers."""
    if isinstance(kind, IntType):
        return type(value) is int and _within(kind, value)
    if isinstance(kind, FloatType):
        return type(value) in (int, float) and _within(kind, value)
    if isinstance(kind, StrType):
        return isinstance(value, str) and (kind.pattern is None or re.search(kind.pattern, value) is not None)
    return isinstance(kind, LiteralType) and isinstance(value, str) and value in kind.values


def _within(kind: IntType | FloatType, value: float) -> bool:
    # Every number has bounds, which also keep out nan and inf.
    return (kind.ge is None or kind.ge <= value) and (kind.le is None or value <= kind.le)


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration: the TOML file at `path` (None: no file), then the NOTIFIER_ variables of `environ`.

    Raises ConfigError with every fault at once. Paths of files come back absolute: a relative one is looked
    up in environ["CREDENTIALS_DIRECTORY"], then in the folder of `path` (None: the current one).
    """
    reader = _Reader(_folders(path, environ))
    tree = {} if path is None else _parse(path, reader)
    given = _from_file(tree or {}, reader)
    given.update(_from_environment(environ, reader))
    values: dict[str, Any] = {}
    for name, (raw, origin) in given.items():
        before = len(reader.faults)
        value = None if raw is None else reader.value(_SETTINGS[name].shape, raw, origin)
        if len(reader.faults) == before:
            values[name] = value
    if tree is not None:  # without the file's half, comparing would blame the innocent
        _compare(given, values, reader)
        _compare_types(given, values, reader)
    if reader.faults:
        raise ConfigError(reader.faults)
    return _built(values)


def _folders(path: Path | None, environ: Mapping[str, str]) -> list[Path]:
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    beside = Path() if path is None else path.parent
    return [Path(credentials), beside] if credentials else [beside]


def _parse(path: Path, reader: _Reader) -> dict[str, Any] | None:
    """The file as a raw tree; None after a fault that leaves nothing to look at."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        reader.fault(str(path), "there is no such file; `notifier config default` prints one to begin with")
    except OSError as error:
        reader.fault(str(path), f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        reader.fault(f"{path}:{line}", "this is not UTF-8, which TOML is written in")
    except (ValueError, RecursionError) as error:
        where = re.search(r"\(at line (\d+), column \d+\)", str(error))
        reader.fault(f"{path}:{where[1]}" if where else str(path), f"this is not TOML: {error}")
    return None


def _from_file(tree: Mapping[str, Any], reader: _Reader) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    top = [setting.name for setting in _SECTIONS[""].settings]
    last = [setting.name for setting in _SECTIONS[""].settings if setting.shape.named]
    known = [*(name for name in top if name not in last), *filter(None, _SECTIONS), *last]
    for name, value in tree.items():
        if name in top:
            given[name] = _Given(value, name)
        elif not name or name not in _SECTIONS:
            reader.fault(_key(name), _unknown(name, "", known))
        elif not isinstance(value, dict):
            reader.fault(name, f"found {_kind_name(value)}, expected a table that begins with [{name}]")
        else:
            given.update(_from_section(_SECTIONS[name], value, reader))
    return given


def _from_section(
    section: _Section, table: Mapping[str, Any], reader: _Reader
) -> Iterator[tuple[str, _Given]]:
    for name, value in table.items():
        path = f"{section.name}.{_key(name)}"
        if path in _SETTINGS:
            yield path, _Given(value, path)
        else:
            reader.fault(path, _unknown(name, section.name, [setting.name for setting in section.settings]))


def _from_environment(environ: Mapping[str, str], reader: _Reader) -> Iterator[tuple[str, _Given]]:
    """What the variables set. Without "__" they are left alone: container platforms set NOTIFIER_PORT too."""
    for variable in sorted(name for name in environ if name.startswith("NOTIFIER_")):
        if variable in _VARIABLES:
            setting = _VARIABLES[variable]
            yield setting.path, _Given(_from_text(setting.shape, environ[variable]), variable)
        elif variable in _SINGLE:
            reader.fault(
                variable, f"unknown variable; did you mean {_SINGLE[variable]}, with two underscores?"
            )
        elif "__" in variable:
            near = _nearest(variable, tuple(_VARIABLES))
            hint = (
                f"did you mean {near}?"
                if near
                else "names are NOTIFIER_SECTION__SETTING, as in NOTIFIER_REDIS__URL"
            )
            reader.fault(variable, f"unknown variable; {hint}")


def _from_text(shape: _Shape, text: str) -> Any:
    """The raw value of a variable: TOML, or for text the text itself. What is neither stays text."""
    if not text and shape.optional:
        return None
    plain = isinstance(shape.kind, StrType | LiteralType)
    if plain and text[:1] not in ("'", '"'):
        return text
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if tree.keys() == {"value"} else text


def _compare(given: Mapping[str, _Given], values: Mapping[str, Any], reader: _Reader) -> None:
    """Applies the rules between settings, save those on a setting that is already faulty."""
    for rule in _RULES:
        if any(path in given and path not in values for path in (rule.path, rule.other)):
            continue
        value, other = (values.get(path, _SETTINGS[path].default) for path in (rule.path, rule.other))
        if rule.holds(value, other):
            continue
        origin = given[rule.path].origin if rule.path in given else rule.path
        default = "" if rule.path in given else " (the default)"
        must = rule.must.format(f"{rule.other} = {_shown(other)}")
        found = "nothing" if value is None else _shown(value)
        reader.fault(origin, f"found {found}{default}, {must}: {rule.why}")


def _compare_types(given: Mapping[str, _Given], values: Mapping[str, Any], reader: _Reader) -> None:
    """What phones are told of a type that no event has, nobody would miss: it is a slip of the pen."""
    if "events.types" in given and "events.types" not in values:
        return
    known = values.get("events.types", _SETTINGS["events.types"].default)
    for name in values.get("types", {}):
        if name not in known:
            near = _nearest(name, known)
            hint = f"did you mean types.{near}?" if near else "events.types has " + ", ".join(known)
            reader.fault(f"{given['types'].origin}.{name}", f"no event is of this type; {hint}")


def _built(values: Mapping[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return msgspec.convert(tree, Config)


# --- The default file and the reference ----------------------------------------------------------------

_FILE_HEAD = """\
# The configuration of notifier: every setting, at its default.
# A line that begins with # and a name is a setting that is not set by default.
# The environment overrides this file: NOTIFIER_SECTION__SETTING, as in NOTIFIER_REDIS__URL.
# No secret belongs in here, only the names of files that hold one; a relative name is looked up in
# $CREDENTIALS_DIRECTORY and then beside this file.
# Check it with `notifier config check`; docs/configuration.md is the reference.
"""


def default_toml() -> str:
    """The text of conf/notifier.toml: every setting at its default, with its description."""
    blocks = [_FILE_HEAD]
    for section in _SECTIONS.values():
        if section.name:
            blocks.append("\n" + _comment(section.description) + f"[{section.name}]\n")
        # TOML: whatever follows an array of tables belongs to it, so those come last.
        plain = [setting for setting in section.settings if not setting.shape.named]
        blocks += [_setting_toml(setting) for setting in sorted(plain, key=lambda s: s.tables)]
    named = [setting for section in _SECTIONS.values() for setting in section.settings if setting.shape.named]
    return "\n".join(blocks + ["\n" + _named_toml(setting) for setting in named])


def _named_toml(setting: _Setting) -> str:
    """Tables by name, as comments: none of them is there by default."""
    shape, name = setting.shape, f"{setting.path}.{setting.shape.example}"
    head = _comment(f"{shape.description} One such table for each.")
    inner = {field: part for field, part in shape.fields.items() if part.fields}
    if not inner:
        return head + f"#[{name}]\n" + _fields_toml(shape, instead=False)
    blocks = [
        _comment(part.description)
        + f"#{' ' * ('instead' in part.extra)}[{name}.{field}]\n"
        + _fields_toml(part, instead="instead" in part.extra)
        for field, part in inner.items()
    ]
    return head + "\n".join(blocks)


def _fields_toml(shape: _Shape, instead: bool) -> str:
    """The fields of one table as comments. Those that stand for others have a space in front: not both may be set."""
    lines = []
    for name, part in shape.fields.items():
        value = shape.defaults.get(name)
        space = " " * (instead or "instead" in part.extra)
        lines.append(f"{_says(part)}#{space}{name} = {_toml(part.example if value is None else value)}\n")
    return "".join(lines)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 106, break_long_words=False))


def _says(shape: _Shape) -> str:
    return _comment(shape.description) + _comment(f"Takes {_expected(shape)}.")


def _setting_toml(setting: _Setting) -> str:
    if setting.tables:
        says = _comment(f"{setting.shape.description} One such table for each.")
        lines = (
            f"{_says(shape)}#{name} = {_toml(shape.example)}\n"
            for name, shape in setting.shape.fields.items()
        )
        return f"{says}#[[{setting.path}]]\n" + "".join(lines)
    says = _says(setting.shape)
    if setting.default is None:
        return f"{says}#{setting.name} = {_toml(setting.shape.example)}\n"
    return f"{says}{setting.name} = {_toml(setting.default)}\n"


_REFERENCE_HEAD = """\
# Configuration

Every setting has a default, so an empty file, or none, is a valid configuration.
[`conf/notifier.toml`](../conf/notifier.toml) holds them all with their descriptions. `notifier config default`
prints the same text, `notifier config check` tries a configuration without starting anything, and
`notifier config reference` prints this page.

## How it is read

1. The TOML file given with `--config`, in UTF-8.
2. Then the environment, which wins: `NOTIFIER_SECTION__SETTING`, with two underscores between section and
   setting, all in capitals. Text is given as it is, everything else as in TOML:

   ```sh
   NOTIFIER_REDIS__URL=redis://10.0.0.5:6379/0
   NOTIFIER_LIMITS__PER_USER=5
   NOTIFIER_WEBSOCKET__ORIGINS='["https://www.example.com"]'
   NOTIFIER_TOKENS__KEYS='[{kid = "2026-11", algorithm = "EdDSA", file = "2026-11.pub"}]'
   ```

   A variable replaces the whole setting, also a list. An empty variable unsets a setting that may be unset.
   Other variables whose names begin with `NOTIFIER_` and hold no double underscore are not looked at.

Nothing is guessed: an unknown setting, a value of another type (`"5"` is not a number) or one out of bounds is
refused. All faults are reported at once, each with its path and with what was expected:

```text
3 faults in the configuration:
  redis.shards: found 100, expected a whole number from 1 to 64
  websocket.orgins: unknown setting; did you mean websocket.origins?
  NOTIFIER_LOG__LEVEL: found "verbose", expected one of "debug", "info", "warn", "error"
```

## Files and secrets

No setting holds a secret; those that need one name a file. A relative name is looked up in the folder
`$CREDENTIALS_DIRECTORY`, which systemd sets for `LoadCredential=`, and then beside the configuration file
(without one: in the current folder). The file has to be there when the configuration is read. With this in the
unit, and `password_file = "redis.password"` in `[redis]`, only the service can read the password:

```ini
LoadCredential=redis.password:/etc/notifier/redis.password
```

A password inside `redis.url` is refused, because URLs end up in logs and process lists.
"""


def reference_markdown() -> str:
    """The text of docs/configuration.md: how loading works, then every setting."""
    parts = [_REFERENCE_HEAD]
    for section in _SECTIONS.values():
        title = f"`[{section.name}]`" if section.name else "Top of the file"
        text = f"{section.description}\n\n" if section.description else ""
        parts.append(f"## {title}\n\n{text}{_settings_table(section.settings)}")
        listed = [setting for setting in section.settings if setting.tables and not setting.shape.named]
        parts += [_fields_table(setting) for setting in listed]
    named = [setting for section in _SECTIONS.values() for setting in section.settings if setting.shape.named]
    parts += [part for setting in named for part in _named_tables(setting)]
    rules = "".join(f"- `{r.path}` {r.must.format(f'`{r.other}`')}: {r.why}.\n" for r in _RULES)
    parts.append(f"## Between settings\n\n{rules}")
    return "\n".join(parts)


def _rows(*rows: Sequence[str]) -> str:
    cells = ([cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _settings_table(settings: Sequence[_Setting]) -> str:
    head = ("Setting", "Takes", "Default", "Environment", "Description")
    rows = (
        (
            f"`{s.name}`",
            f"{'tables by name' if s.shape.named else 'a list of tables'}, see below"
            if s.tables
            else _expected(s.shape),
            "not set" if s.default is None else f"`{_toml(s.default)}`",
            f"`{s.variable}`",
            s.shape.description,
        )
        for s in settings
    )
    return _rows(head, ["---"] * 5, *rows)


def _fields_table(setting: _Setting) -> str:
    fields = setting.shape.fields
    rows = ((f"`{name}`", _expected(shape), shape.description) for name, shape in fields.items())
    table = _rows(("Setting", "Takes", "Description"), ["---"] * 3, *rows)
    example = "".join(f"{name} = {_toml(shape.example)}\n" for name, shape in fields.items())
    return f"### `[[{setting.path}]]`\n\n{table}\n```toml\n[[{setting.path}]]\n{example}```\n"


def _named_tables(setting: _Setting) -> Iterator[str]:
    """The chapters for tables by name."""
    shape, name = setting.shape, f"{setting.path}.{setting.shape.example}"
    inner = {f"{name}.{field}": part for field, part in shape.fields.items() if part.fields}
    yield f"## `[{setting.path}.NAME]`\n\n{shape.description} Here the name is `{shape.example}`.\n"
    for path, part in inner.items() or [(name, shape)]:
        says = part.description if inner else ""
        rows = (
            (f"`{field}`", _expected(what), _default_of(part, field), what.description)
            for field, what in part.fields.items()
        )
        table = _rows(("Setting", "Takes", "Default", "Description"), ["---"] * 4, *rows)
        yield f"### `[{path}]`\n\n" + (f"{says}\n\n" if says else "") + table


def _default_of(table: _Shape, field: str) -> str:
    if field not in table.defaults:
        return "needed"
    value = table.defaults[field]
    return "not set" if value is None else f"`{_toml(value)}`"
