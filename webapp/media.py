"""Pictures of local storage at /media/, which a proxy or a CDN serves in production; and the way to a person's picture.

Both may be kept by every cache: a picture for good, the way for some minutes.
"""

from __future__ import annotations

from typing import Final

from django.db import InterfaceError, OperationalError
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
)
from django.views.decorators.http import require_safe

from webapp import limits, people, storage
from webapp.lookup import id_of
from webapp.problems import Problem, response

_HEADERS: Final = {
    "Cache-Control": storage.CACHE_CONTROL,
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
KEPT: Final = 300
"""Seconds for which a cache may lead to the picture that a person had. A replaced one is there for longer."""


@require_safe
def picture(request: HttpRequest, name: str) -> HttpResponseBase:
    """A picture. Raises Http404 for whatever was not given that name by webapp/storage.py."""
    store = storage.store()
    if not store.is_local or storage.NAME.fullmatch(name) is None:
        raise Http404
    try:
        file = store.files.open(name)
    except FileNotFoundError:
        raise Http404 from None
    return FileResponse(file, content_type="image/jpeg", headers=_HEADERS)


@require_safe
def portrait(request: HttpRequest, person: str) -> HttpResponseBase:
    """Leads to the picture that a person has now; 404 for who has none, and for nobody."""
    try:
        # Also of nobody: each costs a look into the database.
        limits.limits().take(limits.Count("portraits", limits.where_from(request.META)))
    except Problem as refusal:
        return response(refusal)  # no cache keeps it: a CDN would refuse others with it
    try:
        number = id_of(person)
        card = people.cards([number]).get(number)
    except Problem:
        card = None
    except (OperationalError, InterfaceError):
        return response(Problem("unavailable", "send the same request again", wait=5))
    made: HttpResponseBase
    if card is None or card.avatar is None:
        made = HttpResponse("There is nothing here.\n", content_type="text/plain", status=404)
    else:
        made = HttpResponseRedirect(
            card.avatar
        )  # RFC 9110 section 15.4.3: the next time it may lead elsewhere
    made.headers["Cache-Control"] = f"public, max-age={KEPT}"
    made.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    made.headers["X-Content-Type-Options"] = "nosniff"
    return made
