"""What the API takes: the content and the parameters of requests, checked before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from django.http import HttpRequest
from ninja import Schema
from ninja.parser import Parser
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from webapp.problems import Problem

# One line: shown in one, and a name of the notifier's events, which takes no control characters. The rest may have
# several lines; NUL is what PostgreSQL cannot keep.
_LINE = r"^[^\x00-\x1f\x7f]*$"
_TEXT = r"^[^\x00]*$"


def _lines(text: str) -> str:
    """Forms come with the line ends of RFC 2046, whatever was typed."""
    return text.replace("\r\n", "\n")


# Of dots alone a name would be a step in a path.
Name = Annotated[str, StringConstraints(max_length=30, pattern=r"^[A-Za-z0-9_.]*[A-Za-z0-9_][A-Za-z0-9_.]*$")]
Password = Annotated[str, StringConstraints(min_length=8, max_length=200)]
DisplayName = Annotated[str, StringConstraints(strip_whitespace=True, max_length=60, pattern=_LINE)]
Bio = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=300, pattern=_TEXT), AfterValidator(_lines)
]
Caption = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=2200, pattern=_TEXT), AfterValidator(_lines)
]
Remark = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=_TEXT),
    AfterValidator(_lines),
]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=_TEXT)]
Limit = Annotated[int, Field(ge=1, le=50)]
Cursor = Annotated[str, StringConstraints(max_length=200)]
Kind = Literal["people", "photos"]


class Content(Schema):
    """A JSON object that has these members and no others."""

    model_config = ConfigDict(extra="forbid")


class SignUp(Content):
    """Somebody new. The name, in whatever case, is kept in small letters."""

    name: Name
    password: Password
    display_name: DisplayName = ""


class LogIn(Content):
    """Somebody who says who they are."""

    name: Annotated[str, StringConstraints(max_length=100)]
    password: Annotated[str, StringConstraints(max_length=200)]


class Renewal(Content):
    """Somebody who came in before: what they were given then."""

    renewal: Annotated[str, StringConstraints(max_length=4096)]


class NewPassword(Content):
    """Another password, by somebody who knows the old one."""

    old: Annotated[str, StringConstraints(max_length=200)]
    new: Password


class Changes(Content):
    """What to change about oneself; what is left out, or null, stays."""

    display_name: DisplayName | None = None
    bio: Bio | None = None


class NewPhoto(Content):
    """What to say of a photo, beside the file."""

    caption: Caption = ""


class NewComment(Content):
    """What to say; `@name` tells the person of that name."""

    text: Remark


class StrictJson(Parser):
    """JSON as RFC 8259 has it: no NaN, no half of a surrogate pair."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The content of a request. Raises Problem `not-json`."""
        try:
            return msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Problem("not-json", "send one JSON object in UTF-8") from None
