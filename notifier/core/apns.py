"""APNs: a push as request headers and a body. What differs by push type (topic, priority, size, form) is a table."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import Struct

from notifier.core.push import Priority, Push, PushType, encode, fit

HOSTS: Final = {"production": "api.push.apple.com", "sandbox": "api.sandbox.push.apple.com"}
PORT: Final = 443


class Form(NamedTuple):
    """What a push type asks for. `priorities`: those allowed, the default first. `stored`: Apple may keep it for a
    phone that is off. `certificate`: allowed without a provider token."""

    suffix: str
    priorities: tuple[int, ...]
    limit: int = 4096
    stored: bool = True
    certificate: bool = True


FORMS: Final[Mapping[PushType, Form]] = {
    "alert": Form("", (10, 5, 1)),
    "background": Form("", (5,)),  # 10 is an error
    "voip": Form(".voip", (10,), limit=5120),
    "complication": Form(".complication", (10, 5)),
    "fileprovider": Form(".pushkit.fileprovider", (5, 10)),
    "mdm": Form("", (10,)),  # the topic is the one of the MDM certificate
    "liveactivity": Form(".push-type.liveactivity", (10, 5), certificate=False),
    "location": Form(".location-query", (5, 10), certificate=False),
    "pushtotalk": Form(".voip-ptt", (10,), stored=False),
    "widgets": Form(".push-type.widgets", (5, 10)),
    "controls": Form(".push-type.controls", (5, 10)),
}
_WANTED: Final[Mapping[Priority, int]] = {"high": 10, "normal": 5, "low": 1}
_PRIORITIES: Final[Mapping[tuple[PushType, Priority], int]] = {
    (push_type, word): number if number in form.priorities else form.priorities[0]
    for push_type, form in FORMS.items()
    for word, number in _WANTED.items()
}


class ApnsPush(Struct, frozen=True, gc=False):
    """All of a request but the token and the `apns-id`: the same for many devices. `expiration`: s since 1970,
    0 = now or never. `collapse_id`: empty = leave the header out."""

    topic: str
    push_type: PushType
    priority: int
    expiration: int
    collapse_id: str
    body: bytes

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The request's own headers, in an order that stays."""
        fixed = (
            ("apns-topic", self.topic),
            ("apns-push-type", self.push_type),
            ("apns-priority", str(self.priority)),
            ("apns-expiration", str(self.expiration)),
        )
        return (*fixed, ("apns-collapse-id", self.collapse_id)) if self.collapse_id else fixed


def path(token: str) -> str:
    """The `:path` for a device."""
    return f"/3/device/{token}"


def priority(push_type: PushType, wanted: Priority) -> int:
    """The priority asked for, or the push type's own where it does not allow that one."""
    return _PRIORITIES[push_type, wanted]


def prepare(push: Push, topic: str) -> ApnsPush:
    """The push for devices of one app; `topic`: its bundle id, without a suffix."""
    push_type = push.style.push_type
    form = FORMS[push_type]
    # Without words it only sets the badge: that must not wake anybody, and for a phone that is off Apple keeps just
    # one notification of an app, which must stay the one that says something.
    wanted = push.style.priority if push.words else "normal"
    expiration = max(1, push.deadline // 1000) if form.stored and push.words else 0
    body = fit(lambda words, extras: _body(push, words, extras), push, form.limit)
    return ApnsPush(
        topic + form.suffix, push_type, priority(push_type, wanted), expiration, push.collapse, body
    )


def _body(push: Push, words: str, extras: Mapping[str, str]) -> bytes:
    return encode({**push.data, **extras, "aps": _APS[push.style.push_type](push, words)})


def _alert(push: Push, words: str) -> dict[str, Any]:
    style = push.style
    if not push.words:
        return {"badge": push.badge}
    aps: dict[str, Any] = {"badge": push.badge, "alert": {"body": words}, "thread-id": push.thread}
    if style.sound:
        aps["sound"] = style.sound
    if style.category:
        aps["category"] = style.category
    if style.interruption:
        aps["interruption-level"] = style.interruption
    if style.mutable:
        aps["mutable-content"] = 1
    return aps


def _live(push: Push, words: str) -> dict[str, Any]:
    state = {"kind": push.kind, "unread": push.badge}
    aps: dict[str, Any] = {"event": "update", "timestamp": push.time // 1000, "content-state": state}
    return aps | {"alert": {"body": words}} if push.words else aps


def _bare(push: Push, words: str) -> dict[str, Any]:
    return {}


def _changed(push: Push, words: str) -> dict[str, Any]:
    return {"content-changed": True}


def _background(push: Push, words: str) -> dict[str, Any]:
    return {"content-available": 1}  # with alert, badge or sound it would not be a background push


_APS: Final[Mapping[PushType, Callable[[Push, str], dict[str, Any]]]] = {
    "alert": _alert,
    "background": _background,
    "voip": _bare,
    "complication": _bare,
    "fileprovider": _bare,
    "mdm": _bare,
    "liveactivity": _live,
    "location": _bare,
    "pushtotalk": _bare,
    "widgets": _changed,
    "controls": _changed,
}
