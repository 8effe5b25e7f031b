"""The whole way to phones: an event in Redis, a real daemon, and a sandbox that speaks as APNs and FCM do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.client import token
from tests.daemon import Daemon
from tests.daemon import wait_until as soon
from tests.sandboxes import SandboxProcess
from tests.servers import Valkey

IPHONE, ANDROID = "c0ffee5ec2e7" * 5 + "0001", "5ecret-android:APA91b-token"
CANARIES = ("c0ffee5ec2e7", "5ecret-android", "ya29.", "PRIVATE KEY", "eyJ")
ALWAYS = "".join(f'[types.{kind}]\npush = "always"\n' for kind in ("follow", "like", "comment"))


def wait_until(what: Callable[[], object]) -> None:
    soon(what, 30.0)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


class Site:
    """A daemon that sends to a sandbox."""

    def __init__(self, daemon: Daemon, server: Valkey, sandbox: SandboxProcess) -> None:
        self.daemon, self.server, self.sandbox = daemon, server, sandbox

    def device(self, method: str, device: str, user: str = "7", **body: str) -> int:
        link = HTTPConnection("127.0.0.1", self.daemon.port("api"), timeout=10)
        fields = {"Authorization": f"Bearer {token(user)}", "Content-Type": "application/json"}
        try:
            link.request(method, f"/v1/devices/{device}", json.dumps(body) if body else None, fields)
            return link.getresponse().status
        finally:
            link.close()

    def enlist(self, user: str = "7", iphone: str = IPHONE, android: str = ANDROID) -> None:
        assert self.device("PUT", iphone, user, platform="apns", app="demo") == 204
        assert self.device("PUT", android, user, platform="fcm", app="demo") == 204

    def like(self, thing: str, to: str = "7") -> None:
        event = {
            "type": "like", "actor": {"id": "42", "name": "Ana"}, "to": [to], "object": {"type": "photo", "id": thing},
        }  # fmt: skip
        self.server.call("XADD", "notifier:events", "*", "event", json.dumps(event))

    def shown(self, device: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.sandbox.phone(device).get("shown", [])
        return found

    def metric(self, line: str) -> float:
        return self.daemon.metrics()[line]


@contextmanager
def running(
    folder: Path, sandbox: SandboxProcess, types: str = ALWAYS, toml: str = "", **settings: Any
) -> Iterator[Site]:
    sandbox.ask("DELETE", "devices")
    sandbox.ask("DELETE", "script")
    more = (toml or sandbox.toml()) + types
    with (
        Valkey(folder / "valkey", aof=False) as server,
        Daemon(folder, server.url, settings, more=more) as daemon,
    ):
        yield Site(daemon, server, sandbox)
        said = daemon.log.read_text()
        assert not [canary for canary in CANARIES if canary in said]


def test_a_like_shows_on_both_phones(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with running(tmp_path, sandbox) as site:
        site.enlist()
        site.like("99")
        wait_until(lambda: len(site.shown(IPHONE)) == len(site.shown(ANDROID)) == 1)
        for device in (IPHONE, ANDROID):
            (shown,) = site.shown(device)
            assert "Ana liked your photo" in json.dumps(shown)
        assert site.sandbox.phone(IPHONE)["badge"] == 1
        site.like("100")
        wait_until(lambda: site.sandbox.phone(IPHONE)["badge"] == 2)
        wait_until(
            lambda: site.metric('push_outcomes_total{app="demo",outcome="delivered",provider="fcm"}') == 2
        )
        assert site.device("DELETE", IPHONE) == 204
        site.like("101")
        wait_until(lambda: len(site.shown(ANDROID)) == 3)
        assert len(site.shown(IPHONE)) == 2


def test_offline_is_who_has_no_socket(tmp_path: Path, sandbox: SandboxProcess) -> None:
    types = '[types.like]\nttl_seconds = 600\nsound = ""\n[types.follow]\npush = "off"\n'
    with running(tmp_path, sandbox, types) as site:
        site.enlist()
        site.like("99")
        wait_until(lambda: len(site.shown(IPHONE)) == 1)
        assert site.shown(IPHONE)[0]["sound"] is False


def test_a_provider_that_is_down_keeps_nothing_from_the_other(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    with running(tmp_path, sandbox) as site:
        site.enlist()
        sandbox.ask(
            "POST", "script", {"provider": "apns", "status": 503, "reason": "ServiceUnavailable", "times": 1}
        )
        site.like("99")
        wait_until(lambda: len(site.shown(ANDROID)) == 1)
        assert site.shown(IPHONE) == []
        wait_until(lambda: len(site.shown(IPHONE)) == 1)
        assert site.metric('push_retries_total{app="demo",provider="apns"}') >= 1


def test_a_dead_token_is_forgotten(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with running(tmp_path, sandbox) as site:
        site.enlist()
        sandbox.ask(
            "POST", "script",
            {"provider": "apns", "status": 410, "reason": "Unregistered", "timestamp_ms": 9_999_999_999_999},
        )  # fmt: skip
        site.like("99")
        wait_until(lambda: site.metric('push_forgotten_total{app="demo",provider="apns"}') == 1)
        sandbox.ask("DELETE", "script")
        site.like("100")
        wait_until(lambda: len(site.shown(ANDROID)) == 2)
        assert site.shown(IPHONE) == []


def test_a_stop_waits_for_answers(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with running(tmp_path, sandbox, drain={"seconds": 0.0, "timeout_seconds": 20.0}) as site:
        site.enlist()
        sandbox.ask("POST", "script", {"provider": "apns", "status": 200, "delay_ms": 1500})
        site.like("99")
        wait_until(lambda: len(site.shown(ANDROID)) == 1)
        site.daemon.stop(30)
        assert len(site.shown(IPHONE)) == 1
        # settled under its name: nothing is left to be sent twice
        for lane in ("apns", "fcm"):
            assert site.server.call("XLEN", f"push:{{0}}:demo:{lane}") == 0


def test_a_reload_takes_other_keys_and_other_words(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with running(tmp_path, sandbox) as site:
        site.enlist()
        site.like("99")
        wait_until(lambda: len(site.shown(IPHONE)) == 1)
        config = site.daemon.config
        text = config.read_text()
        config.write_text(
            text.replace("SANDBOXTEA", "ANOTHERTEA").replace(
                'push = "always"\n[types.comment', 'hidden = "on"\npush = "always"\n[types.comment'
            )
        )
        os.kill(site.daemon.pid, signal.SIGHUP)
        site.daemon.wait_for("reloaded:")
        site.like("100")
        wait_until(lambda: len(site.shown(IPHONE)) == 2)
        assert "Ana" not in json.dumps(site.shown(IPHONE)[0])
        # A key file that cannot be read changes nothing.
        config.write_text(text.replace("SANDBOXTEA", "ANOTHERTE2").replace(".p8", ".pem"))
        os.kill(site.daemon.pid, signal.SIGHUP)
        site.daemon.wait_for("reload refused")
        site.like("101")
        wait_until(lambda: len(site.shown(IPHONE)) == 3)


def test_a_lane_more_waits_for_a_restart(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with running(tmp_path, sandbox) as site:
        config = site.daemon.config
        config.write_text(config.read_text() + sandbox.toml("second"))
        os.kill(site.daemon.pid, signal.SIGHUP)
        site.daemon.wait_for("used only after a restart: apps")


def test_a_key_that_is_none_is_told_at_the_start(tmp_path: Path, sandbox: SandboxProcess) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    broken = folder / "AuthKey_SANDBOXKEY.p8"
    broken.write_text("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n")
    broken.chmod(0o600)
    toml = sandbox.toml().replace(str(sandbox.credentials.apns_key), str(broken))
    with Valkey(tmp_path / "valkey", aof=False) as server:
        daemon = Daemon(tmp_path, server.url, more=toml)
        daemon.launch()
        assert daemon.ended(20) == 1
        said = daemon.log.read_text()
        assert "apps.demo.apns" in said
        assert "it is the public half" in said
