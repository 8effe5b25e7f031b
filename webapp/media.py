"""Pictures of local storage at /media/. In production a proxy or a CDN serves them, from the same addresses."""

from __future__ import annotations

from typing import Final

from django.http import FileResponse, Http404, HttpRequest, HttpResponseBase
from django.views.decorators.http import require_safe

from webapp import storage

_HEADERS: Final = {
    "Cache-Control": storage.CACHE_CONTROL,
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


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
