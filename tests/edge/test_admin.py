"""The operators' pages over real sockets; what is pure, by table."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from notifier.edge import admin
from notifier.edge.admin import (
    CONNECTIONS,
    REQUEST_SECONDS,
    Part,
    admin_site,
    host_name,
    is_own_name,
    refusal,
)
from notifier.edge.http import NEWCOMER_SECONDS
from notifier.metrics import Metrics
from tests import reactor

Reply = tuple[int, dict[str, str], bytes]


class Server:
    """An admin site on a real port, with a part that the test switches."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {"redis": lambda: (True, "PING 1 ms")}
        self.metrics = Metrics()
        self.site = admin_site(lambda: self.metrics.render(), self.parts, hosts=["Admin.example"])
        self.listener: Any = reactor.run(self._listen)
        self.port: int = self.listener.getHost().port

    def _listen(self) -> Any:
        from twisted.internet import reactor as installed

        running: Any = installed
        return running.listenTCP(0, self.site, interface="127.0.0.1")

    def stop(self) -> None:
        reactor.run(self.listener.stopListening)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, request: bytes) -> bytes:
        """What comes back until the server hangs up."""
        with self.connect() as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def ask(self, path: str, method: str = "GET", host: str | None = "localhost", more: str = "") -> Reply:
        named = f"Host: {host}\r\n" if host is not None else ""
        reply = self.raw(f"{method} {path} HTTP/1.1\r\n{named}Connection: close\r\n{more}\r\n".encode())
        return parsed(reply)


def parsed(reply: bytes) -> Reply:
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *rows = head.decode("ascii").split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, _, v in (row.partition(": ") for row in rows)}, body


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def test_healthz(server: Server) -> None:
    status, headers, body = server.ask("/healthz")
    assert (status, body, headers["content-length"]) == (200, b"ok\n", "3")


def test_readyz_tells_each_part_and_asks_again_every_time(server: Server) -> None:
    status, headers, body = server.ask("/readyz")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"ready": True, "parts": {"redis": {"ok": True, "detail": "PING 1 ms"}}}
    server.parts["canary"] = lambda: (False, "last seen 16 s ago")
    status, _, body = server.ask("/readyz")
    assert status == 503
    assert json.loads(body) == {
        "ready": False,
        "parts": {
            "redis": {"ok": True, "detail": "PING 1 ms"},
            "canary": {"ok": False, "detail": "last seen 16 s ago"},
        },
    }


def test_a_part_that_breaks_is_not_ready_and_its_text_is_not_shown(server: Server) -> None:
    def broken() -> tuple[bool, str]:
        raise ConnectionError("redis://:hunter2@10.0.0.1")

    server.parts["bells"] = broken
    server.parts["long"] = lambda: (True, "x" * 10_000)
    status, _, body = server.ask("/readyz")
    assert status == 503
    parts = json.loads(body)["parts"]
    assert parts["bells"] == {"ok": False, "detail": "could not be asked: ConnectionError"}
    assert parts["long"]["detail"] == "x" * 200
    assert parts["redis"]["ok"]


def test_metrics(server: Server) -> None:
    server.metrics.events_read += 7
    status, headers, body = server.ask("/metrics?name=x")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert b"\nnotifier_events_read_total 7.0\n" in body


def test_a_page_that_breaks_is_a_500_without_its_reason(server: Server) -> None:
    del server.metrics
    status, _, body = server.ask("/metrics")
    assert (status, body) == (500, b"this page could not be made; the log says why\n")
    assert server.ask("/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz/", "/Healthz", "//healthz", "/%68ealthz", "/x", "*"])
def test_everything_else_is_not_found(server: Server, path: str) -> None:
    assert server.ask(path)[0] == 404


def test_head_has_the_same_fields_and_no_content(server: Server) -> None:
    _, wanted, body = server.ask("/readyz")
    status, headers, content = server.ask("/readyz", "HEAD")
    assert (status, content) == (200, b"")
    assert headers["content-length"] == str(len(body))
    assert headers.keys() == wanted.keys()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods(server: Server, method: str) -> None:
    status, headers, _ = server.ask("/healthz", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
def test_every_answer_is_guarded_and_names_no_software(server: Server, path: str) -> None:
    _, headers, _ = server.ask(path)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers
    assert "set-cookie" not in headers


GARBAGE = [
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nx\r\n\r\n",
    b"GET /\xe9 HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_names_no_software_either(server: Server, garbage: bytes) -> None:
    reply = server.raw(garbage)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"wisted" not in reply


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:8083", 200),
        ("127.0.0.1:8083", 200),
        ("127.8.9.10", 200),
        ("[::1]:8083", 200),
        ("admin.example", 200),
        ("ADMIN.example:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.5", 421),
        ("127.1", 421),
        ("", 400),
        ("a b", 400),
        ("localhost, evil.example", 400),
        ("user@localhost", 400),
        (None, 400),
    ],
)
def test_host_against_dns_rebinding(server: Server, host: str | None, status: int) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert server.ask(path, host=host)[0] == status


def test_a_host_in_bytes_that_are_no_text_is_refused(server: Server) -> None:
    reply = server.raw(b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: \xff\r\n\r\n")
    assert parsed(reply)[0] == 400


def test_two_hosts_are_refused(server: Server) -> None:
    assert server.ask("/healthz", more="Host: localhost\r\n")[0] == 400


def test_a_load_balancer_that_speaks_http_1_0_without_host_is_answered(server: Server) -> None:
    assert parsed(server.raw(b"GET /healthz HTTP/1.0\r\n\r\n"))[0] == 200
    assert parsed(server.raw(b"GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n"))[0] == 421


def test_the_address_that_the_connection_came_in_on_is_a_name_of_ours() -> None:
    assert is_own_name("10.0.0.5", "10.0.0.5", ())
    assert is_own_name("10.0.0.5", "::ffff:10.0.0.5", ())
    assert is_own_name("fd00::5", "fd00:0::5", ())
    assert not is_own_name("10.0.0.6", "10.0.0.5", ())
    assert not is_own_name("evil.example", "evil.example", ())
    assert not is_own_name("", "", ())


def test_host_names() -> None:
    assert host_name("Example.COM.:1") == "example.com"
    assert host_name("[FD00::1]") == "fd00::1"
    assert [host_name(bad) for bad in ("", ":80", "a:", "a:123456", "[::1", "a/b", "a\n")] == [None] * 7


def test_the_host_is_checked_before_the_method_is_explained() -> None:
    refused = refusal(b"POST", b"HTTP/1.1", ["evil.example"], "127.0.0.1", ())
    assert refused is admin.WRONG_HOST


@pytest.mark.parametrize(
    "length", ["Content-Length: 1", "Content-Length: 99999999999", "Transfer-Encoding: chunked"]
)
def test_content_is_refused_before_it_is_read(server: Server, length: str) -> None:
    with server.connect() as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        reply = b"".join(iter(lambda: client.recv(65536), b""))
    assert reply == b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "header", ["X: " + "a" * 9000, "\r\n".join(f"X-{n}: 1" for n in range(60))], ids=["bytes", "number"]
)
def test_large_headers_are_refused(server: Server, header: str) -> None:
    assert server.ask("/healthz", more=header + "\r\n")[0] == 400


def test_a_connection_serves_many_requests(server: Server) -> None:
    with server.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reply = b""
            while not reply.endswith(b"ok\n"):
                reply += client.recv(65536)
            assert parsed(reply)[0] == 200


def test_connections_are_bounded_and_counted_down(server: Server) -> None:
    held = [server.connect() for _ in range(CONNECTIONS)]
    until = time.monotonic() + 30
    while server.site.connections < CONNECTIONS and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    with server.connect() as one_more:
        assert one_more.recv(1) == b""
    for client in held:
        client.close()
    while server.site.connections and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert server.ask("/healthz")[0] == 200


class Dripping:
    """A connection on a clock of the test's own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        site: Any = admin_site(lambda: b"", {}, reactor=self.clock)  # type: ignore[arg-type]
        self.channel = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes, seconds: float) -> None:
        self.clock.advance(seconds)
        if not self.transport.disconnecting:
            self.channel.dataReceived(data)


def test_dripping_bytes_do_not_stretch_the_time_limit() -> None:
    client = Dripping()
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localh":
        client.send(bytes([byte]), 1.0)
        if client.transport.disconnecting:
            break
    assert client.clock.seconds() == REQUEST_SECONDS


def test_each_answer_starts_the_time_limit_anew() -> None:
    client = Dripping()
    for _ in range(3):
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", REQUEST_SECONDS - 1)
    assert client.transport.value().count(b"HTTP/1.1 200 OK") == 3
    assert not client.transport.disconnecting
    client.clock.advance(REQUEST_SECONDS)
    assert client.transport.disconnecting


class Halves(StringTransport):
    """One that can be closed by halves, as TCP can."""

    def loseWriteConnection(self) -> None:
        self.loseConnection()


def test_a_drain_lets_go_who_is_served_then_who_is_silent_then_who_drips() -> None:
    clock = Clock()
    site: Any = admin_site(lambda: b"", {}, reactor=clock)  # type: ignore[arg-type]
    links = {}
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for name, sent in {"served": whole, "silent": b"", "dripping": whole[:20]}.items():
        channel, links[name] = site.buildProtocol(None), Halves()
        channel.makeConnection(links[name])
        if sent:
            channel.dataReceived(sent)
    ended: list[str] = []
    site.drain(10.0)
    for seconds in (0.0, NEWCOMER_SECONDS, 10.0):
        clock.advance(seconds)
        ended += [name for name, link in links.items() if link.disconnecting and name not in ended]
        assert len(ended) == ("served", "silent", "dripping").index(ended[-1]) + 1
    assert ended == ["served", "silent", "dripping"]
