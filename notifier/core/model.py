"""The nouns of the way in: who did what, to what, and who should hear of it."""

import msgspec

# All are plain trees without cycles, so the garbage collector need not track them (gc=False).


class Actor(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The person who acted; `id` is a user id, `name` and `image` (URL) are for display."""

    id: str
    name: str | None = None
    image: str | None = None


class Object(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was acted upon: a photo, a comment; `url` and `image` are for display."""

    type: str
    id: str
    url: str | None = None
    image: str | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """One action, checked and complete; everything downstream trusts its fields.

    `id` names the action and is the same on every repeat. `time` is the producer's and `accepted`
    that of the stream entry, both in ms since 1970 UTC. `kind` is the base type ("like" also for
    an unlike, which has `retracts` set). `to` holds distinct user ids without the actor's own and
    may be empty. `named` tells that the producer gave the id.
    """

    id: str
    time: int
    accepted: int
    kind: str
    retracts: bool
    actor: Actor
    to: tuple[str, ...]
    object: Object | None
    text: str | None
    named: bool
