"""APNs: pushes of one app over HTTP/2, with a provider token or a certificate; production or sandbox by device."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from msgspec import Struct
from twisted.internet.defer import gatherResults

from notifier.core.apns import HOSTS, PORT, ApnsPush, prepare
from notifier.core.breaker import Breaker, BreakerRule
from notifier.core.http2 import Answered, Limits, Result, Template, constant, secret, varying
from notifier.core.model import Delivery, Environment, Outcome
from notifier.core.outcomes import ACCEPTED, apns
from notifier.core.push import delivery_id
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
from notifier.edge.client_certificate import ClientCertificate
from notifier.edge.http2.dial import Place, endpoint
from notifier.edge.http2.pool import Counts, Pool, Push, Sizes
from notifier.edge.provider_tokens import ApnsTokens
from notifier.ports import FRESH, Clock, PushRequest

PLACES: Final[Mapping[Environment, Place]] = {
    "production": Place(HOSTS["production"], PORT),
    "sandbox": Place(HOSTS["sandbox"], PORT),
}
# Apple asks for a PING after a long silence only, and takes one stream until a token has proved good.
LIMITS: Final = Limits(first_alone=True, wait_within=FRESH)
LIMITS_CERTIFICATE: Final = Limits(wait_within=FRESH)
SLACK: Final = 5.0
_UNREADABLE: Final = Outcome("drop_message", "apns", 0, "unreadable")
_EXPIRED: Final = "ExpiredProviderToken"
# A second of these in a row, with nothing between that shows the token to be good, and the pool is closed for a
# while: all the rest would say the same.
_BAD_TOKENS: Final = frozenset({_EXPIRED, "InvalidProviderToken"})
_ENOUGH: Final = 2
PAUSE: Final = 60.0  # s, and a tenth more by chance


class _Kind(NamedTuple):
    """What requests of one template have in common."""

    environment: Environment
    topic: str
    push_type: str
    priority: int
    collapses: bool


class _Signed(Template):
    """A template with the provider token that it sends, empty with a certificate."""

    __slots__ = ("kind", "token")

    def __init__(self, kind: _Kind, authority: str, token: str) -> None:
        fields = [
            constant(b":method", b"POST"),
            constant(b":scheme", b"https"),
            constant(b":authority", authority.encode()),
            varying(b":path", b"/3/device/", private=True),
            constant(b"apns-topic", kind.topic.encode()),
            constant(b"apns-push-type", kind.push_type.encode()),
            constant(b"apns-priority", b"%d" % kind.priority),
            varying(b"apns-id"),
            varying(b"apns-expiration"),
        ]
        if kind.collapses:
            fields.append(varying(b"apns-collapse-id"))
        if token:  # a connection is one team's alone, so the token may stand in its table
            fields.append(secret(b"authorization", b"bearer " + token.encode(), indexed=True))
        super().__init__(fields)
        self.kind = kind
        self.token = token


class _Prepared(Struct, frozen=True):
    """One push for many devices: its kinds by environment are made when they are needed."""

    push: ApnsPush
    values: tuple[bytes, ...]  # of the template's fields behind the name

    def kind(self, environment: Environment) -> tuple[Environment, str, str, int, bool]:
        """As a _Kind has it; a plain tuple finds the same template and costs a third."""
        push = self.push
        return environment, push.topic, push.push_type, push.priority, len(self.values) > 1


class Apns:
    """One app at APNs; a `ports.Provider`.

    `access`: its provider tokens or its certificate. `topic`: its bundle id. `now`: s since 1970. Connections are
    made when there is something to send, and never shared with another app: APNs ties each to one team.
    """

    def __init__(
        self,
        reactor: Any,
        app: str,
        topic: str,
        access: ApnsTokens | ClientCertificate,
        now: Clock,
        places: Mapping[Environment, Place] = PLACES,
        trust: Any = None,
        limits: Limits | None = None,
        sizes: Sizes | None = None,
        breaker: BreakerRule | None = None,
        chance: Callable[[], float] = random.random,
        counts: Counts | None = None,
    ) -> None:
        self._reactor, self._topic, self._now = reactor, topic, now
        self._tokens = access if isinstance(access, ApnsTokens) else None
        self._certificate = None if isinstance(access, ApnsTokens) else access.private
        self._places, self._trust, self._chance = places, trust, chance
        self._limits = limits or (LIMITS if self._tokens else LIMITS_CERTIFICATE)
        self._sizes, self._breaker, self._counts = sizes, breaker or BreakerRule(), counts or Counts()
        self._complaints = Complaints(app, reactor.seconds)
        self._token = ""
        self._templates: dict[tuple[Environment, str, str, int, bool], _Signed] = {}  # by _Kind
        self.pools: Final[dict[Environment, Pool[Job]]] = {}
        """Those that were needed so far: for metrics."""
        self._bad_tokens: dict[Environment, int] = {}
        self._stopped = False

    @property
    def longest(self) -> float:
        """Seconds that a `send` may take: waiting, an answer, and one more with a new token."""
        return self._limits.wait_within + 2 * self._limits.answer_within + SLACK

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        """Send; one outcome for each, in order."""
        batch = Batch(len(requests))
        self._renew()
        prepared: dict[int, _Prepared] = {}
        wanted: dict[Environment, list[Push[Job]]] = {}
        for index, request in enumerate(requests):
            push = request.push
            ready = prepared.get(id(push))
            if ready is None:
                try:
                    ready = prepared[id(push)] = self._prepare(request)
                except ValueError:  # longer than APNs takes, though without a word in it
                    batch.tell(index, _UNREADABLE)
                    continue
            self._add(wanted, Job(batch, index), request.delivery, ready)
        for environment, pushes in wanted.items():
            pool = self._pool(environment)
            for refused in pool.push_all(pushes):
                batch.tell(refused.context.index, not_accepted("apns", pool))
        return await batch.outcomes()

    async def stop(self) -> None:
        """Refuse what waits, let open requests run on, close the connections."""
        self._stopped = True
        await gatherResults([pool.stop() for pool in self.pools.values()])

    # --- One request ---

    def _prepare(self, request: PushRequest) -> _Prepared:
        push = prepare(request.push, self._topic)
        expiration, collapse = b"%d" % push.expiration, push.collapse_id.encode()
        return _Prepared(push, (expiration, collapse) if collapse else (expiration,))

    def _add(
        self, wanted: dict[Environment, list[Push[Job]]], job: Job, delivery: Delivery, ready: _Prepared
    ) -> None:
        """To what is to be sent to the device's environment."""
        device = delivery.device
        token = device.token
        # Values go into the request as they are, and this one has come out of the store.
        if not (token.isascii() and token.isalnum()):
            job.batch.tell(job.index, _UNREADABLE)
            return
        name = delivery_id(delivery.notification, device.id).encode()
        kind = ready.kind(device.environment)
        template = self._templates.get(kind) or self._template(_Kind(*kind))
        push = Push(job, template, (token.encode(), name, *ready.values), ready.push.body)
        if device.environment not in wanted:
            wanted[device.environment] = []
        wanted[device.environment].append(push)

    def _pool(self, environment: Environment) -> Pool[Job]:
        pool = self.pools.get(environment)
        if pool is None:
            place = self._places[environment]
            to = endpoint(self._reactor, place.host, place.port, self._trust, self._certificate)
            pool = self.pools[environment] = Pool(
                self._reactor,
                to,
                partial(self._ended, environment),
                self._limits,
                self._sizes,
                Breaker(self._breaker),
                self._chance,
                self._current,
                self._counts,
            )
            if self._stopped:
                pool.stop()  # for a batch that was looked at meanwhile: nobody would close its connections
        return pool

    # --- Tokens ---

    def _renew(self) -> None:
        """Once for each call, not for each push."""
        if self._tokens is None:
            return
        token = self._tokens.token()
        if token != self._token:
            self._token = token
            self._templates.clear()

    def _template(self, kind: _Kind) -> _Signed:
        template = self._templates.get(kind)
        if template is None:
            authority = self._places[kind.environment].authority
            template = self._templates[kind] = _Signed(kind, authority, self._token)
        return template

    def _current(self, template: Template) -> Template:
        # One connection must not see an old token after a new one: Apple counts each change.
        if isinstance(template, _Signed) and template.token is not self._token:
            return self._template(template.kind)
        return template

    # --- Answers ---

    def _ended(self, environment: Environment, results: Results) -> None:
        good, accepted = False, ACCEPTED["apns"]
        other = partial(self._not_accepted, environment)
        for result in results:
            if type(result) is Answered and result.status == 200:
                push = result.context
                good = good or getattr(push.template, "token", "") is self._token
                if self._bad_tokens:
                    self._bad_tokens.pop(environment, None)
                push.context.batch.tell(push.context.index, accepted)
            else:
                tell_surely("apns", result, other)
        if good and self._tokens is not None:
            self._tokens.accepted()

    def _not_accepted(self, environment: Environment, result: Result[Push[Job]]) -> None:
        push, pool = result.context, self.pools[environment]
        job = push.context
        if type(result) is not Answered:
            outcome = no_answer("apns", result, pool)
        else:
            outcome = apns(answer_of(result), self._now())
            if outcome.reason == _EXPIRED and self._sent_anew(pool, push, job):
                return
            self._complaints.hear(outcome)
            if outcome.reason in _BAD_TOKENS:
                self._pause(environment, outcome)
            elif result.status != 403:  # another fault is found by who has let us in
                self._bad_tokens.pop(environment, None)
        job.batch.tell(job.index, outcome)

    def _pause(self, environment: Environment, outcome: Outcome) -> None:
        """The token itself was refused, and another does not help, or was not to be had."""
        count = self._bad_tokens[environment] = self._bad_tokens.get(environment, 0) + 1
        pool = self.pools[environment]
        if self._tokens is not None and count >= _ENOUGH and pool.accepting:
            pool.trip(PAUSE * (1 + 0.1 * self._chance()), f"{outcome.status} {outcome.reason}")

    def _sent_anew(self, pool: Pool[Job], push: Push[Job], job: Job) -> bool:
        if (
            self._tokens is None
            or job.renewed
            or not self._tokens.refused(getattr(push.template, "token", ""))
        ):
            return False
        self._renew()
        job.renewed = True
        return pool.again(push)
