"""How a connection is taken in: whose it is, as the limits per address count, and how its socket is set."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as default_reactor
from twisted.internet.task import deferLater

from notifier.config import Limits, WebSocket
from notifier.core.tokens import Verifier
from notifier.edge import inlet
from notifier.edge.listen import endpoint
from notifier.edge.websocket import Connection, Gateway, Handshake
from notifier.metrics import Metrics
from tests.client import PATH, PING, PONG, PROTOCOL, frame, request

reactor: Any = default_reactor


def gateway(*proxies: str, limits: Limits | None = None) -> Gateway:
    nobody: Any = None
    verifier = Verifier((), "notifier", None, 86_400, 30)
    limits = limits or Limits(trusted_proxies=proxies)
    return Gateway(reactor, nobody, verifier, WebSocket(), limits, Metrics())


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await deferLater(reactor, 0.01, lambda: None)
    raise AssertionError("it did not happen")


def test_the_right_most_address_that_is_no_proxys() -> None:
    found = gateway("10.0.0.0/8").address
    assert found("192.0.2.7", "") == "192.0.2.7"
    assert found("10.1.1.1", "192.0.2.8, 10.2.2.2") == "192.0.2.8"
    assert found("10.1.1.1", "forged, 192.0.2.9") == "192.0.2.9"
    assert found("192.0.2.7", "192.0.2.8") == "192.0.2.7", "a peer that is no proxy is not believed"
    assert found("10.1.1.1", "") is None
    assert found("", "") is None
    assert found("10.1.1.1", "nonsense") is None
    assert found("10.1.1.1", "192.0.2.8" + ", 10.2.2.2" * 100) == "192.0.2.8", "however long the way"


def test_one_household_of_ipv6_is_one_address() -> None:
    found = gateway().address
    assert found("2001:db8::1", "") == found("2001:db8::ffff:2", "") == "2001:db8::/64"
    assert found("2001:db8:0:1::1", "") == "2001:db8:0:1::/64"
    assert found("::ffff:192.0.2.7", "") == "192.0.2.7", "IPv4 on a dual-stack listener"


def test_other_proxies_change_what_was_found_before() -> None:
    house = gateway("10.0.0.0/8")
    assert house.address("172.16.0.1", "192.0.2.8") == "172.16.0.1"
    house.adopt(Limits(trusted_proxies=("172.16.0.0/12",)), 30)
    assert house.address("172.16.0.1", "192.0.2.8") == "192.0.2.8"
    assert house.address("10.1.1.1", "192.0.2.8") == "10.1.1.1"


@asynccontextmanager
async def upgraded(
    house: Gateway,
    link: socket.socket,
    address: Any,
    headers: Mapping[str, str] | None = None,
    before: bytes = b"",
) -> AsyncIterator[Connection]:
    """The server's side of a connection that has just been upgraded. `before`: bytes in front of the request."""
    known = set(house.open)
    link.connect(address)
    link.sendall(before + request(PATH, (PROTOCOL,), headers or {}))
    link.setblocking(False)
    answer = b""
    for _ in range(1000):
        await deferLater(reactor, 0.01, lambda: None)
        try:
            answer += link.recv(4096)
        except BlockingIOError:
            continue
        break
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Extensions" not in answer
    (connection,) = house.open - known
    yield connection
    connection.transport.abortConnection()


async def test_a_frame_does_not_wait_for_the_client_to_confirm_the_one_before() -> None:
    house = gateway()
    port = reactor.listenTCP(0, house, interface="127.0.0.1")
    with socket.socket() as link:
        async with upgraded(house, link, ("127.0.0.1", port.getHost().port)) as connection:
            # without it the second of two notifications comes 40 ms late (RFC 896 meets RFC 1122 4.2.3.2)
            assert connection.transport.getTcpNoDelay()
    await port.stopListening()


async def test_each_option_is_what_the_factory_says() -> None:
    house = gateway()
    made = house.buildProtocol(None)
    for name in Handshake.CONFIG_ATTRS:
        assert getattr(made, name) == getattr(house, name), name


async def test_an_offer_to_compress_is_left_aside() -> None:
    house = gateway()
    port = reactor.listenTCP(0, house, interface="127.0.0.1")
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    with socket.socket() as link:
        async with upgraded(house, link, ("127.0.0.1", port.getHost().port), offer) as connection:
            assert connection.transport.connected
    await port.stopListening()


async def test_a_socket_in_the_file_system_has_no_address_and_is_served(tmp_path: Path) -> None:
    house = gateway()
    port = reactor.listenUNIX(str(tmp_path / "socket"), house)
    with socket.socket(socket.AF_UNIX) as link:
        async with upgraded(house, link, str(tmp_path / "socket")) as connection:
            assert connection.address is None
    await port.stopListening()


async def test_behind_a_proxy_protocol_it_is_the_clients_own() -> None:
    house = gateway("127.0.0.0/8")
    port = await endpoint(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(house)
    said = b"PROXY TCP4 198.51.100.7 10.0.0.1 5000 80\r\n"
    with socket.socket() as link:
        async with upgraded(house, link, ("127.0.0.1", port.getHost().port), before=said) as connection:
            assert connection.address == "198.51.100.7"
    await port.stopListening()


async def test_last_words_are_heard_of_who_has_not_read_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close with unread bytes is a reset (RFC 9293 3.6.1); what was said before it still comes."""
    monkeypatch.setattr(inlet, "GATHER", 3600.0)  # once it gathers, nothing is read through it here
    house = gateway(limits=Limits(unsent_bytes=100_000_000))
    port = reactor.listenTCP(0, house, interface="127.0.0.1")
    address = ("127.0.0.1", port.getHost().port)
    with socket.socket() as link, socket.socket() as other:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with upgraded(house, link, address) as slow, upgraded(house, other, address) as busy:
            link.sendall(frame(PING, b""))
            await until(lambda: slow.pings == 1)
            assert slow.descriptor >= 0
            for count in (
                1,
                2,
                3,
            ):  # the first is read by Twisted, the second wakes the inlet, with the third it gathers
                other.sendall(frame(PING, b""))
                await until(lambda: busy.pings == count)  # noqa: B023 (it is over before the next round)
            slow.write(b"x" * 10_000_000)
            link.sendall(frame(PING, b"last words"))
            link.close()
            await until(lambda: slow not in house.open)
            assert slow.pings == 2
            assert busy.descriptor >= 0
    await port.stopListening()


async def test_who_has_read_all_is_read_with_the_others_again() -> None:
    house = gateway(limits=Limits(unsent_bytes=100_000_000))
    port = reactor.listenTCP(0, house, interface="127.0.0.1")
    with socket.socket() as link:
        async with upgraded(house, link, ("127.0.0.1", port.getHost().port)) as slow:
            link.sendall(frame(PING, b""))
            await until(lambda: slow.pings == 1)
            slow.write(b"x" * 10_000_000)
            assert slow.descriptor == -1
            link.sendall(frame(PONG, b""))
            left = 10_000_000
            while left > 0:
                await deferLater(reactor, 0, lambda: None)
                with suppress(BlockingIOError):
                    left -= len(link.recv(1_000_000))
            link.sendall(frame(PING, b""))
            await until(lambda: slow.pings == 2)
            assert slow.descriptor >= 0
    await port.stopListening()
