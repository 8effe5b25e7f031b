"""What a push says, before a provider's form is given to it; and how its words are fitted into a size.
Made once for each (notification, locale, badge); only the token differs between devices."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import blake2b, sha1
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from notifier.core.graphemes import cut
from notifier.core.inbox import NOTIFICATION, Record
from notifier.core.model import Actor, Notification, Object
from notifier.core.text import Language, sentence

Priority: TypeAlias = Literal["high", "normal", "low"]
Collapse: TypeAlias = Literal["group", "notification"]
Interruption: TypeAlias = Literal["", "passive", "active", "time-sensitive"]
PushType: TypeAlias = Literal[
    "alert", "background", "voip", "complication", "fileprovider", "mdm", "liveactivity", "location",
    "pushtotalk", "widgets", "controls",
]  # fmt: skip

BADGE: Final = "badge"  # what corrections of the badge collapse by
KEY_BYTES: Final = 64
_is_key: Final = re.compile(rf"[!-~]{{0,{KEY_BYTES}}}").fullmatch
KEPT_BYTES: Final = 1024  # so many of the words come before what only decorates
# Part of the stored state: another namespace would give the tries of one delivery two names.
NAMESPACE: Final = UUID("6f1c1d9e-6b57-5d0e-9a53-5c2f0e4c7b11")
_NAMESPACE: Final = sha1(NAMESPACE.bytes, usedforsecurity=False)
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # RFC 9562 section 4.1

encode: Final = msgspec.json.Encoder().encode


class Style(Struct, frozen=True, gc=False):
    """How notifications of one type look on a phone. An empty text leaves the member out.

    `collapse`: what replaces what on the screen. `ttl`: s. `channel` and `click_action` are Android's, `category`
    and `interruption` Apple's. `mutable` lets an extension of the app change it before it is shown. `data_only`:
    Android apps draw it themselves. `hidden`: say that there is something, not what.
    """

    push_type: PushType = "alert"
    priority: Priority = "high"
    collapse: Collapse = "notification"
    ttl: int = 86_400
    sound: str = "default"
    channel: str = ""
    click_action: str = ""
    category: str = ""
    interruption: Interruption = ""
    mutable: bool = False
    data_only: bool = False
    hidden: bool = False


class Push(Struct, frozen=True, gc=False):
    """One notification as one person's phones are told of it in one language.

    `collapse`: the same replaces; `thread`: what lies together. Both at most KEY_BYTES. `data` is for the app and
    always there; `extras` fall away, the last first, where the words need their room. `time`, `deadline`: ms.
    Without words it only corrects the badge, silently.
    """

    notification: str
    kind: str
    collapse: str
    thread: str
    badge: int
    words: str
    data: dict[str, str | int]
    extras: dict[str, str]
    time: int
    deadline: int
    style: Style


class _Row(Struct, frozen=True, gc=False):
    id: str
    kind: str
    actors: tuple[Actor, ...]
    count: int
    time: datetime
    object: Object | None = None
    text: str | None = None


_row: Final = msgspec.json.Decoder(_Row).decode


def notification(record: Record, epoch: str, seq: int) -> Notification:
    """The notification in a stored record. Raises ValueError for records of another kind, or what none of us wrote."""
    if record.kind != NOTIFICATION:
        raise ValueError(f"a record of kind {record.kind!r} is no notification")
    row = _row(f"{{{record.body}}}")
    return Notification(
        row.id, row.kind, row.actors, row.count, record.time, row.object, row.text, record.group, epoch, seq
    )


def compose(
    one: Notification, style: Style, words: Language, badge: int, deadline: int, *, silent: bool = False
) -> Push:
    """The push for a notification. `badge`: unread rows; `silent`: correct the badge and nothing more."""
    own = key(one.id)
    group = key(one.group) if one.group else own
    told = "" if silent else words.hidden if style.hidden else sentence(one, words)
    data: dict[str, str | int] = {"nid": one.id, "epoch": one.epoch, "seq": one.seq, "kind": one.kind}
    extras = {} if silent or style.hidden else _extras(one)
    # A correction must not replace what is on the screen, only another correction.
    collapse = BADGE if silent else group if style.collapse == "group" else own
    return Push(one.id, one.kind, collapse, group, badge, told, data, extras, one.time, deadline, style)


def _extras(one: Notification) -> dict[str, str]:
    thing, actor = one.object, one.actors[0] if one.actors else None
    found: dict[str, str] = {}
    if thing is not None:
        found["object_type"], found["object_id"] = thing.type, thing.id
    if actor is not None:
        found["actor"] = actor.id
    if thing is not None and thing.url:
        found["url"] = thing.url
    if image := (thing and thing.image) or (actor and actor.image):
        found["image"] = image
    return found


def key(name: str) -> str:
    """`name` where a provider takes it as it is, else a hash of it: at most KEY_BYTES of printable ASCII."""
    if _is_key(name):
        return name
    return urlsafe_b64encode(blake2b(name.encode(), digest_size=24).digest()).decode("ascii")


def delivery_id(notification: str, device: str) -> str:
    """The name of a delivery, a UUID of version 5 in lower case: the same on every try (RFC 9562 section 5.5)."""
    # By hand: the class UUID takes three times as long, and this is done for every single push.
    hashed = _NAMESPACE.copy()
    hashed.update(f"{notification}\0{device}".encode())
    text = hashed.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def size(text: str) -> int:
    """Bytes of `text` within a JSON string in UTF-8: a quote is two, a control character six."""
    return len(encode(text)) - 2


def fit(build: Callable[[str, Mapping[str, str]], bytes], push: Push, limit: int) -> bytes:
    """What `build` makes of words and extras, in at most `limit` bytes: extras go, the last first, while they leave
    the words less than KEPT_BYTES; then the words are cut between two characters. `build` may use the words once.

    Raises ValueError if even without both it is too long, which the bounds on an event rule out.
    """
    words, extras = push.words, push.extras
    whole = build(words, extras)
    if len(whole) <= limit:
        return whole
    wanted = min(size(words), KEPT_BYTES)
    extras = dict(extras)
    frame = len(build("", extras))
    while extras and frame + wanted > limit:
        extras.popitem()
        frame = len(build("", extras))
    if frame > limit:
        raise ValueError(f"{frame} bytes without a word in it, {limit} are allowed")
    return build(cut(words, limit - frame, size), extras)
