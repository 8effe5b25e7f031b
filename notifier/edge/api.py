"""The HTTP API under /v1."""

from typing import Any

from klein import Klein
from twisted.web.server import Site

from notifier.config import Config
from notifier.core.tokens import Verifier
from notifier.metrics import Metrics
from notifier.ports import Inbox


def api_site(reactor: Any, inbox: Inbox, verifier: Verifier, config: Config, metrics: Metrics) -> Site:
    """The site to listen with."""
    return Site(Klein().resource(), reactor=reactor)  # type: ignore[no-untyped-call]
