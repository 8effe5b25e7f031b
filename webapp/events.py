"""What the notifier is told, as its docs/events.md says; `id` and `time` are the outbox row's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

Type = Literal["like", "unlike", "comment", "uncomment", "follow", "unfollow"]
Event = dict[str, Any]

MOST: Final = 1000
"""People in one event's `to`."""


class Actor(Struct, frozen=True):
    """Who acted. Name and picture are for display: what takes back needs neither."""

    id: int
    name: str = ""
    image: str | None = None


def hearers(owner: int, mentioned: Iterable[int], author: int) -> list[int]:
    """Who hears of a comment: the photo's owner and whom it mentions, once each, and never its author."""
    return [person for person in dict.fromkeys([owner, *mentioned]) if person != author][:MOST]


def about_photo(kind: Type, actor: Actor, owner: int, photo: int, image: str) -> Event:
    """Somebody likes a photo, or no longer does."""
    return _event(
        kind, actor, [owner], {"type": "photo", "id": str(photo), "url": f"/p/{photo}", "image": image}
    )


def about_comment(
    kind: Type, actor: Actor, to: Sequence[int], photo: int, comment: int, image: str, text: str = ""
) -> Event:
    """Somebody comments, or a comment is gone.

    The object is the comment: a photo can have several of one person, and each is taken back alone.
    """
    thing = {"type": "comment", "id": str(comment), "url": f"/p/{photo}#c{comment}", "image": image}
    return _event(kind, actor, to, thing) | ({"text": text} if text else {})


def about_person(kind: Type, actor: Actor, to: int) -> Event:
    """Somebody follows, or no longer does."""
    return _event(kind, actor, [to], None)


def _event(kind: Type, actor: Actor, to: Sequence[int], thing: dict[str, str] | None) -> Event:
    who = {"id": str(actor.id), "name": actor.name, "image": actor.image}
    event: Event = {
        "type": kind,
        "actor": {field: value for field, value in who.items() if value},
        "to": [str(person) for person in to],
    }
    return event | ({"object": thing} if thing else {})
