"""Through the real nginx with the configuration that we ship: WebSocket, event streams, API, and what stays out."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from notifier.config import Config
from notifier.edge.embedded import free_port
from tests.client import Socket, request, token
from tests.conf.nginx import CONF, Nginx
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

EVENT: Final = b'{"type":"like","actor":{"id":"42"},"to":["7"]}'
QUICK: Final = {
    "client_header_timeout 10s;": "client_header_timeout 1s;",
    "proxy_read_timeout 120s;": "proxy_read_timeout 5s;",
}


@pytest.fixture(scope="module")
def behind(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that pings often, and counts every address of 127.0.0.0/8 but nginx's."""
    settings: Settings = {
        "websocket": {"ping_seconds": 2, "pong_seconds": 1},
        "limits": {"per_address": 2, "trusted_proxies": ["127.0.0.1/32"]},
    }
    valkey.call("FLUSHALL")  # another module may have set it up differently
    with Daemon(tmp_path_factory.mktemp("behind"), valkey.url, settings) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def front(behind: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx before it, with short timeouts."""
    folder = tmp_path_factory.mktemp("front") / "nginx"
    with Nginx(folder, behind.port("websocket"), behind.port("api"), QUICK) as nginx:
        yield nginx


def through(front: Nginx, **headers: str) -> Socket:
    return Socket(front.port, tls=front.papers.context(), headers=headers)


def test_a_notification_comes_through(front: Nginx, valkey: Valkey) -> None:
    with through(front) as client:
        client.auth("7")
        valkey.call("XADD", "notifier:events", "*", "event", EVENT)
        assert client.until("notification")["actors"] == [{"id": "42"}]


def test_a_silent_socket_outlives_the_timeouts_by_its_pings(front: Nginx) -> None:
    with through(front) as client:
        client.auth("8")
        assert client.silent(6.5)  # longer than nginx bears silence
        client.send({"type": "ping"})
        assert client.until("pong")


def test_the_timeouts_are_longer_than_the_silence_that_may_be() -> None:
    """notifier pings who was silent for a whole interval, so twice ping_seconds may pass without a byte."""
    settings = Config().websocket
    locations = dict(
        re.findall(r"^ +location = (\S+) \{(.*?)^ +\}", CONF.read_text(), re.MULTILINE | re.DOTALL)
    )
    for path in ("/v1/websocket", "/v1/stream"):
        waits = re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", locations[path])
        assert len(waits) == 2
        assert min(map(int, waits)) > 2 * settings.ping_seconds + settings.pong_seconds


def test_connections_are_counted_by_the_address_of_the_client(front: Nginx, behind: Daemon) -> None:
    first, second, third = (front.knock("127.0.0.2") for _ in range(3))
    assert [first[0], second[0], third[0]] == [101, 101, 429]
    # What the client says of itself does not count, and another's connections are not its own.
    assert front.knock("127.0.0.2", X_Forwarded_For="203.0.113.9")[0] == 429
    other = front.knock("127.0.0.3", X_Forwarded_For="127.0.0.2")
    assert other[0] == 101
    assert behind.metrics()['handshake_rejects_total{reason="per_address"}'] >= 2


def test_a_slow_handshake_comes_through(front: Nginx) -> None:
    whole = request("/v1/websocket", (), {})
    with front.connect() as client:
        for at in range(0, len(whole), 40):
            client.sendall(whole[at : at + 40])
            time.sleep(0.05)
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")


def test_a_handshake_that_is_never_done_does_not_reach_notifier(front: Nginx, behind: Daemon) -> None:
    before = behind.metrics()["connections_total"]
    with front.connect() as client:
        client.sendall(request("/v1/websocket", (), {})[:-2])
        client.settimeout(4.0)
        assert b" 101 " not in client.recv(4096)  # it hangs up, with 408 or without a word
    assert behind.metrics()["connections_total"] == before


def test_a_page_of_the_same_host_may_connect_and_no_other(front: Nginx) -> None:
    here = f"localhost:{front.port}"
    with through(front, Host=here, Origin=f"https://{here}") as client:
        client.auth("9")
    with through(front, Host=here, Origin="https://evil.example") as client:
        assert client.closing().code == 4503


def test_cookies_do_not_fill_the_handshake(front: Nginx) -> None:
    """Browsers send all cookies of the host; notifier's limit for headers is 8 KiB."""
    with through(front, Cookie="a=" + "x" * 7000, Referer="https://localhost/" + "y" * 3000) as client:
        client.auth("9")


def test_the_inbox_comes_through(front: Nginx) -> None:
    reply = front.ask("GET", "/v1/inbox", Authorization=f"Bearer {token('77')}")
    assert (reply.status, json.loads(reply.body)["rows"]) == (200, [])
    assert "strict-transport-security" in reply.headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/v1/../metrics", "/v2/inbox"])
def test_the_rest_stays_out(front: Nginx, path: str) -> None:
    assert front.ask("GET", path).status == 404


def test_plain_http_is_sent_to_tls(front: Nginx) -> None:
    with socket.create_connection(("127.0.0.1", front.plain), timeout=20) as client:
        client.sendall(b"GET /v1/inbox HTTP/1.1\r\nHost: push.example.com\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert b"Location: https://push.example.com/v1/inbox\r\n" in answer


def test_queries_stay_out_of_the_log(front: Nginx) -> None:
    front.ask("GET", "/v1/inbox?access_token=canary-of-the-test")
    log = front.folder / "access.log"
    wait_until(lambda: "/v1/inbox HTTP" in log.read_text(), 5, "no line in access.log")
    assert "canary-of-the-test" not in log.read_text()


# -- a server in notifier's place: what arrives there


class Behind(BaseHTTPRequestHandler):
    """Says what it was sent; on /v1/stream an event, and another one when `more` is set."""

    protocol_version = "HTTP/1.1"
    more = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: 1\n\n")
        self.wfile.flush()
        self.more.wait(5)
        self.wfile.write(b"data: 2\n\n")
        self.close_connection = True

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"size": size, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Nginx]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Nginx(tmp_path / "nginx", free_port(), server.server_port) as nginx:
        yield nginx
    Behind.more.set()
    server.shutdown()
    server.server_close()


def test_an_event_of_a_stream_is_passed_on_at_once(told: Nginx) -> None:
    Behind.more.clear()
    with told.connect() as client:
        client.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = b""
        while b"data: 1\n\n" not in got:  # while the answer is far from over
            got += client.recv(4096)
        Behind.more.set()
        while b"data: 2\n\n" not in got:
            got += client.recv(4096)


def test_what_notifier_is_told_about_a_request(told: Nginx) -> None:
    said = json.loads(
        told.ask("POST", "/v1/events", b"{}", Cookie="secret=1", X_Forwarded_For="203.0.113.9").body
    )["headers"]
    assert said["Host"] == f"localhost:{told.port}"
    assert (said["X-Forwarded-For"], said["X-Forwarded-Proto"]) == ("127.0.0.1", "https")
    assert "Cookie" not in said


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/v1/events", 2 << 20, 200), ("/v1/events", (2 << 20) + 1, 413), ("/v1/inbox/read", 64 << 10, 200),
     ("/v1/inbox/read", (64 << 10) + 1, 413)],
)  # fmt: skip
def test_bodies_are_bounded(told: Nginx, path: str, size: int, status: int) -> None:
    reply = told.ask("POST", path, b" " * size)
    assert reply.status == status
    assert status != 200 or json.loads(reply.body)["size"] == size


def test_without_notifier_it_says_when_to_come_again(tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", free_port(), free_port()) as nginx:
        for path in ("/v1/inbox", "/v1/websocket"):
            reply = nginx.ask("GET", path)
            assert (reply.status, reply.headers["retry-after"]) == (503, "2")
            assert reply.headers["content-type"] == "application/problem+json"
            assert json.loads(reply.body)["type"] == "urn:problem-type:notifier:unavailable"
