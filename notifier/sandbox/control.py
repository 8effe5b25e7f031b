"""The sandbox's own HTTP API: rules, limits, faults; what was asked and what the phones show. Loopback only."""

# mypy: allow-untyped-calls
# (most of twisted.web has no annotations)

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource

from notifier.edge.http import Answer, BoundedRequest, BoundedSite
from notifier.sandbox.apns import Apns, Key
from notifier.sandbox.exchange import Answer as Said
from notifier.sandbox.exchange import Request as Asked
from notifier.sandbox.fcm import Fcm
from notifier.sandbox.http2 import Counts, Http2Factory
from notifier.sandbox.phones import Phone, Phones
from notifier.sandbox.script import PREFIXES, Rule, Script

BODY_BYTES: Final = 65_536
SECONDS: Final = 60.0
CONNECTIONS: Final = 1_000
KEPT: Final = 1_000
LISTED: Final = 200
JSON: Final = "application/json"
PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
FIELDS: Final = {
    # The demo's page shows the phones in a frame; nobody outside this machine may.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self' http://127.0.0.1:* http://localhost:*"
    ),
    "X-Frame-Options": "ALLOWALL",
}


class PublicKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A sender's public key as PEM; `team` belongs to APNs' keys."""

    pem: str
    team: str = ""


class Seen(Struct, frozen=True, omit_defaults=True):
    """One request that was answered, with its secrets left out."""

    provider: str
    method: str
    path: str
    fields: Mapping[str, str]
    body: str
    at: float
    status: int
    action: str = "answer"


class Fault(Exception):
    """What the caller did wrong: status and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class Sandbox(Struct):
    """All parts that the API shows and changes."""

    phones: Phones
    script: Script
    apns: Apns
    fcm: Fcm
    factories: Mapping[str, Http2Factory]
    seen: deque[Seen] = msgspec.field(default_factory=lambda: deque(maxlen=KEPT))

    def saw(self, provider: str) -> Callable[[Asked, Said], None]:
        """What a provider's listener tells of its requests."""

        def saw(request: Asked, answer: Said) -> None:
            fields = {name: value for name, value in request.fields.items() if name != "authorization"}
            body = request.body.decode("utf-8", "replace") if provider != "oauth" else ""
            self.seen.append(
                Seen(
                    *(provider, request.method, request.path, fields, body),
                    *(request.at, answer.status, answer.action),
                )
            )

        return saw


Parts = tuple[str, ...]
Route = Callable[[Sandbox, Parts, bytes], Any]
WANTED: Final = b"tokens"  # of GET /devices: which, parted by commas; those that are not known are left out


def show_phone(phone: Phone) -> dict[str, Any]:
    """One phone as GET /devices/TOKEN answers it: newest first."""
    return {
        "token": phone.token,
        "platform": phone.platform,
        "badge": phone.badge,
        "pushes": phone.pushes,
        "silent": phone.silent,
        "shown_twice": phone.shown_twice,
        "sounded_twice": phone.sounded_twice,
        "shown": list(reversed(phone.shown.values())),
    }


def _device(sandbox: Sandbox, parts: Parts, _: bytes) -> Any:
    phone = sandbox.phones.get(parts[0])
    if phone is None:
        raise Fault(404, "nothing was ever pushed to this token")
    return show_phone(phone)


def _devices(sandbox: Sandbox, _: Parts, __: bytes) -> Any:
    every = sandbox.phones.every()
    return {"devices": [show_phone(phone) for phone in every[:LISTED]], "count": len(every)}


def _some_devices(sandbox: Sandbox, tokens: Sequence[str]) -> Any:
    found = [phone for phone in map(sandbox.phones.get, tokens[:LISTED]) if phone is not None]
    return {"devices": list(map(show_phone, found)), "count": len(found)}


def _forget_devices(sandbox: Sandbox, _: Parts, __: bytes) -> Any:
    sandbox.phones.clear()
    sandbox.seen.clear()
    return None


def _rules(sandbox: Sandbox, _: Parts, __: bytes) -> Any:
    prefixes = {prefix: row.about for prefix, row in PREFIXES.items()}
    return {"rules": sandbox.script.standing(), "prefixes": prefixes}


def _add_rule(sandbox: Sandbox, _: Parts, body: bytes) -> Any:
    try:
        return {"number": sandbox.script.add(msgspec.json.decode(body, type=Rule))}
    except ValueError as error:  # also msgspec's own
        raise Fault(400, str(error)) from None


def _clear_rules(sandbox: Sandbox, parts: Parts, _: bytes) -> Any:
    number = int(parts[0]) if parts and parts[0].isdecimal() else None
    if parts and (number is None or not sandbox.script.clear(number)):
        raise Fault(404, "there is no such rule")
    if not parts:
        sandbox.script.clear()
    return None


def _factory(sandbox: Sandbox, parts: Parts) -> Http2Factory:
    factory = sandbox.factories.get(parts[0])
    if factory is None:
        raise Fault(404, f"providers are {' and '.join(sandbox.factories)}")
    return factory


def _limits(sandbox: Sandbox, parts: Parts, body: bytes) -> Any:
    factory = _factory(sandbox, parts)
    try:
        factory.limit(msgspec.json.decode(body, type=dict[str, Any]))
    except ValueError as error:
        raise Fault(400, str(error)) from None
    return factory.limits


def _goaway(sandbox: Sandbox, parts: Parts, _: bytes) -> Any:
    return {"connections": _factory(sandbox, parts).goaway()}


def _drop(sandbox: Sandbox, parts: Parts, _: bytes) -> Any:
    return {"connections": _factory(sandbox, parts).drop()}


def _key(sandbox: Sandbox, parts: Parts, body: bytes) -> Any:
    provider, kid = parts
    try:
        given = msgspec.json.decode(body, type=PublicKey)
        key = load_pem_public_key(given.pem.encode())
    except ValueError as error:
        raise Fault(400, f"not a public key as PEM: {error}") from None
    if provider == "apns" and isinstance(key, EllipticCurvePublicKey) and given.team:
        sandbox.apns.keys[kid] = Key(given.team, key)
    elif provider == "fcm" and isinstance(key, RSAPublicKey):
        sandbox.fcm.keys[kid] = key
    else:
        raise Fault(400, "apns wants an EC key and a team, fcm an RSA key")
    return None


def _forget_key(sandbox: Sandbox, parts: Parts, _: bytes) -> Any:
    provider, kid = parts
    keys: dict[str, Any] = sandbox.apns.keys if provider == "apns" else sandbox.fcm.keys
    if keys.pop(kid, None) is None:
        raise Fault(404, "there is no such key")
    return None


def _counts(sandbox: Sandbox, _: Parts, __: bytes) -> Any:
    counts: dict[str, Counts] = {name: factory.counts for name, factory in sandbox.factories.items()}
    shown, sounded = sandbox.phones.again()
    accepted = dict(sandbox.phones.accepted)
    return {**counts, "accepted": accepted, "shown_twice": shown, "sounded_twice": sounded}


def _requests(sandbox: Sandbox, _: Parts, __: bytes) -> Any:
    return {"requests": list(reversed(sandbox.seen))}


# (method, first part of the path, how many parts follow) -> what to do
ROUTES: Final[Mapping[tuple[str, str, int], Route]] = {
    ("GET", "devices", 0): _devices,
    ("GET", "devices", 1): _device,
    ("DELETE", "devices", 0): _forget_devices,
    ("GET", "script", 0): _rules,
    ("POST", "script", 0): _add_rule,
    ("DELETE", "script", 0): _clear_rules,
    ("DELETE", "script", 1): _clear_rules,
    ("PUT", "limits", 1): _limits,
    ("POST", "goaway", 1): _goaway,
    ("POST", "drop", 1): _drop,
    ("PUT", "keys", 2): _key,
    ("DELETE", "keys", 2): _forget_key,
    ("GET", "counts", 0): _counts,
    ("GET", "requests", 0): _requests,
}


def problem(status: int, detail: str) -> Answer:
    """An error as RFC 9457 wants it."""
    said = {"type": "about:blank", "status": status, "detail": detail}
    return Answer(status, msgspec.json.encode(said), "application/problem+json")


class ControlRequest(BoundedRequest):
    """One request to the control API or for its page."""

    def process(self) -> None:
        site: Any = self.channel.site
        self.answer(self._answer(site.sandbox))

    def _answer(self, sandbox: Sandbox) -> Answer:
        method, path = self.method.decode("latin-1"), self.path.decode("latin-1")
        # DNS rebinding sends a foreign Host; another page's form or script its Origin.
        host = (self.getHeader("host") or "").rpartition(":")[0] or self.getHeader("host")
        origin = self.getHeader("origin")
        if host not in ("127.0.0.1", "localhost"):
            return problem(421, "this answers to 127.0.0.1 and localhost only")
        if origin is not None and method != "GET" and origin != f"http://{self.getHeader('host')}":
            return problem(403, "another page's script may not do this")
        if method in ("GET", "HEAD") and path in PAGE:
            name, content_type = PAGE[path]
            return Answer(200, (files("notifier.sandbox") / "page" / name).read_bytes(), content_type, FIELDS)
        _, first, *rest = (unquote(part) for part in path.split("/"))
        route = ROUTES.get(("GET" if method == "HEAD" else method, first, len(rest)))
        if route is None:
            there = ", ".join(f"{method} /{name}{'/…' * parts}" for method, name, parts in ROUTES)
            return problem(404, f"there is {there}")
        assert self.content is not None
        try:
            if first == "devices" and not rest and WANTED in self.args:
                made: Any = _some_devices(sandbox, self.args[WANTED][-1].decode("latin-1").split(","))
            else:
                made = route(sandbox, tuple(rest), self.content.read())
        except Fault as fault:
            return problem(fault.status, fault.words)
        if made is None:
            return Answer(204, b"")
        return Answer(200, msgspec.json.encode(made), JSON)


class ControlSite(BoundedSite):
    """The site to listen with, on a loopback address only."""

    def __init__(self, sandbox: Sandbox, reactor: IReactorTime) -> None:
        super().__init__(
            Resource(), ControlRequest, reactor, seconds=SECONDS, most=CONNECTIONS, body_bytes=BODY_BYTES
        )
        self.sandbox = sandbox
