"""Which call of the HTTP API a request is, for the metrics: a closed set, whatever a client may send."""

from typing import Final

ROUTES: Final = {
    (b"GET", b"/v1/inbox"): "inbox",
    (b"GET", b"/v1/sync"): "sync",
    (b"GET", b"/v1/inbox/unread"): "unread",
    (b"POST", b"/v1/inbox/seen"): "seen",
    (b"POST", b"/v1/inbox/read"): "read",
    (b"POST", b"/v1/events"): "events",
    (b"GET", b"/v1/stream"): "stream",
    (b"GET", b"/v1/openapi.json"): "openapi",
}
# What has an id in its address.
PREFIXES: Final = {
    (b"DELETE", b"/v1/inbox/"): "delete",
    (b"PUT", b"/v1/devices/"): "register",
    (b"DELETE", b"/v1/devices/"): "unregister",
}
NAMES: Final = (*ROUTES.values(), *PREFIXES.values(), "preflight", "other")
CLASSES: Final = ("2xx", "4xx", "5xx")
LABELS: Final = tuple(f"{name} {status}" for name in NAMES for status in CLASSES)


def route(method: bytes, path: bytes) -> str:
    """The name of the call; `other` for what is none. `path` is without the query."""
    if method == b"OPTIONS":
        return "preflight"
    below = path[: path.find(b"/", len(b"/v1/")) + 1]
    named = PREFIXES.get((method, below))
    return named or ROUTES.get((b"GET" if method == b"HEAD" else method, path), "other")


def label(method: bytes, path: bytes, code: int) -> str:
    """Route and class of status, as the metric `api_requests` is labelled."""
    return f"{route(method, path)} {code // 100}xx"
