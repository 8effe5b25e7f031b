"""What goes wrong for whoever asks, as problem documents (RFC 9457): raised anywhere, answered in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from django.http import HttpResponse

Kind = Literal[
    "invalid-request", "gone-cursor", "not-json", "not-authenticated", "wrong-credentials", "expired-token",
    "invalid-token", "forbidden", "not-found", "method-not-allowed", "name-taken", "in-progress",
    "length-required", "too-large", "bad-image", "invalid-content", "key-reused", "too-many-requests", "internal",
    "unavailable",
]  # fmt: skip

CONTENT_TYPE: Final = "application/problem+json"

# `type` is the kind behind this; it is for programs and never changes, the words may.
_TYPE: Final = "urn:problem-type:webapp:"
_KINDS: Final[Mapping[Kind, tuple[int, str]]] = {
    "invalid-request": (400, "The request is not valid"),
    "gone-cursor": (400, "The cursor is none of this list"),
    "not-json": (400, "The content is not JSON"),
    "not-authenticated": (401, "This needs a token"),
    "wrong-credentials": (401, "The name or the password is wrong"),
    "expired-token": (401, "The token has expired"),
    "invalid-token": (401, "The token is not valid"),
    "forbidden": (403, "This is not yours"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "This method is not allowed here"),
    "name-taken": (409, "The name is taken"),
    "in-progress": (409, "The same request is still at work"),
    "length-required": (411, "The content has no length"),
    "too-large": (413, "The content is too large"),
    "bad-image": (422, "The picture cannot be used"),
    "invalid-content": (422, "The content is not valid"),
    "key-reused": (422, "The key was used for something else"),
    "too-many-requests": (429, "Too many requests"),
    "internal": (500, "Something failed here"),
    "unavailable": (503, "Not available at the moment"),
}
_OF_STATUS: Final[Mapping[int, Kind]] = {
    400: "invalid-request", 401: "not-authenticated", 403: "forbidden", 404: "not-found",
    405: "method-not-allowed", 411: "length-required", 413: "too-large", 422: "invalid-content",
    429: "too-many-requests", 503: "unavailable",
}  # fmt: skip
_CHALLENGES: Final[
    Mapping[Kind, str]
] = {  # RFC 9110 section 11.6.1: a 401 names a scheme; RFC 6750 section 3
    "not-authenticated": "Bearer",
    "expired-token": 'Bearer error="invalid_token", error_description="expired"',
    "invalid-token": 'Bearer error="invalid_token"',
    # Not Bearer: a browser or client that renews tokens by itself must not try to here.
    "wrong-credentials": "Password",
}


class Fault(NamedTuple):
    """One part of a request that is wrong: where (`caption`, `body.name`) and what."""

    path: str
    message: str


class Problem(Exception):
    """An answer that is no success. `wait`: after how many seconds to ask again; `allow`: which methods there are."""

    def __init__(
        self, kind: Kind, detail: str = "", *, errors: Sequence[Fault] = (), wait: float | None = None,
        allow: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail or kind)
        self.kind: Final = kind
        self.detail: Final = detail
        self.errors: Final = tuple(errors)
        self.wait: Final = wait
        self.allow: Final = allow

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _KINDS[self.kind][0]


def of_status(status: int) -> Kind:
    """The kind that says the least about an answer of this status."""
    return _OF_STATUS.get(status, "internal" if status >= 500 else "invalid-request")


def response(problem: Problem) -> HttpResponse:
    """The answer that tells it."""
    status, title = _KINDS[problem.kind]
    document: dict[str, object] = {"type": _TYPE + problem.kind, "title": title, "status": status}
    if problem.detail:
        document["detail"] = problem.detail
    if problem.errors:
        document["errors"] = [fault._asdict() for fault in problem.errors]
    answer = HttpResponse(msgspec.json.encode(document), status=status, content_type=CONTENT_TYPE)
    answer["Cache-Control"] = "no-store"
    if problem.kind in _CHALLENGES:
        answer["WWW-Authenticate"] = _CHALLENGES[problem.kind]
    if problem.wait is not None:
        answer["Retry-After"] = str(max(1, math.ceil(problem.wait)))  # RFC 9110 section 10.2.3: whole seconds
    if problem.allow is not None:
        answer["Allow"] = problem.allow
    return answer
