"""The house: builds every part in order, and stops it in reverse, draining."""

# mypy: allow-untyped-calls
# (twisted.application has no annotations)

import gc
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

from notifier.config import Config, ConfigError, load
from notifier.core import keys, lanes
from notifier.core.backlog import BURIALS, Backlog
from notifier.core.credentials import CredentialError
from notifier.core.intake import Intake
from notifier.core.self_issued import SelfIssued
from notifier.core.tokens import REASONS as TOKEN_REASONS
from notifier.core.tokens import Key, Verifier
from notifier.edge import keyring, logs, openapi, routes
from notifier.edge.admin import admin_site
from notifier.edge.api import api_site
from notifier.edge.bus import RedisBus
from notifier.edge.canary import Canary
from notifier.edge.device_store import RedisDevices
from notifier.edge.events_api import Publisher
from notifier.edge.hub import Hub
from notifier.edge.jwks import Keys
from notifier.edge.listen import endpoint, kind_of, take_waiting
from notifier.edge.loop import Loop, share
from notifier.edge.minder import Minder
from notifier.edge.nest import Entrance
from notifier.edge.notify import Systemd
from notifier.edge.push_store import PushGifts, RedisLanes
from notifier.edge.redis import Address, Connection, ReplyError, Subscription
from notifier.edge.reload import Reload, read_keys
from notifier.edge.signals import die_of, on_signal
from notifier.edge.slot import Slot
from notifier.edge.sse import Streams
from notifier.edge.store import RedisInbox, RedisLog, RedisShards, Rules, Scripts, buckets
from notifier.edge.websocket import Gateway
from notifier.metrics import Metrics
from notifier.phones import Phones, lanes_of
from notifier.pipeline import Fanout, Router
from notifier.ports import Unavailable
from notifier.sending import labels

log = Logger()

HANDSHAKE_REJECTS: Final = (
    "path", "too_large", "full", "draining", "unauthenticated", "per_address", "address_rate",
    "timeout",
)  # fmt: skip
SETUP_VERSION: Final = 2  # of what lies in Redis: 1 had inboxes without the field `state`
RETRY: Final = 1.0
STUCK: Final = 10.0  # s without a step of a reader: /readyz says so, and systemd's watchdog is no longer fed
LAST_CALLS: Final = 1.0  # s that a stop has for Redis when draining has taken all its time
LAST_SECONDS: Final = 10.0  # that a stop may take beyond drain.timeout_seconds, until it counts as hung
FIRST_CANARY: Final = 2.0  # s that a start waits for the first canary
STARTED: Final = "notifier is ready"


class Options(usage.Options):
    """`twistd notifier` takes one option; every setting is in the file (docs/configuration.md)."""

    synopsis = "[--config FILE]"
    longdesc = (
        "Real-time notification server: events from Redis to people's WebSockets and phones. Without --config every "
        "setting has its default; NOTIFIER_SECTION__NAME in the environment overrides a setting. "
        "`notifier config default` prints a commented configuration, `notifier config check FILE` looks one over."
    )
    optParameters = [["config", "c", None, "The configuration, a TOML file."]]  # noqa: RUF012


def makeService(options: Options) -> Service:
    """The service that twistd runs. A fault in the configuration ends the start with the list of faults."""
    path = options["config"]
    try:

        def read() -> Config:
            return load(Path(path) if path else None, os.environ)

        return House(read(), read=read)
    except (ConfigError, keyring.KeyringError, CredentialError, OSError, ValueError) as error:
        # Not usage.UsageError: twistd shows that of a service as a traceback.
        raise SystemExit(f"notifier: {error}") from None


def steady(reactor: Any) -> None:
    """Let the reactor count by the monotonic clock: its own is the wall clock, and a wall clock that is set back by
    an hour would stop every timer, presence among them, for an hour."""
    began = time.time() - time.monotonic()
    reactor.seconds = lambda: began + time.monotonic()


class SetupDiffers(Exception):
    """What this process was told differs from what is stored; going on would look for people in wrong places."""


class House(Service):
    """All parts of one process, wired. `reactor`: Twisted's, given by tests; `read`: reads the configuration anew."""

    def __init__(self, config: Config, reactor: Any = None, read: Callable[[], Config] | None = None) -> None:
        if reactor is None:
            from twisted.internet import reactor as default  # late: importing it installs it

            reactor = default
            steady(reactor)
        self.reactor, self.config = reactor, config
        self.incarnation = secrets.token_hex(8)
        self.state = "starting"
        self.systemd = Systemd()
        self.metrics = Metrics(
            {
                "dead_letters": dict.fromkeys((*BURIALS, *lanes.BURIALS)),
                "auth_failures": (*TOKEN_REASONS, "scope", "revoked"),
                "handshake_rejects": HANDSHAKE_REJECTS,
                "api_requests": routes.LABELS,
                **labels(lanes_of(config)),
            }
        )
        self._ports: dict[str, Any] = {}
        self._starting: Deferred[None] | None = None
        self._build()
        self.reload = Reload(
            config, read or (lambda: config), self._adopt, self.systemd, self.metrics, self.phones.prepare
        )

    # -- building

    def _build(self) -> None:
        config, metrics = self.config, self.metrics
        redis = config.redis
        address = Address.parse(redis.url, redis.username, redis.password_file, redis.ca_file)
        limits = (redis.timeout_seconds, redis.connect_seconds)
        self.calls = Connection(self.reactor, address, "commands", metrics, _report, *limits)
        self.reads = Connection(self.reactor, address, "reader", metrics, _report, *limits)
        self.doorbell = Connection(self.reactor, address, "doorbell", metrics, _report, *limits)
        self.sends = Connection(self.reactor, address, "pushes", metrics, _report, *limits)
        self.subscription = Subscription(self.reactor, address, "bell", metrics, _report, *limits)
        self.rules = Rules(
            shards=redis.shards,
            buckets=buckets(config.events.rate, redis.shards),
            window=config.events.window_hours * 3_600_000,
            retention=config.inbox.retention_days * 86_400_000,
            cap=config.inbox.cap,
            letters=config.dead_letters.per_reason,
            letters_age=config.dead_letters.days * 86_400_000,
            lease=int(config.fanout.lease_seconds * 1000),
            page_bytes=config.limits.unsent_bytes // 2,
            devices=config.push.devices_per_user,
            dead_tokens=config.dead_letters.per_reason,
            dead_tokens_age=config.dead_letters.days * 86_400_000,
        )
        self.scripts = Scripts()
        self.calls.scripts = self.reads.scripts = self.sends.scripts = self.scripts.all()
        self.slot = Slot(self.reactor, self.calls, config.name, self.incarnation)
        self.devices = RedisDevices(self.calls, self.scripts, self.rules, metrics)
        self.phones = Phones(
            self.reactor, config, self.sends, self.scripts, self.rules, self.devices, lambda: self.slot.name,
            metrics, _report, lambda: self.slot.processes, RedisLanes(self.calls, self.rules).depths,
        )  # fmt: skip
        heard = self.phones.doorbells.heard if self.phones.lanes else None
        self.bus = RedisBus(self.subscription, redis.shards, self.incarnation, metrics, heard)
        self.inbox = RedisInbox(self.calls, self.scripts, self.rules, self.incarnation)
        self.loops = self._build_loops()
        level = share(self.loops, lambda: self.slot.processes)
        self.minder = Minder(
            self.reactor, self.calls, self.loops, metrics, config.events.backlog_limit, level
        )
        self._build_gateway()

    def _build_gateway(self) -> None:
        config, metrics, tokens = self.config, self.metrics, self.config.tokens
        found = read_keys(config)
        self.verifier = Verifier(
            found, tokens.audience, tokens.issuer, tokens.max_life_hours * 3600, int(tokens.leeway_seconds)
        )
        self.jwks = self._fetched_keys(tokens.jwks_url, found)
        if not found and self.jwks is None:
            log.warn(
                "no token keys (tokens.keys, tokens.jwks_file, tokens.jwks_url): nobody can authenticate"
            )
        self.hub = Hub(
            self.reactor, self.inbox, self.bus, metrics, config.redis.shards,
            page=config.inbox.page, per_user=config.limits.per_user,
            refresh_seconds=config.websocket.refresh_seconds, spread_seconds=config.websocket.resync_spread_seconds,
        )  # fmt: skip
        own = SelfIssued(secrets.token_bytes(32), self.verifier)
        self.gateway = Gateway(
            self.reactor,
            self.hub,
            own,
            config.websocket,
            config.limits,
            metrics,
            int(tokens.leeway_seconds),
            time.time,
        )
        self.streams = Streams(self.gateway)
        self.verifier.voided = lambda gone: self.gateway.void(gone, self.verifier.holds, self.streams.open)
        self.api = api_site(
            self.reactor, self.inbox, self.verifier, config, metrics,
            publisher=Publisher(self.calls, self._intake(), metrics, config.redis.shards), streams=self.streams,
            document=openapi.encoded(config), address=self.gateway.address,
            devices=self.devices, apps=self.phones.apps,
        )  # fmt: skip
        self.entrance = Entrance(
            self.reactor,
            self.gateway,
            own,
            config.websocket.listen,
            lambda: self._ports["websocket"].getHost(),
        )
        metrics.watch("connections", lambda: len(self.gateway.open) - self.gateway.own)
        metrics.watch("sessions", lambda: self.hub.count - self.canary.sessions)
        metrics.watch("jwks_keys", lambda: self.jwks.count if self.jwks else 0)
        metrics.watch("jwks_age_seconds", lambda: self.jwks.age() if self.jwks else 0)
        self.canary = Canary(
            self.reactor, self.calls, self.hub, metrics, config.redis.shards, config.events.types[0],
            config.admin.canary_seconds, lambda: self.slot.name, self.incarnation, self._listening,
            self.entrance.open,
        )  # fmt: skip
        self.parts: dict[str, Callable[[], tuple[bool, str]]] = {
            "state": lambda: (self.state == "ready", self.state),
            "redis": lambda: (
                self.calls.up and self.reads.up,
                self.calls.fault or self.reads.fault or "connected",
            ),
            "bell": lambda: (
                len(self.bus.heard) == config.redis.shards,
                self.subscription.fault or f"{len(self.bus.heard)} of {config.redis.shards} shards heard",
            ),
            "readers": self._readers,
            "listeners": self._listeners,
            "canary": self.canary.part,
            "phones": self.phones.part,
        }
        self._say_jwks()

    def _fetched_keys(self, url: str | None, found: Sequence[Key]) -> Keys | None:
        return Keys(self.reactor, self.verifier, found, url, metrics=self.metrics) if url else None

    def _say_jwks(self) -> None:
        self.parts.pop("jwks", None)
        if self.jwks is not None:
            self.parts["jwks"] = self.jwks.part
        self.gateway.fetches_keys = self.jwks is not None

    def _adopt(self, config: Config, found: Sequence[Key]) -> None:
        """Use other keys and limits. Open sockets stay, but for those whose key is void now."""
        tokens = config.tokens
        self.verifier.demand(
            tokens.audience, tokens.issuer, tokens.max_life_hours * 3600, int(tokens.leeway_seconds)
        )
        self.gateway.adopt(config.limits, int(tokens.leeway_seconds))
        self.api.api.limit(config.limits)
        self.hub.per_user = config.limits.per_user
        if self.jwks is not None and self.jwks.url == tokens.jwks_url:
            self.jwks.configure(found)
            return
        if self.jwks is not None:
            self.jwks.stop()
        self.verifier.replace(found)
        self.jwks = self._fetched_keys(tokens.jwks_url, found)
        self._say_jwks()
        if self.jwks is not None:
            self.jwks.start()

    def _build_loops(self) -> list[Loop]:
        config, shards = self.config, self.config.redis.shards
        loops = []
        if shards > 1:
            log_ = self._log(keys.FRONT_DOOR, keys.FRONT_TAG, self._wait_at_door)
            router = Router(
                log_, RedisShards(self.reads, self.rules), shards, self._intake(), self.metrics,
                self.reactor.seconds, _report, config.fanout.claim_seconds,
            )  # fmt: skip
            loops.append(Loop(self.reactor, router, "router", config.fanout.poll_ms / 1000))
        for shard in range(shards):
            wait = self._wait_at_door if shards == 1 else self._wait_for_router(shard)
            tagged = keys.tag(shard)
            fanout = Fanout(
                self._log(keys.events(shard, shards), tagged, wait),
                Backlog(
                    self._intake(), tagged, self.rules.buckets, config.fanout.batch, config.fanout.batch_bytes,
                    config.fanout.tries, self.phones.pushes,
                ),
                self.metrics, self.reactor.seconds, _report, config.fanout.claim_seconds, self.phones.outlets(shard),
            )  # fmt: skip
            loops.append(Loop(self.reactor, fanout, f"shard {shard}", config.fanout.poll_ms / 1000))
        return loops

    def _log(self, stream: str, tagged: str, wait: Callable[[str, str, float], Awaitable[None]]) -> RedisLog:
        return RedisLog(
            self.reads,
            self.scripts,
            self.rules,
            stream,
            tagged,
            self.incarnation,
            lambda: self.slot.name,
            wait,
            self.bus,
            PushGifts(),
        )

    def _intake(self) -> Intake:
        events = self.config.events
        return Intake(
            events.types,
            self.rules.window,
            int(events.future_seconds * 1000),
            events.max_bytes,
            events.max_recipients,
        )

    async def _wait_at_door(self, stream: str, last: str, seconds: float) -> None:
        """A producer only appends, so the wake-up is a blocked read that takes nothing: it costs no poll."""
        seconds = min(seconds, self.config.redis.timeout_seconds / 2)  # well within the deadline of a call
        try:
            await self.doorbell.call(
                "XREAD", "COUNT", 1, "BLOCK", int(seconds * 1000), "STREAMS", stream, last
            )
        except (Unavailable, ReplyError):
            await deferLater(self.reactor, seconds, _nothing)

    def _wait_for_router(self, shard: int) -> Callable[[str, str, float], Awaitable[None]]:
        async def wait(stream: str, last: str, seconds: float) -> None:
            woken: Deferred[None] = deferLater(self.reactor, seconds, _nothing)
            self.bus.sleep(shard, lambda: woken.cancel())
            try:
                await woken
            except CancelledError:
                pass  # woken: there is something to read

        return wait

    def _listening(self) -> dict[str, Any]:
        """Where clients connect, by listener."""
        return {name: port.getHost() for name, port in self._ports.items() if name != "admin"}

    def _listeners(self) -> tuple[bool, str]:
        if len(self._ports) < 3:
            return False, "still to come; open: " + (", ".join(self._ports) or "none")
        return self.canary.doors()

    def _readers(self) -> tuple[bool, str]:
        """Every stream is read, by us or by another process of the same name."""
        stuck = [loop.name for loop in self.loops if loop.fault]
        late = [loop.name for loop in self.loops if self.reactor.seconds() - loop.beat > STUCK]
        if stuck or late:
            faults = [f"{loop.name}: {loop.fault}" for loop in self.loops if loop.fault]
            return False, "; ".join(faults) or f"no progress for {STUCK:g} s: {', '.join(late)}"
        mine = sum(loop.steps.owned for loop in self.loops)
        return True, f"{mine} of {len(self.loops)} streams are read here, others by other processes"

    # -- Twisted's service interface

    def setServiceParent(self, parent: Any) -> None:
        """Under twistd the parent is the application: our lines take the place of its text log."""
        settings = self.config.log
        parent.setComponent(ILogObserver, logs.observer(sys.stdout, settings.level, settings.format))
        super().setServiceParent(parent)

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._cannot_start)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _cannot_start(self, failure: Any) -> None:
        if self.state == "stopping":
            return
        if failure.check(SetupDiffers, OSError):
            log.critical("cannot start: {error}", error=failure.getErrorMessage())
        else:
            log.failure("cannot start", failure)
        # twistd has no other way to end with a status that systemd's Restart=on-failure understands
        self.reactor.addSystemEventTrigger("after", "shutdown", _exit, 1)
        self.reactor.callWhenRunning(self.reactor.stop)

    async def _start(self) -> None:
        for connection in (self.calls, self.reads, self.doorbell, self.subscription):
            connection.start()
        if self.phones.lanes:
            self.sends.start()
        # What can be said without Redis is said at once: health, metrics and an honest 503.
        await self._listen("admin", self.config.admin.listen, admin_site(self.metrics.render, self.parts))
        await self._settle_in()
        if self.jwks is not None:
            await self.jwks.start()
        self.hub.start()
        self.gateway.start()
        self.streams.start()
        for loop in self.loops:
            loop.start()
        self.phones.start()
        self.minder.start()
        await self._listen("websocket", self.config.websocket.listen, self.gateway)
        await self._listen(
            "api",
            self.config.api.listen,
            self.api,
        )
        self.canary.start()
        await self.canary.first(FIRST_CANARY)
        on_signal(self.reactor, signal.SIGHUP, self.reload)
        # What exists now stays: the collector need not walk it again, and need not come as often.
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        self.state = "ready"
        self._feed_watchdog()
        self.systemd.ready(f"{len(self.loops)} streams")
        log.info(STARTED, websocket=self.port("websocket"), api=self.port("api"), admin=self.port("admin"))

    def _feed_watchdog(self) -> None:
        """Only while the readers turn. A failing Redis is no reason to be restarted: they turn, and say so."""
        if self.systemd.watchdog_seconds is None or self.state != "ready":
            return
        # While Redis hangs they turn once for each deadline of a call.
        patience = max(STUCK, 2 * self.config.redis.timeout_seconds)
        if all(self.reactor.seconds() - loop.turned < patience for loop in self.loops):
            self.systemd.watchdog()
        self.reactor.callLater(self.systemd.watchdog_seconds / 3, self._feed_watchdog)

    def port(self, name: str) -> int | None:
        """The TCP port that a listener got."""
        return getattr(self._ports[name].getHost(), "port", None)

    async def _listen(self, name: str, description: str, factory: Any) -> None:
        factory.noisy = False  # Twisted would log a line for each start and stop of it
        try:
            self._ports[name] = await endpoint(self.reactor, description).listen(factory)
        except Exception as error:
            raise OSError(f"{name}.listen {description!r}: {error}") from error

    async def _settle_in(self) -> None:
        """Wait for Redis, however long it takes; compare what is stored with what we were told."""
        while True:
            try:
                await self.calls.ready()
                await self._check_setup()
                await self.slot.take()
                await self.inbox.refresh([])
                return
            except (Unavailable, ReplyError) as error:
                log.warn(
                    "waiting for Redis at {address}: {error}",
                    address=str(self.calls.address),
                    error=str(error),
                )
                await deferLater(self.reactor, RETRY, _nothing)

    async def _check_setup(self) -> None:
        wanted = {"version": SETUP_VERSION, "shards": self.rules.shards, "buckets": self.rules.buckets}
        for name, value in wanted.items():
            await self.calls.call("HSETNX", keys.SETUP, name, value)
        flat = await self.calls.call("HGETALL", keys.SETUP)
        stored = {flat[at].decode(): int(flat[at + 1]) for at in range(0, len(flat), 2)}
        for name, setting, way in (
            ("version", "this notifier", "run one that wrote it"),
            ("shards", "redis.shards", "use the stored value"),
            ("buckets", "events.rate", "use the stored value"),
        ):
            if stored[name] != wanted[name]:
                raise SetupDiffers(
                    f"{keys.SETUP} in Redis was set up with {name} = {stored[name]}, {setting} asks for "
                    f"{wanted[name]}. It is fixed at set-up: {way}, or use an empty Redis database."
                )

    async def _stop(self) -> None:
        """New connections first, then those there are, then the streams; the leases are given back last."""
        was_ready, self.state = self.state == "ready", "stopping"
        self._stop_by = self.reactor.seconds() + self.config.drain.timeout_seconds
        self.systemd.stopping("draining")
        # The unit's TimeoutStopSec= does not know how long this configuration drains.
        self.systemd.extend(self.config.drain.timeout_seconds + LAST_SECONDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            on_signal(self.reactor, number, partial(_at_once, number))
        if self._starting is not None:
            self._starting.cancel()
        self.phones.halt()  # what a provider was asked is answered while the sockets drain
        await self._stop_listening("websocket", "api")
        self.canary.stop()
        if was_ready:
            await self._drain()
        await self._stop_phones()
        await self._in_time(self._stop_loops(), "readers did not stop in time")
        self.minder.stop()
        if self.jwks is not None:
            self.jwks.stop()
        self.gateway.stop()
        self.streams.stop()
        self.hub.stop()
        await self._in_time(self.slot.give(), "slot not given back, it will expire")
        await self._stop_listening("admin")
        for connection in (self.subscription, self.doorbell, self.sends, self.reads, self.calls):
            await connection.stop()
        log.info("notifier has stopped")

    async def _stop_phones(self) -> None:
        """Before the slot goes: what is under way is settled under its name."""
        left = self._stop_by - self.reactor.seconds()
        longest = min(self.config.push.drain_seconds, left)
        await self._in_time(
            self.phones.stop(), "pushes under way did not end in time: they come again", longest
        )

    async def _stop_loops(self) -> None:
        for loop in self.loops:
            loop.halt()
        stops = [Deferred.fromCoroutine(loop.stop()) for loop in self.loops]
        await gatherResults(stops, consumeErrors=True)

    async def _in_time(
        self, work: Coroutine[Any, Any, Any], otherwise: str, longest: float | None = None
    ) -> None:
        """Not for ever: with Redis away each call waits for its own deadline. Leases and names expire by themselves."""
        ended = Deferred.fromCoroutine(work)
        left = self._stop_by - self.reactor.seconds() if longest is None else longest
        ended.addTimeout(max(LAST_CALLS, left), self.reactor)
        try:
            await ended
        except Exception as error:
            log.warn("{otherwise}: {error}", otherwise=otherwise, error=str(error))

    async def _stop_listening(self, *names: str) -> None:
        """Of a socket that systemd shares only our descriptor is closed: who connects now waits, or has a sibling."""
        for name in names:
            if name in self._ports:
                if kind_of(getattr(self.config, name).listen) != "systemd":
                    take_waiting(self._ports[name])
                await self._ports[name].stopListening()

    async def _drain(self) -> None:
        drain = self.config.drain
        self.gateway.drain(drain.seconds)
        self.api.drain(drain.seconds)
        until = self.reactor.seconds() + drain.timeout_seconds
        while (self.gateway.busy or self.streams.open or self.api.busy) and self.reactor.seconds() < until:
            await deferLater(self.reactor, 0.05, _nothing)
        for connection in list(self.gateway.open):
            connection.transport.abortConnection()
        for stream in list(self.streams.open):
            stream.transport.abortConnection()
        # marks that were made in the last moment
        await deferLater(self.reactor, 0.05, _nothing)


def _at_once(number: int) -> None:
    """A second signal: whoever sends it does not want to wait. What is under way comes again, as after a kill."""
    log.warn("told to stop again: ends now, without draining")
    sys.stdout.flush()
    die_of(number)


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _nothing() -> None:
    return None


def _report(line: str) -> None:
    log.warn("{line}", line=line)


__all__ = ["House", "Options", "SetupDiffers", "makeService"]
