"""Metrics: all there at start, cheap to write, true at the scrape."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from notifier.metrics import (
    SECONDS,
    TABLE,
    Counter,
    Distribution,
    Gauge,
    Histogram,
    Labelled,
    Metrics,
    Process,
)

WANTED = (
    "events_read_total", "events_handed_over_total", "notifications_total", "events_duplicate_total",
    "event_fields_dropped_total", "self_recipients_total", "dead_letters_total", "handover_failures_total",
    "entries_lost_total", "group_recreated_total", "leases_held", "lease_changes_total", "backlog_entries",
    "oldest_unacked_seconds", "pressure", "deliveries_total", "delivery_seconds_bucket",
    "delivery_seconds_sum", "delivery_seconds_count", "handover_seconds_count", "batch_size_count",
    "connections", "connections_total", "sessions", "closes_total", "auth_failures_total",
    "handshake_rejects_total", "acks_total", "marks_total", "joins_total", "gaps_total", "frames_in_total",
    "slow_clients_total", "bells_total", "bells_stale_total", "refreshes_total", "redis_reconnects_total",
    "redis_errors_total", "reactor_lag_seconds", "build_info",
)  # fmt: skip

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_metric_reads_zero_at_start() -> None:
    samples = scrape(Metrics({"dead_letters": ("schema", "stale")}))
    names = {name for name, _ in samples}
    assert {f"notifier_{name}" for name in WANTED} <= names
    assert {value for (name, _), value in samples.items() if name.startswith("notifier_")} == {0.0, 1.0}
    assert [name for (name, _), value in samples.items() if name.startswith("notifier_") and value] == [
        "notifier_build_info"
    ]


def test_every_line_of_the_table_has_help_and_a_kind_that_fits_its_annotation() -> None:
    kinds = {
        int: Counter | Gauge,
        Labelled: Counter | Gauge,
        float: Gauge,
        Histogram: Distribution,
    }
    metrics = Metrics()
    for name, entry in TABLE.items():
        assert entry.help.endswith("."), name
        value = getattr(metrics, name)
        assert isinstance(entry, kinds[type(value)]), name
        assert isinstance(value, Labelled) == bool(getattr(entry, "label", "")), name


def test_a_gauge_may_have_labels() -> None:
    metrics = Metrics({"push_breaker": ("demo apns", "demo fcm")})
    metrics.push_breaker["demo fcm"] = 2
    samples = scrape(metrics)
    found = {labels: value for (name, labels), value in samples.items() if name == "notifier_push_breaker"}
    assert found == {
        (("app", "demo"), ("provider", "apns")): 0,
        (("app", "demo"), ("provider", "fcm")): 2,
    }
    with pytest.raises(ValueError, match="not a gauge"):
        metrics.watch("push_breaker", lambda: 1.0)


def test_attributes_arrive_in_the_exposition() -> None:
    metrics = Metrics({"dead_letters": ("schema",)})
    metrics.events_read += 3
    metrics.dead_letters["schema"] += 2
    metrics.leases_held = 4
    metrics.joins["resume"] += 1
    samples = scrape(metrics)
    assert samples["notifier_events_read_total", ()] == 3
    assert samples["notifier_dead_letters_total", (("reason", "schema"),)] == 2
    assert samples["notifier_leases_held", ()] == 4
    assert samples["notifier_joins_total", (("result", "resume"),)] == 1


def test_there_are_no_attributes_but_those_of_the_table() -> None:
    with pytest.raises(AttributeError):
        Metrics().events_raed = 1  # type: ignore[attr-defined]


def test_a_label_from_outside_cannot_make_the_exposition_grow() -> None:
    metrics = Metrics()
    before = len(scrape(metrics))
    for code in range(3000, 5000):
        metrics.closes.count(code)
    samples = scrape(metrics)
    assert len(samples) == before
    assert samples["notifier_closes_total", (("code", "4002"),)] == 1
    assert sum(value for (name, _), value in samples.items() if name == "notifier_closes_total") == 2000


def test_an_undeclared_label_in_the_code_is_a_bug_that_names_the_declared_ones() -> None:
    metrics = Metrics({"dead_letters": ("schema",)})
    with pytest.raises(KeyError, match="'shcema' was not declared at start; declared: schema, other"):
        metrics.dead_letters["shcema"] += 1


@pytest.mark.parametrize("name", ["no_such", "events_read", "leases_held"])
def test_labels_for_what_has_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Metrics({name: ("x",)})


def test_a_watched_gauge_is_read_at_the_scrape() -> None:
    metrics, users = Metrics(), ["ana"]
    metrics.watch("sessions", lambda: len(users))
    assert scrape(metrics)["notifier_sessions", ()] == 1
    users.append("bo")
    assert scrape(metrics)["notifier_sessions", ()] == 2


def test_a_gauge_that_cannot_be_read_is_nan_and_hides_nothing() -> None:
    metrics = Metrics()
    metrics.watch("connections", lambda: 1 / 0)
    metrics.events_read += 1
    assert math.isnan(scrape(metrics)["notifier_connections", ()])
    samples = scrape(metrics)
    assert samples["notifier_events_read_total", ()] == 1
    assert samples["notifier_scrape_errors_total", ()] == 2


def test_only_gauges_are_watched() -> None:
    with pytest.raises(ValueError, match="'events_read' is not a gauge; gauges: leases_held, "):
        Metrics().watch("events_read", lambda: 0)


@given(st.lists(st.tuples(st.floats(), st.integers(1, 5))))
def test_histogram_against_a_plain_count(values: list[tuple[float, int]]) -> None:
    histogram = Histogram(SECONDS)
    for value, times in values:
        histogram.observe(value, times)
    buckets = histogram.buckets()
    assert [upper for upper, _ in buckets] == [*map(str, SECONDS), "+Inf"]
    assert all(low <= high for (_, low), (_, high) in pairwise(buckets))
    assert buckets[-1][1] == histogram.count == sum(times for _, times in values)
    sound = [(value, times) for value, times in values if not math.isnan(value)]
    if len(sound) == len(values):
        for upper, count in buckets[:-1]:
            assert count == sum(times for value, times in sound if value <= float(upper))
    assert not math.isnan(histogram.total)
    assert histogram.total >= 0


def test_histogram_bounds_are_inclusive_and_its_sum_is_exported() -> None:
    metrics = Metrics()
    metrics.delivery_seconds.observe(0.01)
    metrics.delivery_seconds.observe(0.25, times=2)
    metrics.delivery_seconds.observe(99.0)
    samples = scrape(metrics)
    bucket = "notifier_delivery_seconds_bucket"
    at = {dict(labels)["le"]: value for (name, labels), value in samples.items() if name == bucket}
    assert (at["0.005"], at["0.01"], at["0.1"], at["0.25"], at["30.0"], at["+Inf"]) == (0, 1, 1, 3, 3, 4)
    assert samples["notifier_delivery_seconds_sum", ()] == pytest.approx(99.51)
    assert samples["notifier_delivery_seconds_count", ()] == 4


def test_processes_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.events_read += 1
    one.delivery_seconds.observe(1)
    assert (other.events_read, other.delivery_seconds.count) == (0, 0)


def test_process_metrics_are_there_also_where_proc_stat_is_hidden(tmp_path: Path) -> None:
    assert ("process_resident_memory_bytes", ()) in scrape(Metrics())
    (tmp_path / "self").symlink_to("/proc/self")
    found = {m.name: m.samples[0].value for m in Process(proc=str(tmp_path), registry=None).collect()}
    assert found["process_resident_memory_bytes"] > 0
    assert abs(found["process_start_time_seconds"] - time.time()) < 86_400


def test_writing_is_cheap() -> None:
    """Bounds far above the cost (17 and 130 ns on a slow machine): they catch locks and label look-ups."""
    metrics = Metrics()
    histogram = metrics.delivery_seconds

    def counter() -> None:
        for _ in range(10_000):
            metrics.events_read += 1

    def observe() -> None:
        for _ in range(10_000):
            histogram.observe(0.02)

    def best(work: Callable[[], None]) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return min(times) / 10_000

    assert best(counter) < 0.3e-6
    assert best(observe) < 1.5e-6
