"""SIGTERM under requests: what was asked is answered, what is idle goes at once, and nobody can hold the end up."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import pytest

from tests.client import Socket, token
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

# A drain that is not over before the test is: a WebSocket waits for its turn to be closed.
LONG: Final[Settings] = {"drain": {"seconds": 60.0, "timeout_seconds": 60.0}}


def asked(path: str = "/v1/inbox/unread", *more: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "Host: a", f"Authorization: Bearer {token('7')}", *more)
    return "\r\n".join((*lines, "", "")).encode()


class Caller:
    """One connection to the API, kept alive. A context manager."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.create_connection(("127.0.0.1", daemon.port("api")), timeout=20)
        self.held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str]]:
        """Status and fields of the next answer; its content is read, and dropped."""
        while b"\r\n\r\n" not in self.held:
            self._more()
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(self.held) < int(fields["content-length"]):
            self._more()
        self.held = self.held[int(fields["content-length"]) :]
        return int(first.split(" ")[1]), fields

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended within {self.held!r}"
        self.held += data

    def ended(self) -> bool:
        """Return when the server has hung up, in order and without another byte."""
        return self.socket.recv(65536) == b""


def stop(daemon: Daemon) -> None:
    """SIGTERM; returns when it no longer listens."""
    port = daemon.port("api")
    os.kill(daemon.pid, signal.SIGTERM)

    def shut() -> bool:
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", port)) != 0

    wait_until(shut, 10, "it no longer listens")


@pytest.fixture
def daemon(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Daemon]:
    with (
        Daemon(tmp_path, redis_url, LONG) as running,
        Socket(running.port("websocket")) as first,
        Socket(running.port("websocket")) as second,
    ):
        first.auth("ana")
        second.auth("bo")  # of two sockets the drain closes one a minute later
        yield running


def test_who_waits_between_two_requests_is_let_go_at_once(daemon: Daemon) -> None:
    with Caller(daemon) as idle:
        for _ in range(2):
            idle.send(asked())
            status, fields = idle.answer()
            assert (status, fields.get("connection")) == (200, None)
        stop(daemon)
        assert idle.ended()
        assert daemon.running


def test_who_has_only_just_come_is_served_and_sent_away(daemon: Daemon) -> None:
    with Caller(daemon) as newcomer, Caller(daemon) as silent:
        stop(daemon)
        newcomer.send(asked())
        status, fields = newcomer.answer()
        assert (status, fields["connection"]) == (200, "close")
        assert newcomer.ended()
        assert silent.ended()
        assert daemon.running


def test_who_waits_to_be_accepted_is_served_too(daemon: Daemon) -> None:
    """They wait in the kernel's queue while the daemon is busy; its end is told before it comes to them."""
    daemon.pause()
    with ExitStack() as stack:
        waiting = [stack.enter_context(Caller(daemon)) for _ in range(300)]
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port("websocket"))))
            for _ in range(50)
        ]
        for caller in waiting:
            caller.send(asked("/v1/openapi.json"))
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.resume()
        for caller in waiting:
            assert caller.answer()[0] == 200
            assert caller.ended()
        for link in sockets:
            link.settimeout(20)
            assert link.recv(1) == b"", "closed, and not reset"


def test_a_request_that_is_half_here_is_taken(daemon: Daemon) -> None:
    with Caller(daemon) as slow:
        slow.send(asked()[:50])
        stop(daemon)
        slow.send(asked()[50:])
        status, fields = slow.answer()
        assert (status, fields["connection"]) == (200, "close")
        assert slow.ended()


def test_what_is_pipelined_behind_the_last_answer_is_not_done(daemon: Daemon) -> None:
    with Caller(daemon) as many:
        many.send(asked()[:50])
        stop(daemon)
        many.send(asked()[50:] + asked() * 20)
        assert many.answer()[1]["connection"] == "close"
        assert many.ended(), "the close comes without a reset"


def test_refusals_say_it_too(daemon: Daemon) -> None:
    with Caller(daemon) as lost:
        lost.send(b"GET /nothing HTTP/1.1\r\nHo")
        stop(daemon)
        lost.send(b"st: a\r\n\r\n")
        status, fields = lost.answer()
        assert (status, fields["connection"]) == (404, "close")


def test_a_request_that_is_under_way_ends_in_order(tmp_path: Path, own_server: Valkey) -> None:
    with Daemon(tmp_path, own_server.url, {"drain": {"seconds": 0.0, "timeout_seconds": 60.0}}) as daemon:
        with Caller(daemon) as waiting:
            own_server.pause()
            waiting.send(asked())
            wait_until(lambda: read(daemon, waiting), 10, "the request has arrived")
            stop(daemon)
            own_server.resume()
            status, _ = waiting.answer()
            assert status == 200
            assert waiting.ended()
        assert daemon.ended(20) is not None


def read(daemon: Daemon, caller: Caller) -> bool:
    """Has the daemon taken all that was sent? The kernel counts what it has not (proc(5), tcp: rx_queue)."""
    here, there = (f":{link[1]:04X}" for link in (caller.socket.getpeername(), caller.socket.getsockname()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (waits,) = (row[4].partition(":")[2] for row in rows if row[1].endswith(here) and row[2].endswith(there))
    return int(waits, 16) == 0


def test_the_end_waits_for_a_request_that_is_on_its_way(
    tmp_path: Path, valkey: Valkey, redis_url: str
) -> None:
    """Nobody else is here that a drain would wait for."""
    with Daemon(tmp_path, redis_url, {"drain": {"seconds": 60.0, "timeout_seconds": 60.0}}) as daemon:
        with Caller(daemon) as slow:
            slow.send(asked()[:50])
            stop(daemon)
            assert daemon.ended(1.0) is None
            slow.send(asked()[50:])
            assert slow.answer()[0] == 200
        assert daemon.ended(20) is not None


def test_dripping_requests_do_not_hold_up_the_end(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    patient: Settings = {"drain": {"seconds": 0.0, "timeout_seconds": 600.0}}
    with Daemon(tmp_path, redis_url, patient) as daemon, Caller(daemon) as head, Caller(daemon) as content:
        head.send(asked()[:50])
        content.send(b"POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.ended(30) is not None, "long before the limit"
