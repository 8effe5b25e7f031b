"""Around what fetches something over HTTP: the server that has it, and what the fetcher says."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.edge.http2.world import reactor


@asynccontextmanager
async def served(resource: Resource) -> AsyncIterator[int]:
    """The port of this machine at which it is had."""
    listener = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
    try:
        yield listener.getHost().port
    finally:
        await listener.stopListening()


@contextmanager
def logged(namespace: str) -> Iterator[list[dict[str, Any]]]:
    """What this module says meanwhile."""
    events: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == namespace:
            events.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observer)
