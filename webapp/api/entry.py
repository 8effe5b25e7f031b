"""The door of the API: who asks, how much, how often; and every failure as a problem document."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis
from django.core.exceptions import BadRequest, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.request import RawPostDataException
from ninja.errors import HttpError, ValidationError

from webapp import limits, tokens
from webapp.api.door import signed_in
from webapp.config import ConfigError
from webapp.limits import Count, Name
from webapp.problems import CONTENT_TYPE, Fault, Problem, of_status, response
from webapp.redis_clients import client
from webapp.shards import identify, layout, replicas
from webapp.shards.context import scope

HERE: Final = "/api/"
FORM_BYTES: Final = 65_536
"""Most bytes of a request without a file; and with one, of what is around it."""

_READS: Final = frozenset({"GET"})
_CHARSETS: Final = frozenset({"utf-8", "ascii"})
_ANYBODY: Final = frozenset(
    {
        "/api/people",
        "/api/session",
        "/api/session/renewal",
        "/api/site",
        "/api/openapi.json",
        "/api/docs",
        "/api/health",
        "/api/ready",
    }
)
_UNCOUNTED: Final = frozenset({"/api/health", "/api/ready"})
_UPLOADS: Final = frozenset({("POST", "/api/photos"), ("PUT", "/api/me/avatar")})
_GUARDED: Final[Mapping[tuple[str, str], Name]] = {
    ("POST", "/api/people"): "sign_ups",
    ("POST", "/api/session"): "log_ins",
    ("PUT", "/api/me/password"): "log_ins",
}
_log: Final = logging.getLogger(__name__)


class Entry:
    """Django middleware for all of /api/. Whoever came in is `request.person`, an id or None."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer to one request."""
        if not request.path_info.startswith(HERE):
            return self._get_response(request)
        head = request.method == "HEAD"
        if head:
            request.method = "GET"  # RFC 9110 section 9.3.2: the same, but for the content
        made = self._answer(request)
        if made.status_code != 204 and not made.streaming:
            made["Content-Length"] = str(len(made.content))
            if head:
                made.content = b""
        return made

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            self._admit(request)
        except Exception as failure:
            return response(problem_of(failure))
        made = self._get_response(request)
        if made.status_code >= 400 and not _is_json(made):
            # Django's own words, for what no route is there.
            return response(Problem(of_status(made.status_code), allow=made.get("Allow")))
        return made

    def process_exception(self, request: HttpRequest, failure: Exception) -> HttpResponse | None:
        """What a view raises, and django-ninja does not catch."""
        return response(problem_of(failure)) if request.path_info.startswith(HERE) else None

    def _admit(self, request: HttpRequest) -> None:
        path = request.path_info
        request.person = None
        if path in _UNCOUNTED:
            return
        request.get_host()  # raises DisallowedHost for a name that is not in site.allowed_hosts
        request.address = limits.where_from(request.META)
        try:
            if path not in _ANYBODY:
                request.person = _person(request)
        finally:
            if request.person is not None:
                identify(request.person)
            # Also of who is nobody: guessing tokens is counted.
            _count(request)
        if (request.method, path) in _UPLOADS:
            signed_in(request)  # before anything of the content is read
        _weigh(request)
        _decode(request)


def _person(request: HttpRequest) -> int | None:
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if not header:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":  # RFC 9110 section 11.1: in any case
        raise Problem("invalid-token", "send `Authorization: Bearer TOKEN`")
    return tokens.tokens().person(token.strip())


def _count(request: HttpRequest) -> None:
    """One call for all that a request counts against."""
    where = (request.method, request.path_info)
    counts = [Count("address", request.address)]
    guard = _GUARDED.get(where)
    if guard is not None:
        counts.append(Count(guard, request.address))
    if request.person is not None:
        person = str(request.person)
        counts.append(Count("reads" if request.method in _READS else "writes", person))
        if where in _UPLOADS:
            counts.append(Count("uploads", person))
    also = _marks_to_read(request)
    marks = limits.limits().take(*counts, must=guard is not None, also=also)
    found = scope()
    if marks is not None and found is not None:
        replicas.told(found, marks)


def _marks_to_read(request: HttpRequest) -> str | None:
    """What the choice of a replica depends on is read with the limits, where one Redis has both."""
    if request.person is None or not any(node.replicas for node in layout().nodes):
        return None
    same = client("marks") is client("limits")
    return replicas.marks_key(request.person) if same else None


def _weigh(request: HttpRequest) -> None:
    from django.conf import settings

    most = FORM_BYTES
    if (request.method, request.path_info) in _UPLOADS:
        most += settings.CONFIG.photos.max_bytes
    if "HTTP_TRANSFER_ENCODING" in request.META:
        # Django reads as many bytes as were announced: none. RFC 9110 section 15.5.12.
        raise Problem("length-required", "send the content with a Content-Length, not in chunks")
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not (length.isdecimal() and len(length) < 19):
        raise Problem("invalid-request", "Content-Length is no number")
    if int(length) > most:
        raise Problem("too-large", f"the content has {length} bytes; at most {most} are allowed here")


def _decode(request: HttpRequest) -> None:
    """Only UTF-8: Django would take whatever codec of Python the client names, also what makes no text."""
    if unreadable := request.META.get("webapp.unreadable"):  # webapp/wsgi.py
        raise Problem("invalid-request", f"{unreadable} cannot be read")
    named, request.encoding = request.encoding, "utf-8"
    if named is not None and request.method not in _READS and codecs.lookup(named).name not in _CHARSETS:
        raise Problem("invalid-request", "send the content in UTF-8")


def _is_json(made: HttpResponse) -> bool:
    return str(made.get("Content-Type", "")).startswith((CONTENT_TYPE, "application/json"))


# What else may be raised on the way, and what it means for whoever asks: the first that fits.
_OTHERS: Final[tuple[tuple[tuple[type[Exception], ...], Problem], ...]] = (
    ((Http404,), Problem("not-found", "there is nothing at this address")),
    ((RequestDataTooBig,), Problem("too-large")),
    (
        (
            MultiPartParserError,
            BadRequest,
            SuspiciousOperation,
            UnreadablePostError,
            RawPostDataException,  # a form where JSON is wanted
        ),
        Problem("invalid-request", "the content cannot be read"),
    ),
    (
        (ConfigError,),
        Problem("unavailable", "this server is not set up to do that; its log says why", wait=60),
    ),
    (
        (OperationalError, InterfaceError, redis.RedisError),
        Problem("unavailable", "send the same request again", wait=5),
    ),
)


def problem_of(failure: Exception) -> Problem:
    """What to answer. What nobody foresaw is logged, and answered with as little as possible."""
    if isinstance(failure, Problem):
        return failure
    if isinstance(failure, ValidationError):
        return _invalid(failure)
    if isinstance(failure, HttpError):
        # django-ninja's own, for content that its parser refuses: that parser is ours and says why.
        inner = failure.__cause__
        return inner if isinstance(inner, Problem) else Problem(of_status(failure.status_code), str(failure))
    for kinds, problem in _OTHERS:
        if isinstance(failure, kinds):
            if problem.status >= 500:
                _log.error("not available: %s", failure)
            return problem
    _log.error("a request failed: %s", failure, exc_info=failure)
    return Problem("internal", "it has been logged")


def _invalid(failure: ValidationError) -> Problem:
    faults = [_fault(error) for error in failure.errors]
    told = "; ".join(f"{fault.path}: {fault.message}" for fault in faults[:3])
    return Problem("invalid-content", told, errors=faults)


def _fault(error: Mapping[str, Any]) -> Fault:
    """The last part of a place is the name: ("body", "given", "name"), ("query", "limit")."""
    name, kind = str(error["loc"][-1]), error["type"]
    words = _FORMS.get(name) if kind == "string_pattern_mismatch" else _WORDS.get(kind)
    return Fault(name, (words or error["msg"]).format(**error.get("ctx", {})))


# What people may get to read, beside the field that they have filled in.
_WORDS: Final[Mapping[str, str]] = {
    "missing": "this is missing",
    "string_too_short": "use at least {min_length} characters",
    "string_too_long": "use at most {max_length} characters",
    "string_unicode": "this is not valid Unicode",
    "extra_forbidden": "there is no such member",
}
_FORMS: Final[Mapping[str, str]] = {
    "name": "use letters, digits, dots and underscores",
    "display_name": "use one line, without control characters",
    "caption": "do not use NUL characters",
    "bio": "do not use NUL characters",
    "text": "do not use NUL characters",
    "q": "do not use NUL characters",
}
