"""`notifier doctor providers` against a sandbox, and against files that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program, Said
from tests.sandboxes import SandboxProcess
from tests.servers import Valkey


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


def ask(program: Program, toml: str, *more: str) -> Said:
    (program.folder / "n.toml").write_text(toml)
    return program.run("doctor", "providers", "--config", "n.toml", *more)


def words(said: Said) -> list[tuple[str, str]]:
    rows = [line.split(maxsplit=2) for line in said.out.splitlines()]
    return [(word, lane) for word, lane, _ in rows]


def test_all_is_well_and_no_phone_is_disturbed(notifier: Program, sandbox: SandboxProcess) -> None:
    said = ask(notifier, sandbox.toml())
    assert (said.code, said.err) == (0, "")
    assert words(said) == [("ok", "demo:apns"), ("ok", "demo:fcm")] * 2
    assert "BadDeviceToken to a device that nobody has" in said.out
    assert "it validates a message" in said.out
    assert sandbox.ask("GET", "devices")["count"] == 0


def test_offline_asks_nobody(notifier: Program, sandbox: SandboxProcess) -> None:
    before = len(sandbox.ask("GET", "requests")["requests"])
    said = ask(notifier, sandbox.toml(), "--offline")
    assert (said.code, words(said)) == (0, [("ok", "demo:apns"), ("ok", "demo:fcm")])
    assert "key SANDBOXKEY of team SANDBOXTEA" in said.out
    assert len(sandbox.ask("GET", "requests")["requests"]) == before


@pytest.mark.parametrize(
    ("rule", "lane", "text"),
    [
        ({"provider": "apns", "status": 403, "reason": "InvalidProviderToken"}, "demo:apns", "do not belong together"),
        ({"provider": "apns", "status": 400, "reason": "TopicDisallowed"}, "demo:apns", "not for this topic"),
        ({"provider": "fcm", "status": 403, "reason": "PERMISSION_DENIED"}, "demo:fcm", "may not send"),
        ({"provider": "fcm", "status": 404, "reason": "NOT_FOUND"}, "demo:fcm", "no such project"),
    ],
    ids=lambda value: value.get("reason", "") if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_provider_refuses_is_told_with_the_cure(
    notifier: Program, sandbox: SandboxProcess, rule: dict[str, object], lane: str, text: str
) -> None:
    sandbox.ask("POST", "script", rule)
    try:
        said = ask(notifier, sandbox.toml())
    finally:
        sandbox.ask("DELETE", "script")
    assert said.code == 1
    (line,) = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert lane in line
    assert text in line
    assert str(rule["reason"]) in line


def test_a_provider_of_an_unknown_authority_is_not_believed(
    notifier: Program, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    toml = "\n".join(line for line in sandbox.toml().splitlines() if "authority_file" not in line)
    said = ask(notifier, toml)
    assert said.code == 1
    assert words(said).count(("FAIL", "demo:apns")) == 1
    assert "no authority that is trusted here" in said.out


def test_a_broken_file_is_told_and_not_asked_with(notifier: Program, sandbox: SandboxProcess) -> None:
    broken = notifier.folder / "AuthKey.p8"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    broken.chmod(0o600)
    said = ask(notifier, sandbox.toml().replace(str(sandbox.credentials.apns_key), str(broken)))
    assert said.code == 1
    assert words(said).count(("FAIL", "demo:apns")) == 1
    assert "it is a certificate, not a key" in said.out


def test_a_secret_that_others_can_read_is_refused(notifier: Program, sandbox: SandboxProcess) -> None:
    opened = notifier.folder / "firebase.json"
    opened.write_bytes(sandbox.credentials.service_account.read_bytes())
    opened.chmod(0o644)
    toml = sandbox.toml().replace(str(sandbox.credentials.service_account), str(opened))
    said = ask(notifier, toml, "--offline")
    assert said.code == 1
    assert "open to other users" in said.out


def test_usage(notifier: Program, sandbox: SandboxProcess) -> None:
    assert ask(notifier, "").code == 2
    assert ask(notifier, sandbox.toml(), "--app", "other").code == 2


def test_lanes_that_nobody_sends_on_are_found(
    notifier: Program, sandbox: SandboxProcess, redis_url: str, valkey: Valkey
) -> None:
    (notifier.folder / "n.toml").write_text(sandbox.toml())
    lanes = ("doctor", "lanes", "--config", "n.toml", "--redis", redis_url)
    for app in ("demo", "photos"):
        toml = () if app == "photos" else ("--config", "n.toml")
        more = ("device", "add", "7", "--platform", "apns", "--app", app, "--redis", redis_url, *toml)
        assert notifier.run(*more, given=(("0a" if app == "demo" else "0b") * 32).encode()).code == 0
    said = notifier.run(*lanes)
    assert (said.code, words(said)) == (0, [("ok", "demo:apns"), ("ok", "demo:fcm"), ("ok", "photos:apns")])
    valkey.call("XADD", "push:{0}:photos:apns", "*", "push", "1 7 n 1 - 0 0 0")
    said = notifier.run(*lanes)
    assert (said.code, words(said)[2]) == (1, ("FAIL", "photos:apns"))
    assert "1 pushes wait" in said.out
    assert "not in this configuration" in said.out
