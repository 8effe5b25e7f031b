"""The operators' listener: /healthz, /readyz and /metrics, on a port of its own that needs no token.

Loopback by default, so its one enemy is a web page that reaches it through the operator's browser.
"""

# mypy: allow-untyped-calls
# (twisted.web's Resource has no annotations)

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from notifier.edge.http import Answer, BoundedChannel, BoundedRequest, BoundedSite
from notifier.metrics import CONTENT_TYPE

log = Logger()

Part = Callable[[], tuple[bool, str]]
"""Says whether one part of the service works, and in a few words how it is."""

REQUEST_SECONDS = 30.0
CONNECTIONS = 64
DETAIL_CHARS = 200

JSON = "application/json"
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")

Page = Callable[[], Answer]

NOT_FOUND = Answer(404, b"not found: try /healthz, /readyz or /metrics\n")
# RFC 9110 section 15.5.6: 405 comes with what is allowed.
NOT_ALLOWED = Answer(405, b"only GET and HEAD\n", fields={"Allow": "GET, HEAD"})
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


class AdminRequest(BoundedRequest):
    """Answers from the site's table of pages, around twisted.web's resource tree."""

    channel: AdminChannel

    def process(self) -> None:
        self.answer(self._answer())

    def _answer(self) -> Answer:
        site = self.channel.site
        hosts = self.field_lines("host")
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


class AdminChannel(BoundedChannel):
    site: AdminSite


class AdminSite(BoundedSite):
    """No content is taken: GET and HEAD have no use for it (RFC 9110 section 9.3.1)."""

    protocol = AdminChannel

    def __init__(
        self, pages: Mapping[bytes, Page], hosts: frozenset[str], reactor: IReactorTime | None
    ) -> None:
        super().__init__(
            Resource(), AdminRequest, reactor, seconds=REQUEST_SECONDS, most=CONNECTIONS, body_bytes=0
        )
        self.pages = pages
        self.hosts = hosts
