"""The canary: a small event that a process sends to itself, all the way, to know that the way is open.
Its people are reserved: only a token of the process itself is theirs. It leaves one row per process, and no mark, count
or dead letter."""

from typing import Final

import msgspec
from msgspec import Struct

from notifier.core.keys import shard_of

PREFIX: Final = "notifier.canary."
_HEAD: Final = b'{"actor":{"id":"notifier.canary."},'


class _Actor(Struct, frozen=True):
    id: str


class _Wire(Struct, frozen=True):
    actor: _Actor  # first: by it the canary is known before it is parsed
    id: str
    time: str
    type: str
    text: str
    to: list[str]


class Heard(Struct, frozen=True):
    """What a client is told, as far as a canary is concerned."""

    type: str
    seq: int = 0
    id: str = ""
    text: str = ""
    code: int = 0
    reason: str = ""


_encode = msgspec.json.Encoder().encode
heard = msgspec.json.Decoder(Heard).decode


def is_reserved(user: str) -> bool:
    """Is this user id kept for canaries?"""
    return user.startswith(PREFIX)


def is_canary(raw: bytes | None) -> bool:
    """Are these the bytes of a canary? Known by their beginning, which costs next to nothing."""
    return raw is not None and raw.startswith(_HEAD)


def users(shards: int) -> tuple[str, ...]:
    """One reserved user for each shard, by the shard's number."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < shards:
        user = f"{PREFIX}{number}"
        found.setdefault(shard_of(user, shards), user)
        number += 1
    return tuple(found[shard] for shard in range(shards))


def row(name: str) -> str:
    """The id of the one row that the canaries of a process replace; `name`: what the process is called."""
    return f"canary:{name}"


def event(kind: str, name: str, text: str, time: str, to: tuple[str, ...]) -> bytes:
    """What is appended. `kind`: a declared event type; `text`: by what it is known again; `time`: RFC 3339."""
    return _encode(_Wire(_Actor(PREFIX), row(name), time, kind, text, list(to)))
