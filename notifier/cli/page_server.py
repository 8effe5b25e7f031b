"""The demo's web page and the two things it asks of the demo: a token for anybody, and to append an event.

For the demo only: whoever reaches it may be anybody. So it listens on the loopback and answers its own page alone;
other pages get tokens when their origins were named."""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from notifier.core.tokens import USER

log = Logger()

EVENT_BYTES: Final = 16_384
REQUEST_SECONDS: Final = 30.0
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"  # RFC 9457
TOKEN: Final = "/token"  # noqa: S105  # a path
# notifier.js is the client that everybody uses: a link into clients/js, in a wheel a file like the others.
SCRIPTS: Final = (
    "list", "notifier", "page", "person", "phones", "publisher", "server", "toasts", "words",
)  # fmt: skip
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}
HEADERS: Final = {
    "Cache-Control": "no-store",
    # Whatever port the daemon gets at its next start, on this machine only; the icon is a data: URL.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self' ws://127.0.0.1:* http://127.0.0.1:*; frame-src http://127.0.0.1:*; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Token(msgspec.Struct, frozen=True):
    """What the page needs to be somebody: a token, when it ends (s since 1970), and where to use it.

    `sandbox`: where their phones are shown; empty without any."""

    user: str
    token: str
    expires: int
    websocket: str
    api: str
    sandbox: str = ""


class PublishError(Exception):
    """Redis did not take the event; the text says why."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    content_type: str = JSON
    allow: str | None = None


Mint = Callable[[str], Token | None]
"""The token of a user id; None while the daemon is not there yet."""
Publish = Callable[[bytes], Awaitable[str]]
"""Appends an event; its id in the stream. Raises PublishError."""
Check = Callable[[bytes], str]
"""Why the server would bury an event; "" for one that is good."""
Route = Callable[["PageRequest"], Awaitable[Answer]]


def problem(status: int, title: str, detail: str, allow: str | None = None) -> Answer:
    """An error as RFC 9457 wants it."""
    said = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Answer(status, msgspec.json.encode(said), PROBLEM, allow)


def page_site(
    mint: Mint,
    publish: Publish,
    check: Check,
    reactor: IReactorTime | None = None,
    origins: Collection[str] = (),
) -> Site:
    """The site to listen with, on a loopback address only. `origins`: whose pages may have tokens beside our own."""
    routes: dict[str, tuple[bytes, Route]] = {
        TOKEN: (b"GET", lambda request: _token(request, mint)),
        "/publish": (b"POST", lambda request: _publish(request, publish, check)),
    }
    for path, (name, content_type) in FILES.items():
        text = (files("notifier.cli") / "page" / name).read_bytes()
        routes[path] = (b"GET", _fixed(Answer(200, text, content_type)))
    return PageSite(routes, reactor, frozenset(origins))


def _fixed(answer: Answer) -> Route:
    async def route(request: PageRequest) -> Answer:
        return answer

    return route


async def _token(request: PageRequest, mint: Mint) -> Answer:
    given = [value.decode("utf-8", "replace") for value in request.args.get(b"user", [])]
    if len(given) != 1 or USER.fullmatch(given[0]) is None:
        return problem(400, "No user id", f"user must be one user id ({USER.pattern})")
    token = mint(given[0])
    if token is None:
        return problem(503, "Not ready", "the notifier daemon is not ready yet; try again")
    return Answer(200, msgspec.json.encode(token))


async def _publish(request: PageRequest, publish: Publish, check: Check) -> Answer:
    # A form of another site cannot send this type without asking first (CORS), and is then refused.
    kind = request.getHeader("content-type") or ""
    if kind.partition(";")[0].strip().lower() != JSON:
        return problem(415, "Not JSON", f"send one event with Content-Type: {JSON}")
    body = request.content.read() if request.content is not None else b""
    try:
        event = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return problem(400, "Not JSON", f"the body is not JSON: {error}")
    if not isinstance(event, dict):
        return problem(400, "Not an event", "the body must be one JSON object")
    if fault := check(body):
        # Sent on, it would only be buried, and whoever clicked would wait for a bell that does not ring.
        return problem(422, "Not an event", fault)
    try:
        entry = await publish(body)
    except PublishError as error:
        return problem(503, "Not published", f"the event was not accepted and is still yours: {error}")
    return Answer(202, msgspec.json.encode({"entry": entry}))


class PageRequest(Request):
    """Answers from the site's routes, around twisted.web's resource tree and its Server header."""

    channel: PageChannel
    gone = False

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        # Refused before it is read; without a length (chunked) it could be anything.
        if length is None or length > EVENT_BYTES:
            self.channel.refuse(b"413 Content Too Large" if length else b"411 Length Required")

    def handleContentChunk(self, data: bytes) -> None:
        if not self.channel.refused:
            super().handleContentChunk(data)

    def connectionLost(self, reason: Any) -> None:
        self.gone = True
        super().connectionLost(reason)

    def process(self) -> None:
        if not self.channel.refused:
            Deferred.fromCoroutine(self._answer()).addErrback(self._broken).addCallback(self._send)

    async def _answer(self) -> Answer:
        refused = self._refusal()
        if refused is not None:
            return refused
        found = self.channel.site.routes.get(self.path.decode("latin-1"))
        if found is None:
            return problem(404, "Not found", "there is /, /token?user=ID and POST /publish")
        method, route = found
        if self.method != method and (method, self.method) != (b"GET", b"HEAD"):
            allow = "GET, HEAD" if method == b"GET" else method.decode()
            return problem(405, "Not allowed", f"only {allow}", allow)  # RFC 9110 section 15.5.6
        return await route(self)

    def _refusal(self) -> Answer | None:
        """DNS rebinding sends a foreign Host, a foreign page its own Origin: neither is our page."""
        hosts = self.requestHeaders.getRawHeaders("host", [])
        own = own_hosts(self.getHost().port)
        if len(hosts) != 1 or hosts[0].lower() not in own:
            return problem(421, "Not this host", f"this page answers to {' and '.join(own)} only")
        if self.path == b"/":
            return None  # to follow a link to the page is no misuse, and shows the other site nothing
        if self._guest() is not None:
            return None
        origin, site = self.getHeader("origin"), self.getHeader("sec-fetch-site")
        foreign = origin is not None and origin.lower() not in [f"http://{host}" for host in own]
        if foreign or site not in (None, "same-origin", "none"):
            named = f"; to let a page of {origin} have tokens start the demo with --origin {origin}"
            hint = named if foreign and self.path == TOKEN.encode() and origin != "null" else ""
            return problem(403, "Another site", f"only the demo's own page may ask this{hint}")
        return None

    def _guest(self) -> str | None:
        """The origin of a page that was named when the demo was started, where it asks for a token."""
        origin = self.getHeader("origin")
        named = self.path == TOKEN.encode() and origin in self.channel.site.origins
        return origin if named else None

    def _broken(self, failure: Any) -> Answer:
        log.failure("page {path} could not be made", failure, path=self.path.decode("latin-1"))
        return problem(500, "Broken", "this could not be done; page.log in the data folder says why")

    def _send(self, answer: Answer) -> None:
        if self.gone:
            return
        self.setResponseCode(answer.status, HTTPStatus(answer.status).phrase.encode())
        fields = {"Date": datetimeToString(), "Content-Type": answer.content_type, **HEADERS}
        if answer.allow is not None:
            fields["Allow"] = answer.allow
        if self.channel.site.origins:
            fields["Vary"] = "Origin"
        if (guest := self._guest()) is not None:
            fields["Access-Control-Allow-Origin"] = guest
        for name, value in fields.items():
            self.setHeader(name, value)
        self.setHeader("Content-Length", str(len(answer.body)))
        self.write(answer.body)  # the base class drops it for HEAD (RFC 9110 section 9.3.2)
        self.finish()


def own_hosts(port: int) -> list[str]:
    """What a browser sends as Host for our page; the scheme's own port is left out (RFC 9110 section 7.2)."""
    return [name if port == 80 else f"{name}:{port}" for name in ("127.0.0.1", "localhost")]


class PageChannel(HTTPChannel):
    """One connection, with small headers."""

    totalHeadersSize = 8192
    maxHeaders = 50
    requestFactory = PageRequest
    site: PageSite
    refused = False

    def refuse(self, status: bytes) -> None:
        """Answer before the request is complete, and hang up."""
        self.refused = True
        self.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.loseConnection()


class PageSite(Site):
    protocol = PageChannel  # type: ignore[assignment]  # straight to HTTP/1: no switch to HTTP/2
    requestFactory = PageRequest

    def __init__(
        self,
        routes: Mapping[str, tuple[bytes, Route]],
        reactor: IReactorTime | None,
        origins: frozenset[str],
    ) -> None:
        super().__init__(Resource(), timeout=REQUEST_SECONDS, reactor=reactor)
        self.routes, self.origins = routes, origins

    def log(self, request: object) -> None:
        """No access log: it would hold nothing but the visitor's own clicks."""
