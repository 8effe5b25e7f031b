"""What routes ask of a request: whose it is, and where in a list it wants to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from django.http import HttpRequest
from ninja.security.base import AuthBase

from webapp import cursors, images
from webapp.photos import LAST
from webapp.problems import Problem

T = TypeVar("T")


class Token(AuthBase):
    """Only with a token. Whose it is has been found out by webapp/api/entry.py."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_bearerFormat = "JWT"

    def __call__(self, request: HttpRequest) -> Any:
        """The person's id. Raises Problem `not-authenticated`."""
        if request.person is None:
            raise Problem("not-authenticated", "log in, and send `Authorization: Bearer TOKEN`")
        return request.person


signed_in: Final = Token()


def before_of(of: str, cursor: str | None) -> int:
    """The id that a page of the list `of` begins before. Raises Problem `gone-cursor`."""
    place = cursors.decode(of, cursor)
    return place[0] if place else LAST


def cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], T | None]:
    """The first `limit` of rows, of which one more was asked for, and the last of them if there are more."""
    return rows[:limit], rows[limit - 1] if len(rows) > limit else None


def upload_limits() -> images.Limits:
    """What the configuration in force lets in."""
    from django.conf import settings

    photos = settings.CONFIG.photos
    return images.Limits(photos.max_bytes, photos.max_pixels)
