"""The JSON of GCM, for self-hosted gateways that speak it. Google's own GCM ended in 2019, its successor of the same
form in 2024: devices of the platform `gcm` are sent to through FCM HTTP v1 unless a gateway is configured."""

from collections.abc import Sequence
from typing import Any, Final

from notifier.core.fcm import LIMIT, data, ttl
from notifier.core.push import Push, encode, fit

MOST_TOKENS: Final = 1000


def body(push: Push, tokens: Sequence[str], now: int, *, dry_run: bool = False) -> bytes:
    """The request's body for up to MOST_TOKENS devices; `now`: ms. Raises ValueError for none or more."""
    if not 1 <= len(tokens) <= MOST_TOKENS:
        raise ValueError(f"{len(tokens)} tokens, 1 to {MOST_TOKENS} are allowed")
    to: dict[str, Any] = {"to": tokens[0]} if len(tokens) == 1 else {"registration_ids": list(tokens)}
    if dry_run:
        to["dry_run"] = True
    rest = fit(lambda words, extras: encode(_message(push, words, extras, now)), push, LIMIT)
    return b"%b,%b" % (encode(to)[:-1], rest[1:])


def authorization(server_key: str) -> str:
    """The `Authorization` header."""
    return f"key={server_key}"


def _message(push: Push, words: str, extras: Any, now: int) -> dict[str, Any]:
    style = push.style
    message: dict[str, Any] = {
        "priority": "high" if push.words and style.priority == "high" else "normal",
        "time_to_live": ttl(push, now),
        "collapse_key": push.kind if push.words else push.collapse,
        "data": data(push, words, extras),
    }
    if push.words and not style.data_only:
        optional = {
            "tag": push.collapse,
            "android_channel_id": style.channel,
            "click_action": style.click_action,
            "sound": style.sound,
        }
        shown = {name: value for name, value in optional.items() if value}
        message["notification"] = {"body": words, **shown}
    return message
