"""The client's side of notifier.v1 without the socket: its place, its receipts, what to print of each frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from notifier.cli.connect import printable

RECEIPT: Final = 32  # notifications after which a receipt does not wait for its timer
NOTIFICATION: Final = "notification"


class Heard(NamedTuple):
    """What a frame asks for: a line of data, a line of talk (None: nothing to print), a receipt now, a new token."""

    data: str | None = None
    talk: str | None = None
    acknowledge: bool = False
    reauth: bool = False


class Follower:
    """Follows one person's inbox over any number of connections. `count`: notifications heard."""

    def __init__(self, from_start: bool = False, raw: bool = False) -> None:
        self.from_start, self.raw = from_start, raw
        self.count = 0
        self.retry_ms = 0  # how long a server that stops wants to be left alone
        self.owed = 0  # notifications without a receipt
        self._place: tuple[str, int] | None = None  # (epoch, seq), both from the same message
        self._fresh = False  # this connection named no place: `ready` gives it
        self._settled = False  # every change up to the place has been heard
        self.greeted = False  # this connection was accepted
        self._seq = 0  # of the last change on this connection

    def auth(self, token: str) -> str:
        """The first message of a connection: who we are, and from where to go on."""
        self.owed, self._seq = 0, 0
        self.greeted = self._settled = self._fresh = False
        message: dict[str, Any] = {"type": "auth", "token": token}
        if self._place is not None:
            message["epoch"], message["after"] = self._place
        elif self.from_start:
            message["after"] = 0
        else:
            self._fresh = True
        return json.dumps(message)

    def renew(self, token: str) -> str:
        """The answer to `reauth`: a new token for the same connection."""
        return json.dumps({"type": "auth", "token": token})

    def ack(self) -> str:
        """A receipt for everything heard on this connection."""
        self.owed = 0
        return json.dumps({"type": "ack", "seq": self._seq})

    def hear(self, text: str) -> Heard:
        """One frame of the server. Raises ValueError for what is no message."""
        try:
            message = json.loads(text)
            kind = message["type"]
            heard = _HEARD.get(kind, Follower._unknown)(self, message)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the server sent what is no message of notifier.v1 ({error!r}): {text[:200]}"
            ) from None
        return heard._replace(data=text) if self.raw else heard

    # -- control

    def _ready(self, message: dict[str, Any]) -> Heard:
        self.greeted, self.retry_ms = True, 0
        if self._fresh:
            # Nothing older than ready.seq follows; the next change is ready.seq + 1.
            self._place, self._settled = (message["epoch"], message["seq"]), True
        return Heard(talk=f"connected: {message['unread']} unread, at change {message['seq']}")

    def _upto(self, message: dict[str, Any]) -> Heard:
        # A client that sent a cursor replaces it, epoch and seq together, only with `upto`.
        self._place, self._settled = (message["epoch"], message["seq"]), True
        return Heard()

    def _resync(self, message: dict[str, Any]) -> Heard:
        self._settled = False
        return Heard(
            talk=f"resync: {message['reason']}; what was printed before is void, all that stands follows"
        )

    def _reauth(self, message: dict[str, Any]) -> Heard:
        return Heard(talk=f"the token ends at {message['by']}", reauth=True)

    def _drain(self, message: dict[str, Any]) -> Heard:
        self.retry_ms = int(message["retry_ms"])
        return Heard(talk="the server stops; going elsewhere")

    def _error(self, message: dict[str, Any]) -> Heard:
        return Heard(talk=f"error {message['code']}: {message['reason']}")

    def _quiet(self, message: dict[str, Any]) -> Heard:
        return Heard()

    def _unknown(self, message: dict[str, Any]) -> Heard:
        return Heard()  # clients ignore what they do not know

    # -- changes

    def _change(self, message: dict[str, Any]) -> Heard:
        seq = self._seq = int(message["seq"])
        if self._settled and self._place is not None:
            epoch, last = self._place
            if seq == last + 1:
                self._place = (epoch, seq)
            else:
                self._settled = False  # a replay in the middle: an `upto` will end it
        if message["type"] == NOTIFICATION:
            self.count += 1
            self.owed += 1
        return Heard(data=line(message), acknowledge=self.owed >= RECEIPT)


_HEARD: Final[dict[str, Callable[[Follower, dict[str, Any]], Heard]]] = {
    "ready": Follower._ready,
    "upto": Follower._upto,
    "resync": Follower._resync,
    "reauth": Follower._reauth,
    "drain": Follower._drain,
    "error": Follower._error,
    "pong": Follower._quiet,
    NOTIFICATION: Follower._change,
    "retract": Follower._change,
    "seen": Follower._change,
    "read": Follower._change,
    "deleted": Follower._change,
}


def line(message: dict[str, Any]) -> str:
    """A change on one line: time kind actors object "text" unread."""
    unread = f"{message['unread']} unread"
    return printable("  ".join([*filter(None, _WORDS[message["type"]](message)), unread]))


def _notification(message: dict[str, Any]) -> list[str]:
    thing = message.get("object")
    return [
        message["time"], message["kind"], _actors(message), f"{thing['type']}/{thing['id']}" if thing else "",
        json.dumps(message["text"], ensure_ascii=False) if message.get("text") else "",
    ]  # fmt: skip


def _actors(message: dict[str, Any]) -> str:
    actors, count = message["actors"], message.get("count", 1)
    names = ", ".join(
        f"{actor['name']} ({actor['id']})" if actor.get("name") else actor["id"] for actor in actors
    )
    return names + (f" and {count - len(actors)} more" if count > len(actors) else "")


_WORDS: Final[dict[str, Callable[[dict[str, Any]], list[str]]]] = {
    NOTIFICATION: _notification,
    "retract": lambda message: ["taken back", message["id"]],
    "deleted": lambda message: ["deleted", *message["ids"]],
    "read": lambda message: ["read", " ".join(message["ids"])],
    "seen": lambda message: [f"seen up to {message['upto']}"],
}
