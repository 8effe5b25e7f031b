"""Alert rules and dashboard: every name exists, every alarm can ring and be silent, and has its page."""

# mypy: allow-untyped-calls
# (Twisted's testing reactor has no annotations)

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.testing import MemoryReactorClock

from notifier.config import Apns, App, Config, Fcm
from notifier.sandbox.credentials import KEY_ID, TEAM_ID, make_credentials
from notifier.service import House
from tests.daemon import ROOT
from tests.servers import missing

ALERTS: Final = ROOT / "conf/alerts.yml"
DASHBOARD: Final = ROOT / "conf/grafana.json"
OPERATIONS: Final = ROOT / "docs/operations.md"
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
NAMES: Final = [rule["alert"] for rule in RULES]
PROMETHEUS: Final = {"up": [{"job": "notifier"}]}  # made by the scrape itself
SELECTOR: Final = re.compile(r"\b((?:notifier|process|up)[a-z_]*)\b(?!\()(?:\{([^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
OF_THE_SCRAPE: Final = {"job", "instance"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What a process exports: the label sets by name of the sample."""
    found: dict[str, list[dict[str, str]]] = dict(PROMETHEUS)
    made = make_credentials(tmp_path_factory.mktemp("credentials"))
    apns = Apns("com.example.photos", str(made.apns_key), KEY_ID, TEAM_ID)
    photos = App(apns=apns, fcm=Fcm(str(made.service_account)))
    house = House(Config(apps={"photos": photos}), MemoryReactorClock())
    for family in text_string_to_metric_families(house.metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def faults(expression: str, samples: dict[str, list[dict[str, str]]]) -> list[str]:
    """Names and label values in an expression that no process exports."""
    found = []
    for name, selector in SELECTOR.findall(expression):
        if name not in samples:
            found.append(f"no metric {name}")
            continue
        for label, operator, value in MATCHER.findall(selector):
            known = {labels[label] for labels in samples[name] if label in labels}
            if label in OF_THE_SCRAPE or "$" in value:
                continue
            values = set(value.split("|")) if "~" in operator else {value}
            found += [f"{name} has no {label}={each}" for each in sorted(values - known)]
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        known = {
            label
            for name, _ in SELECTOR.findall(expression)
            for each in samples.get(name, [])
            for label in each
        }
        found += [
            f"nothing has a label {each}" for each in labels.split(", ") if each not in known | OF_THE_SCRAPE
        ]
    return found


def test_a_wrong_name_is_found(samples: dict[str, list[dict[str, str]]]) -> None:
    wrong = 'sum by (cause) (notifier_gone_total) + notifier_dead_letters_total{reason=~"bug|whim"}'
    assert faults(wrong, samples) == [
        "no metric notifier_gone_total",
        "notifier_dead_letters_total has no reason=whim",
        "nothing has a label cause",
    ]


# -- alarms


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alarm_asks_for_what_is_there(
    rule: dict[str, Any], samples: dict[str, list[dict[str, str]]]
) -> None:
    assert SELECTOR.findall(rule["expr"])
    assert faults(rule["expr"], samples) == []
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]


def test_each_alarm_has_its_page_and_each_page_its_alarm() -> None:
    headings = re.findall(r"^### (Notifier\w+)$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == NAMES
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    page = OPERATIONS.read_text(encoding="utf-8").split(f"\n### {name}\n")[1].split("\n##")[0]
    told = [page.find(f"**{part}**") for part in ("Means", "Look", "Do")]
    assert -1 not in told and told == sorted(told)


# What rings each alarm: series as promtool writes them (start + step x times, a step a minute), an hour long.
FLAT: Final = "0x60"
RINGS: Final[dict[str, dict[str, str]]] = {
    "NotifierAllDown": {'up{job="notifier"}': "0x60"},
    "NotifierNotReady": {"notifier_canary_age_seconds": "20x60"},
    "NotifierNobodyReads": {"notifier_leases_held": "0x60"},
    "NotifierEventsLate": {"notifier_oldest_unacked_seconds": "45x60"},
    "NotifierPressure": {"notifier_pressure": "1x60"},
    "NotifierEntriesLost": {"notifier_entries_lost_total": "0x55 1 1 1 1 1"},
    "NotifierGroupRecreated": {"notifier_group_recreated_total": "0x55 1 1 1 1 1"},
    "NotifierCannotApply": {'notifier_dead_letters_total{reason="handover"}': "0x55 1 1 1 1 1"},
    "NotifierRedisFull": {'notifier_redis_errors_total{kind="oom"}': "0+5x60"},
    "NotifierRedisReadOnly": {'notifier_redis_errors_total{kind="readonly"}': "0+5x60"},
    "NotifierFull": {'notifier_handshake_rejects_total{reason="full"}': "0+1x60"},
    "NotifierDeliverySlow": {
        'notifier_delivery_seconds_bucket{le="1.0"}': "0+90x60",
        'notifier_delivery_seconds_bucket{le="2.5"}': "0+100x60",
        'notifier_delivery_seconds_bucket{le="+Inf"}': "0+100x60",
    },
    "NotifierTokensRefused": {
        'notifier_auth_failures_total{reason="signature"}': "0+300x60",
        'notifier_joins_total{result="fresh"}': "0+60x60",
    },
    "NotifierResyncs": {'notifier_joins_total{result="resync"}': "0+100x60", "notifier_sessions": "1000x60"},
    "NotifierDown": {'up{job="notifier"}': "0x60"},
    "NotifierRestarts": {'process_start_time_seconds{job="notifier"}': "0+60x60"},
    "NotifierDeadLetters": {'notifier_dead_letters_total{reason="schema"}': "0+1x60"},
    "NotifierRedisErrors": {'notifier_redis_errors_total{kind="timeout"}': "0+60x60"},
    "NotifierRedisReconnects": {'notifier_redis_reconnects_total{link="bell"}': "0+1x60"},
    "NotifierLeasesMove": {"notifier_lease_changes_total": "0+5x60"},
    "NotifierBusy": {"notifier_reactor_lag_seconds": "0.5x60"},
    "NotifierDescriptors": {
        'process_open_fds{job="notifier"}': "900x60",
        'process_max_fds{job="notifier"}': "1000x60",
    },
    "NotifierHandshakesRefused": {'notifier_handshake_rejects_total{reason="address_rate"}': "0+600x60"},
    "NotifierSlowClients": {"notifier_slow_clients_total": "0+10x60", "notifier_sessions": "100x60"},
    "NotifierGaps": {"notifier_gaps_total": "0+120x60", "notifier_deliveries_total": "0+600x60"},
    "NotifierScrapeErrors": {"notifier_scrape_errors_total": "0+1x60"},
    "NotifierLaneDown": {'notifier_push_breaker{app="photos",environment="production",provider="apns"}': "2x60"},
    "NotifierLaneSuspended": {'notifier_push_suspended{app="photos",provider="fcm"}': "1x60"},
    "NotifierPushesWait": {'notifier_push_backlog{app="photos",provider="fcm"}': "20000x60"},
    "NotifierLaneUnread": {'notifier_push_backlog{app="(unconfigured)",provider="fcm"}': "1x60"},
    "NotifierPushesUnsettled": {'notifier_push_unsettled{app="photos",provider="fcm"}': "1x60"},
    "NotifierSenderStopped": {'notifier_push_unsettled{app="photos",provider="fcm"}': "1000x60"},
    "NotifierPushBugs": {"notifier_push_bugs_total": "0+1x60"},
    "NotifierCertificateEnds": {'notifier_push_certificate_expires{app="photos"}': "86400x60"},
}  # fmt: skip
# A day like any other. Counters that nobody should see rise stand still.
QUIET: Final = {
    'up{job="notifier"}': "1x60",
    'process_start_time_seconds{job="notifier"}': "1x60",
    'process_open_fds{job="notifier"}': "100x60",
    'process_max_fds{job="notifier"}': "1000x60",
    "notifier_leases_held": "1x60",
    "notifier_sessions": "1000x60",
    "notifier_canary_age_seconds": "3x60",
    "notifier_oldest_unacked_seconds": "0.2x60",
    "notifier_pressure": FLAT,
    "notifier_reactor_lag_seconds": "0.01x60",
    "notifier_deliveries_total": "0+6000x60",
    'notifier_joins_total{result="fresh"}': "0+60x60",
    'notifier_joins_total{result="resync"}': "0+1x60",
    'notifier_auth_failures_total{reason="expired"}': "0+6x60",
    'notifier_dead_letters_total{reason="schema"}': "0 1+0x59",
    'notifier_dead_letters_total{reason="handover"}': FLAT,
    'notifier_delivery_seconds_bucket{le="1.0"}': "0+100x60",
    'notifier_delivery_seconds_bucket{le="+Inf"}': "0+100x60",
    'notifier_handshake_rejects_total{reason="full"}': FLAT,
    'notifier_handshake_rejects_total{reason="draining"}': "0+900x60",
    'notifier_redis_errors_total{kind="oom"}': FLAT,
    'notifier_redis_errors_total{kind="connection"}': "0 1+0x59",
    'notifier_redis_reconnects_total{link="bell"}': "0 1+0x59",
    "notifier_slow_clients_total": "0 2+0x59",
    "notifier_gaps_total": "0 2+0x59",
    "notifier_entries_lost_total": FLAT,
    "notifier_group_recreated_total": FLAT,
    "notifier_scrape_errors_total": FLAT,
    "notifier_lease_changes_total": "0 1+0x59",
    'notifier_push_breaker{app="photos",environment="production",provider="apns"}': "0x55 2 1 0 0 0",
    'notifier_push_suspended{app="photos",provider="fcm"}': FLAT,
    'notifier_push_backlog{app="photos",provider="fcm"}': "12x60",
    'notifier_push_backlog{app="(unconfigured)",provider="fcm"}': FLAT,
    'notifier_push_unsettled{app="photos",provider="fcm"}': "0x55 1003 0 0 0 0",
    "notifier_push_bugs_total": FLAT,
    'notifier_push_certificate_expires{app="photos"}': "9000000x60",
    'notifier_push_certificate_expires{app="keyed"}': FLAT,
}  # fmt: skip


def test_promtool_hears_each_alarm_ring_and_all_silent_on_a_quiet_day(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        missing("promtool", "not in PATH; Debian has it in the package prometheus")
    assert list(RINGS) == NAMES
    tests = [group(RINGS[name], {name}) for name in NAMES] + [group(QUIET, set())]
    (tmp_path / "alerts.yml").write_text(silenced(ALERTS.read_text(encoding="utf-8")), encoding="utf-8")
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": ["alerts.yml"], "tests": tests}), encoding="utf-8"
    )
    check = subprocess.run(
        ["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
    test = ["promtool", "test", "rules", "test.yml"]
    done = subprocess.run(test, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def silenced(rules: str) -> str:
    """The rules with the alarm's name for their only label and annotation: what promtool compares besides ringing."""
    tree = yaml.safe_load(rules)
    for rule in tree["groups"][0]["rules"]:
        rule["expr"] = f"count({rule['expr']}) > 0"
        rule["labels"], rule["annotations"] = {}, {}
    return json.dumps(tree)


def group(series: dict[str, str], ringing: set[str]) -> dict[str, Any]:
    """One world, and which alarms must ring in it after 58 minutes; in the quiet one all others must not."""
    asked = ringing or set(NAMES)
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "58m", "alertname": name, "exp_alerts": [{}] if name in ringing else []}
            for name in sorted(asked)
        ],
    }


# -- the dashboard


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def test_a_panel_shows_what_is_there(samples: dict[str, list[dict[str, str]]]) -> None:
    shown = [panel for panel in panels() if panel["type"] != "row"]
    assert len(shown) > 20
    for panel in shown:
        assert panel["title"] and panel["description"] and panel["targets"]
        for target in panel["targets"]:
            assert SELECTOR.findall(target["expr"])
            assert faults(target["expr"], samples) == [], panel["title"]


def test_the_dashboard_shows_every_metric_that_an_alarm_asks_for() -> None:
    targets = [target for panel in panels() for target in panel.get("targets", ())]
    drawn, asked = (
        {name for query in queries for name, _ in SELECTOR.findall(query["expr"])}
        for queries in (targets, RULES)
    )
    rare = {"notifier_group_recreated_total", "notifier_scrape_errors_total"}
    assert asked - drawn == rare | {"process_start_time_seconds"}  # an annotation shows the starts


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
