"""The part of the house that sends to phones: lanes with their senders and providers, built from the configuration."""

# mypy: allow-untyped-calls
# (twisted.web has no annotations)

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from notifier import config as settings
from notifier.config import Config, TypePush
from notifier.core import devices, lanes
from notifier.core.breaker import BreakerRule
from notifier.core.credentials import CredentialError, topic
from notifier.core.gate import Gate, GateRule
from notifier.core.guard import GuardRule
from notifier.core.lanes import Lane
from notifier.core.model import Environment
from notifier.core.model import Provider as ProviderName
from notifier.core.push import Style
from notifier.core.rate import RateRule
from notifier.core.retry import RetryRule
from notifier.edge.apns import Apns
from notifier.edge.doorbells import Doorbells
from notifier.edge.fcm import Fcm
from notifier.edge.gcm import Gcm
from notifier.edge.http2.dial import Place, place, trusted
from notifier.edge.http2.pool import Counts, Sizes
from notifier.edge.loop import Loop
from notifier.edge.provider_files import (
    apns_certificate_file,
    apns_key_file,
    gateway_key_file,
    service_account_file,
)
from notifier.edge.provider_tokens import ANSWER_SECONDS, ApnsTokens, FcmTokens
from notifier.edge.push_store import RedisDue, RedisPushes
from notifier.edge.redis import Connection
from notifier.edge.reload import Fresh
from notifier.edge.store import Rules, Scripts
from notifier.edge.unread import Unread
from notifier.metrics import Metrics
from notifier.ports import Depth, Devices, Provider
from notifier.sending import Due, Looks, Sender, environments

DAY: Final = 86_400
TTL: Final[Mapping[str, int]] = {"like": 21_600}  # s; of types that are not here a day
STUCK: Final = 600.0  # s; no batch may take so long
DUE: Final = "due"  # where the loops of what is due sleep, beside the lanes

Report = Callable[[str], None]


class Link(Provider, Protocol):
    """A provider with connections of its own."""

    def stop(self) -> Awaitable[None]: ...


# What the configuration says, in the words of the parts ----------------------------------------------------


def lanes_of(config: Config) -> tuple[Lane, ...]:
    """One for each provider of each app; a gateway in place of FCM is the same lane."""
    found = [Lane(name, "apns") for name, app in config.apps.items() if app.apns]
    found += [Lane(name, "fcm") for name, app in config.apps.items() if app.fcm or app.gcm]
    return tuple(sorted(found))


def apps_of(config: Config) -> dict[str, devices.App]:
    """What the registration of a device must know."""
    found = {}
    for name, app in config.apps.items():
        providers: list[ProviderName] = ["apns"] if app.apns else []
        providers += ["fcm"] if app.fcm or app.gcm else []
        found[name] = devices.App(frozenset(providers), app.apns.environment if app.apns else "production")
    return found


def _types(config: Config) -> Iterator[tuple[str, TypePush, int]]:
    """Each type of event, how phones are told of it, and for how long (s)."""
    for kind in config.events.types:
        told = config.types.get(kind, TypePush())
        yield kind, told, told.ttl_seconds or TTL.get(kind, DAY)


def pushes_of(config: Config) -> dict[str, lanes.Rule]:
    """What handover asks of phones, by type; nothing without an app."""
    if not config.apps:
        return {}
    return {kind: lanes.Rule(told.push, ttl * 1000) for kind, told, ttl in _types(config)}


def looks_of(config: Config) -> Looks:
    """How notifications look, by type."""
    return Looks({kind: _style(told, ttl) for kind, told, ttl in _types(config)})


def _style(told: TypePush, ttl: int) -> Style:
    return Style(
        told.push_type, told.priority, told.collapse, ttl, told.sound, told.channel, told.click_action,
        told.category, told.interruption or "", told.mutable == "on", told.data_only == "on", told.hidden == "on",
    )  # fmt: skip


def gate_of(push: settings.Push) -> GateRule:
    """Retries, breaker and guard of a lane."""
    guard = GuardRule(
        push.guard_window_seconds, push.guard_least, push.guard_suspect_share, push.guard_dead_share,
        push.guard_recent_suspect, push.guard_recent_dead, push.guard_hold_seconds,
    )  # fmt: skip
    retry = RetryRule(push.tries, push.free_tries, push.mend_seconds, push.doubt_seconds)
    shares = (push.retry_share, push.retry_burst, push.retry_trickle)
    return GateRule(retry, _breaker(push), guard, *shares)


def _breaker(push: settings.Push) -> BreakerRule:
    return BreakerRule(
        push.breaker_failures, push.breaker_base_seconds, push.breaker_cap_seconds, push.breaker_floor_seconds,
        push.breaker_mend_seconds, push.breaker_patience_seconds,
    )  # fmt: skip


# Providers -------------------------------------------------------------------------------------------------


class Made(Struct, frozen=True):
    """A provider, what it was made from, and when its certificate ends (s since 1970; 0: it has none)."""

    link: Link
    mark: bytes
    expires: float = 0.0


def build(
    reactor: Any, config: Config, lane: Lane, *, validate_only: bool = False,
    processes: Callable[[], int] = lambda: 1, counts: Counts | None = None,
) -> Made:  # fmt: skip
    """The provider of a lane, which connects once there is something to send. Raises CredentialError.

    `validate_only`: FCM looks at messages and delivers none. `processes`: how many share what it may be sent.
    `counts`: where its connections are counted.
    """
    app = config.apps[lane.app]
    table = app.apns if lane.provider == "apns" else app.fcm or app.gcm
    assert table is not None, f"{lane} is no lane of this configuration"
    name = type(table).__name__.lower()
    try:
        made = _BUILDERS[type(table)](reactor, lane.app, table, config.push, processes, counts or Counts())
        if validate_only and isinstance(made.link, Fcm):
            made.link.validate_only = True
    except CredentialError as error:
        problem = f"apps.{lane.app}.{name}: {error}"
    else:
        return msgspec.structs.replace(made, mark=mark(table, config.push))
    raise CredentialError(problem)


def mark(table: Struct, push: settings.Push) -> bytes:
    """Equal for equal settings with equal files: a provider is kept over a reload while nothing has changed."""
    found = blake2b(msgspec.json.encode((table, push)), digest_size=16)
    for name, value in msgspec.structs.asdict(table).items():
        if name.endswith("_file") and value is not None:
            try:
                found.update(Path(value).read_bytes())
            except OSError as error:
                raise CredentialError(f"{value}: cannot be read ({error.strerror})") from None
    return found.digest()


def _apns(
    reactor: Any,
    app: str,
    table: settings.Apns,
    push: settings.Push,
    processes: Callable[[], int],
    counts: Counts,
) -> Made:
    access: Any
    expires = 0.0
    if table.certificate_file is not None:
        access = apns_certificate_file(table.certificate_file, table.password_file, time.time())
        expires = access.not_after
        if access.topics and table.topic not in access.topics:
            raise CredentialError(
                f"topic {table.topic} is not of this certificate, which is for {', '.join(access.topics)}"
            )
    else:
        named = (str(table.key_file), str(table.key_id), str(table.team_id))
        access = ApnsTokens(*apns_key_file(*named), time.time, random.random)
    places: dict[Environment, Place] = {
        "production": place(table.production_url), "sandbox": place(table.sandbox_url),
    }  # fmt: skip
    trust = trusted(table.authority_file) if table.authority_file else None
    link = Apns(
        reactor,
        app,
        topic(table.topic),
        access,
        time.time,
        places,
        trust,
        sizes=Sizes(most=table.connections),
        breaker=_breaker(push),
        counts=counts,
    )
    return Made(link, b"", expires)


def _fcm(
    reactor: Any,
    app: str,
    table: settings.Fcm,
    push: settings.Push,
    processes: Callable[[], int],
    counts: Counts,
) -> Made:
    trust = trusted(table.authority_file) if table.authority_file else None
    account, sign = service_account_file(table.service_account_file, push.token_hosts, table.token_url or "")
    policy = BrowserLikePolicyForHTTPS(trustRoot=trust)
    agent = Agent(reactor, policy, connectTimeout=ANSWER_SECONDS)
    try:
        tokens = FcmTokens(reactor, account, sign, time.time, random.random, agent)
    except ValueError as error:
        raise CredentialError(str(error)) from None
    at = place(table.url)
    link = Fcm(
        reactor, app, account.project_id, tokens, time.time, at, trust, sizes=Sizes(most=table.connections),
        breaker=_breaker(push), rate=RateRule(table.rate), processes=processes, counts=counts,
    )  # fmt: skip
    return Made(link, b"")


def _gcm(
    reactor: Any,
    app: str,
    table: settings.Gcm,
    push: settings.Push,
    processes: Callable[[], int],
    counts: Counts,
) -> Made:
    trust = trusted(table.authority_file) if table.authority_file else None
    return Made(Gcm(reactor, app, table.url, gateway_key_file(table.key_file), time.time, trust), b"")


_BUILDERS: Final[Mapping[type[Struct], Callable[..., Made]]] = {
    settings.Apns: _apns,
    settings.Fcm: _fcm,
    settings.Gcm: _gcm,
}


# The lanes of a process ------------------------------------------------------------------------------------


class Phones:
    """All lanes of this process: on each shard a sender with `push.in_flight` batches, and what is due.

    `calls`: a connection of their own; `consumer`: this process's slot; `processes`: how many there are; `depths`: of
    all lanes there are. Raises CredentialError with what is wrong with a file.
    """

    def __init__(
        self, reactor: Any, config: Config, calls: Connection, scripts: Scripts, rules: Rules, store: Devices,
        consumer: Callable[[], str], metrics: Metrics, report: Report, processes: Callable[[], int] = lambda: 1,
        depths: Callable[[], Awaitable[Mapping[str, Depth]]] | None = None,
    ) -> None:  # fmt: skip
        self.reactor, self.config, self.metrics, self.report = reactor, config, metrics, report
        self._processes = processes
        self.lanes = lanes_of(config)
        self.pushes = pushes_of(config)  # handover reads it: changed in place
        self.apps = apps_of(config)  # and so does the API
        self.doorbells = Doorbells(reactor)
        self._counts = {lane: Counts() for lane in self.lanes}
        self._made = {lane: self._provider(config, lane) for lane in self.lanes}
        rule, now = gate_of(config.push), reactor.seconds()
        self._gates = {lane: Gate(rule, now, environments(lane)) for lane in self.lanes}
        self._senders: dict[Lane, list[Sender]] = {lane: [] for lane in self.lanes}
        self.loops: list[Loop] = []
        for shard in range(rules.shards if self.lanes else 0):
            self._build_shard(shard, calls, scripts, rules, store, consumer)
        self._tell_expiry()
        metrics.gather(self._tell_connections)
        self._unread = Unread(reactor, depths or _none, self.lanes, metrics.push_backlog)

    def _provider(self, config: Config, lane: Lane) -> Made:
        return build(self.reactor, config, lane, processes=self._processes, counts=self._counts[lane])

    def _build_shard(
        self, shard: int, calls: Connection, scripts: Scripts, rules: Rules, store: Devices,
        consumer: Callable[[], str],
    ) -> None:  # fmt: skip
        push, bells = self.config.push, self.doorbells
        poll, looks = push.poll_ms / 1000, looks_of(self.config)
        for lane in self.lanes:
            wait, ring = partial(bells.wait, shard, str(lane)), partial(bells.ring, shard, str(lane))
            sender = Sender(
                RedisPushes(calls, scripts, rules, shard, lane, consumer, wait, ring), lane, self._gates[lane],
                self._made[lane].link, store, looks, self.metrics, self.reactor.seconds, random.random, self.report,
                push.claim_seconds,
            )  # fmt: skip
            self._senders[lane].append(sender)
            name = f"lane {lane} of shard {shard}"
            self.loops += [Loop(self.reactor, sender, name, poll) for _ in range(push.in_flight)]
        due = Due(
            RedisDue(calls, scripts, rules, shard, partial(bells.wait, shard, DUE)),
            self.metrics,
            self.reactor.seconds,
        )
        self.loops.append(Loop(self.reactor, due, f"due of shard {shard}", poll))

    def outlets(self, shard: int) -> dict[str, Sender]:
        """Who sends on this shard, by lane."""
        return {str(lane): senders[shard] for lane, senders in self._senders.items()}

    def part(self) -> tuple[bool, str]:
        """For /readyz: a provider that is away is no reason to take this process out, but it is told."""
        now = self.reactor.seconds()
        faults = {loop.name: loop.fault for loop in self.loops if loop.fault}
        if faults:
            return False, "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        late = [loop.name for loop in self.loops if loop.turned and now - loop.turned > STUCK]
        if late:
            return False, f"no progress for {STUCK:g} s: {', '.join(late)}"
        states = [f"{lane} {self._gates[lane].state(now)}" for lane in self.lanes]
        states += [
            f"{lane} {state} ({each})"
            for lane in self.lanes
            for each in environments(lane)[1:]
            if (state := self._gates[lane].state(now, each)) != "closed"
        ]
        return True, ", ".join(states) or "no app is configured"

    def start(self) -> None:
        for loop in self.loops:
            loop.start()
        self._unread.start()

    def halt(self) -> None:
        """Begin nothing more. What is under way goes on."""
        self._unread.stop()
        for senders in self._senders.values():
            for sender in senders:
                sender.halt()
        for loop in self.loops:
            loop.halt()
        self.doorbells.wake_all()

    async def stop(self) -> None:
        """Settle what is under way: requests that wait are refused and come again, open ones are answered."""
        self.halt()
        stops = [_deferred(made.link.stop()) for made in self._made.values()]
        stops += [_deferred(loop.stop()) for loop in self.loops]
        await gatherResults(stops, consumeErrors=True)

    # -- SIGHUP

    def prepare(self, new: Config) -> Fresh:
        """Read all that a new configuration says of phones; what then puts it to use. Raises CredentialError.

        Lanes come and go only with a restart, for their metrics and streams are made at the start.
        """
        if lanes_of(new) != self.lanes:
            return Fresh(frozenset(("types",)), lambda: self._restyle(new))
        used = msgspec.structs.replace(new, push=self.config.push)
        changed = {}
        for lane in self.lanes:
            app = used.apps[lane.app]
            table = app.apns if lane.provider == "apns" else app.fcm or app.gcm
            assert table is not None
            if mark(table, used.push) != self._made[lane].mark:
                changed[lane] = self._provider(used, lane)

        def use() -> None:
            self.apps.update(apps_of(new))
            self._restyle(new)
            self._swap(changed)

        return Fresh(frozenset(("types", "apps")), use)

    def _restyle(self, new: Config) -> None:
        if self.lanes:
            self.pushes.update(pushes_of(msgspec.structs.replace(self.config, types=new.types)))
        looks = looks_of(msgspec.structs.replace(self.config, types=new.types))
        for senders in self._senders.values():
            for sender in senders:
                sender.looks = looks

    def _swap(self, changed: Mapping[Lane, Made]) -> None:
        """Other providers from now on. What the old ones were asked they still answer."""
        for lane, made in changed.items():
            old, self._made[lane] = self._made[lane], made
            self._gates[lane].renew(self.reactor.seconds())
            for sender in self._senders[lane]:
                sender.provider = made.link
            _deferred(old.link.stop()).addErrback(lambda failure: self.report(failure.getErrorMessage()))
        self._tell_expiry()

    def _tell_connections(self) -> None:
        for lane, made in self._made.items():
            label = lane.label
            for event, count in msgspec.structs.asdict(self._counts[lane]).items():
                self.metrics.push_connection_events[f"{label} {event}"] = count
            pools = made.link.pools if isinstance(made.link, Apns) else {}
            found = list(pools.values()) if not isinstance(made.link, Fcm) else [made.link.pool]
            self.metrics.push_connections[label] = sum(pool.connections for pool in found)
            self.metrics.push_streams[label] = sum(pool.open for pool in found)
            self.metrics.push_queue[label] = sum(pool.waiting for pool in found)

    def _tell_expiry(self) -> None:
        for lane, made in self._made.items():
            if lane.provider == "apns":
                self.metrics.push_certificate_expires[lane.app] = int(made.expires)


async def _none() -> Mapping[str, Depth]:
    return {}


def _deferred(work: Awaitable[None]) -> Deferred[None]:
    async def run() -> None:
        await work

    return Deferred.fromCoroutine(run())
