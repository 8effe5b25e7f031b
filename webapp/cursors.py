"""Where a page of a list ends, as text that means nothing to whoever carries it."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from webapp.problems import Problem

_LARGEST: Final = (1 << 63) - 1  # what a bigint holds: a larger one would be an error of the database
_FORM: Final = re.compile(r"([a-z]{1,20})((?:\.[0-9]{1,19}){1,4})")


def encode(of: str, *place: int) -> str:
    """A cursor of the list `of` (a to z) at a place of numbers from 0 on."""
    plain = ".".join([of, *map(str, place)])
    return urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode(of: str, cursor: str | None, parts: int = 1) -> tuple[int, ...] | None:
    """The place in a cursor of the list `of`, `parts` numbers; None without a cursor.

    Raises Problem `gone-cursor` for whatever `encode` has not made for this list.
    """
    if cursor is None:
        return None
    try:
        plain = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        plain = ""
    found = _FORM.fullmatch(plain)
    place = tuple(map(int, found[2][1:].split("."))) if found else ()
    # Made anew it must be the same text: of this list, and in the one spelling that there is.
    if len(place) != parts or max(place) > _LARGEST or encode(of, *place) != cursor:
        raise Problem(
            "gone-cursor", "send `next` as it was answered by the same list, or begin without `cursor`"
        )
    return place
