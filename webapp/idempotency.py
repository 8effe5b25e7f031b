"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): what is sent twice is done once.

The answer stands on the shard of what was made, written in the same transaction: there is never one without the other.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from django.db import DatabaseError, InterfaceError, connections
from msgspec import Raw, Struct

from webapp.problems import Problem
from webapp.shards import current_node, first_id_at, shard, shard_of, write_cursor

HOURS: Final = 24
"""How long an answer is kept."""
LONGEST: Final = 200
"""Characters of a key."""

Keep = Callable[[Struct], None]
"""Keeps an answer, in the transaction under way that makes what it tells of."""

# The draft's section 2.1 wants a String of RFC 8941, which is quoted. Many send it bare: that is the same key.
_KEY: Final = re.compile(rf'"([ !#-\[\]-~]{{1,{LONGEST}}})"|([!#-\[\]-~]{{1,{LONGEST}}})')
_TRY: Final = "SELECT pg_try_advisory_lock(%s)"
_FREE: Final = "SELECT pg_advisory_unlock(%s)"
_LOOK: Final = (
    "SELECT content, answer FROM answered WHERE person_id = %s AND about = %s AND key = %s AND id >= %s"
)
# One that is over may stand there still.
_KEEP: Final = (
    "INSERT INTO answered AS there (person_id, about, key, content, answer) VALUES (%s, %s, %s, %s, %s) "
    "ON CONFLICT (person_id, about, key) DO UPDATE SET id = next_id(), content = excluded.content, "
    "answer = excluded.answer WHERE there.id < %s RETURNING 1"
)
_log: Final = logging.getLogger(__name__)


class Key(Struct, frozen=True):
    """A key that a person sent.

    about    what something is added to, the id of a photo; 0 for a new photo
    content  tells contents apart: `digest` of all that was sent
    """

    person: int
    about: int
    key: str
    content: str


def read(header: str | None) -> str | None:
    """The key in a header `Idempotency-Key`, None without one. Raises Problem `invalid-request`."""
    if header is None:
        return None
    found = _KEY.fullmatch(header.strip())
    if found is None:
        raise Problem(
            "invalid-request",
            f"Idempotency-Key: send 1 to {LONGEST} ASCII characters, such as a UUID, in quotes",
        )
    return found[1] or found[2]


def digest(*parts: bytes) -> str:
    """Tells contents apart that are made of these parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def horizon(now_ms: float) -> int:
    """Answers with a lower id are kept no longer, at a Unix time in milliseconds."""
    return first_id_at(int(now_ms) - HOURS * 3_600_000)


def once(key: Key | None, make: Callable[[Keep], Struct]) -> Struct | Raw:
    """What `make` answers, or what it did when the same was sent before.

    `make` calls the function it is given in the transaction in which it makes what it answers.
    Raises Problem `key-reused` when the key came with another content, `in-progress` while that is still at work.
    """
    if key is None:
        return make(lambda view: None)
    with shard(shard_of(key.about or key.person)), _alone(key):
        with write_cursor() as cursor:
            cursor.execute(_LOOK, [key.person, key.about, key.key, _since()])
            row = cursor.fetchone()
        if row is None:
            return make(lambda view: _keep(key, view))
    content, first = row
    if content != key.content:
        raise Problem("key-reused", "this Idempotency-Key came with another content; take a new one")
    return Raw(first.encode())


def _keep(key: Key, view: Struct) -> None:
    text = msgspec.json.encode(view).decode()
    with write_cursor() as cursor:
        cursor.execute(_KEEP, [key.person, key.about, key.key, key.content, text, _since()])
        if cursor.fetchone() is None:  # our lock was lost with its connection, and somebody else was quicker
            raise _in_progress()


@contextmanager
def _alone(key: Key) -> Iterator[None]:
    """One request at a time has a key. The lock is of the connection, and gone with it."""
    number = int(digest(f"{key.person} {key.about} {key.key}".encode())[:16], 16) - (1 << 63)
    with write_cursor() as cursor:
        cursor.execute(_TRY, [number])
        (free,) = cursor.fetchone()
    if not free:
        raise _in_progress()
    try:
        yield
    finally:
        _free(number)


def _free(number: int) -> None:
    """Never raises: what is done is done."""
    try:
        with write_cursor() as cursor:
            cursor.execute(_FREE, [number])
    except (DatabaseError, InterfaceError) as failure:
        _log.warning("a connection is closed, to give back the lock of an Idempotency-Key: %s", failure)
        connections[current_node().primary].close()


def _since() -> int:
    return horizon(time.time() * 1000)


def _in_progress() -> Problem:
    return Problem("in-progress", "a request with this Idempotency-Key is still at work", wait=1)
