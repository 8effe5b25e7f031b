"""FCM HTTP v1: messages of one project over HTTP/2, with an access token that Google gives for a service account."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from notifier.core.breaker import Breaker, BreakerRule
from notifier.core.fcm import HOST, FcmPush, path, prepare
from notifier.core.grant import GrantError
from notifier.core.http2 import Answered, Limits, NotAccepting, Result, Template, constant, secret
from notifier.core.model import Outcome
from notifier.core.outcomes import ACCEPTED, fcm, not_sent, paced
from notifier.core.rate import Rate, RateRule
from notifier.edge.answers import (
    Batch,
    Complaints,
    Job,
    Results,
    answer_of,
    no_answer,
    not_accepted,
    tell_surely,
)
from notifier.edge.http2.dial import Place, endpoint
from notifier.edge.http2.pool import Counts, Pool, Push, Sizes
from notifier.edge.provider_tokens import ANSWER_SECONDS, FcmTokens
from notifier.ports import FRESH, Clock, PushRequest

PLACE: Final = Place(HOST)
# Google may take 10 s by itself, and answers PINGs that come too often with GOAWAY (too_many_pings).
LIMITS: Final = Limits(answer_within=30.0, wait_within=FRESH, ping_after_silence=300.0, ping_every=None)
PATIENCE: Final = 2.0  # s that a batch waits for its turn
SLACK: Final = 5.0
_UNREADABLE: Final = Outcome("drop_message", "fcm", 0, "unreadable")
# The account is refused by the token endpoint: what FCM itself would say to its messages.
_NO_GRANT: Final = Outcome("config_error", "fcm", 403, "PERMISSION_DENIED", None, "credential")


class _Signed(Template):
    """A template with the access token that it sends."""

    __slots__ = ("token",)

    def __init__(self, project: str, authority: str, token: str) -> None:
        super().__init__(
            [
                constant(b":method", b"POST"),
                constant(b":scheme", b"https"),
                constant(b":authority", authority.encode()),
                constant(b":path", path(project).encode()),
                secret(b"authorization", b"Bearer " + token.encode(), indexed=True),
                constant(b"content-type", b"application/json; charset=UTF-8"),
            ]
        )
        self.token = token


class Fcm:
    """One app at FCM; a `ports.Provider`. `tokens`: of the project's service account. `now`: s since 1970.

    `rate`: what the project may be sent by all processes together; `processes`: how many there are.
    """

    validate_only = False  # FCM looks at messages and delivers none

    def __init__(
        self,
        reactor: Any,
        app: str,
        project: str,
        tokens: FcmTokens,
        now: Clock,
        place: Place = PLACE,
        trust: Any = None,
        limits: Limits = LIMITS,
        sizes: Sizes | None = None,
        breaker: BreakerRule | None = None,
        rate: RateRule | None = None,
        chance: Callable[[], float] = random.random,
        processes: Callable[[], int] = lambda: 1,
        counts: Counts | None = None,
    ) -> None:
        self._reactor, self._project, self._tokens, self._now = reactor, project, tokens, now
        self._place, self._limits = place, limits
        self._complaints = Complaints(app, reactor.seconds)
        self._rate, self._processes = Rate(rate or RateRule()), processes
        self._paced: set[Deferred[None]] = set()  # batches that wait for their turn
        self._stopped = False
        self._template: _Signed | None = None
        self._renewing: set[Deferred[None]] = set()
        to = endpoint(reactor, place.host, place.port, trust)
        self.pool: Final[Pool[Job]] = Pool(
            reactor,
            to,
            self._ended,
            limits,
            sizes,
            Breaker(breaker or BreakerRule()),
            chance,
            self._current,
            counts,
        )

    @property
    def longest(self) -> float:
        """Seconds that a `send` may take: its turn, waiting and an answer, and one more with a new token."""
        limits = self._limits
        waits = PATIENCE + limits.wait_within + 2 * ANSWER_SECONDS
        return waits + 2 * limits.answer_within + SLACK

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        """Send; one outcome for each, in order."""
        began = self._reactor.seconds()
        try:
            await self._sign()
        except GrantError as error:
            return [self._without_token(error)] * len(requests)
        taken, later = await self._turn(len(requests), began)
        batch = Batch(len(requests))
        prepared: dict[int, FcmPush] = {}
        for index, request in enumerate(requests):
            if index < taken:
                self._send(batch, index, request, prepared, began)
            else:
                batch.tell(index, later)
        return await batch.outcomes()

    async def _turn(self, count: int, began: float) -> tuple[int, Outcome]:
        """How many of `count` requests may go now, once they may; and what becomes of the others."""
        now = self._reactor.seconds()
        left = began + self._limits.wait_within - now
        if left <= 0 or self._stopped:  # the token took too long
            return 0, not_sent("fcm", "waited")
        self._rate.sharers = self._processes()
        turn = self._rate.take(count, now, min(PATIENCE, left / 2))
        if turn.taken and turn.wait:
            sleep = deferLater(self._reactor, turn.wait, _nothing)
            self._paced.add(sleep)
            try:
                await sleep
            except CancelledError:  # stopped: nobody waits for those that have not left
                return 0, not_sent("fcm", "refused")
            finally:
                self._paced.discard(sleep)
        return turn.taken, paced("fcm", math.ceil(turn.pause))

    async def stop(self) -> None:
        """Refuse what waits, let open requests run on, close the connections."""
        self._stopped = True
        for sleep in list(self._paced):
            sleep.cancel()
        self._tokens.stop()
        await self.pool.stop()

    # --- One request ---

    def _send(
        self, batch: Batch, index: int, request: PushRequest, prepared: dict[int, FcmPush], began: float
    ) -> None:
        push, template = request.push, self._template
        assert template is not None, "send begins with a token"
        try:
            ready = prepared.get(id(push))
            if ready is None:
                ready = prepared[id(push)] = prepare(push, int(self._now() * 1000))
            body = ready.body(request.delivery.device.token)
            if self.validate_only:
                body = b'{"validate_only":true,' + body[1:]
        except ValueError:  # longer than FCM takes, though without a word in it
            batch.tell(index, _UNREADABLE)
            return
        try:
            self.pool.push(Push(Job(batch, index), template, (), body), began)
        except NotAccepting:
            batch.tell(index, not_accepted("fcm", self.pool))

    # --- Tokens ---

    async def _sign(self) -> None:
        """Makes the template of the present token. Raises GrantError."""
        token = await self._tokens.token()
        if self._template is None or self._template.token != token:
            self._template = _Signed(self._project, self._place.authority, token)

    def _current(self, template: Template) -> Template:
        return self._template or template

    def _without_token(self, error: GrantError) -> Outcome:
        if error.fault == "refused":
            self._complaints.hear(_NO_GRANT)
            return _NO_GRANT
        return not_sent("fcm", "unreachable")

    # --- Answers ---

    def _ended(self, results: Results) -> None:
        unsigned: list[tuple[Push[Job], Outcome]] = []
        other = partial(self._not_accepted, unsigned)
        for result in results:
            if type(result) is Answered and result.status == 200:
                job = result.context.context
                job.batch.tell(job.index, ACCEPTED["fcm"])
            else:
                tell_surely("fcm", result, other)
        if unsigned:
            renewing = Deferred.fromCoroutine(self._send_anew(unsigned))
            self._renewing.add(renewing)
            renewing.addBoth(lambda _: self._renewing.discard(renewing))

    def _not_accepted(self, unsigned: list[tuple[Push[Job], Outcome]], result: Result[Push[Job]]) -> None:
        push = result.context
        job = push.context
        if type(result) is not Answered:
            outcome = no_answer("fcm", result, self.pool)
        else:
            outcome = fcm(answer_of(result), self._now())
            if outcome.reason == "UNAUTHENTICATED" and self._may_renew(push, job):
                unsigned.append((push, outcome))
                return
            self._complaints.hear(outcome)
        job.batch.tell(job.index, outcome)

    def _may_renew(self, push: Push[Job], job: Job) -> bool:
        if job.renewed:
            return False
        job.renewed = True
        return self._tokens.refused(getattr(push.template, "token", ""))

    async def _send_anew(self, unsigned: Sequence[tuple[Push[Job], Outcome]]) -> None:
        """Once with a new token; without one the answer stands."""
        try:
            await self._sign()
            signed = True
        except Exception:  # without a token, or by a bug: their answer stands, and nobody waits for ever
            signed = False
        for push, outcome in unsigned:
            if not (signed and self.pool.again(push)):
                push.context.batch.tell(push.context.index, outcome)


def _nothing() -> None:
    return None
