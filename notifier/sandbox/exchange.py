"""What goes over the wire, without the wire: one request of a sender and one answer of a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

Provider = Literal["apns", "fcm", "oauth"]
# What happens to a request beside, or instead of, being answered.
Action = Literal["answer", "hang", "reset", "refuse", "goaway", "close"]
BODY_BYTES: Final = 65_536  # far above every provider's own limit, so that those can answer 413


class Request(Struct, frozen=True):
    """A whole request. `fields`: names in lower case, without pseudo header fields. `at`: s since 1970."""

    method: str
    path: str
    fields: Mapping[str, str]
    body: bytes
    at: float


class Answer(Struct, frozen=True):
    """What the provider says, after `delay` seconds, and what it does to the stream or the connection.

    hang: never answers. reset: RST_STREAM (INTERNAL_ERROR), the request may have been processed. refuse: RST_STREAM
    (REFUSED_STREAM), it was not. goaway: answers, and says GOAWAY first. close: the connection ends without a word.
    """

    status: int
    body: bytes = b""
    fields: Mapping[str, str] = {}
    delay: float = 0.0
    action: Action = "answer"


class Link(Struct):
    """What a provider remembers of one connection: who it is for, and whether a token was ever good on it."""

    certificate: bool = False
    team: str | None = None
    proven: bool = False


def json_answer(status: int, body: Any, **fields: str) -> Answer:
    """An answer with a JSON body; `fields` are header fields, underscores for hyphens."""
    names = {name.replace("_", "-"): value for name, value in fields.items()}
    return Answer(status, msgspec.json.encode(body), {"content-type": "application/json", **names})
