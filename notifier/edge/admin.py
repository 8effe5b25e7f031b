"""The operators' listener: /healthz, /readyz and /metrics, on a port of its own that needs no token.

Loopback by default, so its one enemy is a web page that reaches it through the operator's browser.
"""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from notifier.metrics import CONTENT_TYPE

log = Logger()

Part = Callable[[], tuple[bool, str]]
"""Says whether one part of the service works, and in a few words how it is."""

REQUEST_SECONDS = 30.0
CONNECTIONS = 64
HEADER_BYTES = 8192
HEADERS = 50
DETAIL_CHARS = 200

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Answer(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    content_type: str = TEXT


Page = Callable[[], Answer]

NOT_FOUND = Answer(404, b"not found: try /healthz, /readyz or /metrics\n")
NOT_ALLOWED = Answer(405, b"only GET and HEAD\n")
ONE_HOST = Answer(400, b"exactly one Host header with a valid name is needed\n")
WRONG_HOST = Answer(421, b"this listener answers to loopback names and its own address only\n")
BROKEN = Answer(500, b"this page could not be made; the log says why\n")


def admin_site(
    metrics_render: Callable[[], bytes],
    parts: Mapping[str, Part],
    *,
    hosts: Collection[str] = (),
    reactor: IReactorTime | None = None,
) -> Site:
    """The site to listen with.

    `metrics_render` makes the Prometheus text. `parts` is asked again at every /readyz, so it may be filled
    later. `hosts` are names, beside loopback and the listener's own address, that a Host header may carry.
    """
    pages: dict[bytes, Page] = {
        b"/healthz": lambda: Answer(200, b"ok\n"),
        b"/readyz": lambda: readiness(parts),
        b"/metrics": lambda: Answer(200, metrics_render(), CONTENT_TYPE),
    }
    return AdminSite(pages, frozenset(host.lower() for host in hosts), reactor)


def readiness(parts: Mapping[str, Part]) -> Answer:
    """200 if every part works, else 503; the body names each part. A part that raises does not work."""
    found = {name: _ask(part) for name, part in parts.items()}
    ready = all(ok for ok, _ in found.values())
    told = {name: {"ok": ok, "detail": detail[:DETAIL_CHARS]} for name, (ok, detail) in found.items()}
    return Answer(200 if ready else 503, msgspec.json.encode({"ready": ready, "parts": told}) + b"\n", JSON)


def _ask(part: Part) -> tuple[bool, str]:
    try:
        ok, detail = part()
        return bool(ok), str(detail)
    except Exception as error:
        # The type alone: an exception's text may hold what a page without a token must not show.
        return False, f"could not be asked: {type(error).__name__}"


def host_name(header: str) -> str | None:
    """The name in a Host header, without port, in lower case; None if it is none (RFC 9110 section 7.2)."""
    match = HOST.fullmatch(header)
    return (match[1] or match[2]).lower().removesuffix(".") if match else None


def is_own_name(name: str, own: str, hosts: Collection[str]) -> bool:
    """Whether a request for `name` is meant for us, who accepted it on the address `own`.

    DNS rebinding gives a page of a foreign name our address; the browser then sends that foreign name.
    A literal address cannot be rebound: the one that the connection came in on is as good as loopback.
    """
    if name == "localhost" or name in hosts:
        return True
    address = _ip(name)
    return address is not None and (address.is_loopback or address == _ip(own))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A listener on "::" sees IPv4 connections as ::ffff:a.b.c.d.
    return getattr(address, "ipv4_mapped", None) or address


def refusal(
    method: bytes, version: bytes, host_headers: Sequence[str], own: str, hosts: Collection[str]
) -> Answer | None:
    """Why a request is not answered, or None when it may be."""
    # RFC 9112 section 3.2: one Host; HTTP/1.0, which health checks of load balancers speak, may have none.
    if host_headers or version != b"HTTP/1.0":
        name = host_name(host_headers[0]) if len(host_headers) == 1 else None
        if name is None:
            return ONE_HOST
        if not is_own_name(name, own, hosts):
            return WRONG_HOST
    return None if method in (b"GET", b"HEAD") else NOT_ALLOWED


class AdminRequest(Request):
    """Answers from the site's table of pages, around twisted.web's resource tree and its Server header."""

    channel: AdminChannel

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)
        # GET and HEAD have no use for content (RFC 9110 section 9.3.1); refuse it before it is read.
        if length != 0:
            self.channel.refuse(b"413 Content Too Large")

    def handleContentChunk(self, data: bytes) -> None:
        """Drop what still arrives after the refusal."""

    def process(self) -> None:
        answer = self._answer()
        self.setResponseCode(answer.status)
        fields = {"Date": datetimeToString(), "Content-Type": answer.content_type, **SECURITY_HEADERS}
        for name, value in fields.items():
            self.setHeader(name, value)
        self.setHeader("Content-Length", str(len(answer.body)))
        if answer.status == 405:
            self.setHeader("Allow", "GET, HEAD")  # RFC 9110 section 15.5.6
        # RFC 9110 section 9.3.2: HEAD has the same fields and no content; the base class drops it.
        self.write(answer.body)
        self.finish()

    def _answer(self) -> Answer:
        site = self.channel.site
        hosts = self.requestHeaders.getRawHeaders("host", [])
        own = getattr(self.getHost(), "host", "")
        refused = refusal(self.method, self.clientproto, hosts, own, site.hosts)
        page = site.pages.get(self.path)
        if refused or page is None:
            return refused or NOT_FOUND
        try:
            return page()
        except Exception:
            log.failure("admin page {path} could not be made", path=self.path.decode("ascii"))
            return BROKEN


class AdminChannel(HTTPChannel):
    """One connection: small headers, and a time limit that dripping bytes cannot stretch."""

    totalHeadersSize = HEADER_BYTES
    maxHeaders = HEADERS
    requestFactory = AdminRequest
    site: AdminSite

    def dataReceived(self, data: bytes) -> None:
        # The base class restarts its timer with every byte. Not here: the timer runs from the end of the last
        # answer, so it bounds the wait for a request and the request together.
        LineReceiver.dataReceived(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.connections -= 1
        super().connectionLost(reason)

    def refuse(self, status: bytes) -> None:
        """Answer before the request is complete, and hang up."""
        self.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.loseConnection()


class AdminSite(Site):
    """At most CONNECTIONS at once; what comes in addition is closed unanswered."""

    protocol = AdminChannel  # type: ignore[assignment]  # straight to HTTP/1: no switch to HTTP/2
    requestFactory = AdminRequest

    def __init__(
        self, pages: Mapping[bytes, Page], hosts: frozenset[str], reactor: IReactorTime | None
    ) -> None:
        super().__init__(Resource(), timeout=REQUEST_SECONDS, reactor=reactor)
        self.pages = pages
        self.hosts = hosts
        self.connections = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.connections >= CONNECTIONS:
            return None
        self.connections += 1
        return super().buildProtocol(addr)

    def log(self, request: object) -> None:
        """No access log: probes come every few seconds and say nothing."""
