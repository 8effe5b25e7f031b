"""Routes: whether this process works, and what its clients need to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import Router

from webapp import redis_clients, tokens
from webapp.api.answers import Health, Readiness, Site, answer, returns
from webapp.shards import each_node

router = Router(tags=["system"])


@router.get("/health", summary="Does this process answer?", **returns(Health))
def health(request: HttpRequest) -> HttpResponse:
    """It does, whatever else fails."""
    return answer(Health("ok"))


@router.get("/ready", summary="Can it work?", **returns(Readiness))
def ready(request: HttpRequest) -> HttpResponse:
    """503 with the same content while a part is missing that it cannot do without."""
    parts = {name: _tried(check) for name, check in _PARTS.items()}
    whole = all(said == "ok" for said in parts.values())
    return answer(Readiness(whole, parts), 200 if whole else 503)


@router.get("/site", summary="What a client needs to know", **returns(Site))
def site(request: HttpRequest) -> HttpResponse:
    """Addresses of the notifier, "" for what there is not, and how large an upload may be."""
    config = settings.CONFIG
    told = msgspec.structs.asdict(config.notifier)
    return answer(Site(**told, max_bytes=config.photos.max_bytes, max_pixels=config.photos.max_pixels))


def _databases() -> None:
    for node in each_node(primary=True):
        with node.cursor() as cursor:
            cursor.execute("SELECT 1")


_PARTS: Final[dict[str, Callable[[], object]]] = {
    "postgresql": _databases,
    "redis": lambda: [redis_clients.client(purpose).ping() for purpose in ("events", "feeds", "limits")],
    "tokens": tokens.tokens,
}


def _tried(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as failure:  # whatever it is, it is the answer; without its text, which may name hosts
        return type(failure).__name__
    return "ok"
