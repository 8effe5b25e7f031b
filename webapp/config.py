# ruff: noqa: E501  (the tree is a table: one setting, one line)
"""Every setting of the photo API: one frozen typed tree, read from a TOML file. A leaf: it imports nothing of ours.

The default file and every error message are made from the same lines.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "Config", "ConfigError", "Fault", "Feed", "Limits", "Node", "Notifier", "Photos", "Rate", "Redis", "Search",
    "Shards", "Site", "Tokens", "default_toml", "load", "rate", "secret", "shard_numbers",
]  # fmt: skip

MOST_SHARDS = 8192  # 13 bits of an id


class Fault(NamedTuple):
    """One thing that is wrong: where (a setting or a file) and what, with the cure."""

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


class Rate(Struct, frozen=True):
    """So many in so many seconds."""

    count: int
    seconds: int


# --- What a value must look like, beyond its type ------------------------------------------------------


class _RefusedError(Exception):
    """A value is of the right type and still wrong; the text says why and never quotes a possible secret."""


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def rate(text: str) -> Rate:
    """`"120/minute"` -> Rate(120, 60). Raises ValueError for every other form."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})/(second|minute|hour|day)", text)
    if found is None:
        raise ValueError("expected a number and a period, as in 120/minute (second, minute, hour, day)")
    return Rate(int(found[1]), _PERIODS[found[2]])


def shard_numbers(text: str) -> tuple[int, ...]:
    """`"0-3, 7"` -> (0, 1, 2, 3, 7). Raises ValueError for every other form."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?\s*", part)
        if found is None:
            raise ValueError("expected numbers and ranges of shards, as in 0-3, 7")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last >= MOST_SHARDS:
            raise ValueError(
                f"{part.strip()} is not a range of shards: they go up, from 0 to {MOST_SHARDS - 1}"
            )
        numbers += range(first, last + 1)
    return tuple(numbers)


def _as_text(check: Callable[[str], object]) -> Callable[[str], str]:
    def read(text: str) -> str:
        try:
            check(text)
        except ValueError as fault:
            raise _RefusedError(f"found {json.dumps(text[:60])}, {fault}") from None
        return text

    return read


def _parts(url: str, schemes: tuple[str, ...], form: str) -> SplitResult:
    """The parts of a URL. The errors of urllib quote the URL, which may hold a secret: they are replaced."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, SplitResult("", "", "", "", "")
    if parts.scheme not in schemes or not host or port == 0:
        raise _RefusedError(f"expected {form}")
    if parts.password is not None:
        raise _RefusedError(
            "a password does not belong in the URL: put it alone into a file, and name that in password_file"
        )
    return parts


def _postgresql(url: str) -> str:
    parts = _parts(url, ("postgresql", "postgres"), "postgresql://user@host:5432/database")
    if not parts.username or not re.fullmatch(r"/[^/]+", parts.path) or parts.fragment:
        raise _RefusedError("expected a user and a database, as in postgresql://user@host:5432/database")
    return url


def _redis(url: str) -> str:
    parts = _parts(url, ("redis", "rediss"), "redis://host:6379/0, or rediss:// for TLS")
    if not re.fullmatch(r"|/|/[0-9]{1,5}", parts.path) or parts.query or parts.fragment:
        raise _RefusedError("expected the number of a database after the host, as in redis://host:6379/0")
    return url


def _web(*schemes: str) -> Callable[[str], str]:
    def read(url: str) -> str:
        if url:
            parts = _parts(url, schemes, " or ".join(f"{scheme}://host" for scheme in schemes))
            if parts.username is not None or parts.fragment:
                raise _RefusedError("a user name or a # does not belong in this URL")
        return url.rstrip("/")

    return read


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise _RefusedError(
            f"found {json.dumps(text[:60])}, expected an address or a network such as 10.0.0.0/8"
        ) from None


# fmt: off
# `title` is what an error message calls the type; `read` turns a value of the right type into the one that is kept, or
# refuses it; a `private` value may be a secret in the wrong place and is never shown.
_PRINTABLE = r"\A[^\x00-\x1f\x7f]+\Z"
_Text = Annotated[str, Meta(pattern=_PRINTABLE, title="text")]
_File = Annotated[str, Meta(pattern=_PRINTABLE, title="the path of a file", extra={"file": True, "private": True})]
_Folder = Annotated[str, Meta(pattern=_PRINTABLE, title="the path of a folder", extra={"file": True})]
_Dotted = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z", title="a name, or a dotted path of one in Python")]
_Kid = Annotated[str, Meta(pattern=r"\A[!-~]{1,128}\Z", title="1 to 128 printable ASCII characters without spaces")]
_Host = Annotated[str, Meta(pattern=r"\A(\*|\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9a-f:]+\])\Z", title="the name of a host, .example.com for all below one, or *")]
_Network = Annotated[str, Meta(pattern=_PRINTABLE, title="an address or a CIDR network", extra={"read": _network})]
_Rate = Annotated[str, Meta(title="a rate such as 120/minute", extra={"read": _as_text(rate)})]
_Numbers = Annotated[str, Meta(title="numbers of shards, as in 0-3, 7", extra={"read": _as_text(shard_numbers)})]
_Postgresql = Annotated[str, Meta(pattern=_PRINTABLE, title="postgresql://user@host:5432/database", extra={"read": _postgresql, "private": True})]
_RedisUrl = Annotated[str, Meta(pattern=_PRINTABLE, title="redis://host:6379/0", extra={"read": _redis, "private": True})]
_WebUrl = Annotated[str, Meta(title="an http:// or https:// URL, or \"\" for none", extra={"read": _web("http", "https")})]
_SocketUrl = Annotated[str, Meta(title="a ws:// or wss:// URL, or \"\" for none", extra={"read": _web("ws", "wss")})]
_Scalar = str | int | float | bool


# --- The tree ------------------------------------------------------------------------------------------


class Site(Struct, frozen=True):
    """The web site."""

    url: Annotated[_WebUrl, Meta(description="Address of the site, where it has one alone; \"\": that of each request.")] = ""
    secret_key_file: Annotated[_File | None, Meta(description="File that holds Django's SECRET_KEY, alone; without it every process makes its own, so what one signed another refuses.", examples=["secret.key"])] = None
    debug: Annotated[bool, Meta(description="Whether errors show their inside. Never on a machine that others can reach.")] = False
    allowed_hosts: Annotated[tuple[_Host, ...], Meta(description="Values of the Host header that are served.")] = ("127.0.0.1", "localhost", "[::1]")
    trusted_proxies: Annotated[tuple[_Network, ...], Meta(description="Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.")] = ("127.0.0.0/8", "::1/128")
    request_seconds: Annotated[float, Meta(ge=1, le=3600, description="Seconds in which the head of a request must arrive under gunicorn's --worker-class webapp.worker.Worker; its content may take longer, as long as 10 000 bytes for each of these seconds arrive in them.")] = 10.0


class Node(Struct, frozen=True):
    """One PostgreSQL server and its replicas."""

    shards: Annotated[_Numbers, Meta(description="The logical shards that live here.", examples=["0-7"])]
    primary: Annotated[_Postgresql, Meta(description="Where is written, and read after writing.", examples=["postgresql://webapp@127.0.0.1:5432/webapp"])]
    replicas: Annotated[tuple[_Postgresql, ...], Meta(max_length=16, description="Streaming replicas, to read from.")] = ()
    password_file: Annotated[_File | None, Meta(description="File that holds the password of the user, alone.", examples=["postgresql.password"])] = None


class Shards(Struct, frozen=True):
    """Where the data lives in PostgreSQL."""

    count: Annotated[int, Meta(ge=1, le=MOST_SHARDS, description="Logical shards, each a schema; fixed when the first data is written.")] = 8
    nodes: Annotated[tuple[Node, ...], Meta(min_length=1, max_length=MOST_SHARDS, description="The servers; each shard on one of them. Moving a shard changes this, not the data's ids.")] = (Node(shards="0-7", primary="postgresql://webapp@127.0.0.1:5432/webapp"),)
    connect_seconds: Annotated[int, Meta(ge=1, le=60, description="Deadline for opening a connection, in seconds.")] = 5
    statement_seconds: Annotated[int, Meta(ge=1, le=3600, description="Deadline of one statement of a request, in seconds.")] = 30
    settle_seconds: Annotated[float, Meta(ge=0, le=600, description="Seconds after a write of a person in which their reads go to the primary without a question.")] = 2.0
    lag_seconds: Annotated[float, Meta(ge=0.5, le=600, description="Seconds that a replica may lag behind before nothing is read from it.")] = 10.0


class Redis(Struct, frozen=True):
    """Redis or Valkey: events, feeds, limits."""

    url: Annotated[_RedisUrl, Meta(description="The server, and the notifier's too.")] = "redis://127.0.0.1:6379/0"
    events_url: Annotated[_RedisUrl | None, Meta(description="Another one that the events go to: the notifier's.", examples=["redis://10.0.0.5:6379/0"])] = None
    feeds_url: Annotated[_RedisUrl | None, Meta(description="Another one for the feeds, which are rebuilt when it loses them.", examples=["redis://10.0.0.6:6379/0"])] = None
    limits_url: Annotated[_RedisUrl | None, Meta(description="Another one for rate limits.", examples=["redis://10.0.0.7:6379/0"])] = None
    username: Annotated[_Text | None, Meta(description="ACL user to log in as.", examples=["webapp"])] = None
    password_file: Annotated[_File | None, Meta(description="File that holds the password, alone.", examples=["redis.password"])] = None
    ca_file: Annotated[_File | None, Meta(description="PEM certificates to trust for rediss://, in place of those of the system.", examples=["redis-ca.pem"])] = None
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=60, description="Deadline of every call, in seconds.")] = 2.0


class Tokens(Struct, frozen=True):
    """The tokens people come in with, here and at the notifier."""

    key_file: Annotated[_File | None, Meta(description="PEM file of the Ed25519 private key that signs them; nobody can sign up or log in without one.", examples=["tokens.pem"])] = None
    kid: Annotated[_Kid, Meta(description="Name of the key, as the notifier's configuration has it.")] = "webapp"
    issuer: Annotated[_Text, Meta(description="Who issues them.")] = "webapp"
    audience: Annotated[_Text, Meta(description="Whom they are for: tokens.audience of the notifier.")] = "notifier"
    hours: Annotated[int, Meta(ge=1, le=24, description="Hours that a token is good for; the notifier refuses more than 24.")] = 24
    renewal_days: Annotated[int, Meta(ge=1, le=366, description="Days after a log-in in which a client may renew its token without the password.")] = 30


class Photos(Struct, frozen=True):
    """Where pictures are kept."""

    storage: Annotated[_Dotted, Meta(description="\"local\", or the dotted path of a storage class, as django-storages has them: storages.backends.s3.S3Storage.")] = "local"
    options: Annotated[dict[str, _Scalar], Meta(description="What that class is to be made with.", examples=["bucket_name"])] = {}
    folder: Annotated[_Folder, Meta(description="Where local storage keeps files.")] = "photos"
    cdn_url: Annotated[_WebUrl, Meta(description="Address in front of the storage; \"\": /media/ of this site.")] = ""
    connect_seconds: Annotated[float, Meta(ge=0.1, le=60, description="S3: seconds for opening a connection.")] = 2.0
    answer_seconds: Annotated[float, Meta(ge=0.1, le=60, description="S3: seconds in which an answer must begin, and go on.")] = 8.0
    attempts: Annotated[int, Meta(ge=1, le=10, description="S3: times that a call is tried in all, before whoever waits for it is told that it failed.")] = 2
    max_bytes: Annotated[int, Meta(ge=1024, le=104_857_600, description="Largest upload, in bytes.")] = 12_582_912
    max_pixels: Annotated[int, Meta(ge=10_000, le=200_000_000, description="Largest picture, in pixels: width times height.")] = 50_000_000


class Search(Struct, frozen=True):
    """How people and photos are found."""

    backend: Annotated[_Dotted, Meta(description="\"postgresql\", or the dotted path of a class of the same interface.")] = "postgresql"


class Cache(Struct, frozen=True):
    """Django's cache."""

    backend: Annotated[_Dotted, Meta(description="\"local\", a small one in each process, or the dotted path of a cache class: django.core.cache.backends.memcached.PyMemcacheCache.")] = "local"
    location: Annotated[tuple[_Text, ...], Meta(max_length=64, description="Its servers, where it has some: 127.0.0.1:11211.")] = ()


class Feed(Struct, frozen=True):
    """The home feed."""

    length: Annotated[int, Meta(ge=10, le=10_000, description="Most photos kept in one person's feed.")] = 500
    pull_above: Annotated[int, Meta(ge=1, le=10_000_000, description="Followers above which an account's photos are no longer brought to each feed, but looked up when one is read.")] = 10_000


class Limits(Struct, frozen=True):
    """How much one may do."""

    address: Annotated[_Rate, Meta(description="Requests to the API from one address (IPv6: one /64).")] = "3000/minute"
    portraits: Annotated[_Rate, Meta(description="Requests from one address for the pictures of people in notifications, /portraits/. A page may show many, so they are counted apart; a CDN in front that site.trusted_proxies does not name is one address.")] = "6000/minute"
    reads: Annotated[_Rate, Meta(description="Requests of one person that change nothing.")] = "600/minute"
    writes: Annotated[_Rate, Meta(description="Requests of one person that change something.")] = "120/minute"
    uploads: Annotated[_Rate, Meta(description="Pictures that one person uploads.")] = "60/hour"
    sign_ups: Annotated[_Rate, Meta(description="Accounts made from one address.")] = "20/hour"
    log_ins: Annotated[_Rate, Meta(description="Tries to log in from one address.")] = "10/minute"
    log_ins_name: Annotated[_Rate, Meta(description="Tries to log in to one account that fail, from all addresses together. Once it is used up the owner cannot log in either: keep it above log_ins, so that it takes more than one address.")] = "1000/hour"


class Notifier(Struct, frozen=True):
    """What the page is told about the notifier."""

    websocket: Annotated[_SocketUrl, Meta(description="Its WebSocket, for the bell; \"\": no bell.")] = ""
    api: Annotated[_WebUrl, Meta(description="Its HTTP API; \"\": none.")] = ""
    sandbox: Annotated[_WebUrl, Meta(description="Its fake providers, for the two phones beside the page; \"\": no phones.")] = ""


class Config(Struct, frozen=True):
    """The whole configuration. It holds no secret, only paths to them, so its repr may be logged."""

    site: Annotated[Site, Meta(description="The web site.")] = Site()
    shards: Annotated[Shards, Meta(description="PostgreSQL: logical shards, the servers they are on, and replicas.")] = Shards()
    redis: Annotated[Redis, Meta(description="Redis or Valkey: events, feeds, limits.")] = Redis()
    tokens: Annotated[Tokens, Meta(description="The tokens people come in with, here and at the notifier.")] = Tokens()
    photos: Annotated[Photos, Meta(description="Pictures: where they are kept, and how large they may be.")] = Photos()
    search: Annotated[Search, Meta(description="Search for people and photos.")] = Search()
    cache: Annotated[Cache, Meta(description="Django's cache.")] = Cache()
    feed: Annotated[Feed, Meta(description="The home feed.")] = Feed()
    limits: Annotated[Limits, Meta(description="How much one person, or one address, may do: a number and second, minute, hour or day.")] = Limits()
    notifier: Annotated[Notifier, Meta(description="What the page is told about the notifier.")] = Notifier()


# fmt: on
# --- The tree as data ----------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A field taken apart: its type, its annotations in words and for code, the table it is or is a list of."""

    type: Any
    meta: tuple[Meta, ...]
    table: type[Struct] | None
    many: bool

    def word(self, name: str) -> Any:
        """The outermost value of a Meta: description, title or examples; None without one."""
        return next((value for meta in reversed(self.meta) if (value := getattr(meta, name))), None)

    def code(self, name: str) -> Any:
        """What the annotations say for code; None if nothing."""
        return next((value for meta in self.meta if (value := (meta.extra or {}).get(name))), None)


def _shape(kind: Any) -> _Shape:
    metas: list[Meta] = []
    inner, many = kind, False
    while True:
        if get_origin(inner) is Annotated:
            inner, *found = get_args(inner)
            metas = [*(meta for meta in found if isinstance(meta, Meta)), *metas]
        elif get_origin(inner) is tuple:
            inner, many = get_args(inner)[0], True
        elif type(None) in get_args(inner):
            inner = next(part for part in get_args(inner) if part is not type(None))
        else:
            table = inner if isinstance(inner, type) and issubclass(inner, Struct) else None
            return _Shape(kind, tuple(metas), table, many)


def _fields(table: type[Struct]) -> dict[str, _Shape]:
    return {name: _shape(kind) for name, kind in get_type_hints(table, include_extras=True).items()}


# --- Reading -------------------------------------------------------------------------------------------

_T = TypeVar("_T", bound=Struct)


class _Reading(NamedTuple):
    """One reading of a configuration: where its files are looked for, and the faults found so far."""

    folder: Path
    faults: list[Fault]

    def table(self, kind: type[_T], data: object, path: str) -> _T | None:
        """The table `kind` made of `data`; None where anything is wrong, which `faults` then tells."""
        if not isinstance(data, Mapping):
            return self._wrong(path, f"found {_kind(data)}, expected a table")
        fields, before = _fields(kind), len(self.faults)
        for name in (name for name in data if name not in fields):
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            self._wrong(_below(path, name), f"unknown setting; {hint}")
        values = {
            name: self._value(fields[name], data[name], _below(path, name)) for name in fields if name in data
        }
        required = [field.name for field in msgspec.structs.fields(kind) if field.required]
        for name in required:
            if name not in data:
                self._wrong(_below(path, name), f"missing; for example {json.dumps(_example(fields[name]))}")
        if len(self.faults) > before:
            return None
        table = kind(**values)
        files = [name for name, shape in fields.items() if shape.code("file") and name not in values]
        return msgspec.structs.replace(
            table, **{name: self._read(fields[name], getattr(table, name)) for name in files}
        )

    def _value(self, shape: _Shape, value: Any, path: str) -> Any:
        if shape.table is not None and not shape.many:
            return self.table(shape.table, value, path)
        if shape.table is not None and isinstance(value, list):
            rows = [self.table(shape.table, row, f"{path}[{index}]") for index, row in enumerate(value)]
            return tuple(rows) if rows else self._wrong(path, "expected at least one table")
        try:
            kept = msgspec.convert(value, shape.type)
            return self._read(shape, kept)
        except msgspec.ValidationError as fault:
            title = shape.word("title")
            return self._wrong(path, f"expected {title}" if title and "regex" in str(fault) else _said(fault))
        except _RefusedError as fault:
            return self._wrong(path, str(fault))

    def _read(self, shape: _Shape, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._read(shape, item) for item in value)
        if shape.code("file") and isinstance(value, str):
            return str((self.folder / value).absolute())
        read = shape.code("read")
        return read(value) if read and isinstance(value, str) else value

    def _wrong(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message))


def _below(path: str, name: str) -> str:
    shown = name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else json.dumps(name[:60])
    return f"{path}.{shown}" if path else shown


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "a date or time")


_PLAIN = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "a table", "null": "nothing",
}  # fmt: skip


def _said(fault: msgspec.ValidationError) -> str:
    """Msgspec's own words, which never quote the value, with plain names of types."""

    def plain(found: re.Match[str]) -> str:
        return ", ".join(_PLAIN.get(name, name) for name in found[1].split(" | "))

    text = re.sub(r"`([^`]+)`", plain, str(fault).split(" - at `$")[0])
    return text[:1].lower() + text[1:]


def _example(shape: _Shape) -> Any:
    return (shape.word("examples") or [""])[0]


def _uncovered(shards: Shards) -> Iterator[Fault]:
    """Every shard lives on exactly one node."""
    homes: dict[int, int] = {}
    for index, node in enumerate(shards.nodes):
        for number in shard_numbers(node.shards):
            path = f"shards.nodes[{index}].shards"
            if number >= shards.count:
                yield Fault(path, f"there is no shard {number}: shards.count is {shards.count}")
            elif number in homes:
                yield Fault(path, f"shard {number} is already on shards.nodes[{homes[number]}]")
            homes.setdefault(number, index)
    missing = [number for number in range(shards.count) if number not in homes]
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        yield Fault("shards.nodes", f"no node has shard {some}: each of the {shards.count} needs one")


def load(file: Path | None = None) -> Config:
    """The configuration of a TOML file; without one, all defaults. Paths in it begin at the file's folder.

    Raises ConfigError with all that is wrong.
    """
    data: dict[str, Any] = {}
    if file is not None:
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as fault:
            raise ConfigError([Fault(str(file), f"cannot be read: {fault.strerror}")]) from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
            raise ConfigError([Fault(str(file), f"is not TOML in UTF-8: {fault}")]) from None
    reading = _Reading((file.parent if file else Path()).absolute(), [])
    config = reading.table(Config, {name: {} for name in _fields(Config)} | data, "")
    faults = reading.faults or list(_uncovered(config.shards) if config else ())
    if faults or config is None:
        raise ConfigError(faults)
    return config


def secret(file: str | None, path: str) -> str:
    """What a file holds, alone; "" without a file. Raises ConfigError, with the setting's path."""
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else ""
    except OSError as fault:
        raise ConfigError([Fault(path, f"{file} cannot be read: {fault.strerror}")]) from None


# --- The default file ----------------------------------------------------------------------------------


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, Struct):
        value = {
            name: inner for name, inner in msgspec.structs.asdict(value).items() if inner not in (None, ())
        }
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return str(value)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _lines(section: Struct) -> Iterator[str]:
    for name, shape in _fields(type(section)).items():
        value = getattr(section, name)
        yield from ("", *_comment(shape.word("description")))
        if shape.table is not None:
            inner = _fields(shape.table).items()
            yield from (
                line for key, what in inner for line in _comment(f"  {key}: {what.word('description')}")
            )
        if value is None:
            yield f"# {name} = {_toml(_example(shape))}"
        else:
            yield f"{name} = {_toml(value)}"


def default_toml() -> str:
    """The text of conf/webapp.toml: every setting with its default and what it is for."""
    lines = [
        "# Settings of the photo API (python -m webapp ...; WEBAPP_CONFIG names this file). These are the defaults."
    ]
    for name, shape in _fields(Config).items():
        lines += ["", "", *_comment(shape.word("description")), f"[{name}]", *_lines(getattr(Config(), name))]
    return "\n".join(lines) + "\n"


def _main() -> None:
    """`python -m webapp.config` prints the default file."""
    print(default_toml(), end="")  # noqa: T201  # that is what it is for


if __name__ == "__main__":
    _main()
