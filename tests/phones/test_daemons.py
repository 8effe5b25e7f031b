"""Two daemons on one lane, a key that was replaced, and logs that never hold a token: real processes throughout."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from notifier.sandbox.credentials import KEY_ID, TEAM_ID
from notifier.sending import GIFTS_LIE
from tests.client import token
from tests.daemon import wait_until
from tests.phones.site import CANARIES, PATIENCE, Site, android, device, enlist, iphone
from tests.sandboxes import SandboxProcess

NEW_KEY_ID: Final = "SECONDKEYS"
REFUSED: Final = 'push_reasons_total{provider="apns",reason="InvalidProviderToken"}'


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


def test_two_daemons_share_a_lane_and_send_each_push_once(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with Site(tmp_path, sandbox, people=60, daemons=("left", "right")) as site:
        for provider in ("apns", "fcm"):
            sandbox.ask("POST", "script", {"provider": provider, "delay_ms": 1000})
        site.start()
        wait_until(partial(_both_work, site), PATIENCE, site.said)
        site.judge()
        assert taken(site) == (site.pushes, site.pushes)
        for provider in ("apns", "fcm"):
            assert sum(_given(site, provider)) == site.pushes


def _both_work(site: Site) -> bool:
    """Who hands over takes what it can; it is busy with that while the rest comes, which the other takes."""
    for _ in range(12):
        site.comment()
    wait_until(site.handed_over, PATIENCE, site.said)
    time.sleep(1.2 * GIFTS_LIE)
    for _ in range(5):
        site.comment()
    site.rest()
    return min(*_given(site, "apns"), *_given(site, "fcm")) > 0


def _given(site: Site, provider: str) -> list[float]:
    """Pushes of a lane that each daemon was given."""
    line = f'push_entries_total{{app="demo",provider="{provider}"}}'
    return [daemon.metrics()[line] for daemon in site.daemons]


def test_people_on_four_shards(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Lanes of each shard, events behind a router; a token's owner lies on another shard than its person."""
    with Site(tmp_path, sandbox, people=60, daemons=("left", "right"), shards=4) as site:
        sandbox.ask(
            "POST", "script", {"provider": "apns", "status": 503, "reason": "ServiceUnavailable", "times": 9}
        )
        site.start()
        for _ in range(3):
            site.comment()
        site.rest(hurry=True)
        site.judge()
        assert site.accepted("apns") == site.accepted("fcm") == site.pushes


def test_one_of_two_that_stops_in_order_leaves_nothing_to_be_sent_twice(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    """A rolling restart with pushes under way: what it has sent it settles, what it has not the other sends."""
    with Site(tmp_path, sandbox, people=60, daemons=("left", "right")) as site:
        for provider in ("apns", "fcm"):
            sandbox.ask("POST", "script", {"provider": provider, "delay_ms": 100})
        site.start()
        for daemon in site.daemons:
            for _ in range(3):
                site.comment()
            wait_until(site.handed_over, PATIENCE, site.said)
            daemon.stop(PATIENCE)
            daemon.start(PATIENCE)
        site.rest()
        site.judge()
        assert site.accepted("apns") == site.accepted("fcm") == site.pushes


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_redis_goes_away_with_pushes_under_way(tmp_path: Path, sandbox: SandboxProcess, how: str) -> None:
    """What a provider has taken is written down when Redis is back, and not sent again."""
    with Site(tmp_path, sandbox, people=60, durable=True) as site:
        for provider in ("apns", "fcm"):
            sandbox.ask("POST", "script", {"provider": provider, "delay_ms": 300})
        site.start()
        for _ in range(3):
            before = taken(site)
            site.comment()
            # requests have arrived, and their answers are still to come
            wait_until(partial(_more, site, before), PATIENCE, site.said)
            if how == "killed":
                site.server.kill()
                site.server.start()
            else:
                site.server.pause()
                site.daemon.wait_for("has not answered for 2 s", PATIENCE)
                site.server.resume()
            wait_until(lambda: site.daemon.get("/readyz")[0] == 200, PATIENCE, site.said)
        site.rest()
        site.judge()
        assert taken(site) == (site.pushes, site.pushes)


def taken(site: Site) -> tuple[int, int]:
    """Pushes that Apple and Google have taken."""
    return site.accepted("apns"), site.accepted("fcm")


def _more(site: Site, than: tuple[int, int]) -> bool:
    return all(now > before for now, before in zip(taken(site), than, strict=True))


def pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_key_that_was_replaced(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Apple forgets the old key: pushes wait, nobody loses a device, and all arrive after a reload with the new one."""
    old = load_pem_private_key(sandbox.credentials.apns_key.read_bytes(), None)
    assert isinstance(old, ec.EllipticCurvePrivateKey)
    new = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / f"AuthKey_{NEW_KEY_ID}.p8"
    file.touch(0o600)
    file.write_bytes(new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sandbox.ask("PUT", f"keys/apns/{KEY_ID}", {"pem": pem(old.public_key()), "team": TEAM_ID})
    try:
        with Site(tmp_path, sandbox, people=60) as site:
            site.start()
            site.comment()
            site.rest()
            sandbox.ask("DELETE", f"keys/apns/{KEY_ID}")
            sandbox.ask("PUT", f"keys/apns/{NEW_KEY_ID}", {"pem": pem(new.public_key()), "team": TEAM_ID})
            waits = site.comment()
            wait_until(lambda: site.daemon.metrics()[REFUSED] > 0, PATIENCE, site.said)
            wait_until(lambda: site.missing("fcm", [waits]) == [], PATIENCE, site.said)
            assert len(site.missing("apns", [waits])) == 60
            site.reconfigure(f'{sandbox.credentials.apns_key}"', f'{file}"')
            site.reconfigure(f'"{KEY_ID}"', f'"{NEW_KEY_ID}"')
            site.rest(hurry=True)
            site.judge()
            assert site.accepted("apns") == site.pushes
    finally:
        for key in (KEY_ID, NEW_KEY_ID):
            sandbox.ask("PUT", f"keys/apns/{key}", {"pem": pem(new.public_key()), "team": TEAM_ID})
            sandbox.ask("DELETE", f"keys/apns/{key}")


PREFIXES: Final = (
    "bad400",
    "bad401",
    "bad403",
    "bad404",
    "bad410",
    "bad413",
    "bad429",
    "bad500",
    "bad503",
    "bad003",
)


def test_no_log_ever_has_a_token_whatever_goes_wrong(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Everything fails in turn, at the level debug; `Site` looks through all logs at the end."""
    settings = {"log": {"level": "debug"}}
    with Site(tmp_path, sandbox, people=3, settings=settings) as site:
        odd = {f"x{at}": [device(iphone(9, prefix), "apns"), device(android(9, prefix), "fcm")]
               for at, prefix in enumerate(PREFIXES)}  # fmt: skip
        enlist(site.server, odd)
        site.start()
        for user in (*site.users, *odd):
            site.comment([user])
        wait_until(lambda: site.handed_over() and site.backlog() == 0, PATIENCE, site.said)
        site.hurry()
        # settling fails, handing over fails: keys of the wrong type, with a token for a value
        site.server.call("DEL", "later:{0}", "due:{0}")
        site.server.call("SET", "later:{0}", iphone(1))
        site.comment(["x8"])
        site.daemon.wait_for("was not settled", PATIENCE)
        site.server.call("DEL", "later:{0}")
        site.server.call("RENAME", "dev:{0}:u1", "aside")
        site.server.call("SET", "dev:{0}:u1", iphone(1))
        site.comment(["u1"])
        site.daemon.wait_for("handover failed", PATIENCE)
        # what stands behind a push cannot be read
        site.server.call("RENAME", "aside", "dev:{0}:u1")
        for one in site.phones_of(1):
            site.server.call("HSET", "dev:{0}:u1", one.id, one.token)
        site.comment(["u1"])
        wait_until(site.handed_over, PATIENCE, site.said)
        # what the API is asked for and refuses
        for bad in (iphone(1), iphone(1) + "zz", android(2), "%0a" + android(3)):
            for body in (
                '{"platform": "apns", "app": "demo"}',
                '{"platform": "fcm", "app": "nobody"}',
                "{",
                f'"{bad}"',
            ):
                ask(site, "PUT", f"/v1/devices/{bad}", body)
        ask(site, "DELETE", f"/v1/devices/{iphone(7)}", "")
        site.server.kill()
        ask(site, "PUT", f"/v1/devices/{iphone(8)}", '{"platform": "apns", "app": "demo"}')
        site.server.start()
        shown = site.daemon.get("/metrics")[1] + site.daemon.get("/readyz")[1]
        assert not [canary for canary in CANARIES if canary.encode() in shown]
        told = doctor(site)
        assert "apns" in told
        assert not [canary for canary in CANARIES if canary in told]
        site.daemon.stop(PATIENCE)
        assert '"level"' in site.daemon.log.read_text()


def ask(site: Site, method: str, path: str, body: str) -> int:
    link = HTTPConnection("127.0.0.1", site.daemon.port("api"), timeout=30)
    try:
        link.request(
            method, path, body, {"Authorization": f"Bearer {token('u2')}", "Content-Type": "application/json"}
        )
        return link.getresponse().status
    finally:
        link.close()


def doctor(site: Site) -> str:
    """What `notifier doctor providers` says, well and unwell."""
    said = ""
    for script in ({}, {"provider": "apns", "status": 403, "reason": "InvalidProviderToken"}):
        if script:
            site.apns.ask("POST", "script", script)
        done = subprocess.run(
            [sys.executable, "-c", "from notifier.cli.main import main; main()", "doctor", "providers", "--config",
             str(site.daemon.config)],
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        said += done.stdout.decode() + done.stderr.decode()
    return said
