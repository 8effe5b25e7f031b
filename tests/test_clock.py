"""Durations go by the monotonic clock: a wall clock that is set back by an hour stops nothing."""

from __future__ import annotations

import ast
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet.task import Clock

from notifier.service import steady
from tests.client import PING, Socket, auth, token
from tests.daemon import ROOT, Daemon, Settings, wait_until
from tests.servers import Valkey

# twistd with a wall clock of its own, which SIGUSR1 sets back; set up before anything takes hold of time.time.
SET_BACK: Final = (
    "-c",
    "import os, signal, threading, time\n"
    "real, back = time.time, [0.0]\n"
    "time.time = lambda: real() - back[0]\n"
    "signal.signal(signal.SIGUSR1, lambda *_: back.append(back.pop() + 3600.0))\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "from twisted.scripts.twistd import run\n"
    "run()",
    "--nodaemon",
    "--pidfile=",
    "notifier",
)
QUICK: Final[Settings] = {
    "websocket": {"refresh_seconds": 1, "ping_seconds": 2, "pong_seconds": 1, "handshake_seconds": 1.0},
    "fanout": {"lease_seconds": 1.0, "poll_ms": 100, "claim_seconds": 1},
    "admin": {"canary_seconds": 0.5},
}
# Where the wall clock is asked in the daemon, and what for. Anything else there is a duration, and reactor.seconds().
WALL: Final = {
    "service": "when tokens end; and the base of the reactor's clock",
    "edge/api": "when tokens end",
    "edge/hub": "how long ago an event was accepted, by the clock of Redis",
    "edge/logs": "when a line was written",
}


@pytest.fixture
def daemon(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Daemon]:
    with Daemon(tmp_path, redis_url, QUICK, program=SET_BACK) as running:
        yield running


def bearer(user: str) -> str:
    """Good before and after: issued two hours ago."""
    return token(user, 6 * 3600, issued=time.time() - 7200)


def comes_back(server: Valkey, key: str) -> None:
    server.call("DEL", key)
    wait_until(lambda: server.call("EXISTS", key) == 1, 20, f"{key} is written again")


def test_a_wall_clock_that_is_set_back_stops_nothing(daemon: Daemon, valkey: Valkey) -> None:
    port = daemon.port("websocket")
    with Socket(port) as client:
        client.send(auth(bearer("ana")))
        client.until("ready")
        before = daemon.metrics()
        os.kill(daemon.pid, signal.SIGUSR1)
        # sweeps, and the presence and sign of life that they renew
        wait_until(
            lambda: daemon.metrics()["refreshes_total"] >= before["refreshes_total"] + 3, 20, "sweeps go on"
        )
        comes_back(valkey, "on:{0}:ana")
        (alive,) = keys(valkey, "alive:{0}:*")
        comes_back(valkey, alive)
        comes_back(valkey, "slot:notifier-1")
        comes_back(valkey, "lease:{0}")
        # pings
        client.pong = False
        while client.frame(20)[0] != PING:
            pass
    # canaries, and whatever else readiness looks at
    returned = daemon.metrics()["canary_seconds_count"]
    wait_until(lambda: daemon.metrics()["canary_seconds_count"] >= returned + 3, 20, "canaries go on")
    assert daemon.get("/readyz")[0] == 200
    # deadlines of those who say nothing
    with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
        assert ended(silent)
    # who comes now, and what is published now
    with Socket(port) as late:
        late.send(auth(bearer("bo")))
        late.until("ready")
        event = b'{"type":"like","actor":{"id":"cy"},"to":["bo"],"object":{"type":"photo","id":"1"}}'
        valkey.call("XADD", "notifier:events", "*", "event", event)
        assert late.until("notification", 20)["seq"] == 1
    daemon.stop(30)


def keys(server: Valkey, pattern: str) -> list[str]:
    found: Any = server.call("KEYS", pattern)
    return [key.decode() for key in found]


def ended(link: socket.socket) -> bool:
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_steady_clock_begins_at_the_wall_clock_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    steady(clock)
    first = clock.seconds()
    assert abs(first - time.time()) < 60
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)
        assert clock.seconds() >= first


def test_nobody_else_asks_the_wall_clock() -> None:
    folder = ROOT / "notifier"
    sources = [folder / "service.py", folder / "pipeline.py", *(folder / "edge").rglob("*.py")]
    found = {
        str(file.relative_to(folder).with_suffix("")) for file in sources if asks_the_wall(file.read_text())
    }
    assert found == set(WALL)


def asks_the_wall(source: str) -> bool:
    """Does it name time.time, or a `now` of datetime?"""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return any(alias.name == "time" for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"):
                return True
    return False


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ("import time\ndef f(): return time.time()", True),
        ("import time\ndef f(now=time.time): ...", True),
        ("from time import time", True),
        ("from datetime import datetime\nx = datetime.now(UTC)", True),
        ("import time\nx = time.monotonic()", False),
        ("from time import monotonic", False),
    ],
)
def test_the_question_is_recognised(source: str, asks: bool) -> None:
    assert asks_the_wall(source) is asks
