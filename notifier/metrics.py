"""Every metric of notifier in one table, made at start so that each one reads 0 before anything has happened.

Writers touch plain attributes (`metrics.events_read += 1`); Prometheus types exist only while a scrape runs.
"""

from __future__ import annotations

import math
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Annotated, get_args, get_type_hints

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "PREFIX", "Histogram", "Labelled", "Metrics", "build_facts"]

PREFIX = "notifier_"
OTHER = "other"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

CLOSE_CODES = (
    "1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1011", "1012", "1013",
    "4001", "4002", "4003", "4005", "4006", "4501", "4503", "4504", "4508", "4509", "4510",
)  # fmt: skip
EVENT_STATUS = ("accepted", "rejected", "failed", "unknown")
API_LIMITS = ("person", "address", "backlog")
JWKS_RESULTS = ("done", "failed", "unusable")
CONNECTION_EVENTS = (
    "made", "failed", "goaways", "replayed", "refused", "reset", "lost", "garbled", "late", "waited",
)  # fmt: skip
REDIS_LINKS = ("commands", "reader", "doorbell", "bell", "pushes")
REDIS_ERRORS = ("timeout", "connection", "script", "oom", "loading", "readonly")


class Labelled(dict[str, int]):
    """A counter per label value, over a set of values closed at start; `other` is always among them.

    `counts["schema"] += 1` is fast, for a label that the code itself writes; it raises KeyError for an
    undeclared one. `count(value)` is for values from outside: it counts an undeclared one as `other`,
    so that no peer can make the exposition grow.
    """

    __slots__ = ()

    def __init__(self, values: Iterable[str]) -> None:
        super().__init__(dict.fromkeys((*values, OTHER), 0))

    def __missing__(self, value: object) -> int:
        raise KeyError(f"metric label {value!r} was not declared at start; declared: {', '.join(self)}")

    def count(self, value: str | int, times: int = 1) -> None:
        label = str(value)
        self[label if label in self else OTHER] += times


class Histogram:
    """Counts by upper bound (inclusive) and the sum of what was observed, in the unit of its name."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times: one call serves a batch whose items share a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        # Two machines' clocks can make a duration negative, and a sum that falls reads as a restart.
        if value > 0.0:
            self.total += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative (upper bound, count) pairs up to +Inf, as Prometheus wants them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


@dataclass(frozen=True, slots=True)
class Counter:
    """Table entry: a number that only rises; with `label`, one number for each of `values`.

    Two labels are one, with a space in its name and in each of its values: "route status", "inbox 2xx".
    """

    help: str
    label: str = ""
    values: tuple[str, ...] = ()

    def make(self, more: Iterable[str]) -> int | Labelled:
        return Labelled((*self.values, *more)) if self.label else 0

    def family(self, name: str, value: object) -> Metric:
        if isinstance(value, Labelled):
            names = self.label.split()
            family = CounterMetricFamily(name, self.help, labels=names)
            for label, count in value.items():
                family.add_metric([label] * len(names) if label == OTHER else label.split(), count)
            return family
        assert isinstance(value, int | float)
        return CounterMetricFamily(name, self.help, value=value)


@dataclass(frozen=True, slots=True)
class Gauge:
    """Table entry: a number that rises and falls; `Metrics.watch` can have it read at scrape time instead.

    With `label`, one number for each of its values, set by who knows them. Two labels are one, as for Counter.
    """

    help: str
    label: str = ""

    def make(self, more: Iterable[str]) -> int | Labelled:
        return Labelled(more) if self.label else 0

    def family(self, name: str, value: object) -> Metric:
        if isinstance(value, Labelled):
            family = GaugeMetricFamily(name, self.help, labels=self.label.split())
            for label, number in value.items():
                if label != OTHER:  # nothing from outside ever sets one
                    family.add_metric(label.split(), number)
            return family
        assert isinstance(value, int | float)
        return GaugeMetricFamily(name, self.help, value=value)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Table entry: a histogram."""

    help: str
    bounds: tuple[float, ...] = SECONDS

    def make(self, _: Iterable[str]) -> Histogram:
        return Histogram(self.bounds)

    def family(self, name: str, value: object) -> Metric:
        assert isinstance(value, Histogram)
        return HistogramMetricFamily(name, self.help, buckets=value.buckets(), sum_value=value.total)


Entry = Counter | Gauge | Distribution


@dataclass(slots=True, init=False, repr=False, eq=False)
class Metrics:
    """The numbers of one process; one line below is one metric, exported as `notifier_<line's name>`.

    Counters are exported with `_total` at the end. `labels` adds label values that other modules own:
    `Metrics({"dead_letters": REASONS})`. Raises ValueError for a name that is no labelled metric.
    """

    # The path of an event
    events_read: Annotated[int, Counter("Entries read from the event streams.")]
    events_handed_over: Annotated[int, Counter("Events applied to every inbox they address.")]
    notifications: Annotated[Labelled, Counter("Inbox changes made.", "kind", ("notification", "retract"))]
    events_duplicate: Annotated[int, Counter("(event, recipient) pairs that had been applied before.")]
    event_fields_dropped: Annotated[int, Counter("Unknown fields dropped from events.")]
    self_recipients: Annotated[int, Counter("Recipients skipped because they were the actor.")]
    dead_letters: Annotated[Labelled, Counter("Entries buried in the dead letters.", "reason")]
    handover_failures: Annotated[int, Counter("(event, recipient) pairs whose handover failed.")]
    entries_lost: Annotated[int, Counter("Pending entries whose content vanished from Redis. Alarm above 0.")]
    group_recreated: Annotated[int, Counter("Consumer groups found missing and made again. Alarm above 0.")]
    batch_size: Annotated[Histogram, Distribution("(event, recipient) pairs in one handover call.", SIZES)]
    handover_seconds: Annotated[Histogram, Distribution("Time of one handover call.")]
    # Ownership and backlog
    leases_held: Annotated[float, Gauge("Shards that this process reads.")]
    lease_changes: Annotated[int, Counter("Leases taken or lost.")]
    backlog_entries: Annotated[float, Gauge("Entries that stand in the event streams.")]
    oldest_unacked_seconds: Annotated[float, Gauge("Age of the oldest entry that has not been acknowledged.")]
    pressure: Annotated[float, Gauge("1 while the backlog is over its limit and producers shall wait.")]
    canary_age_seconds: Annotated[float, Gauge("Time since a canary last came back. Alarm above 15.")]
    canary_seconds: Annotated[Histogram, Distribution("Time of a canary from its XADD to its session.")]
    # Sockets
    connections: Annotated[float, Gauge("Open WebSocket connections, authenticated or not.")]
    connections_total: Annotated[int, Counter("WebSocket connections that were accepted.")]
    sessions: Annotated[float, Gauge("Authenticated WebSocket sessions.")]
    deliveries: Annotated[int, Counter("Notification frames written to sockets.")]
    delivery_seconds: Annotated[Histogram, Distribution("Time from an event's acceptance to its socket.")]
    closes: Annotated[Labelled, Counter("WebSockets and event streams closed.", "code", CLOSE_CODES)]
    auth_failures: Annotated[Labelled, Counter("Tokens refused.", "reason")]
    handshake_rejects: Annotated[Labelled, Counter("WebSocket handshakes refused.", "reason")]
    frames_in: Annotated[int, Counter("Messages received from clients.")]
    acks: Annotated[int, Counter("Receipts received from clients.")]
    marks: Annotated[Labelled, Counter("Inbox marks applied.", "kind", ("seen", "read", "delete"))]
    joins: Annotated[Labelled, Counter("Sessions joined.", "result", ("fresh", "load", "resume", "resync"))]
    gaps: Annotated[int, Counter("Sessions that found a hole in their live sequence and fetched it.")]
    slow_clients: Annotated[int, Counter("Connections closed because the client was too slow.")]
    bells: Annotated[int, Counter("Bell messages heard.")]
    bells_stale: Annotated[int, Counter("Bell messages dropped: late, or for nobody connected here.")]
    bells_malformed: Annotated[int, Counter("Bells that cannot be read, or messages of them.")]
    refreshes: Annotated[int, Counter("Persons compared with Redis by the refresh sweep.")]
    inboxes_unreadable: Annotated[int, Counter("Inboxes that the refresh sweep could not read.")]
    # The HTTP API
    api_requests: Annotated[
        Labelled, Counter("API requests answered, but for streams that were begun.", "route status")
    ]
    streams: Annotated[float, Gauge("Open event streams (GET /v1/stream); they are among the sessions.")]
    streams_total: Annotated[int, Counter("Event streams that were begun.")]
    api_events: Annotated[Labelled, Counter("Events received by POST /v1/events.", "status", EVENT_STATUS)]
    api_limited: Annotated[Labelled, Counter("API requests answered with 429.", "limit", API_LIMITS)]
    jwks_fetches: Annotated[Labelled, Counter("Fetches of the key set.", "result", JWKS_RESULTS)]
    jwks_keys: Annotated[float, Gauge("Fetched keys that are in use.")]
    jwks_age_seconds: Annotated[float, Gauge("Time since the key set was last fetched; 0 without a key set.")]
    reloads: Annotated[Labelled, Counter("Reloads of keys and limits.", "result", ("done", "refused"))]
    # Phones, by lane: one app at one provider
    push_entries: Annotated[Labelled, Counter("Pushes to make that were read from a lane.", "app provider")]
    push_outcomes: Annotated[Labelled, Counter("Answers of providers.", "app provider outcome")]
    push_reasons: Annotated[Labelled, Counter("Answers other than a plain yes.", "provider reason")]
    push_drops: Annotated[Labelled, Counter("Pushes that were not needed.", "app provider reason")]
    push_retries: Annotated[Labelled, Counter("Deliveries put off until later.", "app provider")]
    push_forgotten: Annotated[Labelled, Counter("Devices forgotten on a provider's word.", "app provider")]
    push_newer: Annotated[int, Counter("Looks at pushes or devices of a newer version, left to it.")]
    devices_unreadable: Annotated[int, Counter("Looks at devices that are damaged; each costs itself alone.")]
    push_strangers: Annotated[int, Counter("Devices taken off a person's list, for they are another's now.")]
    push_settle_failures: Annotated[int, Counter("Pushes whose settlement failed. Alarm above 0.")]
    push_bugs: Annotated[int, Counter("Sends that ended in a bug; tried again. Alarm above 0.")]
    push_seconds: Annotated[Histogram, Distribution("Time from the lane to the provider's yes, first tries.")]
    push_batch_seconds: Annotated[Histogram, Distribution("Time of one batch, all but its reading.")]
    push_backlog: Annotated[Labelled, Gauge("Pushes that stand in a lane.", "app provider")]
    push_unsettled: Annotated[
        Labelled, Gauge("Pushes that are answered and cannot be written down. Alarm above 0.", "app provider")
    ]
    push_breaker: Annotated[
        Labelled, Gauge("2 while a lane's breaker is open, 1: trying.", "app provider environment")
    ]
    push_suspended: Annotated[Labelled, Gauge("Environments whose tokens seem bad in mass.", "app provider")]
    push_certificate_expires: Annotated[
        Labelled, Gauge("When an app's APNs certificate ends, s since 1970; 0: it has none.", "app")
    ]
    push_connection_events: Annotated[
        Labelled, Counter("What has happened on connections to a provider.", "app provider event")
    ]
    push_connections: Annotated[Labelled, Gauge("Connections to a provider.", "app provider")]
    push_streams: Annotated[Labelled, Gauge("Requests to a provider under way.", "app provider")]
    push_queue: Annotated[Labelled, Gauge("Requests that wait for room on a connection.", "app provider")]
    push_woken: Annotated[int, Counter("Deliveries brought back to their lane when they came due.")]
    push_due: Annotated[float, Gauge("Deliveries that wait until they come due.")]
    # Redis and the process
    redis_reconnects: Annotated[Labelled, Counter("Connections to Redis made again.", "link", REDIS_LINKS)]
    redis_errors: Annotated[Labelled, Counter("Redis calls that failed.", "kind", REDIS_ERRORS)]
    reactor_lag_seconds: Annotated[float, Gauge("How late the last probe of the reactor ran.")]
    scrape_errors: Annotated[int, Counter("Watched gauges that could not be read; they are exported as NaN.")]

    _watched: dict[str, Callable[[], float]]
    _gathered: list[Callable[[], None]]
    _registry: CollectorRegistry

    def __init__(self, labels: Mapping[str, Iterable[str]] | None = None) -> None:
        more = dict(labels or {})
        for name, entry in TABLE.items():
            labelled = isinstance(entry, Counter | Gauge) and entry.label
            setattr(self, name, entry.make(more.pop(name, ()) if labelled else ()))
        if more:
            raise ValueError(f"no labelled metric called {', '.join(sorted(more))} in notifier/metrics.py")
        self._watched = {}
        self._gathered = []
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        PlatformCollector(registry=self._registry)
        Process(registry=self._registry)

    def watch(self, gauge: str, read: Callable[[], float]) -> None:
        """Have `gauge` read by calling `read` at each scrape. Raises ValueError if there is no such gauge."""
        if gauge not in _gauges():
            raise ValueError(f"{gauge!r} is not a gauge; gauges: {', '.join(_gauges())}")
        self._watched[gauge] = read

    def gather(self, write: Callable[[], None]) -> None:
        """Have `write` called at each scrape before all is read: it sets metrics that nobody need keep up to date."""
        self._gathered.append(write)

    def render(self) -> bytes:
        """All metrics in Prometheus text format, UTF-8; serve it as CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _gather(self) -> None:
        for write in self._gathered:
            try:
                write()
            except Exception:  # what it would have set stays as it was
                self.scrape_errors += 1

    def _read(self, name: str) -> object:
        read = self._watched.get(name)
        if read is None:
            return getattr(self, name)
        try:
            return float(read())
        except Exception:  # one broken part must not hide the others' numbers
            self.scrape_errors += 1
            return math.nan


def _table() -> dict[str, Entry]:
    hints = get_type_hints(Metrics, include_extras=True)
    return {name: get_args(hint)[1] for name, hint in hints.items() if not name.startswith("_")}


def _gauges() -> list[str]:
    return [name for name, entry in TABLE.items() if isinstance(entry, Gauge) and not entry.label]


TABLE = _table()


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._build = build_facts()

    def collect(self) -> Iterator[Metric]:
        self._metrics._gather()
        yield InfoMetricFamily(PREFIX + "build", "What is running; the value is 1.", value=self._build)
        for name, entry in TABLE.items():
            yield entry.family(PREFIX + name, self._metrics._read(name))


class Process(ProcessCollector):
    """CPU, memory and descriptors, also where /proc/stat is hidden (systemd's ProcSubset=pid)."""

    def _boot_time(self) -> float:
        # The base class reads /proc/stat, and without it silently exports nothing at all.
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def build_facts() -> dict[str, str]:
    """Versions of what runs, `unknown` for a package that is not installed as one."""
    python = platform.python_version()
    return {"version": _version("notifier"), "python": python, "twisted": _version("twisted")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
