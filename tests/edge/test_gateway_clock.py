"""The gateway on a clock that the tests move: whose address counts, when a token ends, how closes are spread."""

# mypy: allow-untyped-calls
# (Twisted's testing transports have no annotations)

from __future__ import annotations

from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from notifier.config import Limits, WebSocket
from notifier.core.tokens import Key, Verifier
from notifier.edge.hub import Hub
from notifier.edge.keyring import secret_check
from notifier.edge.memory import MemoryBus, MemoryInbox
from notifier.edge.memory_state import MemoryServer
from notifier.edge.store import Rules
from notifier.edge.websocket import VOID_SECONDS, Gateway
from notifier.metrics import Metrics
from tests.client import (
    CLOSE,
    KID,
    PATH,
    PING,
    PONG,
    PROTOCOL,
    SECRET,
    Frames,
    auth,
    frame,
    request,
    text,
    token,
)

BEGAN = 1_795_000_000
OTHER = "another shared secret of the tests, long enough"


def key(kid: str = KID, secret: str = SECRET) -> Key:
    return Key(kid, "HS256", secret_check(secret.encode()), secret.encode())


class Wire(StringTransport):
    """What a socket is to the gateway. `protocol`: who has the transport."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        self.protocol: Any = None
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class House:
    """A gateway over an inbox in memory, at BEGAN."""

    def __init__(self, limits: Limits | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(BEGAN)
        server = MemoryServer(BEGAN * 1000)
        bus = MemoryBus(server, 1, "p")
        self.metrics = Metrics({"auth_failures": (), "handshake_rejects": ()})
        self.hub = Hub(self.clock, MemoryInbox(server, Rules(), "p"), bus, self.metrics, 1)
        self.verifier = Verifier([key()], "notifier", None, 86_400, 0)
        self.gateway = Gateway(
            self.clock, self.hub, self.verifier, WebSocket(**settings), limits or Limits(), self.metrics, 0
        )
        bus.start()
        self.gateway.start()

    @property
    def now(self) -> float:
        return float(self.clock.seconds()) - BEGAN

    def client(self, user: str, life: int = 3600) -> Client:
        return Client(self, token(user, life, issued=BEGAN))


class Client:
    """A person who is in, and answers pings."""

    def __init__(self, house: House, bearer: str) -> None:
        self.wire, self._frames = Wire(), Frames()
        handshake = house.gateway.buildProtocol(self.wire.getPeer())
        self.wire.protocol = handshake
        handshake.makeConnection(self.wire)
        handshake.dataReceived(request(PATH, (PROTOCOL,), {}))
        assert self.wire.value().startswith(b"HTTP/1.1 101 ")
        self.wire.clear()
        self.say(auth(bearer))
        house.clock.advance(0)

    def say(self, message: dict[str, Any]) -> None:
        self.wire.protocol.dataReceived(text(message))

    def closed(self) -> int | None:
        """The code of the close frame, when there is one; pings are answered on the way."""
        found = self._frames.feed(self.wire.value())
        self.wire.clear()
        for opcode, payload in found:
            if opcode == PING:
                self.wire.protocol.dataReceived(frame(PONG, payload))
            elif opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")
        return None


# --- whose connection it is --------------------------------------------------------------------------------

PROXIES = ("127.0.0.0/8", "::1/128", "10.1.0.0/16", "2001:db8:ffff::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("9.9.9.9", "", "9.9.9.9"),
        ("::ffff:9.9.9.9", "", "9.9.9.9"),
        ("::ffff:909:909", "", "9.9.9.9"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "", "2001:db8:1:2::/64"),
        # a proxy is believed, by whichever of its names the listener sees it
        ("127.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("::ffff:127.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("::ffff:10.1.2.3", "9.9.9.9", "9.9.9.9"),
        ("::1", "::ffff:9.9.9.9", "9.9.9.9"),
        ("2001:db8:ffff::7", "2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("10.1.2.3", "1.1.1.1, 9.9.9.9 ,::ffff:10.1.9.9", "9.9.9.9"),
        # nobody else is
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("::ffff:9.9.9.9", "1.1.1.1", "9.9.9.9"),
        # who is a proxy, or hides behind one that does not say whose connection it is, is not counted
        ("127.0.0.1", "", None),
        ("::ffff:127.0.0.1", "", None),
        ("127.0.0.1", "unknown", None),
        ("127.0.0.1", "10.1.2.3, ::1", None),
    ],
)
def test_the_address_that_counts(peer: str, forwarded: str, counted: str | None) -> None:
    house = House(Limits(trusted_proxies=PROXIES))
    assert house.gateway.address(peer, forwarded) == counted


@given(st.ip_addresses(v=4))
def test_an_address_counts_as_itself_however_the_listener_shows_it(address: Any) -> None:
    gateway = House(Limits(trusted_proxies=PROXIES)).gateway
    assert gateway.address(f"::ffff:{address}", "") == gateway.address(str(address), "")
    assert gateway.address("::1", f"::ffff:{address}") == gateway.address("127.0.0.1", str(address))


# --- the end of a token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ping", [25, 31, 120, 600])
@pytest.mark.parametrize("life", [62, 90, 119, 121, 150, 333, 601, 900])
def test_a_token_ends_on_time_however_rarely_pings_go_out(ping: int, life: int) -> None:
    house = House(ping_seconds=ping, pong_seconds=20, reauth_seconds=30)
    client = house.client("ana", life)
    while (code := client.closed()) is None:
        assert house.now <= life + 1, "it is over"
        house.clock.advance(1)
    assert code == 4001
    assert house.now >= life


# --- keys that are void ------------------------------------------------------------------------------------


def test_whom_a_void_key_let_in_has_to_go_one_after_the_other() -> None:
    house = House()
    clients = [house.client(f"u{n}") for n in range(50)]
    house.gateway.void([key()], lambda _: False)
    ends: list[float] = []
    while house.now < VOID_SECONDS + 1:
        house.clock.advance(0.1)
        ends += [house.now for client in clients if client.closed() == 4001]
    assert len(ends) == 50
    assert max(ends) <= VOID_SECONDS + 0.2
    assert all(9 <= sum(second <= end < second + 1 for end in ends) <= 11 for second in range(5))


def test_who_has_a_token_of_another_key_by_then_stays() -> None:
    house = House()
    renewed, other = house.client("renewed"), house.client("other")
    house.verifier.replace([key(), key("new", OTHER)])
    house.gateway.void([key()], lambda _: False)
    claims = {"sub": "renewed", "aud": "notifier", "iat": BEGAN, "exp": BEGAN + 3600}
    renewed.say(auth(jwt.encode(claims, OTHER, "HS256", headers={"kid": "new"})))
    house.clock.advance(VOID_SECONDS + 1)
    assert (renewed.closed(), other.closed()) == (None, 4001)


def test_nobody_goes_for_a_key_that_is_back_or_let_nobody_in() -> None:
    house = House()
    client = house.client("ana")
    house.gateway.void([key()], lambda _: True)
    house.gateway.void([key("another"), key(secret=OTHER)], lambda _: False)
    house.clock.advance(VOID_SECONDS + 1)
    assert client.closed() is None
