"""Short stable hashes that name things in Redis: a relation between people, a delivery already made.

Both are part of the stored state: a change here makes every stored name and mark unknown.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b

from notifier.core.model import Event


def relation(event: Event) -> str:
    """Name what a retraction takes back: 16 characters of `[A-Za-z0-9_-]`.

    Equal for a like and its unlike: it hashes (kind, actor, object), never the event's own id.
    """
    thing = event.object
    parts = (event.kind, event.actor.id, *(() if thing is None else (thing.type, thing.id)))
    # Intake lets no NUL into any part, so the joined form is unambiguous.
    return urlsafe_b64encode(blake2b("\0".join(parts).encode(), digest_size=12).digest()).decode("ascii")


def mark(event_id: str, user: str, buckets: int) -> tuple[int, int]:
    """Place "this event has reached this user" in a set: (bucket in 0..buckets-1, signed 64-bit mark).

    Signed, because a Redis intset stores signed 64-bit integers. Bucket and mark come from different
    halves of the hash, so that knowing the bucket takes nothing from the mark.
    """
    digest = blake2b(f"{event_id}\0{user}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[8:], "big") % buckets, int.from_bytes(digest[:8], "big", signed=True)
