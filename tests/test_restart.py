"""A restart that nobody notices: two daemons share a listening socket, as systemd hands it over, and are restarted
one after the other under clients and events: nothing is lost, nothing is shown twice, no connection is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos.checker import judge
from tests.chaos.crowd import Company, Follower
from tests.chaos.producer import STREAM, Producer, story
from tests.chaos.scene import likes, read_inboxes
from tests.client import (
    PATH,
    PROTOCOL,
    Socket,
    request,
    token,
)
from tests.daemon import DEFAULTS, READY, ROOT, STOPPED, TWISTD, Daemon, Settings, wait_until
from tests.servers import Valkey

# As systemd starts a service of which sockets are: descriptors from 3 on, and LISTEN_PID names the process.
ACTIVATED: Final = (
    TWISTD[0],
    f"import os\nos.environ['LISTEN_PID'] = str(os.getpid())\n{TWISTD[1]}",
    *TWISTD[2:],
)
DRAIN: Final = 1.5  # s
SETTINGS: Final[Settings] = {
    "websocket": {"listen": "systemd:domain=INET:name=websocket"},
    "api": {"listen": "systemd:domain=INET:name=api"},
    "inbox": {"cap": 400},
    "fanout": {"lease_seconds": 1},
    "drain": {"seconds": DRAIN, "timeout_seconds": 10.0},
    "limits": {"unauthenticated": 5000},
}


class Activated(Daemon):
    """A daemon whose listeners are inherited. `sockets`: by the name that the endpoint gives."""

    def __init__(
        self, folder: Path, url: str, sockets: dict[str, socket.socket], settings: Settings,
        program: Sequence[str] = ACTIVATED,
    ) -> None:  # fmt: skip
        super().__init__(folder, url, settings, program=program)
        self.sockets = sockets

    def launch(self, *before: str) -> None:
        """As systemd does: the descriptors are 3, 4 ... in the child, by a shell that moves them there."""
        assert not self.running
        self._began, self._ports = self.log.stat().st_size if self.log.exists() else 0, {}
        moved = " ".join(f"{to}<&{each.fileno()}" for to, each in enumerate(self.sockets.values(), 3))
        names = {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_FDNAMES": ":".join(self.sockets)}
        command = [sys.executable, *self.program, *before, "--config", str(self.config)]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" {moved}', "bash", *command],
                stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=ROOT, env=os.environ | names,
                pass_fds=[each.fileno() for each in self.sockets.values()],
            )  # fmt: skip


class ByTheBook(Follower):
    """A client that resumes after a close it was told of; everything else is a fault."""

    def __init__(self, user: str, port: int, seed: int) -> None:
        super().__init__(user, lambda: (port,), seed=seed)
        self.shown: Counter[str] = Counter()
        self.faults: list[str] = []
        self.told = 0  # drains that were announced
        self._retry = 0.0

    def failed(self, error: Exception) -> None:
        self.faults.append(f"{self.user}: {type(error).__name__} {error}")
        self._retry = 0.1

    def pause(self) -> float:
        pause, self._retry = self._retry, 0.0
        return pause

    def take(self, message: dict[str, Any]) -> int:
        if message["type"] == "notification":
            self.shown[message["id"]] += 1
        elif message["type"] == "drain":
            self.told += 1
            self._retry = min(message["retry_ms"] / 1000, DRAIN) * self._chance.uniform(0.5, 1)
        return super().take(message)


class Knocker:
    """Opens a connection to each port every few ms, all the time. `refused`: those that nobody took."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports, self.refused, self.opened = ports, list[str](), 0

    async def knock(self) -> None:
        while True:
            for port in self.ports:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.transport.abort()
                    self.opened += 1
                except OSError as error:
                    self.refused.append(str(error))
            await asyncio.sleep(0.02)


def rolling(folder: Path, server: Valkey, people: int, rate: int) -> str:
    """Two daemons, each restarted once, under `people` sockets and `rate` events a second."""
    names = [f"p{number}" for number in range(people)]
    with ExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            for name in ("websocket", "api")
        }
        ports = [each.getsockname()[1] for each in sockets.values()]
        pair = [Activated(folder / side, server.url, sockets, SETTINGS) for side in ("left", "right")]
        for daemon in pair:
            stack.callback(daemon.kill)
            daemon.launch()
        for daemon in pair:
            daemon.wait_for(READY, 60)
        knocker = Knocker(ports)
        producer = stack.enter_context(Producer(server.port, likes(story(10**6, names, 3, crowd=people))))
        followers = [ByTheBook(name, ports[0], at) for at, name in enumerate(names)]
        audience = stack.enter_context(Company(followers, knocker.knock))
        wait_until(lambda: all(each.copy.complete for each in audience.followers), 60, "all are connected")
        stop = threading.Event()

        def release() -> None:
            while not stop.wait(0.1):
                producer.release(rate // 10)

        releasing = threading.Thread(target=release, daemon=True)
        releasing.start()
        stack.callback(stop.set)
        for daemon in pair:
            time.sleep(0.5)
            daemon.stop(30)
            daemon.launch()
            daemon.wait_for(READY, 60)
        time.sleep(0.5)
        stop.set()
        releasing.join(5)

        def faults() -> list[str]:
            return judge(producer.sent, read_inboxes(server, names), audience.copies())

        wait_until(lambda: producer.idle and server.call("XLEN", STREAM) == 0, 60, "all events are applied")
        wait_until(lambda: not faults(), 60, lambda: "\n".join(faults()[:10]))
        return verdict(audience.followers, knocker, len(producer.accepted), people)


def verdict(followers: Sequence[ByTheBook], knocker: Knocker, events: int, people: int) -> str:
    """Raises AssertionError unless every client has seen each event once and no connection failed."""
    assert not knocker.refused, knocker.refused[:5]
    faults = [fault for each in followers for fault in each.faults]
    assert not faults, faults[:10]
    twice = [(each.user, nid) for each in followers for nid, times in each.shown.items() if times > 1]
    assert not twice, twice[:10]
    lost = [(each.user, nid) for each in followers for nid in each.copy.rows if nid not in each.shown]
    assert not lost, lost[:10]
    assert all(each.copy.resyncs == 0 for each in followers)
    closes = sum((each.closes for each in followers), Counter[int]())
    assert set(closes) == {4003}, closes
    assert closes[4003] >= people, "everybody was sent away at least once"
    return f"{events} events, {people} sockets, {closes[4003]} reconnects, {knocker.opened} other connections"


def report(line: str) -> None:
    """For `pytest -s`."""
    sys.stderr.write(f"\n{line}\n")


def test_a_rolling_restart_that_nobody_notices(tmp_path: Path, own_server: Valkey) -> None:
    report(rolling(tmp_path, own_server, people=300, rate=300))


@pytest.mark.campaign
def test_a_rolling_restart_under_1000_sockets_and_1000_events_a_second(
    tmp_path: Path, own_server: Valkey
) -> None:
    report(rolling(tmp_path, own_server, people=1000, rate=1000))


# One stop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_at_once(
    tmp_path: Path, valkey: Valkey, redis_url: str, number: signal.Signals
) -> None:
    slow: Settings = {"drain": {"seconds": 60.0, "timeout_seconds": 60.0}}
    with Daemon(tmp_path, redis_url, slow) as daemon, Socket(daemon.port("websocket")) as first:
        first.auth("ana")
        with Socket(daemon.port("websocket")) as second:
            second.auth("bo")
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: closed(first) or closed(second), 10, "the drain has begun")
            assert daemon.ended(1.0) is None, "it waits for the other"
            os.kill(daemon.pid, number)
            assert daemon.ended(3.0) == -number
        assert "told to stop again: ends now, without draining" in daemon.messages()
        assert STOPPED not in daemon.messages()


def closed(client: Socket) -> bool:
    client.socket.setblocking(False)
    try:
        return b"drain" in client.socket.recv(65536, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def test_who_is_in_the_middle_of_a_handshake_is_told_to_come_again(
    tmp_path: Path, valkey: Valkey, redis_url: str
) -> None:
    with Daemon(tmp_path, redis_url, {"drain": DEFAULTS["drain"]}) as daemon:
        opening = request(PATH, (PROTOCOL, f"bearer.{token('ana')}"), {})
        with socket.create_connection(("127.0.0.1", daemon.port("websocket"))) as half:
            half.sendall(opening[:40])
            time.sleep(0.3)
            os.kill(daemon.pid, signal.SIGTERM)
            time.sleep(0.3)
            half.sendall(opening[40:])
            half.settimeout(5)
            answer = b"".join(iter(lambda: half.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert (4003).to_bytes(2, "big") in answer
        assert daemon.ended(10.0) is not None


def test_a_start_and_a_stop_do_not_talk_of_factories(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    with Daemon(tmp_path, redis_url) as daemon:
        with Socket(daemon.port("websocket")) as client:
            client.auth("ana")
        daemon.stop()
        assert [line for line in daemon.messages() if "factory" in line.lower()] == []


def test_a_state_of_another_version_is_not_touched(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    valkey.call("HSET", "notifier:setup", "version", 1)
    valkey.call("XADD", "notifier:events", "*", "event", "{")
    daemon = Daemon(tmp_path, redis_url)
    daemon.launch()
    assert daemon.ended(30) == 1
    assert any("was set up with version = 1, this notifier asks for 2" in said for said in daemon.messages())
    assert valkey.call("XLEN", "notifier:events") == 1


def test_a_socket_that_nobody_handed_over(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    daemon = Daemon(tmp_path, redis_url, {"websocket": {"listen": "systemd:domain=INET:name=websocket"}})
    daemon.launch()
    assert daemon.ended(30) == 1
    assert any("websocket.listen" in said and "no such socket" in said for said in daemon.messages())
