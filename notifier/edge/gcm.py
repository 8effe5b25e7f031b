"""A self-hosted gateway that speaks the JSON of GCM, over HTTP/1.1. Google's own is gone: there is no default URL."""

# mypy: allow-untyped-calls
# (most of Twisted has no annotations)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers

from notifier.core.credentials import CredentialError
from notifier.core.gcm import MOST_TOKENS, authorization, body
from notifier.core.model import Outcome
from notifier.core.outcomes import MAX_BODY, Answer, gcm, not_sent, unanswered
from notifier.core.push import Push
from notifier.edge.answers import Batch, Complaints
from notifier.edge.body import Body, FetchError
from notifier.edge.handshake import CONNECT_SECONDS, Endpoints
from notifier.edge.provider_tokens import LOOPBACK
from notifier.ports import FRESH, Clock, PushRequest

ANSWER_SECONDS: Final = 20.0
AT_ONCE: Final = 8  # requests to the gateway
_UNREADABLE: Final = Outcome("drop_message", "gcm", 0, "unreadable")
_ANSWER_NAMES: Final = ("retry-after", "date")


def check_gateway(url: str) -> str:
    """The URL, if it may be used: https, or http on this machine. Raises CredentialError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or "@" in parts.netloc or parts.fragment or not url.isascii() or not url.isprintable():
        raise CredentialError(f"{url!r} must be a URL with a host, without a user and a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        raise CredentialError(f"{url!r} must be https:// (http:// only on this machine)")
    return url


class _Group(Struct):
    """Requests that say the same, and go out as one."""

    push: Push
    indices: list[int]
    tokens: list[str]


class Gcm:
    """One app behind a gateway; a `ports.Provider`. `key`: the gateway's server key. `now`: s since 1970.

    Raises CredentialError for a URL that anybody on the way could read.
    """

    longest: Final = FRESH + ANSWER_SECONDS + CONNECT_SECONDS

    def __init__(
        self, reactor: Any, app: str, url: str, key: str, now: Clock, trust: Any = None, agent: Any = None
    ) -> None:
        self._reactor, self._url, self._now = reactor, check_gateway(url), now
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = AT_ONCE
        policy = BrowserLikePolicyForHTTPS(trustRoot=trust)
        # mypy misses their interfaces
        endpoints: Any = Endpoints(reactor, policy)
        requests: Any = agent or Agent.usingEndpointFactory(reactor, endpoints, pool=self._pool)
        self._client = HTTPClient(requests)
        self._headers = Headers({"Content-Type": ["application/json"], "Authorization": [authorization(key)]})
        self._complaints = Complaints(app, reactor.seconds)

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        """Send; one outcome for each, in order."""
        batch = Batch(len(requests))
        groups = iter(_grouped(requests))
        until = self._reactor.seconds() + FRESH

        async def work() -> None:
            for group in groups:
                late = self._reactor.seconds() >= until
                outcomes = (
                    [not_sent("gcm", "waited")] * len(group.tokens) if late else await self._post(group)
                )
                for index, outcome in zip(group.indices, outcomes, strict=True):
                    self._complaints.hear(outcome)
                    batch.tell(index, outcome)

        await gatherResults([Deferred.fromCoroutine(work()) for _ in range(AT_ONCE)])
        return await batch.outcomes()

    async def stop(self) -> None:
        """Close the connections that are kept."""
        await self._pool.closeCachedConnections()

    async def _post(self, group: _Group) -> Sequence[Outcome]:
        now, count = self._now(), len(group.tokens)
        try:
            content = body(group.push, group.tokens, int(now * 1000))
        except ValueError:  # longer than GCM takes, though without a word in it
            return [_UNREADABLE] * count
        asking = Deferred.fromCoroutine(self._ask(content))
        asking.addTimeout(ANSWER_SECONDS, self._reactor, onTimeoutCancel=_timed_out)
        try:
            answer = await asking
        except Exception as error:
            return [_failed(error)] * count
        return gcm(answer, self._now(), count)

    async def _ask(self, content: bytes) -> Answer:
        response: Any = await self._client.post(
            self._url, data=content, headers=self._headers, allow_redirects=False, unbuffered=True
        )
        read = Body(MAX_BODY)
        response.deliverBody(read)
        whole = await read.whole
        after, date = ((response.headers.getRawHeaders(name) or [""])[0] for name in _ANSWER_NAMES)
        return Answer(response.code, whole, after, date)


class _TimedOut(Exception):
    """No whole answer in time."""


def _timed_out(result: object, seconds: float) -> object:
    raise _TimedOut


def _failed(error: Exception) -> Outcome:
    """What a request without an answer comes to; where it surely never left, it is no try."""
    if isinstance(error, _TimedOut | CancelledError):
        return unanswered("gcm", "timeout")
    if isinstance(error, FetchError):
        return unanswered("gcm", "garbled")
    causes = [error, *(reason.value for reason in getattr(error, "reasons", ()))]
    # Not the errors of TLS: those of the handshake are ConnectErrors here, the others come when all may have been read.
    if any(isinstance(cause, ConnectError | DNSLookupError) for cause in causes):
        return not_sent("gcm", "unreachable")
    return unanswered("gcm", "lost")


def _grouped(requests: Sequence[PushRequest]) -> list[_Group]:
    """By what they say, in the order of the first; at most MOST_TOKENS in each."""
    groups: list[_Group] = []
    latest: dict[int, _Group] = {}
    for index, request in enumerate(requests):
        group = latest.get(id(request.push))
        if group is None or len(group.tokens) >= MOST_TOKENS:
            group = latest[id(request.push)] = _Group(request.push, [], [])
            groups.append(group)
        group.indices.append(index)
        group.tokens.append(request.delivery.device.token)
    return groups
