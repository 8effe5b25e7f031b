"""The page that shows the API. Swagger UI comes out of django-ninja's own package; nothing comes from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

# By name: where it lies, and what it is.
_FILES: Final[Mapping[str, tuple[str, str, str]]] = {
    "": ("webapp.api", "docs.html", "text/html; charset=utf-8"),
    "docs.js": ("webapp.api", "docs.js", "text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js": ("ninja", "static/ninja/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": ("ninja", "static/ninja/swagger-ui.css", "text/css; charset=utf-8"),
}
# Swagger UI carries its pictures as data: URLs, and sets styles on what it draws.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@require_safe
def page(request: HttpRequest, name: str = "") -> HttpResponse:
    """The page at /api/docs, or a file of it. Raises Http404."""
    if name not in _FILES:
        raise Http404
    return HttpResponse(
        _content(name),
        content_type=_FILES[name][2],
        headers={
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "public, max-age=3600",
            "X-Content-Type-Options": "nosniff",
        },
    )


@functools.cache
def _content(name: str) -> bytes:
    package, file, _ = _FILES[name]
    return files(package).joinpath(file).read_bytes()
