"""FCM HTTP v1: a push as the body of messages:send. All but the token is the same for many devices."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from notifier.core.push import Push, encode, fit

HOST: Final = "fcm.googleapis.com"
LIMIT: Final = 4000  # of 4096: Google does not say exactly what it counts
MOST_TTL: Final = 2_419_200  # s, four weeks

_HEAD: Final = b'{"message":{"token":'


class FcmPush(Struct, frozen=True, gc=False):
    """A message without its token: `rest` is what follows it."""

    rest: bytes

    def body(self, token: str) -> bytes:
        """The request's body for one device."""
        return b"%b%b%b" % (_HEAD, encode(token), self.rest)


def path(project: str) -> str:
    """The `:path` for a project."""
    return f"/v1/projects/{project}/messages:send"


def prepare(push: Push, now: int) -> FcmPush:
    """The push for Android devices of one project; `now`: ms, for the time that is left."""
    rest = fit(lambda words, extras: _rest(push, words, extras, now), push, LIMIT)
    return FcmPush(b",%b}" % rest[1:])


def ttl(push: Push, now: int) -> int:
    """Seconds left until the deadline, as far as Google keeps anything."""
    return max(0, min((push.deadline - now) // 1000, MOST_TTL))


def data(push: Push, words: str, extras: Mapping[str, str]) -> dict[str, str]:
    """What the app gets: keys and values are texts. `body` is there where the app draws for itself."""
    shown = {"body": words} if push.words and push.style.data_only else {}
    every = {**push.data, "unread": push.badge, **extras, **shown}
    return {name: str(value) for name, value in every.items()}


def _rest(push: Push, words: str, extras: Mapping[str, str], now: int) -> bytes:
    style = push.style
    android: dict[str, Any] = {
        # Android takes HIGH away from apps that use it without showing anything.
        "priority": "HIGH" if push.words and style.priority == "high" else "NORMAL",
        "ttl": f"{ttl(push, now)}s",
        # A phone that is off keeps at most four of these keys: kinds are few, groups are many.
        "collapse_key": push.kind if push.words else push.collapse,
    }
    message: dict[str, Any] = {"data": data(push, words, extras)}
    if push.words and not style.data_only:
        message["notification"] = {"body": words}
        optional = {
            "tag": push.collapse,
            "notification_count": push.badge,
            "channel_id": style.channel,
            "click_action": style.click_action,
            "sound": style.sound,
        }
        android["notification"] = {name: value for name, value in optional.items() if value}
    return encode({**message, "android": android})
