"""A thousand clients that do not read: the daemon's memory stays bounded, and nobody else notices."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hiredis
import pytest

from tests.client import PATH, PROTOCOL, Socket, auth, request, text, token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey
from tests.servers import _packed as packed
from tests.stored import state_of

SLOW: Final = 1000
EVENTS: Final = 150
WORDS: Final = "x" * 4000
UNSENT: Final = 65_536  # bytes that may wait for one client here
LIMITS: Final[dict[str, object]] = {"unsent_bytes": UNSENT, "window": 10_000, "unauthenticated": 2000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey", aof=False) as running:
        yield running


def sleeper(port: int, user: str) -> socket.socket:
    """Somebody who connects, says who they are, and never reads."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    link.connect(("127.0.0.1", port))
    link.sendall(request(PATH, (PROTOCOL,), {}) + text(auth(token(user))))
    return link


def publish(server: Valkey, people: list[str], count: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        reader = hiredis.Reader()
        for number in range(count):
            event = {"type": "comment", "actor": {"id": "ana"}, "to": people, "text": f"{number} {WORDS}"}
            link.sendall(packed("XADD", "notifier:events", "*", "event", json.dumps(event)))
            while reader.gets() is False:
                reader.feed(link.recv(65536))


def test_a_thousand_slow_readers_harm_nobody(tmp_path: Path, server: Valkey) -> None:
    # everybody slow follows the same ten people: what they are owed is 600 MB in all
    groups = [f"slow{number}" for number in range(10)]
    settings = {"limits": {**LIMITS, "per_user": SLOW}}
    with Daemon(tmp_path, server.url, settings) as daemon:
        port = daemon.port("websocket")
        sleepers = [sleeper(port, groups[at % 10]) for at in range(SLOW)]
        try:
            wait_until(lambda: daemon.metrics()["sessions"] == SLOW, 20, "all slow readers are in")
            with Socket(port) as quick:
                quick.auth("quick")
                before, highest, late = daemon.memory(), 0, 0.0
                for at in range(EVENTS // 10):
                    publish(server, groups, 10)
                    began = time.monotonic()
                    publish(server, ["quick"], 1)
                    assert quick.until("notification", 10)["seq"] == at + 1
                    quick.send({"type": "ack", "seq": at + 1})
                    late = max(late, time.monotonic() - began)
                    highest = max(highest, daemon.memory())
                wait_until(lambda: server.call("XLEN", "notifier:events") == 0, 30, "all is handed over")
                wait_until(lambda: daemon.metrics()["sessions"] == 1, 30, "the slow ones have been closed")
                highest = max(highest, daemon.memory())
                metrics = daemon.metrics()
                assert metrics['closes_total{code="4002"}'] == SLOW
                assert highest - before < SLOW * UNSENT * 1.5 + 30_000_000, (
                    f"{(highest - before) / 1e6:.0f} MB more"
                )
                assert late < 3.0, f"somebody else waited {late:.1f} s"
                publish(server, ["quick"], 1)
                assert quick.until("notification")["seq"] == EVENTS // 10 + 1
            # nothing is kept for who is gone
            wait_until(lambda: daemon.metrics()["connections"] == 0, 15, "their connections are cut")
        finally:
            for link in sleepers:
                link.close()


def test_who_was_too_slow_comes_back_and_has_everything(tmp_path: Path, server: Valkey) -> None:
    settings: dict[str, dict[str, object]] = {"limits": {"window": 10_000}, "inbox": {"cap": 200}}
    with Daemon(tmp_path, server.url, settings) as daemon:
        port = daemon.port("websocket")
        link = sleeper(port, "slow")
        wait_until(lambda: daemon.metrics()["sessions"] == 1, 10, "the slow one is in")
        publish(server, ["slow"], 150)
        wait_until(lambda: daemon.metrics()['closes_total{code="4002"}'] == 1, 10, "it was closed")
        link.close()
        with Socket(port) as again:
            again.auth("slow", after=0)
            got = []
            while (message := again.receive())["type"] != "upto":
                got.append(message["seq"])
                again.send({"type": "ack", "seq": message["seq"]})
            assert got == list(range(1, 151))


def test_nobody_is_dropped_by_a_history_that_is_larger_than_what_may_lie_unsent(
    tmp_path: Path, server: Valkey
) -> None:
    rows = 100
    with Daemon(tmp_path, server.url, {"limits": {"unsent_bytes": UNSENT}}) as daemon:
        publish(server, ["bo"], rows)
        wait_until(lambda: state_of(server, "bo").seq == rows, 20, "the rows are there")
        with Socket(daemon.port("websocket"), receive_bytes=2048) as client:
            client.send(auth(token("bo"), after=0))
            wait_until(lambda: daemon.metrics()['joins_total{result="load"}'] > 0, 20, "its history is read")
            # only now does it read, one row after the other
            for seq in range(1, rows + 1):
                message = client.until("notification", 20)
                assert (message["seq"], len(message["text"]) > 4000) == (seq, True)
                client.send({"type": "ack", "seq": seq})
            assert client.until("upto", 20)["seq"] == rows
        assert daemon.metrics()["slow_clients_total"] == 0
