"""Routes: the home feed, the newest photos, and search."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from webapp import cursors, people, photos
from webapp.api.answers import Page, page, returns
from webapp.api.content import Cursor, Kind, Limit, Words
from webapp.api.door import before_of, cut, signed_in
from webapp.people import Listed
from webapp.photos import Photo
from webapp.search import search as backend

router = Router(tags=["lists"])


@router.get("/feed", summary="Your feed", auth=signed_in, **returns(Page[Photo]))
def feed(request: HttpRequest, cursor: Cursor | None = None, limit: Limit = 20) -> HttpResponse:
    """The newest photos of those you follow, and your own. A page may be short, or empty, before the last one."""
    before = cursors.decode("feed", cursor)
    found, following = photos.feed(request.person, before[0] if before else None, limit)
    return page("feed", found, [following] if following else None)


@router.get("/discover", summary="The newest photos", **returns(Page[Photo]))
def discover(request: HttpRequest, cursor: Cursor | None = None, limit: Limit = 20) -> HttpResponse:
    """Of everybody."""
    before = before_of("discover", cursor)
    found, last = cut(photos.newest(before, limit + 1, request.person), limit)
    return page("discover", found, [int(last.id)] if last else None)


@router.get("/search", summary="Search", **returns(Page[Listed], other=Page[Photo]))
def search(
    request: HttpRequest,
    q: Query[Words],
    kind: Kind = "people",
    cursor: Cursor | None = None,
    limit: Limit = 20,
) -> HttpResponse:
    """People by name, where the last word may be the beginning of one; or photos by what is said of them."""
    found = _people if kind == "people" else _photos
    return found(request, q, cursor, limit)


def _people(request: HttpRequest, text: str, cursor: str | None, limit: int) -> HttpResponse:
    after = cursors.decode("people", cursor, 2)
    hits, last = cut(backend().people(text, after, limit + 1), limit)
    return page("people", people.listed([hit.id for hit in hits], request.person), last and last.place)


def _photos(request: HttpRequest, text: str, cursor: str | None, limit: int) -> HttpResponse:
    after = cursors.decode("captions", cursor, 1)
    hits, last = cut(backend().photos(text, after, limit + 1), limit)
    found = photos.of_ids([hit.id for hit in hits], request.person)
    shown = [found[hit.id] for hit in hits if hit.id in found]
    return page("captions", shown, last and last.place)
