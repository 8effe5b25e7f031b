"""The site for browsers: which files it is, which addresses are pages of it, and what those may load."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from django.views.decorators.http import require_safe

TYPES: Final[Mapping[str, str]] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
INDEX: Final = "index.html"
# Every address of webapp/page/app.js; all of them are the same file, and what they show is the browser's work.
PAGES: Final = re.compile(
    r"/(?:discover|search|upload|settings|login|signup|p/[0-9]{1,19}|u/[A-Za-z0-9_.]{1,30})?"
)
HEADERS: Final[Mapping[str, str]] = {
    # Asked for anew each time and answered with 304: pages and scripts of two versions never meet.
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def page_files() -> dict[str, tuple[str, bytes]]:
    """By name (`app.js`, `views/feed.js`): the content type and the content of all that stands under /static/."""
    found: dict[str, tuple[str, bytes]] = {}
    _gather(files("webapp") / "page", "", found)
    return found


def _gather(folder: Traversable, prefix: str, found: dict[str, tuple[str, bytes]]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _gather(entry, f"{prefix}{entry.name}/", found)
        elif (kind := TYPES.get(entry.name.rpartition(".")[2])) is not None:
            found[prefix + entry.name] = (kind, entry.read_bytes())


def security_policy(websocket: str, api: str, sandbox: str, cdn: str) -> str:
    """The Content-Security-Policy (CSP level 3) of the page, from the addresses that it is told; each may be ""."""
    connect = " ".join(filter(None, ("'self'", origin(websocket), origin(api))))
    images = " ".join(filter(None, ("'self'", "blob:", origin(cdn))))
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src {connect}; "
        f"frame-src {origin(sandbox) or chr(39) + 'none' + chr(39)}; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


def origin(url: str) -> str:
    """Scheme and authority of an address; "" for none."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


@require_safe
def page(request: HttpRequest) -> HttpResponseBase:
    """Any page of the site; what it shows, the browser finds out."""
    return _answer(request, INDEX)


@require_safe
def static(request: HttpRequest, name: str) -> HttpResponseBase:
    """A file of the site. Raises Http404 for others."""
    return _answer(request, name)


def missing(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Django's handler404: people get the site, which says so in its own words; programs get a line."""
    if request.path.startswith(("/static/", "/media/", "/portraits/", "/api/")):
        return HttpResponse("There is nothing here.\n", content_type="text/plain", status=404)
    answer = HttpResponse(_files()[INDEX][1], content_type=TYPES["html"], headers=dict(HEADERS), status=404)
    answer.headers["Content-Security-Policy"] = _policy()
    return answer


def _answer(request: HttpRequest, name: str) -> HttpResponseBase:
    if (found := _files().get(name)) is None:
        raise Http404
    kind, content, tag = found
    answer = HttpResponse(content, content_type=kind, headers={**HEADERS, "ETag": tag})
    answer.headers["Content-Security-Policy"] = _policy()
    return get_conditional_response(request, etag=tag, response=answer) or answer


@cache
def _files() -> Mapping[str, tuple[str, bytes, str]]:
    return {
        name: (kind, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for name, (kind, content) in page_files().items()
    }


def _policy() -> str:
    told, photos = settings.CONFIG.notifier, settings.CONFIG.photos
    return security_policy(told.websocket, told.api, told.sandbox, photos.cdn_url)
