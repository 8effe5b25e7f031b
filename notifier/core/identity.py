"""Short stable hashes that name things in Redis: a relation between people, a delivery already made.

Both are part of the stored state: a change here makes every stored name and mark unknown.
"""

from binascii import b2a_base64
from hashlib import blake2b
from struct import Struct
from typing import Final

from notifier.core.model import Event

_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")  # RFC 4648 section 5
_halves: Final = Struct(">qQ").unpack

# A copy of an empty hash costs two thirds of a new one, and both names are made for each event.
_relation: Final = blake2b(digest_size=12)
_mark: Final = blake2b(digest_size=16)


def relation(event: Event) -> str:
    """Name what a retraction takes back: 16 characters of `[A-Za-z0-9_-]`.

    Equal for a like and its unlike: it hashes (kind, actor, object), never the event's own id.
    """
    thing = event.object
    actor = event.actor.id
    parts = (event.kind, actor) if thing is None else (event.kind, actor, thing.type, thing.id)
    # Intake lets no NUL into any part, so the joined form is unambiguous.
    name = _relation.copy()
    name.update("\0".join(parts).encode())
    return b2a_base64(name.digest(), newline=False).translate(_URL_SAFE).decode()


def mark(event_id: str, user: str, buckets: int) -> tuple[int, int]:
    """Place "this event has reached this user" in a set: (bucket in 0..buckets-1, signed 64-bit mark).

    Signed, because a Redis intset stores signed 64-bit integers. Bucket and mark come from different
    halves of the hash, so that knowing the bucket takes nothing from the mark.
    """
    name = _mark.copy()
    name.update(f"{event_id}\0{user}".encode())
    number, place = _halves(name.digest())
    return place % buckets, number
