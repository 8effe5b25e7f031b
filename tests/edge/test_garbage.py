"""Garbage on every input: nothing crashes, nothing is lost without a word, and everybody else is served."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.client import PATH, PROTOCOL, TEXT, Closed, Socket, auth, frame, request, token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey

STREAM: Final = "notifier:events"
GOOD: Final[dict[str, Any]] = {"type": "like", "actor": {"id": "ana"}, "to": ["watcher"]}
WORDS: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        10**30,
        "",
        "x",
        "\x00",
        "\ud7ff",
        "a" * 5000,
        "../..",
        "{0}",
        "*",
        "\n",
    ),
    *([], [[]], {}, {"a": {}}, "watcher", ["watcher"], "like", "unlike", "2026-01-01T00:00:00Z", "ack"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings: dict[str, dict[str, object]] = {
        "limits": {"messages_per_second": 100_000.0, "messages_burst": 100_000, "per_user": 1000},
        # on a busy machine an honest handshake takes its time too, and would end without a close frame (1006)
        "websocket": {"handshake_seconds": 60.0},
    }
    with Daemon(tmp_path_factory.mktemp("daemon"), server.url, settings) as running:
        yield running


@pytest.fixture(autouse=True)
def still_well(server: Valkey, daemon: Daemon) -> Iterator[None]:
    """After each test the daemon serves, and has met no bug."""
    yield
    with Socket(daemon.port("websocket")) as client:
        client.auth("watcher")
        server.call("XADD", STREAM, "*", "event", json.dumps(GOOD))
        assert client.until("notification", 10)["kind"] == "like"
    bugs = [
        line for line in daemon.lines() if "traceback" in line or line.get("level") in ("error", "critical")
    ]
    assert bugs == []
    assert daemon.get("/readyz")[0] == 200


def noise(chance: random.Random, most: int = 400) -> bytes:
    return chance.randbytes(chance.randrange(1, most))


def deliver(port: int, data: bytes) -> None:
    """Bytes to a port, and away."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        try:
            link.sendall(data)
            link.settimeout(0.005)
            link.recv(1024)
        except OSError:
            pass


def test_random_bytes_at_every_port(daemon: Daemon) -> None:
    chance = random.Random(1)
    requests = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + b"/" * 7000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/inbox HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 5000,
        b"\r\n" * 3000,
    ]
    for name in ("websocket", "api"):
        port = daemon.port(name)
        for data in [*requests, *(noise(chance) for _ in range(150))]:
            deliver(port, data)
    for data in requests:
        deliver(daemon.admin_port, data)


def test_mutilated_handshakes(daemon: Daemon) -> None:
    chance, port = random.Random(2), daemon.port("websocket")
    whole = bytearray(request(PATH, (PROTOCOL, f"bearer.{token('x')}"), {"Origin": "http://127.0.0.1"}))
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        deliver(port, bytes(broken[: chance.choice((len(broken), chance.randrange(len(broken))))]))
    for query in (
        "?epoch=%ff%00&after=1",
        "?after=99999999999999999999",
        "?" + "&" * 2000,
        "?after=1&after=2",
    ):
        deliver(port, request(PATH + query, (PROTOCOL, f"bearer.{token('x')}"), {}))


def test_random_bytes_after_the_handshake(daemon: Daemon) -> None:
    chance = random.Random(3)
    for known in (False, True):
        for _ in range(100):
            with Socket(daemon.port("websocket")) as client:
                if known:
                    client.auth("noisy")
                client.raw(noise(chance) + b"\x88\x80\x00\x00\x00\x00")
                client.raw(frame(chance.randrange(16), noise(chance, 200), fin=chance.random() < 0.5))
                client.socket.shutdown(socket.SHUT_WR)
                assert 1000 <= client.closing().code < 5000


def some_json(chance: random.Random, depth: int = 0) -> Any:
    dice = chance.random()
    if dice < 0.7 or depth > 3:
        return chance.choice(WORDS)
    if dice < 0.85:
        return [some_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {str(chance.choice(WORDS)): some_json(chance, depth + 1) for _ in range(chance.randrange(4))}


def test_messages_that_are_nearly_right(daemon: Daemon) -> None:
    chance = random.Random(4)
    kinds = ("auth", "ack", "seen", "read", "ping", "wave", None, 1)
    fields = ("seq", "ids", "token", "epoch", "after", "active", "other")
    ends: dict[int, Any] = {}
    for at in range(400):
        message = {"type": chance.choice(kinds)}
        message |= {chance.choice(fields): some_json(chance) for _ in range(chance.randrange(5))}
        with Socket(daemon.port("websocket")) as client:
            if at % 2:
                client.auth("nearly")
            try:
                client.send(message, {"type": "ping"})
                client.until("pong")
            except Closed as closed:
                ends[closed.code] = message
    assert ends.keys() <= {4501, 4510, 1009}, ends
    assert ends


def test_who_goes_on_sending_still_reads_why_it_was_closed(daemon: Daemon) -> None:
    """RFC 6455 7.1.1: were the socket closed over bytes that nobody has read, TCP would reset the connection, and the
    close frame might never be seen."""
    with Socket(daemon.port("websocket")) as client:
        client.raw(frame(TEXT, b" " * 100_000))
        for _ in range(50):
            client.raw(b"x" * 100_000)
        assert client.closing().code == 1009


def test_every_event_is_applied_or_buried(server: Valkey, daemon: Daemon) -> None:
    chance, count = random.Random(5), 600
    with Socket(daemon.port("websocket")) as client:
        client.auth("watcher")
    before = daemon.metrics()
    for at in range(count):
        server.call("XADD", STREAM, "*", *entry(chance, at))
    wait_until(lambda: server.call("XLEN", STREAM) == 0, 20, "nothing is left in the stream")
    wait_until(lambda: handled(daemon.metrics()) - handled(before) == count, 5, "all are counted")
    after = daemon.metrics()
    letters = buried(after) - buried(before)
    assert 0 < letters < count
    assert written(server) == buried(after), "what is counted as buried lies there"
    assert after["handover_failures_total"] == 0
    assert after["entries_lost_total"] == 0


def entry(chance: random.Random, at: int) -> list[Any]:
    """Fields of a stream entry: from noise to nearly an event."""
    kind = at % 6
    if kind == 0:
        return ["event", noise(chance)]
    if kind == 1:
        return ["event", json.dumps(some_json(chance))]
    if kind == 2:
        return ["evnt", json.dumps(GOOD), noise(chance, 20), noise(chance)]
    if kind == 3:
        # a producer that plays the router, with people that are none
        return ["v", "1", "id", noise(chance, 20), "to", noise(chance, 20), "event", json.dumps(GOOD)]
    event: dict[str, Any] = GOOD | {"object": {"type": "photo", "id": str(at)}}
    for _ in range(chance.randrange(1, 4)):
        event = event | {chance.choice([*GOOD, "id", "time", "object", "text", "x"]): some_json(chance)}
    data = json.dumps(event).encode()
    return ["event", data if kind == 4 else data[: chance.randrange(len(data))]]


def handled(metrics: dict[str, float]) -> float:
    return metrics["events_handed_over_total"]


def buried(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("dead_letters_total"))


def written(server: Valkey) -> int:
    keys = server.call("KEYS", "dead:*")
    assert isinstance(keys, list)
    return sum(int(str(server.call("XLEN", key))) for key in keys)


def test_bells_that_are_none(server: Valkey, daemon: Daemon) -> None:
    chance = random.Random(6)
    with Socket(daemon.port("websocket")) as client:
        client.auth("watcher")
        channels = server.call("PUBSUB", "CHANNELS", "*")
        assert isinstance(channels, list)
        assert channels
        for channel in channels:
            for _ in range(50):
                server.call("PUBLISH", channel, noise(chance))
            server.call("PUBLISH", channel, b"revoke \xff\xfe")
        client.send({"type": "ping"})
        client.until("pong")


def test_a_shared_name_is_no_injection(server: Valkey, daemon: Daemon) -> None:
    """Whatever a token or an event names, it stays inside its own key."""
    for user in ("a b", "*", "{0}:x", "x:y", "ü", "a\nb", "a" * 65, ""):
        with Socket(daemon.port("websocket")) as client:
            client.send(auth(token(user)))
            assert client.closing().code == 4501
        event = GOOD | {"to": [user]}
        server.call("XADD", STREAM, "*", "event", json.dumps(event))
    wait_until(lambda: server.call("XLEN", STREAM) == 0, 10, "nothing is left in the stream")
    inboxes = server.call("KEYS", "inbox:*")
    assert isinstance(inboxes, list)
    people = {key.decode().split(":", 2)[2] for key in inboxes}
    assert people <= {"watcher", "noisy", "nearly", "x", "notifier.canary.0"}


def test_a_log_line_cannot_be_forged(daemon: Daemon, tmp_path: Path) -> None:
    forged = '{"level":"critical","message":"forged"}'
    deliver(daemon.port("websocket"), f"GET /\r\n{forged}\r\n HTTP/1.1\r\n\r\n".encode())
    with Socket(daemon.port("websocket")) as client:
        client.send(auth(f"\n{forged}\n"))
        client.closing()
    assert "forged" not in [line.get("message") for line in daemon.lines()]
