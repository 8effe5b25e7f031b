"""The tokens that say to a provider who we are: Apple's are signed here, Google's are fetched for a signed assertion.
One of each is kept and renewed before its end; however many ask, one request is under way."""

# mypy: allow-untyped-calls
# (most of Twisted has no annotations)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from notifier.core.credentials import APNS_RENEWAL, ApnsKey, Renewal, ServiceAccount
from notifier.core.grant import Access, GrantError, granted, question, renewal
from notifier.core.retry_after import http_date
from notifier.edge.body import Body, no_answer, told
from notifier.edge.signing import Sign, jwt
from notifier.ports import Clock

log = Logger()

ANSWER_SECONDS: Final = 10.0
MAX_BYTES: Final = 65_536
REFUSED_SECONDS: Final = 60.0  # after "your key is bad" nobody asks again sooner
MOST_SECONDS: Final = 60.0  # between two tries after other failures: 1, 2, 4 ... until then
SKEW_SECONDS: Final = 120.0
WARN_SECONDS: Final = 600.0
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

Chance = Callable[[], float]


class _Held(Struct, frozen=True):
    """A token that is in use: when it was made (s, wall clock), and its own moment between early and late."""

    token: str
    made: float
    chance: float
    rule: Renewal

    def __repr__(self) -> str:
        return f"_Held(made={self.made:.0f})"


class ApnsTokens:
    """Apple's provider token for one key. `now`: the wall clock; `chance`: draws from 0 to 1.

    Use one on a connection to APNs for one team only: there a token of another is refused.
    """

    def __init__(self, key: ApnsKey, sign: Sign, now: Clock, chance: Chance) -> None:
        self._key, self._sign, self._now, self._chance = key, sign, now, chance
        self._held: _Held | None = None
        self._accepted = False
        self._forced = False  # the present token took the place of one that was refused

    def token(self) -> str:
        """The token to send now: 30 us when it has to be made, every 45 to 50 minutes."""
        now, held = self._now(), self._held
        if held is None or held.rule.due(held.made, now, held.chance):
            held = self._make(now)
        return held.token

    def accepted(self) -> None:
        """APNs has answered 200 to a request with the present token."""
        self._accepted, self._forced = True, False

    def refused(self, token: str) -> bool:
        """APNs called `token` expired. True if `token()` gives another from now on, so that trying again has a point.

        A token that was good, or was made because another was refused, is not made anew within 20 minutes: Apple
        answers that with 429.
        """
        now, held = self._now(), self._held
        if held is not None and held.token == token:
            if not held.rule.may_force(held.made, now, self._accepted or self._forced):
                return False
            made = self._make(now)
            self._forced = True
            return made.token != token
        return True

    def _make(self, now: float) -> _Held:
        token = jwt(self._key.header(), self._key.claims(now), self._sign)
        self._held = held = _Held(token, now, self._chance(), APNS_RENEWAL)
        self._accepted = self._forced = False
        return held


class FcmTokens:
    """Google's access token for one service account. `now`: the wall clock; `chance`: draws from 0 to 1.

    `reactor` is Twisted's, or a clock if `agent` is given. Raises ValueError for a token_uri that anybody on the way
    could answer.
    """

    def __init__(
        self,
        reactor: Any,
        account: ServiceAccount,
        sign: Sign,
        now: Clock,
        chance: Chance,
        agent: Agent | None = None,
    ) -> None:
        parts = urlsplit(account.token_uri)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError(
                f"token_uri: {account.token_uri!r} must be https:// (http:// only on this machine)"
            )
        self._reactor, self._account, self._sign = reactor, account, sign
        self._now, self._chance = now, chance
        requests: Any = agent or Agent(reactor, connectTimeout=ANSWER_SECONDS)  # mypy misses its interface
        self._client = HTTPClient(requests)
        self._held: _Held | None = None
        self._running: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._fault: GrantError | None = None
        self._failures = 0
        self._not_before = self._warned = 0.0  # of the reactor's clock

    async def token(self) -> str:
        """The token to send now. Raises GrantError while there is none; it says why, and none is asked for too soon.

        While an old token is renewed it is still given out.
        """
        now, held = self._now(), self._held
        usable = held is not None and not held.rule.is_dead(held.made, now)
        if held is None or not usable or held.rule.due(held.made, now, held.chance):
            self._renew()
        if held is not None and usable:
            return held.token
        if self._running is not None:
            arrived: Deferred[None] = Deferred()
            self._waiting.append(arrived)
            await arrived
        return self._fresh()

    def refused(self, token: str) -> bool:
        """FCM called `token` unauthenticated. True if `token()` will give another, so that trying again has a point."""
        held = self._held
        if held is not None and held.token == token:
            if not held.rule.may_force(held.made, self._now(), accepted=True):
                return False
            self._held = None
        return True

    def fault(self) -> str:
        """Why no token could be had at the last try, empty if it could."""
        return "" if self._fault is None else str(self._fault)

    def stop(self) -> None:
        """Break off a request that is under way; whoever waits for it gets a GrantError."""
        if self._running is not None:
            self._running.cancel()

    def _fresh(self) -> str:
        if self._held is None or self._held.rule.is_dead(self._held.made, self._now()):
            # A new one each time: an exception that is raised twice keeps both tracebacks.
            fault = self._fault or GrantError("later", "no token yet")
            raise GrantError(fault.fault, str(fault))
        return self._held.token

    def _renew(self) -> None:
        if self._running is None and self._reactor.seconds() >= self._not_before:
            running = Deferred.fromCoroutine(self._refresh())
            self._running = running if not running.called else None

    async def _refresh(self) -> None:
        made = self._now()
        try:
            access = await self._ask(made)
        except GrantError as error:
            self._failed(error)
        except CancelledError:
            self._fault = GrantError("later", "broken off")
        except Exception as error:  # a bug here too must not be asked for in a loop
            self._failed(GrantError("later", told(error)))
        else:
            self._use(access, made)
        self._running = None
        waiting, self._waiting = self._waiting, []
        for arrived in waiting:
            arrived.callback(None)

    async def _ask(self, made: float) -> Access:
        asking = Deferred.fromCoroutine(self._post(made))
        asking.addTimeout(ANSWER_SECONDS, self._reactor, onTimeoutCancel=no_answer)
        return await asking

    async def _post(self, made: float) -> Access:
        assertion = jwt(self._account.header(), self._account.claims(made), self._sign)
        form = Headers(
            {"Content-Type": ["application/x-www-form-urlencoded"], "Accept": ["application/json"]}
        )
        response: Any = await self._client.post(
            self._account.token_uri,
            data=question(assertion),
            headers=form,
            allow_redirects=False,
            unbuffered=True,
        )
        body = Body(MAX_BYTES)
        response.deliverBody(body)
        content = await body.whole
        try:
            return granted(response.code, content)
        except GrantError as error:
            raise GrantError(error.fault, f"{error}{self._skew(response.headers, made)}") from None

    def _skew(self, headers: Headers, made: float) -> str:
        # A clock that is wrong is the usual reason for invalid_grant, and the answer brings the right time.
        theirs = http_date((headers.getRawHeaders("date") or [""])[0], made)
        if theirs is None or abs(theirs - made) < SKEW_SECONDS:
            return ""
        return (
            f" (this machine's clock is {abs(theirs - made):.0f} s {'ahead' if made > theirs else 'behind'})"
        )

    def _use(self, access: Access, made: float) -> None:
        if self._failures:
            log.info("access token for {account} given again", account=self._account.client_email)
        self._held = _Held(access.token, made, self._chance(), renewal(access))
        self._fault, self._failures, self._not_before = None, 0, 0.0

    def _failed(self, error: GrantError) -> None:
        now = self._reactor.seconds()
        if self._fault is None or self._fault.fault != error.fault or now - self._warned >= WARN_SECONDS:
            self._warned = now
            log.warn(
                "no access token for {account} from {url}: {fault}",
                account=self._account.client_email, url=self._account.token_uri, fault=str(error),
            )  # fmt: skip
        self._fault = error
        wait = (
            REFUSED_SECONDS if error.fault == "refused" else min(MOST_SECONDS, 2.0 ** min(self._failures, 10))
        )
        self._failures += 1
        self._not_before = now + wait * (1 + 0.5 * self._chance())
