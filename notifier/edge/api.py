"""The HTTP API under /v1 (docs/api.md): a person's inbox for clients that have no socket open.
Every answer is JSON, every error a problem document (RFC 9457); the same rules for all of them come first.
"""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote

import msgspec
from klein import Klein
from msgspec import UNSET, Meta, Struct, UnsetType
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from notifier.config import Config
from notifier.core import payload, session
from notifier.core.inbox import Join, Joined, Mark, MarkKind, Page, Place
from notifier.core.session import READ_IDS, Close
from notifier.core.tokens import Identity, TokenError, Verifier
from notifier.edge.http import Answer, BoundedChannel, BoundedRequest, BoundedSite
from notifier.edge.redis import ReplyError
from notifier.metrics import Metrics
from notifier.ports import Inbox, Unavailable

log = Logger()

SCOPE: Final = "inbox"
REQUEST_SECONDS: Final = 30.0
CONNECTIONS: Final = 4096
ROWS: Final = 50
MOST_ROWS: Final = 100
MOST_SEQ: Final = 2**53 - 1  # what a JavaScript number holds exactly

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
PREFLIGHT_SECONDS: Final = 7200  # the longest that browsers remember a preflight

_NOWHERE: Final = Place(0, "0", 0)
_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


# Problems ---------------------------------------------------------------------------------------------------


class Problem(Exception):
    """Why a request was not done: `kind` is in KINDS, `detail` is for the developer who reads it.

    `wrong` names what was wrong with the request: {"parameter": name} or {"pointer": "#/member"}, and "detail".
    """

    def __init__(
        self, kind: str, detail: str, *, wrong: Mapping[str, str] | None = None, **fields: str
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.wrong = kind, detail, wrong
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}


KINDS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid-request": (400, "The request is not valid"),
    "not-authenticated": (401, "A token is needed"),
    "invalid-token": (401, "The token is not accepted"),
    "expired-token": (401, "The token has expired"),
    "revoked-token": (401, "The token has been revoked"),
    "missing-scope": (403, "The token does not allow this"),
    "foreign-origin": (403, "Pages of this origin may not call the API"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "This method is not for this address"),
    "gone-cursor": (410, "The cursor no longer means anything"),
    "too-large": (413, "The request is too large"),
    "not-json": (415, "The content must be JSON"),
    "internal": (500, "This is our fault"),
    "unavailable": (503, "Not possible at the moment"),
}

# Redis answers with these while it starts, fails over or is full: a later try can succeed.
PASSING: Final = frozenset(
    (
        "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN",
    )
)  # fmt: skip


def invalid(detail: str, **where: str) -> Problem:
    """400; `where` is `parameter="name"` for the query, `pointer="#/member"` for the content."""
    return Problem("invalid-request", detail, wrong={**where, "detail": detail} if where else None)


def told(problem: Problem) -> Answer:
    """The problem as a response (RFC 9457 section 3)."""
    status, title = KINDS[problem.kind]
    document: dict[str, Any] = {
        "type": f"urn:problem-type:notifier:{problem.kind}",
        "title": title,
        "status": status,
        "detail": problem.detail,
    }
    if problem.wrong is not None:
        document["errors"] = [problem.wrong]
    return Answer(status, _encode(document), PROBLEM, problem.fields)


def problem_of(failure: Failure) -> Problem:
    """What a client is told of a failure. What it must not see is logged instead."""
    error = failure.value
    if isinstance(error, Problem):
        return error
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Problem("method-not-allowed", f"this address takes {allowed}", Allow=allowed)
    if isinstance(error, HTTPException):
        return Problem("not-found", "no such address: docs/api.md lists them")
    if isinstance(error, Unavailable) or (isinstance(error, ReplyError) and error.code in PASSING):
        return Problem(
            "unavailable", "the store does not answer; the same request may be sent again", Retry_After="1"
        )
    log.failure("an API request failed", failure=failure)
    return Problem("internal", "the request failed; the server's log says why")


# What a request says ----------------------------------------------------------------------------------------


def bearer(headers: Sequence[str]) -> str:
    """The token in the Authorization header (RFC 6750 section 2.1). Raises Problem."""
    match = _BEARER.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None:
        # RFC 6750 section 3.1: who sent no token is told the scheme, and no error code.
        raise Problem(
            "not-authenticated", "send the person's token as `Authorization: Bearer <token>`",
            WWW_Authenticate="Bearer",
        )  # fmt: skip
    return match[1]


def one(args: Mapping[bytes, list[bytes]], name: str) -> str | None:
    """The query parameter, if it is there. Raises Problem if it is there twice, or is not UTF-8."""
    values = args.get(name.encode(), [])
    if len(values) > 1:
        raise invalid(f"`{name}` is given more than once", parameter=name)
    try:
        return values[0].decode() if values else None
    except UnicodeDecodeError:
        raise invalid(f"`{name}` is not UTF-8", parameter=name) from None


def number(args: Mapping[bytes, list[bytes]], name: str, least: int, most: int, default: T) -> int | T:
    """The query parameter as a whole number from least to most. Raises Problem."""
    text = one(args, name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise invalid(f"`{name}` must be a whole number from {least} to {most}", parameter=name)
    return int(text)


def cursor_of(page: Page) -> str | None:
    """Where the page after this one begins; None when this is the last. Opaque to clients."""
    if not page.more or not page.records:
        return None
    place = Place(page.birth, page.run, page.records[-1][0])
    return base64.urlsafe_b64encode(f"{place.epoch}:{place.seq}".encode()).rstrip(b"=").decode()


def cursor_place(cursor: str) -> Place:
    """What `cursor_of` had put into a cursor. Raises Problem for anything else."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        text = ""
    epoch, _, seq = text.partition(":")
    place = Place.parse(epoch, int(seq)) if _NUMBER.fullmatch(seq) else None
    if place is None or place.seq < 1:
        raise invalid(
            "`cursor` is none of ours; leave it out to begin with the newest row", parameter="cursor"
        )
    return place


Seq = Annotated[int, Meta(ge=0, le=MOST_SEQ)]
Epoch = Annotated[str, Meta(min_length=1, max_length=100)]
Id = Annotated[str, Meta(pattern=r"\A[\x21-\x7e]{1,200}\Z")]


class SeenBody(Struct, frozen=True, forbid_unknown_fields=True):
    epoch: Epoch
    seq: Seq


class ReadBody(Struct, frozen=True, forbid_unknown_fields=True):
    ids: Annotated[tuple[Id, ...], Meta(max_length=READ_IDS)] | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    seq: Seq | UnsetType = UNSET


_SEEN: Final = msgspec.json.Decoder(SeenBody)
_READ: Final = msgspec.json.Decoder(ReadBody)


def body(content_type: Sequence[str], content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The content of a request. Raises Problem, which names the member that is wrong."""
    if [line.partition(";")[0].strip().lower() for line in content_type] != [JSON]:
        raise Problem("not-json", f"send JSON, with `Content-Type: {JSON}`", Accept=JSON)
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise invalid(what, pointer=pointer(path.removesuffix("`"))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise invalid("the content is not JSON", pointer="#") from None


def pointer(path: str) -> str:
    """A JSON Pointer as a fragment (RFC 6901 section 6) from the tail of msgspec's path: `.ids[3]` is #/ids/3."""
    return "#" + "".join(f"/{name}" for name in re.findall(r"[A-Za-z0-9_]+", path))


def mark_upto(user: str, kind: MarkKind, epoch: str, seq: int) -> Mark:
    """A mark on all rows up to a seq, which means something only in its epoch. Raises Problem."""
    place = Place.parse(epoch, seq)
    if place is None:
        raise invalid("`epoch` is none of ours; take it from an answer of this API", pointer="#/epoch")
    return Mark(user, kind, str(place.birth), place.run, place.seq)


def read_mark(user: str, wanted: ReadBody) -> Mark:
    """The mark that a `read` asks for. Raises Problem unless it is `ids`, or `epoch` and `seq`."""
    if wanted.epoch is not UNSET and wanted.seq is not UNSET and wanted.ids is UNSET:
        return mark_upto(user, "read", wanted.epoch, wanted.seq)
    if wanted.ids is UNSET or wanted.epoch is not UNSET or wanted.seq is not UNSET:
        raise invalid("send either `ids`, or `epoch` and `seq`", pointer="#")
    return Mark(user, "read", "", "0", 0, wanted.ids)


# The API ----------------------------------------------------------------------------------------------------


class Api:
    """What can be asked. Klein awaits the handlers; each returns a body, or raises."""

    app = Klein()

    def __init__(
        self, inbox: Inbox, verifier: Verifier, metrics: Metrics, page: int, now: Callable[[], float]
    ) -> None:
        self.inbox, self.verifier, self.metrics = inbox, verifier, metrics
        self.page, self.now = page, now

    @app.route("/v1/inbox", methods=["GET"])
    async def rows(self, request: ApiRequest) -> bytes:
        """Rows, newest first."""
        who = self._person(request)
        most = number(request.args, "limit", 1, MOST_ROWS, ROWS)
        cursor = one(request.args, "cursor")
        place = cursor_place(cursor) if cursor is not None else None
        page = await self.inbox.page(who.user, place.seq if place else 0, most, who.issued)
        if page is None:
            raise self._revoked()
        # Rows of another epoch may stand under the same numbers: going on could skip some unseen.
        if place is not None and (place.birth, place.run) != (page.birth, page.run):
            raise Problem("gone-cursor", "the inbox has begun a new epoch; begin again, without `cursor`")
        shown = {**standing(page), "rows": payload.rows(page), "cursor": cursor_of(page)}
        return request.json(shown)

    @app.route("/v1/sync", methods=["GET"])
    async def sync(self, request: ApiRequest) -> bytes:
        """What has changed since a place; everything, for those who name none."""
        who = self._person(request)
        start = session.start(one(request.args, "epoch"), number(request.args, "after", 0, MOST_SEQ, None))
        if isinstance(start, Close):
            raise invalid(start.reason, parameter="after")
        if start is None or start.load:
            join = Join("load", _NOWHERE, self.page)
        else:
            join = Join("resume", start.place, self.page)
        joined = await self._sync(who, join)
        return request.json(
            {
                "result": joined.result,
                **standing(joined),
                "more": joined.more,
                "changes": payload.changes(joined),
            }
        )

    @app.route("/v1/inbox/unread", methods=["GET"])
    async def unread(self, request: ApiRequest) -> bytes:
        """How many rows are unread, for a badge."""
        return request.json(standing(await self._stand(self._person(request))))

    @app.route("/v1/inbox/seen", methods=["POST"])
    async def seen(self, request: ApiRequest) -> bytes:
        """All rows up to a seq have been seen."""
        who = self._person(request)
        wanted = request.body(_SEEN)
        return await self._mark(request, who, mark_upto(who.user, "seen", wanted.epoch, wanted.seq))

    @app.route("/v1/inbox/read", methods=["POST"])
    async def read(self, request: ApiRequest) -> bytes:
        """Some rows, or all up to a seq, have been read."""
        who = self._person(request)
        return await self._mark(request, who, read_mark(who.user, request.body(_READ)))

    @app.route("/v1/inbox/<quoted>", methods=["DELETE"])
    async def delete(self, request: ApiRequest, quoted: str) -> bytes:
        """A row goes away, everywhere. Deleting it again changes nothing."""
        who = self._person(request)
        return await self._mark(request, who, Mark(who.user, "delete", "", "0", 0, (unquote(quoted),)))

    @app.handle_errors(Exception)
    def failed(self, request: ApiRequest, failure: Failure) -> bytes:
        return request.dress(told(problem_of(failure)))

    def _person(self, request: ApiRequest) -> Identity:
        token = bearer(request.field_lines("authorization"))
        try:
            identity = self.verifier.verify(token, self.now())
        except TokenError as error:
            self.metrics.auth_failures.count(error.reason)
            kind = "expired-token" if error.reason == "expired" else "invalid-token"
            raise refused(kind, str(error)) from None
        if SCOPE not in identity.scopes:
            self.metrics.auth_failures.count("scope")
            raise Problem(
                "missing-scope", f"the token has no scope `{SCOPE}`",
                WWW_Authenticate=f'Bearer error="insufficient_scope", scope="{SCOPE}"',
            )  # fmt: skip
        return identity

    def _revoked(self) -> Problem:
        self.metrics.auth_failures.count("revoked")
        return refused("revoked-token", "sign in again: all tokens of this person issued before were revoked")

    async def _sync(self, who: Identity, join: Join) -> Joined:
        joined = await self.inbox.sync(who.user, join, who.issued)
        if joined.result == "revoked":
            raise self._revoked()
        return joined

    async def _stand(self, who: Identity) -> Joined:
        """Where the inbox stands: a read of counters, not of rows."""
        return await self._sync(who, Join("fresh", _NOWHERE, 1))

    async def _mark(self, request: ApiRequest, who: Identity, mark: Mark) -> bytes:
        await self._stand(who)  # a revoked token marks nothing
        (changed,) = await self.inbox.mark([mark])
        self.metrics.marks.count(mark.kind, changed)
        return request.json({"changed": changed, **standing(await self._stand(who))})


def refused(kind: str, detail: str) -> Problem:
    """401 for a token that is not accepted (RFC 6750 section 3.1)."""
    return Problem(kind, detail, WWW_Authenticate='Bearer error="invalid_token"')


def standing(inbox: Page | Joined) -> dict[str, Any]:
    """The members that say where an inbox stands."""
    return {
        "epoch": f"{inbox.birth}.{inbox.run}",
        "seq": inbox.seq,
        "floor": inbox.floor,
        "seen": inbox.seen,
        "unread": inbox.unread,
    }


# The listener -----------------------------------------------------------------------------------------------


class ApiRequest(BoundedRequest):
    """A request to the API: who may ask at all, then Klein's routes."""

    channel: ApiChannel

    def json(self, document: Mapping[str, Any]) -> bytes:
        """Dress the response for this document; the body comes back."""
        return self.dress(Answer(200, _encode(document), JSON))

    def dress(self, answer: Answer) -> bytes:
        return super().dress(self._with_cors(answer))

    def body(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The content. Raises Problem."""
        return body(self.field_lines("content-type"), self.content.read(), decoder)

    def process(self) -> None:
        self.site = self.channel.site
        try:
            self._check_host()
            if self._is_preflight():
                self.answer(self._preflight())
                return
            # Segments stay quoted, so that an id may hold a slash.
            self.prepath, self.postpath = [], self.path[1:].split(b"/")
            self.site.resource.render(self)
        except Exception:
            self.answer(told(problem_of(Failure())))

    def getRequestHostname(self) -> bytes:
        """Nothing is routed by host, so no Host header can confuse the router."""
        return b"localhost"

    def too_large(self) -> Answer:
        most = self.channel.site.body_bytes
        return self._with_cors(
            told(Problem("too-large", f"the content may have {most} bytes (api.body_bytes)"))
        )

    def _check_host(self) -> None:
        # RFC 9112 section 3.2: a request of HTTP/1.1 with no Host, or with two, is answered with 400.
        count = len(self.field_lines("host"))
        if count > 1 or (count == 0 and self.clientproto == b"HTTP/1.1"):
            raise invalid("exactly one Host header is needed")

    # -- CORS: which pages may call the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol)

    def _origin(self) -> str | None:
        """What to allow: the page's origin if it is on the list."""
        allowed = self.channel.site.origins
        if "*" in allowed:
            return "*"
        origin = self.field_lines("origin")
        return origin[0] if len(origin) == 1 and origin[0] in allowed else None

    def _with_cors(self, answer: Answer) -> Answer:
        return msgspec.structs.replace(answer, fields={**self._cors(), **answer.fields})

    def _cors(self) -> dict[str, str]:
        allowed, origin = self.channel.site.origins, self._origin()
        # A cache must not serve one origin's answer to another (RFC 9110 section 12.5.5).
        fields = {"Vary": "Origin"} if allowed and "*" not in allowed else {}
        if origin is not None:
            fields["Access-Control-Allow-Origin"] = origin
            fields["Access-Control-Expose-Headers"] = "Retry-After, WWW-Authenticate"
        return fields

    def _is_preflight(self) -> bool:
        named = all(map(self.field_lines, ("origin", "access-control-request-method")))
        return bool(self.method == b"OPTIONS" and named)

    def _preflight(self) -> Answer:
        if self._origin() is None:
            raise Problem("foreign-origin", "its origin is not on the list api.origins")
        fields = {
            "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        return Answer(204, b"", fields=fields)


class ApiChannel(BoundedChannel):
    site: ApiSite


class ApiSite(BoundedSite):
    protocol = ApiChannel

    def __init__(self, api: Api, reactor: Any, origins: tuple[str, ...], body_bytes: int) -> None:
        super().__init__(
            api.app.resource(), ApiRequest, reactor,
            seconds=REQUEST_SECONDS, most=CONNECTIONS, body_bytes=body_bytes,
        )  # fmt: skip
        self.origins = frozenset(origins)


def api_site(
    reactor: Any, inbox: Inbox, verifier: Verifier, config: Config, metrics: Metrics,
    now: Callable[[], float] = time.time,
) -> Site:  # fmt: skip
    """The site to listen with. `reactor` is Twisted's, or a clock for the time limits; tokens go by `now`."""
    api = Api(inbox, verifier, metrics, config.inbox.page, now)
    return ApiSite(api, reactor, config.api.origins, config.api.body_bytes)
