"""What the API answers with: JSON made from the structures that the domain returns, which describe it as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from django.http import HttpResponse
from msgspec import Struct

from webapp import cursors
from webapp.comments import Comment
from webapp.idempotency import HOURS, LONGEST
from webapp.people import Listed, Profile
from webapp.photos import Photo

T = TypeVar("T")

REFERENCE: Final = "#/components/schemas/{name}"


class Page(Struct, Generic[T], frozen=True):
    """Part of a list. `next`: the `cursor` of the part that follows; null at the end."""

    items: list[T]
    next: str | None


class Entered(Struct, frozen=True):
    """Somebody who came in: their token, when it ends, in seconds since 1970, and what gets them the next one."""

    person: Profile
    token: str
    expires: int
    renewal: str


class Health(Struct, frozen=True):
    """That this process answers."""

    status: str


class Readiness(Struct, frozen=True):
    """What this process needs, by name, and whether it is there ("ok", or why not)."""

    ready: bool
    parts: dict[str, str]


class Site(Struct, frozen=True):
    """What a client of this site needs to know. "" for what there is not."""

    websocket: str
    api: str
    sandbox: str
    max_bytes: int
    max_pixels: int


class FaultOfProblem(Struct, frozen=True):
    """One part of a request that is wrong."""

    path: str
    message: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457). `type` is for programs."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[FaultOfProblem] = []


_KINDS: Final[dict[Any, str]] = {
    Photo: "Photo",
    Comment: "Comment",
    Profile: "Profile",
    Entered: "Entered",
    Health: "Health",
    Readiness: "Readiness",
    Site: "Site",
    Problem: "Problem",
    Page[Photo]: "Photos",
    Page[Comment]: "Comments",
    Page[Listed]: "People",
}


def components() -> dict[str, Any]:
    """The schemas of all answers, by name."""
    kinds = list(_KINDS)
    schemas, found = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    # msgspec calls them Page_Photo_; they have names of ours, and so in whatever refers to them.
    text = msgspec.json.encode(found).decode()
    for kind, schema in zip(kinds, schemas, strict=True):
        given = schema["$ref"].rpartition("/")[2]
        text = text.replace(f'"{given}"', f'"{_KINDS[kind]}"').replace(f'/{given}"', f'/{_KINDS[kind]}"')
    named: dict[str, Any] = msgspec.json.decode(text)
    return named


def returns(kind: Any, status: int = 200, *, other: Any = None) -> dict[str, Any]:
    """What a route's decorator is told about its answer: `@router.get("/me", **returns(Profile))`.

    `other`: what it may be instead.
    """
    kinds = [{"$ref": REFERENCE.format(name=_KINDS[each])} for each in (kind, other) if each is not None]
    content = {"application/json": {"schema": kinds[0] if other is None else {"anyOf": kinds}}}
    return {"response": {status: None}, "openapi_extra": {"responses": {status: {"content": content}}}}


def keyed(told: dict[str, Any]) -> dict[str, Any]:
    """The same for a route that takes an `Idempotency-Key`; `told` as `returns` gives it."""
    told["openapi_extra"]["parameters"] = [_KEY]
    return told


_KEY: Final[dict[str, Any]] = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": (
        "A name for this request, best a new UUID, in quotes. Sent again by the same person with the same content "
        f"within {HOURS} hours, it gets the first answer again and makes nothing new: so it may be repeated after a "
        "timeout or a 503. With another content it gets 422 (`key-reused`), while the first is still at work 409 "
        "(`in-progress`). What was refused is not kept. For comments, a key counts for one photo."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST + 2},
    "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
}

NOTHING: Final[dict[str, Any]] = {"response": {204: None}}
"""The same for an answer without content."""


def answer(view: Struct | msgspec.Raw, status: int = 200) -> HttpResponse:
    """A structure as JSON, or JSON as it is. Nobody keeps it: it is of one moment, and of one viewer."""
    made = HttpResponse(msgspec.json.encode(view), status=status, content_type="application/json")
    made["Cache-Control"] = "no-store"
    return made


def nothing() -> HttpResponse:
    """204."""
    made = HttpResponse(status=204)
    del made["Content-Type"]
    return made


def page(of: str, items: Sequence[T], more: Sequence[int] | None) -> HttpResponse:
    """A page of the list `of`; `more` is the place that the next one begins after, None at the end."""
    return answer(Page(list(items), cursors.encode(of, *more) if more else None))
