"""The service as its unit says it: its own command lines, environment and sockets, under a manager that plays systemd.
What only a booted systemd does (namespaces, filters, users) is rated in test_units.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import pytest

from notifier.config import Config
from tests.client import KID, SECRET, Socket
from tests.conf.test_units import INSTANCE, UNITS, values
from tests.daemon import READY, ROOT, wait_until
from tests.servers import Valkey

SERVICE: Final = UNITS[0]
SOCKETS: Final = values(SERVICE, "Sockets")[0].split()
HASTE: Final = 20  # by so much the watchdog is more impatient than the unit says


class Manager:
    """What systemd does with the unit of an instance, as far as the process can see it. A context manager.

    The sockets are held open all the time, the service may be started and stopped. Paths that an installation has
    are those of the test: bin/ of this interpreter, `folder` in place of /etc/notifier.
    """

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        key = {"kid": KID, "algorithm": "HS256", "file": str(folder / "secret")}
        settings = [f"[redis]\nurl = {json.dumps(redis_url)}", "[drain]\nseconds = 0.5", "[[tokens.keys]]"]
        settings += [f"{name} = {json.dumps(value)}" for name, value in key.items()]
        (folder / "notifier.toml").write_text("\n".join(settings))
        # the file for what differs between instances wins over the unit
        (folder / f"{INSTANCE}.env").write_text("NOTIFIER_ADMIN__LISTEN=tcp:0:interface=127.0.0.1\n")
        self._stack = ExitStack()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.notices = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.notices.bind(str(self.folder / "notify"))
        self.sockets = {}
        for unit in SOCKETS:
            host = values(unit, "ListenStream")[0].rpartition(":")[0]  # the port may be in use here
            made = socket.create_server((host, 0), backlog=int(values(unit, "Backlog")[0]))
            self.sockets[values(unit, "FileDescriptorName")[0]] = self._stack.enter_context(made)
        self._stack.callback(self.kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _here(self, text: str) -> str:
        """A path or command line of the unit, with the places of the test."""
        text = text.replace("/opt/notifier/bin", str(Path(sys.executable).parent))
        return text.replace("/etc/notifier", str(self.folder))

    def environment(self) -> dict[str, str]:
        """systemd.exec(5): a service inherits nothing of the shell that started it."""
        given = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "PYTHONPATH": str(ROOT)}
        lines = values(SERVICE, "Environment")
        for path in values(SERVICE, "EnvironmentFile"):
            lines += Path(self._here(path.removeprefix("-"))).read_text().splitlines()
        given |= dict(line.split("=", 1) for line in lines)
        names = {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_FDNAMES": ":".join(self.sockets)}
        microseconds = float(values(SERVICE, "WatchdogSec")[0]) * 1_000_000 / HASTE
        notify = {"NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": str(int(microseconds))}
        return given | names | notify

    def start(self) -> None:
        """ExecStart=, with the sockets as descriptors 3, 4 ... (sd_listen_fds(3))."""
        (line,) = values(SERVICE, "ExecStart")
        moved = " ".join(f"{to}<&{each.fileno()}" for to, each in enumerate(self.sockets.values(), 3))
        (mask,) = values(SERVICE, "UMask")
        pids = "export LISTEN_PID=$$ WATCHDOG_PID=$$"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f'umask {mask}; {pids}; exec "$@" {moved}', "bash", *shlex.split(self._here(line))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=self.environment(),
                pass_fds=[each.fileno() for each in self.sockets.values()],
            )  # fmt: skip

    def reload(self) -> None:
        """ExecReload=."""
        assert self.process is not None
        (line,) = values(SERVICE, "ExecReload")
        subprocess.run(["sh", "-c", line], env={"MAINPID": str(self.process.pid)}, check=True, timeout=10)

    def stop(self) -> int:
        """KillSignal=; the status, which came before TimeoutStopSec= was over."""
        assert self.process is not None
        os.kill(self.process.pid, signal.Signals[values(SERVICE, "KillSignal")[0]])
        return self.process.wait(float(values(SERVICE, "TimeoutStopSec")[0]))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def told(self, word: str, timeout: float = 30.0) -> dict[str, str]:
        """The next notice that says this, as sd_notify(3) has it; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            self.notices.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                lines = self.notices.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"no {word}; the log:\n{self.log()}") from None
            found = dict(line.split("=", 1) for line in lines)
            if word in found:
                return found

    def port(self, name: str) -> int:
        return int(self.sockets[name].getsockname()[1])

    @property
    def admin_port(self) -> int:
        """As the last line of a start tells it."""
        wait_until(lambda: READY in self.log(), 10, self.log)
        lines = [json.loads(line) for line in self.log().splitlines() if READY in line]
        return int(lines[-1]["admin"])

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def manager(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Manager]:
    with Manager(tmp_path, redis_url) as running:
        yield running


def test_from_start_to_stop(manager: Manager) -> None:
    manager.start()
    assert manager.told("READY")["READY"] == "1"
    admin = f"http://127.0.0.1:{manager.admin_port}/readyz"
    with urllib.request.urlopen(admin, timeout=10) as answer:
        assert json.load(answer)["ready"], "READY means ready"
    with Socket(manager.port("websocket")) as client:
        assert client.auth("7")["unread"] == 0
    with urllib.request.urlopen(
        f"http://127.0.0.1:{manager.port('api')}/v1/openapi.json", timeout=10
    ) as answer:
        assert answer.status == 200
    manager.reload()
    assert manager.told("RELOADING")["MONOTONIC_USEC"]
    assert manager.told("READY")["STATUS"] == "reloaded"
    # SIGTERM is an end in order for systemd (Restart=on-failure leaves it alone)
    assert manager.stop() in (0, -signal.SIGTERM)
    assert manager.told("STOPPING")["STOPPING"] == "1"
    assert "notifier has stopped" in manager.log()


def test_the_watchdog_is_fed_again_and_again(manager: Manager) -> None:
    manager.start()
    manager.told("READY")
    for _ in range(4):
        assert manager.told("WATCHDOG") == {"WATCHDOG": "1"}


def test_who_comes_between_two_starts_waits_and_is_served(manager: Manager) -> None:
    manager.start()
    manager.told("READY")
    manager.stop()
    with socket.create_connection(("127.0.0.1", manager.port("api")), timeout=30) as early:
        early.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        manager.start()
        assert early.recv(1024).startswith(b"HTTP/1.1 200 ")


def test_a_longer_drain_asks_for_more_time_than_the_unit_gives(manager: Manager) -> None:
    longer = 2 * float(values(SERVICE, "TimeoutStopSec")[0])
    config = manager.folder / "notifier.toml"
    text = config.read_text().replace("[drain]", f"[drain]\ntimeout_seconds = {longer}")
    config.write_text(text)
    manager.start()
    manager.told("READY")
    manager.stop()
    assert int(manager.told("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > longer * 1_000_000


def test_what_cannot_start_fails_so_that_it_is_tried_again(manager: Manager) -> None:
    config = manager.folder / "notifier.toml"
    config.write_text(config.read_text().replace("[drain]", "[drian]"))
    manager.start()
    assert manager.process is not None
    assert manager.process.wait(30) == 1
    assert re.search(r"did you mean drain\?", manager.log())
    assert values(SERVICE, "Restart") == ["on-failure"]
    assert Config().drain.timeout_seconds < float(values(SERVICE, "TimeoutStopSec")[0])
