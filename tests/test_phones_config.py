"""What the configuration says of phones, in the words of the parts; and what is taken from it without a restart."""

# mypy: allow-untyped-calls
# (Twisted's testing reactor has no annotations)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.testing import MemoryReactorClock

from notifier import phones as whole
from notifier.config import Apns, App, Config, Events, Fcm, Gcm, Push, TypePush
from notifier.core.breaker import BreakerRule
from notifier.core.credentials import CredentialError
from notifier.core.devices import App as DeviceApp
from notifier.core.gate import GateRule
from notifier.core.guard import GuardRule
from notifier.core.lanes import Lane, Rule
from notifier.core.push import Style
from notifier.core.retry import RetryRule
from notifier.edge.http2.pool import Sizes
from notifier.edge.store import Rules, Scripts
from notifier.metrics import Metrics
from notifier.phones import Phones, apps_of, build, gate_of, lanes_of, looks_of, pushes_of
from notifier.sandbox.credentials import KEY_ID, TEAM_ID, Credentials, make_credentials
from notifier.sending import labels

ANYTHING: Any = None


@pytest.fixture
def made(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


def apple(made: Credentials, **more: Any) -> Apns:
    return Apns("com.example.photos", str(made.apns_key), KEY_ID, TEAM_ID, **more)


def configured(made: Credentials, **more: Any) -> Config:
    app = App(apns=apple(made, environment="sandbox"), fcm=Fcm(str(made.service_account)))
    return Config(apps={"photos": app}, **more)


def phones(config: Config) -> Phones:
    metrics = Metrics(labels(lanes_of(config)))
    said: list[str] = []
    return Phones(
        MemoryReactorClock(), config, ANYTHING, Scripts(), Rules(shards=2), ANYTHING, lambda: "slot", metrics,
        said.append,
    )  # fmt: skip


def test_a_lane_is_an_app_at_a_provider(made: Credentials) -> None:
    gateway = App(gcm=Gcm("https://push.example.com/", str(made.apns_key)))
    config = Config(apps={"web": gateway, "mac": App(apns=apple(made))})
    assert lanes_of(config) == (Lane("mac", "apns"), Lane("web", "fcm"))
    assert lanes_of(configured(made)) == (Lane("photos", "apns"), Lane("photos", "fcm"))
    assert lanes_of(Config()) == ()


def test_devices_are_registered_with_what_an_app_has(made: Credentials) -> None:
    assert apps_of(configured(made)) == {"photos": DeviceApp(frozenset(("apns", "fcm")), "sandbox")}


def test_handover_asks_nothing_of_phones_without_an_app(made: Credentials) -> None:
    assert pushes_of(Config()) == {}
    types = {"comment": TypePush(push="off"), "wave": TypePush(push="always", ttl_seconds=60)}
    config = configured(made, types=types, events=Events(types=("like", "comment", "wave")))
    assert pushes_of(config) == {
        "like": Rule("offline", 21_600_000),
        "comment": Rule("off", 86_400_000),
        "wave": Rule("always", 60_000),
    }


def test_looks_are_those_of_the_types(made: Credentials) -> None:
    told = TypePush(
        sound="", channel="c", category="k", interruption="passive", hidden="on", collapse="group"
    )
    styles = looks_of(configured(made, types={"like": told})).styles
    assert styles["follow"] == Style(ttl=86_400)
    assert styles["like"] == Style(
        collapse="group", ttl=21_600, sound="", channel="c", category="k", interruption="passive", hidden=True
    )


def test_the_defaults_are_those_of_the_rules() -> None:
    assert gate_of(Push()) == GateRule(RetryRule(), BreakerRule(), GuardRule())
    assert gate_of(Push(guard_least=7, tries=2, breaker_failures=9)) == GateRule(
        RetryRule(tries=2), BreakerRule(failures=9), GuardRule(least=7)
    )


@pytest.mark.parametrize("provider", ["apns", "fcm"])
def test_connections_to_a_provider_are_as_many_as_it_is_told(
    made: Credentials, monkeypatch: pytest.MonkeyPatch, provider: Any
) -> None:
    opened: list[Sizes] = []

    def noted(kind: Any) -> Any:
        class Noted(kind):  # type: ignore[misc]
            def __init__(self, *given: Any, sizes: Sizes, **more: Any) -> None:
                opened.append(sizes)
                super().__init__(*given, sizes=sizes, **more)

        return Noted

    for name in ("Apns", "Fcm"):
        monkeypatch.setattr(whole, name, noted(getattr(whole, name)))
    told = App(apns=apple(made, connections=3), fcm=Fcm(str(made.service_account), connections=3))
    for config in (configured(made), Config(apps={"photos": told})):
        build(MemoryReactorClock(), config, Lane("photos", provider))
    assert opened == [Sizes(), Sizes(most=3)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_file": "{folder}/missing.p8"}, "cannot be read"),
        ({"production_url": "https://127.0.0.1/path"}, "https://HOST"),
        ({"authority_file": "{folder}/service-account.json"}, "no certificate in PEM"),
        (
            {"key_file": None, "certificate_file": "{folder}/service-account.json"},
            "a certificate and its private key",
        ),
    ],
)
def test_what_is_wrong_with_a_file_names_app_and_provider(
    made: Credentials, tmp_path: Path, change: dict[str, str | None], said: str
) -> None:
    filled = {name: value and value.format(folder=tmp_path) for name, value in change.items()}
    table: Apns = replace(apple(made), **filled)
    with pytest.raises(CredentialError, match=said) as caught:
        build(MemoryReactorClock(), Config(apps={"photos": App(apns=table)}), Lane("photos", "apns"))
    assert str(caught.value).startswith("apps.photos.apns: ")
    assert "PRIVATE KEY" not in repr(caught.value)


def test_each_shard_has_its_senders(made: Credentials) -> None:
    names = [loop.name for loop in phones(configured(made, push=Push(in_flight=3))).loops]
    assert len(names) == 2 * (2 * 3 + 1)
    assert names.count("lane photos:fcm of shard 1") == 3
    assert names.count("due of shard 0") == 1
    assert phones(Config()).loops == []


def test_a_reload_changes_nothing_but_what_has_changed(made: Credentials) -> None:
    config = configured(made)
    running = phones(config)
    before = {name: loop.steps for name, loop in ((loop.name, loop) for loop in running.loops)}
    links: Any = {name: getattr(steps, "provider", None) for name, steps in before.items()}
    fresh = running.prepare(replace(config, types={"like": TypePush(push="always")}))
    assert fresh.sections == {"types", "apps"}
    assert running.pushes["like"] == Rule("offline", 21_600_000)  # not yet
    fresh.use()
    assert running.pushes["like"] == Rule("always", 21_600_000)
    assert {name: getattr(steps, "provider", None) for name, steps in before.items()} == links
    # The same names, and another key in the file: that lane alone gets another provider.
    Path(made.apns_key).unlink()
    make_credentials(made.apns_key.parent)
    running.prepare(config).use()
    changed = {name for name, steps in before.items() if getattr(steps, "provider", None) is not links[name]}
    assert changed == {"lane photos:apns of shard 0", "lane photos:apns of shard 1"}


def test_who_hands_over_a_shard_gives_to_who_sends_on_it(made: Credentials) -> None:
    running = phones(configured(made))
    for shard in range(2):
        outlets = running.outlets(shard)
        assert list(outlets) == ["photos:apns", "photos:fcm"]
        for name, sender in outlets.items():
            log: Any = sender.log
            assert log.stream == f"push:{{{shard}}}:{name}"
            sender._history, sender._behind, sender._claim_at = None, False, 2.0**40  # it has come to rest
            assert sender.offer() > 0
    running.halt()
    assert {sender.offer() for shard in range(2) for sender in running.outlets(shard).values()} == {0}
    assert phones(Config()).outlets(0) == {}


def test_a_lane_more_or_less_needs_a_restart(made: Credentials) -> None:
    running = phones(configured(made))
    assert running.prepare(Config()).sections == {"types"}


def test_a_reload_with_a_broken_file_raises(made: Credentials) -> None:
    config = configured(made)
    running = phones(config)
    made.apns_key.write_text("nothing")
    with pytest.raises(CredentialError, match=r"apps\.photos\.apns: .*PRIVATE KEY in PEM"):
        running.prepare(config)
