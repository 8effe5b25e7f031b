"""Keys fetched from `tokens.jwks_url`, beside the configured ones: every ten minutes, and soon after a token names
a key that nobody knows. When they cannot be fetched, those that were fetched last stay in use.
"""

# mypy: allow-untyped-calls
# (most of Twisted has no annotations)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from notifier.core.tokens import Key, Verifier
from notifier.edge.body import Body, FetchError, no_answer, told
from notifier.edge.keyring import KeyringError, read_jwks
from notifier.metrics import Metrics

log = Logger()

FRESH_SECONDS: Final = 600.0
UNKNOWN_SECONDS: Final = 60.0  # between two fetches that tokens with an unknown kid can cause
RETRY_SECONDS: Final = 60.0  # between two tries after failures, at most: 1, 2, 4 ... until then
WARN_SECONDS: Final = 600.0
ANSWER_SECONDS: Final = 10.0
MAX_BYTES: Final = 65_536
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Keys:
    """Keeps a verifier's keys: `configured` and those at `url`. A configured kid is never replaced from outside.

    `reactor` is Twisted's, or a clock if `agent` is given. Raises ValueError for a URL that anybody on the way
    could answer.
    """

    def __init__(
        self,
        reactor: Any,
        verifier: Verifier,
        configured: Sequence[Key],
        url: str,
        agent: Agent | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError(f"tokens.jwks_url: {url!r} must be https:// (http:// only on this machine)")
        self._reactor, self._verifier, self._url = reactor, verifier, url
        self.metrics = metrics or Metrics()
        self._configured = tuple(configured)
        requests: Any = agent or Agent(reactor, connectTimeout=ANSWER_SECONDS)  # mypy misses its interface
        self._client = HTTPClient(requests)
        self._fetched: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._live = False
        self._tried_at = 0.0
        self._warned_at: float | None = None
        self._failures = 0
        self._fault = "not fetched yet"
        self._running: Deferred[float] | None = None
        self._timer: Any = None

    def start(self) -> Deferred[None]:
        """Fetch now and from now on. Fires after the first try, within ANSWER_SECONDS, whether it succeeds or not."""
        self._live = True
        self._verifier.unknown = self._unknown
        return self._begin()

    def configure(self, configured: Sequence[Key]) -> None:
        """Other configured keys from now on; those that were fetched stay in use beside them."""
        self._configured = tuple(configured)
        own = {key.kid for key in configured}
        self._fetched = tuple(key for key in self._fetched if key.kid not in own)
        self._verifier.replace((*self._configured, *self._fetched))

    @property
    def url(self) -> str:
        """Where the keys come from."""
        return self._url

    @property
    def count(self) -> int:
        """How many fetched keys are in use."""
        return len(self._fetched)

    def age(self) -> float:
        """Seconds since keys were last fetched; NaN when they never were."""
        return math.nan if self._fetched_at is None else self._reactor.seconds() - self._fetched_at

    def stop(self) -> None:
        """Fetch no more; the keys stay."""
        self._live = False
        self._verifier.unknown = _nobody
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None:
            self._running.cancel()

    def part(self) -> tuple[bool, str]:
        """For /readyz: whether there are fetched keys, and how old they are. Old ones are still good."""
        if self._fetched_at is None:
            return False, self._fault
        age = f"{len(self._fetched)} fetched, {self._reactor.seconds() - self._fetched_at:.0f} s old"
        return True, f"{age}: {self._fault}" if self._fault else age

    def _unknown(self) -> None:
        # Anybody can send tokens that name unknown keys: they cause a fetch a minute, no more.
        due = self._reactor.seconds() - self._tried_at >= UNKNOWN_SECONDS
        if self._live and self._running is None and due:
            self._begin()

    def _begin(self) -> Deferred[None]:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._tried_at = self._reactor.seconds()
        done: Deferred[None] = Deferred()
        self._running = Deferred.fromCoroutine(self._refresh())
        self._running.addBoth(self._ended, done)
        return done

    def _ended(self, wait: object, done: Deferred[None]) -> None:
        self._running = None
        if self._live:
            seconds = wait if isinstance(wait, float) else RETRY_SECONDS
            self._timer = self._reactor.callLater(seconds, self._begin)
        done.callback(None)

    async def _refresh(self) -> float:
        """Fetch once; in how many seconds to fetch again."""
        try:
            # Everything at once: a bug here too must leave the old keys in use and the next fetch due.
            self._use(await self._fetch())
        except Exception as error:
            if self._live:
                self.metrics.jwks_fetches["unusable" if isinstance(error, KeyringError) else "failed"] += 1
                self._failed(error)
            return min(RETRY_SECONDS, 2.0 ** min(self._failures - 1, 10))
        return FRESH_SECONDS

    async def _fetch(self) -> list[Key]:
        fetching = Deferred.fromCoroutine(self._download())
        # Said by us: what a cancelled request fails with depends on how far it had come.
        fetching.addTimeout(ANSWER_SECONDS, self._reactor, onTimeoutCancel=no_answer)
        return read_jwks(await fetching, self._url)

    async def _download(self) -> bytes:
        response: Any = await self._client.get(
            self._url,
            headers=Headers({"Accept": ["application/json"]}),
            allow_redirects=False,
            unbuffered=True,
        )
        body = Body(MAX_BYTES)
        response.deliverBody(body)
        if response.code != 200:
            # A redirect is one too: the setting says where the keys are, nobody else does.
            body.abort(FetchError(f"answered {response.code}, expected 200"))
        return await body.whole

    def _use(self, keys: Sequence[Key]) -> None:
        own = {key.kid for key in self._configured}
        taken = sorted(key.kid for key in keys if key.kid in own)
        self._fetched = tuple(key for key in keys if key.kid not in own)
        self._verifier.replace((*self._configured, *self._fetched))
        if self._failures:
            log.info("keys fetched again from {url}", url=self._url)
        self.metrics.jwks_fetches["done"] += 1
        self._fetched_at, self._failures, self._warned_at = self._reactor.seconds(), 0, None
        self._fault = (
            f"left out, for their kid is that of a configured key: {', '.join(taken)}" if taken else ""
        )

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._fault = _told(error)
        now = self._reactor.seconds()
        if self._warned_at is None or now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            log.warn(
                "keys cannot be fetched from {url}: {fault}; {count} fetched before stay in use",
                url=self._url, fault=self._fault, count=len(self._fetched),
            )  # fmt: skip


def _nobody() -> None:
    """Nothing is fetched any more."""


def _told(error: Exception) -> str:
    if isinstance(error, KeyringError):
        return "; ".join(fault.problem for fault in error.faults)
    return told(error)
