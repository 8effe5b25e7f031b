"""The service manager's protocol over a real datagram socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notifier.config import Drain
from notifier.edge.notify import Systemd

UNIT = Path(__file__).parents[2] / "conf" / "notifier@.service"


class Manager:
    """What systemd is to us: an address, and what arrives there."""

    def __init__(self, bind: str | bytes, told: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(bind)
        self.socket.settimeout(2)
        self.environ = {"NOTIFY_SOCKET": told}

    def heard(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        path = str(tmp_path / "notify")
        made = Manager(path, path)
    else:
        name = f"notifier-test-{tmp_path}"[-90:]
        made = Manager(b"\0" + name.encode(), "@" + name)
    yield made
    made.socket.close()


def test_every_message(manager: Manager) -> None:
    systemd = Systemd(manager.environ, monotonic_ns=lambda: 12_345_678)
    messages: list[tuple[Callable[[], bool], str]] = [
        (systemd.ready, "READY=1"),
        (lambda: systemd.ready("8 shards"), "READY=1\nSTATUS=8 shards"),
        (lambda: systemd.status("draining"), "STATUS=draining"),
        (systemd.stopping, "STOPPING=1"),
        (lambda: systemd.stopping("closing 12"), "STOPPING=1\nSTATUS=closing 12"),
        (systemd.watchdog, "WATCHDOG=1"),
        (systemd.reloading, "RELOADING=1\nMONOTONIC_USEC=12345"),
        (lambda: systemd.extend(2.5), "EXTEND_TIMEOUT_USEC=2500000"),
    ]
    for send, wanted in messages:
        assert send()
        assert manager.heard() == wanted


def test_a_status_cannot_say_more_than_a_status(manager: Manager) -> None:
    assert Systemd(manager.environ).status("bad\nREADY=1\r\n \ud800")
    assert manager.heard() == "STATUS=bad READY=1 \\ud800"


@pytest.mark.parametrize("address", ["", "@", "/", "relative", "vsock:2:1234"])
def test_without_an_address_nothing_is_sent(address: str) -> None:
    assert not Systemd({"NOTIFY_SOCKET": address}).ready()


def test_without_a_manager_nothing_happens() -> None:
    systemd = Systemd({})
    assert not any([systemd.ready(), systemd.status("x"), systemd.stopping(), systemd.watchdog()])
    assert systemd.watchdog_seconds is None


@pytest.mark.parametrize("name", ["gone", "x" * 200])
def test_a_manager_that_cannot_be_reached_is_no_error(tmp_path: Path, name: str) -> None:
    assert not Systemd({"NOTIFY_SOCKET": str(tmp_path / name)}).ready()


def test_a_full_queue_does_not_hold_us_for_ever(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.edge.notify.SECONDS_TO_WAIT", 0.05)
    systemd = Systemd(manager.environ)
    sent, begun = 0, time.monotonic()
    while systemd.watchdog():
        sent += 1
        assert sent < 100_000
        begun = time.monotonic()
    assert time.monotonic() - begun < 1.0
    assert manager.heard() == "WATCHDOG=1"
    assert systemd.watchdog()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "42"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({}, None),
    ],
)
def test_watchdog_period(environ: dict[str, str], seconds: float | None) -> None:
    assert Systemd(environ, pid=42).watchdog_seconds == seconds


def unit() -> list[tuple[str, str]]:
    """The assignments of the unit that we ship."""
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_the_unit_speaks_this_protocol_and_outwaits_the_drain() -> None:
    settings = dict(unit())
    assert (settings["Type"], settings["NotifyAccess"], settings["KillSignal"]) == (
        "notify",
        "main",
        "SIGTERM",
    )
    assert float(settings["TimeoutStopSec"]) > Drain().timeout_seconds
    assert "--nodaemon --pidfile= notifier --config" in settings["ExecStart"]


def test_the_unit_does_not_break_tls() -> None:
    # pyOpenSSL's ALPN callback needs memory that is writable and executable.
    assert "MemoryDenyWriteExecute" not in dict(unit())
