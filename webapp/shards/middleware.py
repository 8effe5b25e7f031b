"""One request, one scope: what it writes it reads, and the person's next requests read too."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from webapp.shards.access import acting

__all__ = ["acting_middleware"]


def acting_middleware(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Django middleware: each request runs in `acting`; who makes it, `identify` tells later."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with acting():
            return get_response(request)

    return middleware
