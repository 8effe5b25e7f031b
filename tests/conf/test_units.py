"""The systemd units: systemd takes them, rates them, and its sockets reach the listeners."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from notifier.config import Config
from notifier.edge.embedded import free_port
from tests.client import Socket
from tests.daemon import ROOT, STOPPED, TWISTD, Daemon
from tests.servers import missing

CONF: Final = ROOT / "conf"
UNITS: Final = ("notifier@.service", "notifier.socket", "notifier-api.socket", "notifier.target")
MOST_EXPOSED: Final = 1.5
INSTANCE: Final = "2"


def values(unit: str, name: str) -> list[str]:
    """What a unit file sets, every time it sets it; for instance 2."""
    text = (CONF / unit).read_text(encoding="utf-8").replace("%i", INSTANCE)
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def systemd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`, offline; skips where there is none."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "not in PATH")
    command = ("systemd-analyze", "--man=no", *arguments)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program in ExecStart that exists here."""
    for name in UNITS:
        text = (CONF / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/opt/notifier/bin/twistd", "/bin/true"), encoding="utf-8")
    return tmp_path


def complaints(units: Path) -> str:
    """What systemd finds wrong with our units; others on this machine are not our affair."""
    done = systemd("verify", "--recursive-errors=no", *UNITS, cwd=units)
    return "\n".join(line for line in done.stderr.splitlines() if "notifier" in line)


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    assert complaints(units) == ""


def test_systemd_would_find_a_slip(units: Path) -> None:
    unit = units / "notifier@.service"
    unit.write_text(unit.read_text(encoding="utf-8").replace("WatchdogSec=30", "WatchDogSecs=30"))
    assert "WatchDogSecs" in complaints(units)


def test_the_service_is_hardened(units: Path) -> None:
    arguments = ("security", "--offline=true", "--no-pager", "notifier@.service")
    said = systemd(*arguments, cwd=units).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= MOST_EXPOSED, said


def test_memory_may_become_executable() -> None:
    """cffi's callbacks in pyOpenSSL need it: with this setting every TLS connection would fail at run time."""
    assert values("notifier@.service", "MemoryDenyWriteExecute") == []


def test_a_stop_has_time_for_the_drain() -> None:
    assert float(values("notifier@.service", "TimeoutStopSec")[0]) > Config().drain.timeout_seconds


def test_instances_share_the_sockets_and_differ_in_the_admin_port() -> None:
    given = dict(line.split("=", 1) for line in values("notifier@.service", "Environment"))
    assert given["NOTIFIER_ADMIN__LISTEN"] == f"tcp:809{INSTANCE}:interface=127.0.0.1"
    names = {each: f"systemd:domain=INET:name={each}" for each in ("websocket", "api")}
    assert given["NOTIFIER_WEBSOCKET__LISTEN"] == names[values("notifier.socket", "FileDescriptorName")[0]]
    assert given["NOTIFIER_API__LISTEN"] == names[values("notifier-api.socket", "FileDescriptorName")[0]]
    assert values("notifier@.service", "Sockets") == ["notifier.socket notifier-api.socket"]


def test_the_first_connection_starts_the_service_and_is_served(tmp_path: Path, redis_url: str) -> None:
    """systemd's own socket activation, by the names in the units: who comes before the daemon waits, no more."""
    if shutil.which("systemd-socket-activate") is None:
        missing("systemd-socket-activate", "not in PATH")
    given = dict(line.split("=", 1) for line in values("notifier@.service", "Environment"))
    ports = free_port(), free_port()
    daemon = Daemon(
        tmp_path,
        redis_url,
        {
            "websocket": {"listen": given["NOTIFIER_WEBSOCKET__LISTEN"]},
            "api": {"listen": given["NOTIFIER_API__LISTEN"]},
        },
        program=activated(*ports),
    )
    daemon.launch()
    try:
        daemon.wait_for("Listening on")
        with Socket(ports[0], timeout=20) as client:  # it starts only now
            assert client.auth("7")["unread"] == 0
        assert (daemon.port("websocket"), daemon.port("api")) == ports
        daemon.stop()
        assert STOPPED in daemon.messages()
    finally:
        daemon.kill()


def activated(*ports: int) -> tuple[str, ...]:
    """A program for Daemon: twistd below systemd-socket-activate, which listens and waits for the first client."""
    listens = [f"--listen=127.0.0.1:{port}" for port in ports]
    names = [values(unit, "FileDescriptorName")[0] for unit in ("notifier.socket", "notifier-api.socket")]
    code = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    named = f"--fdname={':'.join(names)}"
    return ("-c", code, "systemd-socket-activate", *listens, named, sys.executable, *TWISTD)
