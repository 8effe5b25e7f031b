"""The HTTP API under /v1 (docs/api.md): a person's inbox, events of services, the way into a stream.
Every answer is JSON, every error a problem document (RFC 9457); the same rules for all of them come first.
"""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar
from urllib.parse import unquote

import msgspec
from klein import Klein
from msgspec import UNSET, Meta, Struct, UnsetType
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from notifier.config import Api as ApiSettings
from notifier.config import Config, Limits
from notifier.core import payload, session
from notifier.core.devices import App, Refused, device_id
from notifier.core.devices import register as described
from notifier.core.inbox import Join, Joined, Mark, MarkKind, Page, Place
from notifier.core.session import READ_IDS, Close, Start
from notifier.core.tokens import Identity, TokenError, Verifier
from notifier.edge import routes
from notifier.edge.http import Answer, BoundedChannel, BoundedRequest, BoundedSite, target
from notifier.edge.redis import ReplyError
from notifier.edge.throttle import Buckets
from notifier.metrics import Metrics
from notifier.ports import Devices, Inbox, Unavailable

log = Logger()

SCOPE: Final = "inbox"
PUBLISH: Final = "publish"
EVENTS: Final = b"/v1/events"
STREAM: Final = b"/v1/stream"
REQUEST_SECONDS: Final = 30.0
CONNECTIONS: Final = 4096
ROWS: Final = 50
MOST_ROWS: Final = 100
MOST_SEQ: Final = 2**53 - 1  # what a JavaScript number holds exactly

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
PROBLEM: Final = "application/problem+json"
PREFLIGHT_SECONDS: Final = 7200  # the longest that browsers remember a preflight

NO_APPS: Final[Mapping[str, App]] = {}
_NOWHERE: Final = Place(0, "0", 0)
_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


# Problems ---------------------------------------------------------------------------------------------------


class Problem(Exception):
    """Why a request was not done: `kind` is in KINDS, `detail` is for the developer who reads it.

    `wrong` names what was wrong with the request: {"parameter": name} or {"pointer": "#/member"}, and "detail".
    `results` say what became of the parts of a request that was done in part.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        wrong: Mapping[str, str] | None = None,
        results: Any = None,
        **fields: str,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.wrong, self.results = kind, detail, wrong, results
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
    "too-many-requests": (429, "Too many requests"),
    "too-many-connections": (429, "Too many connections"),
    "backlog": (429, "Events wait to be handled"),
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
    if problem.results is not None:
        document["results"] = problem.results
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


def stream_place(last_id: Sequence[str], args: Mapping[bytes, list[bytes]]) -> Start | None:
    """Where a stream begins: behind the last event that a browser has seen, else at the place in the query.

    Raises Problem. An id that is none of ours is a place that is gone: the client is told to begin again.
    """
    if last_id and last_id[0]:
        epoch, _, seq = last_id[0].rpartition(":")
        after = int(seq) if _NUMBER.fullmatch(seq) and int(seq) <= MOST_SEQ else MOST_SEQ
        start = session.start(epoch, after)
    else:
        start = session.start(one(args, "epoch"), number(args, "after", 0, MOST_SEQ, None))
    if isinstance(start, Close):
        raise invalid(start.reason, parameter="after")
    return start


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


def json_only(content_type: Sequence[str]) -> None:
    """Raises Problem for content that does not say it is JSON."""
    if [line.partition(";")[0].strip().lower() for line in content_type] != [JSON]:
        raise Problem("not-json", f"send JSON, with `Content-Type: {JSON}`", Accept=JSON)


def body(content_type: Sequence[str], content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The content of a request. Raises Problem, which names the member that is wrong."""
    json_only(content_type)
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


class Publisher(Protocol):
    """Where events go (edge/events_api.py)."""

    def publish(self, content: bytes, who: Identity) -> Awaitable[Sequence[Any]]:
        """What became of each event of a request, in order."""


class Streams(Protocol):
    """Who follows over HTTP (edge/sse.py)."""

    def begin(self, request: ApiRequest, who: Identity, place: Start | None) -> None:
        """Answer with a stream of a person's changes. Raises Problem."""


# The API ----------------------------------------------------------------------------------------------------


class Api:
    """What can be asked. Klein awaits the handlers; each returns a body, or raises."""

    app = Klein()

    publisher: Publisher | None = None
    streams: Streams | None = None
    devices: Devices | None = None
    apps: Mapping[str, App] = NO_APPS  # what devices may be registered with
    document = b""
    address: Callable[[str, str], str | None]
    in_query = False  # may the token of a stream be in the query?

    def __init__(
        self, reactor: Any, inbox: Inbox, verifier: Verifier, metrics: Metrics, page: int, limits: Limits,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self.reactor, self.inbox, self.verifier, self.metrics = reactor, inbox, verifier, metrics
        self.page, self.now = page, now
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Obey these limits from now on; every bucket is full."""
        self.people = Buckets(limits.requests_per_user, limits.requests_per_user_burst)
        self.addresses = Buckets(limits.requests_per_address, limits.requests_per_address_burst)

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

    @app.route("/v1/events", methods=["POST"])
    async def events(self, request: ApiRequest) -> bytes:
        """Append events; what became of each. 202: they are in Redis, not yet in the inboxes."""
        who = request.identify(PUBLISH)
        # A service speaks for many people: it waits when the backlog says so, not by the number of its requests.
        request.refund()
        if self.publisher is None:
            raise Problem("not-found", "events are not taken here")
        json_only(request.field_lines("content-type"))
        results = await self.publisher.publish(request.content.read(), who)
        return request.dress(Answer(202, _encode({"results": results}), JSON))

    @app.route("/v1/devices/<quoted>", methods=["PUT"])
    async def register(self, request: ApiRequest, quoted: str) -> bytes:
        """A device is this person's now, and nobody else's. The app says so again at each of its starts."""
        who, store = self._person(request), self._devices()
        json_only(request.field_lines("content-type"))
        found = described(unquote(quoted), request.content.read(), self.apps)
        if isinstance(found, Refused):
            raise not_a_device(found)
        await self._stand(who)  # a revoked token registers nothing
        # Also when somebody else has registered it meanwhile, or it was removed: that came after, and both were done.
        await store.register(who.user, found)
        return request.dress(Answer(204, b""))

    @app.route("/v1/devices/<quoted>", methods=["DELETE"])
    async def unregister(self, request: ApiRequest, quoted: str) -> bytes:
        """A device is told nothing any more. Again, or of another's device, it changes nothing."""
        who, store = self._person(request), self._devices()
        await self._stand(who)
        await store.unregister(who.user, device_id(unquote(quoted)))
        return request.dress(Answer(204, b""))

    @app.route("/v1/stream", methods=["GET"])
    async def stream_head(self, request: ApiRequest) -> bytes:
        """HEAD alone comes here: a stream itself is begun by `follow`, past Klein."""
        self._person(request)
        request.dress(Answer(200, b"", EVENT_STREAM))
        request.responseHeaders.removeHeader("content-length")
        return b""

    async def follow(self, request: ApiRequest) -> None:
        """Turn the connection of this request into a stream."""
        who, streams = self._person(request), self.streams
        if streams is None:
            raise Problem("not-found", "there are no streams here")
        place = stream_place(request.field_lines("last-event-id"), request.args)
        try:
            await self._stand(who)
        except (Unavailable, ReplyError):
            # EventSource never comes back after any answer but 200, so the session waits for the store instead.
            pass
        if not request.is_over():
            streams.begin(request, who, place)

    @app.route("/v1/openapi.json", methods=["GET"])
    async def describe(self, request: ApiRequest) -> bytes:
        """The description of all this."""
        return request.dress(Answer(200, self.document, JSON))

    @app.handle_errors(Exception)
    def failed(self, request: ApiRequest, failure: Failure) -> bytes:
        return request.dress(told(problem_of(failure)))

    def _person(self, request: ApiRequest) -> Identity:
        who = request.identify(SCOPE)
        self.charge("person", self.people, who.user)
        return who

    def _devices(self) -> Devices:
        if self.devices is None:
            raise Problem("not-found", "no devices are kept here")
        return self.devices

    def identify(self, token: str, scope: str) -> Identity:
        """Whose token it is. Raises Problem unless it is good for `scope`."""
        try:
            identity = self.verifier.verify(token, self.now())
        except TokenError as error:
            self.metrics.auth_failures.count(error.reason)
            kind = "expired-token" if error.reason == "expired" else "invalid-token"
            raise refused(kind, str(error)) from None
        if scope not in identity.scopes:
            self.metrics.auth_failures.count("scope")
            raise Problem(
                "missing-scope", f"the token has no scope `{scope}`",
                WWW_Authenticate=f'Bearer error="insufficient_scope", scope="{scope}"',
            )  # fmt: skip
        return identity

    def charge(self, whose: str, buckets: Buckets, name: str) -> None:
        """Raises Problem when somebody asks too often. `whose`: person or address."""
        wait = buckets.take(name, self.reactor.seconds())
        if wait:
            self.metrics.api_limited.count(whose)
            raise Problem(
                "too-many-requests", f"this {whose} sends more than {buckets.rate:g} requests a second",
                Retry_After=str(math.ceil(wait)),
            )  # fmt: skip

    def _revoked(self) -> Problem:
        self.metrics.auth_failures.count("revoked")
        return revoked()

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


def not_a_device(refused: Refused) -> Problem:
    """400 for a registration; it never quotes the token."""
    if refused.field == "token":
        return invalid(refused.detail, parameter="token")
    return invalid(refused.detail, pointer=f"#/{refused.field}" if refused.field else "#")


def revoked() -> Problem:
    """401 for a token that was good once."""
    return refused("revoked-token", "sign in again: all tokens of this person issued before were revoked")


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
    address: str | None = None  # who is charged for it: None for a trusted proxy itself
    charged = False
    _who: Identity | Problem | None = None

    def identify(self, scope: str) -> Identity:
        """Who asks, looked at once. Raises Problem."""
        if self._who is None:
            try:
                self._who = self.channel.site.api.identify(self._token(), scope)
            except Problem as problem:
                self._who = problem
        if isinstance(self._who, Problem):
            raise self._who
        return self._who

    def _token(self) -> str:
        # RFC 6750 section 2.3: a query ends up in logs, so only where it is asked for. Section 2: not two ways at once.
        wanted = self.channel.site.api.in_query and self.path == STREAM
        in_query = one(self.args, "access_token") if wanted else None
        headers = self.field_lines("authorization")
        if in_query is None:
            return bearer(headers)
        if headers:
            raise invalid("send the token once", parameter="access_token")
        return in_query

    def refund(self) -> None:
        """This request does not count against its address."""
        if self.address is not None:
            self.channel.site.api.addresses.give_back(self.address)

    def is_over(self) -> bool:
        """Has the client gone?"""
        return bool(self._disconnected)

    def most_bytes(self) -> int:
        site = self.channel.site
        # Twisted passes the path on only with the whole request. Who is no service has no use for the room.
        path: Any = self.channel._path
        if target(path)[1].partition(b"?")[0] != EVENTS:
            return site.body_bytes
        try:
            self._charge()
            self.identify(PUBLISH)
        except Problem as problem:
            self._who = problem
            return min(site.body_bytes, site.events_bytes)
        return site.events_bytes

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
            self._charge()
            if self.path == STREAM and self.method == b"GET":
                Deferred.fromCoroutine(self.channel.site.api.follow(self)).addErrback(self._failed)
                return
            # Segments stay quoted, so that an id may hold a slash.
            self.prepath, self.postpath = [], self.path[1:].split(b"/")
            self.site.resource.render(self)
        except Exception:
            self._failed(Failure())

    def _failed(self, failure: Failure) -> None:
        answer = told(problem_of(failure))
        if not self.is_over():
            self.answer(answer)

    def _charge(self) -> None:
        """One request of an address, whoever it says it is. Raises Problem."""
        if self.charged:
            return
        self.charged = True
        api, peer = self.channel.site.api, getattr(self.getClientAddress(), "host", "")
        self.address = api.address(peer, ",".join(self.field_lines("x-forwarded-for")))
        if self.address is not None:
            api.charge("address", api.addresses, self.address)

    def getRequestHostname(self) -> bytes:
        """Nothing is routed by host, so no Host header can confuse the router."""
        return b"localhost"

    def too_large(self) -> Answer:
        if isinstance(self._who, Problem):
            return self._with_cors(told(self._who))
        name = "events_bytes" if self._who else "body_bytes"
        problem = Problem("too-large", f"the content may have {self.most} bytes (api.{name})")
        return self._with_cors(told(problem))

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
        return msgspec.structs.replace(answer, fields={**self.cors(), **answer.fields})

    def cors(self) -> dict[str, str]:
        """What a page of another origin must be told."""
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
            "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        return Answer(204, b"", fields=fields)


class ApiChannel(BoundedChannel):
    site: ApiSite

    def refuse(self, answer: Answer) -> None:
        # Twisted passes method and path on only with the whole request, which this one never becomes.
        method, path = getattr(self, "_command", b""), getattr(self, "_path", b"")
        self.site.count(method, path.partition(b"?")[0], answer.status)
        super().refuse(answer)


class ApiSite(BoundedSite):
    protocol = ApiChannel

    def __init__(self, api: Api, reactor: Any, settings: ApiSettings) -> None:
        super().__init__(
            api.app.resource(), ApiRequest, reactor,
            seconds=REQUEST_SECONDS, most=CONNECTIONS, body_bytes=settings.body_bytes,
        )  # fmt: skip
        self.api = api
        self.origins = frozenset(settings.origins)
        self.events_bytes = settings.events_bytes

    def log(self, request: Any) -> None:
        """Counted, not logged: twisted.web calls this once a request has been answered."""
        self.count(request.method, request.path, request.code)

    def count(self, method: bytes, path: bytes, code: int) -> None:
        """One request has been answered."""
        self.api.metrics.api_requests.count(routes.label(method, path, code))


def api_site(
    reactor: Any, inbox: Inbox, verifier: Verifier, config: Config, metrics: Metrics, *,
    publisher: Publisher | None = None, streams: Streams | None = None, document: bytes = b"",
    devices: Devices | None = None, apps: Mapping[str, App] = NO_APPS,
    address: Callable[[str, str], str | None] = lambda peer, forwarded: None,
    now: Callable[[], float] = time.time,
) -> ApiSite:  # fmt: skip
    """The site to listen with. `reactor` is Twisted's, or a clock for the time limits; tokens go by `now`.

    `document` describes the API; `address` tells whom to count a request for, by the peer's address and
    X-Forwarded-For (None: nobody). Without `publisher`, `streams` and `devices` their addresses answer 404. Devices are
    registered with one of `apps`.
    """
    api = Api(reactor, inbox, verifier, metrics, config.inbox.page, config.limits, now)
    api.publisher, api.streams, api.document, api.address = publisher, streams, document, address
    api.devices, api.apps = devices, apps
    api.in_query = config.api.event_source == "on"
    return ApiSite(api, reactor, config.api)
