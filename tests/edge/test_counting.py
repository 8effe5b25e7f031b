"""Connections of an address are counted from their first byte on, and uncounted on every way out."""

# mypy: allow-untyped-calls
# (Twisted's reactor has no annotations)

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as installed

from notifier.config import Limits, WebSocket
from notifier.core.tokens import Key, Verifier
from notifier.edge.hub import Hub
from notifier.edge.keyring import secret_check
from notifier.edge.memory import MemoryBus, MemoryInbox
from notifier.edge.memory_state import MemoryServer
from notifier.edge.store import Rules
from notifier.edge.websocket import Gateway
from notifier.metrics import Metrics
from tests import reactor
from tests.client import (
    CLOSE,
    KID,
    PATH,
    PROTOCOL,
    SECRET,
    Closed,
    Refused,
    Socket,
    auth,
    frame,
    request,
    token,
)
from tests.daemon import wait_until

RUNNING: Any = installed
MOST: Final = 3
WAIT: Final = 0.2  # s for a handshake, a token, an answer to a close


class Door:
    """A gateway on a real port, that lets MOST connections of an address in."""

    def __init__(self, trusted: tuple[str, ...] = ()) -> None:
        limits = Limits(per_address=MOST, per_address_rate=1e6, trusted_proxies=trusted)
        times = WebSocket(
            handshake_seconds=WAIT, auth_seconds=WAIT, close_seconds=WAIT, origins=("http://good",)
        )
        server = MemoryServer()
        bus = MemoryBus(server, 1, "p")
        self.metrics = Metrics({"auth_failures": (), "handshake_rejects": ()})
        hub = Hub(RUNNING, MemoryInbox(server, Rules(), "p"), bus, self.metrics, 1)
        key = Key(KID, "HS256", secret_check(SECRET.encode()))
        self.gateway = Gateway(
            RUNNING, hub, Verifier([key], "notifier", None, 86_400, 30), times, limits, self.metrics
        )
        bus.start()
        self.listener: Any = None

    def open(self) -> int:
        self.gateway.start()
        self.listener = RUNNING.listenTCP(0, self.gateway, interface="127.0.0.1")
        return int(self.listener.getHost().port)

    async def close(self) -> None:
        await self.listener.stopListening()
        self.gateway.stop()
        self.gateway.hub.stop()

    def is_empty(self) -> bool:
        return not reactor.run(lambda: self.gateway.busy)


@contextmanager
def opened(trusted: tuple[str, ...] = ()) -> Iterator[tuple[Door, int]]:
    door: Door = reactor.run(lambda: Door(trusted))
    port: int = reactor.run(door.open)
    try:
        yield door, port
    finally:
        reactor.run(door.close)


@pytest.fixture(scope="module")
def direct() -> Iterator[tuple[Door, int]]:
    """The peer itself is counted."""
    with opened() as made:
        yield made


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[Door, int]]:
    """The peer is a proxy: the address that it names is counted, once it has named it."""
    with opened(("127.0.0.0/8",)) as made:
        yield made


VIA: Final = {"X-Forwarded-For": "9.9.9.9"}


def free_places(door: Door, port: int, **more: Any) -> int:
    """How many more the address may open now. It may open MOST when nobody is there: no more, and no fewer."""
    wait_until(door.is_empty, 20, "all have gone")
    places = 0
    with ExitStack() as stack:
        try:
            while places < 2 * MOST:
                stack.enter_context(Socket(port, **more))
                places += 1
        except Refused as refused:
            assert refused.status == 429
    return places


# --- ways in and out ---------------------------------------------------------------------------------------


def connected(port: int, sent: bytes = b"") -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=20)
    link.sendall(sent)
    return link


def answered(port: int, sent: bytes) -> socket.socket:
    """What the server says to this has come, or the end."""
    link = connected(port, sent)
    try:
        link.recv(65536)
    except ConnectionResetError:
        pass
    return link


def opening(path: str = PATH, *bearer: str, **headers: str) -> bytes:
    return request(path, (PROTOCOL, *bearer), VIA | headers)


ENTRIES: Final[dict[str, Callable[[int], socket.socket]]] = {
    "silent": connected,
    "half a request": lambda port: connected(port, opening()[:40]),
    "another path": lambda port: answered(port, opening("/elsewhere")),
    "no websocket": lambda port: answered(port, b"GET / HTTP/1.1\r\n\r\n"),
    "not HTTP": lambda port: answered(port, b"\x16\x03\x01 nonsense\r\n\r\n"),
    "too large": lambda port: answered(port, opening(X="x" * 9000)),
    "another origin": lambda port: answered(port, opening(Origin="http://evil")),
    "upgraded": lambda port: answered(port, opening()),
    "let in": lambda port: answered(port, opening(PATH, f"bearer.{token('ana')}")),
    "bad token": lambda port: answered(port, opening(PATH, "bearer.nonsense")),
}


def abort(link: socket.socket) -> None:
    """With a reset."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def say_goodbye(link: socket.socket) -> None:
    """With a close frame, where there are frames."""
    try:
        link.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
    except OSError:
        pass  # the server was quicker
    link.close()


def half_close(link: socket.socket) -> None:
    """Only our half; the server has to do the rest."""
    try:
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536):
            pass
    except OSError:
        pass
    link.close()


def wait_for_the_end(link: socket.socket) -> None:
    """Until the server has had enough."""
    try:
        while link.recv(65536):
            pass
    except ConnectionResetError:
        pass
    link.close()


EXITS: Final[dict[str, Callable[[socket.socket], None]]] = {
    "closed": socket.socket.close,
    "aborted": abort,
    "with a close frame": say_goodbye,
    "half closed": half_close,
}


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(list(ENTRIES)), st.sampled_from(list(EXITS))), min_size=1, max_size=8)
)
def test_whatever_comes_and_goes_is_not_counted_afterwards(
    direct: tuple[Door, int], proxied: tuple[Door, int], visits: list[tuple[str, str]]
) -> None:
    for (door, port), headers in ((direct, {}), (proxied, VIA)):
        links = [(ENTRIES[entry](port), EXITS[leaving]) for entry, leaving in visits]
        for link, leave in links:
            leave(link)
        assert free_places(door, port, headers=headers) == MOST


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name != "let in"])
def test_who_stays_too_long_is_not_counted_afterwards(
    direct: tuple[Door, int], proxied: tuple[Door, int], entry: str
) -> None:
    """Deadlines for the handshake, for the token, for the answer to a close."""
    for (door, port), headers in ((direct, {}), (proxied, VIA)):
        wait_for_the_end(ENTRIES[entry](port))
        assert free_places(door, port, headers=headers) == MOST


# --- the limits --------------------------------------------------------------------------------------------


def test_connections_that_say_nothing_count_too(direct: tuple[Door, int]) -> None:
    door, port = direct
    wait_until(door.is_empty, 20, "all have gone")
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(connected(port))
        wait_until(lambda: reactor.run(lambda: len(door.gateway._handshakes)) == MOST, 20, "they are there")
        with pytest.raises(Refused) as refused:
            Socket(port)
        assert refused.value.status == 429
    assert free_places(door, port) == MOST


def test_beyond_twice_as_many_nobody_gets_an_answer(direct: tuple[Door, int]) -> None:
    door, port = direct
    wait_until(door.is_empty, 20, "all have gone")
    before = door.metrics.handshake_rejects["other"]
    with ExitStack() as stack:
        for _ in range(2 * MOST):
            stack.enter_context(connected(port))
        wait_until(
            lambda: reactor.run(lambda: len(door.gateway._handshakes)) == 2 * MOST, 20, "they are there"
        )
        for _ in range(3):
            with pytest.raises((Closed, ConnectionError)):
                Socket(port)
        assert door.metrics.handshake_rejects["other"] == before + 3
    assert free_places(door, port) == MOST


def test_behind_a_proxy_each_address_has_its_own_count(proxied: tuple[Door, int]) -> None:
    door, port = proxied
    wait_until(door.is_empty, 20, "all have gone")
    with ExitStack() as stack:
        for _ in range(MOST):
            client = stack.enter_context(Socket(port, headers=VIA))
            client.send(auth(token("ana")))
        with pytest.raises(Refused):
            Socket(port, headers=VIA)
        stack.enter_context(Socket(port, headers={"X-Forwarded-For": "8.8.8.8"}))
        for _ in range(2 * MOST):
            stack.enter_context(connected(port))  # the proxy's own, whoever they are for
        stack.enter_context(Socket(port, headers={"X-Forwarded-For": "8.8.8.8"}))
    assert free_places(door, port, headers=VIA) == MOST
