"""The WebSocket over TLS, with a certificate made here: it works, and not one byte goes out in plain text."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.client import CLOSE, PING, PONG, PROTOCOL, TEXT, Closed, Socket, auth, frame, token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey

SECRET_WORDS: Final = "nobody on the way may read this"
RECORDS: Final = frozenset(
    {20, 21, 22, 23}
)  # RFC 8446 5.1: change_cipher_spec, alert, handshake, application_data


class Papers(NamedTuple):
    """A self-made certificate and its key, as files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What a client needs to trust it."""
        return ssl.create_default_context(cafile=self.certificate)


def make_papers(folder: Path) -> Papers:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    papers = Papers(folder / "tls.pem", folder / "tls.key")
    papers.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    papers.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return papers


class Wiretap:
    """A relay on the way to a port, which keeps all that comes from there."""

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._relay, daemon=True).start()

    def _relay(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._pump, args=(client, server, bytearray()), daemon=True).start()
        self._pump(server, client, self.heard)

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


def records(heard: bytes) -> list[int]:
    """The types of the TLS records that these bytes consist of; fails where they are something else."""
    found, at = [], 0
    while at < len(heard):
        kind, version, size = heard[at], heard[at + 1], int.from_bytes(heard[at + 3 : at + 5], "big")
        assert kind in RECORDS, f"no TLS record at byte {at}: {bytes(heard[at : at + 40])!r}"
        assert version == 3, f"no TLS record at byte {at}: {bytes(heard[at : at + 40])!r}"
        found.append(kind)
        at += 5 + size
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as running:
        yield running


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return make_papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def daemon(server: Valkey, papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    listen = f"ssl:0:interface=127.0.0.1:privateKey={papers.key}:certKey={papers.certificate}"
    settings: dict[str, dict[str, object]] = {
        "websocket": {"listen": listen, "close_seconds": 1.0},
        "limits": {"window": 10_000},
    }
    with Daemon(tmp_path_factory.mktemp("daemon"), server.url, settings) as running:
        yield running


def publish(server: Valkey, user: str, text: str = SECRET_WORDS, count: int = 1) -> None:
    event = {"type": "comment", "actor": {"id": "ana"}, "to": [user], "text": text}
    for _ in range(count):
        server.call("XADD", "notifier:events", "*", "event", json.dumps(event))


def test_everything_works_and_nothing_goes_out_in_plain_text(
    server: Valkey, daemon: Daemon, papers: Papers
) -> None:
    wire = Wiretap(daemon.port("websocket"))
    with Socket(wire.port, tls=papers.context()) as client:
        client.auth("tls", after=0)
        client.until("upto")
        for seq in range(1, 11):
            publish(server, "tls")
            message = client.receive()
            assert (message["seq"], message["text"]) == (seq, SECRET_WORDS)
            client.send({"type": "ack", "seq": seq}, {"type": "ping"})
            assert client.receive()["type"] == "pong"
        client.raw(frame(PING, b"plain?"))
        assert client.frame() == (PONG, b"plain?")
        client.raw(frame(CLOSE, (1000).to_bytes(2, "big")))
        assert client.closing().code == 1000
    heard = bytes(wire.heard)
    wire.close()
    assert SECRET_WORDS.encode() not in heard
    assert b"notification" not in heard
    assert b"pong" not in heard
    assert records(heard).count(23) >= 20, "each message is a record of its own"


def test_a_large_history_goes_through(server: Valkey, daemon: Daemon, papers: Papers) -> None:
    publish(server, "much", "y" * 4000, count=90)
    with Socket(daemon.port("websocket"), tls=papers.context()) as client:
        client.auth("much")
        publish(server, "much", "y" * 4000)
        client.until("notification")
    with Socket(daemon.port("websocket"), tls=papers.context()) as client:
        client.auth("much", after=0)
        got = []
        while (message := client.receive())["type"] != "upto":
            got.append(message["seq"])
            client.send({"type": "ack", "seq": message["seq"]})
        assert got == list(range(1, 92))


def test_token_in_the_handshake_and_refusals_too(daemon: Daemon, papers: Papers) -> None:
    port = daemon.port("websocket")
    with Socket(port, tls=papers.context(), subprotocols=(PROTOCOL, f"bearer.{token('tls2')}")) as client:
        assert client.receive()["type"] == "ready"
    with Socket(port, tls=papers.context()) as client:
        client.send(auth("nonsense"))
        assert client.receive()["code"] == 4501
        assert client.closing().code == 4501
    with Socket(port, tls=papers.context()) as client:
        client.auth("tls3")
        client.raw(frame(TEXT, b"\xff"))
        assert client.closing().code == 1007


def test_a_slow_reader_is_seen_behind_tls_too(server: Valkey, daemon: Daemon, papers: Papers) -> None:
    with Socket(daemon.port("websocket"), tls=papers.context(), receive_bytes=4096) as client:
        client.auth("slow")
        before = daemon.metrics()['closes_total{code="4002"}']
        publish(server, "slow", "z" * 4000, count=150)
        closed = 'closes_total{code="4002"}'
        wait_until(lambda: daemon.metrics()[closed] == before + 1, 10, "it was closed")


def test_who_speaks_plain_text_gets_none_back(daemon: Daemon) -> None:
    with pytest.raises(Closed) as closed:
        Socket(daemon.port("websocket"))
    assert b"HTTP" not in str(closed.value).encode()
    with Socket.__new__(Socket) as raw:
        raw.socket = socket.create_connection(("127.0.0.1", daemon.port("websocket")), timeout=20)
        raw.raw(b"GET / HTTP/1.1\r\n\r\n")
        heard = bytearray()
        try:
            while data := raw.socket.recv(65536):
                heard += data
        except ConnectionResetError:
            pass
        assert set(records(bytes(heard))) <= {21}, "an alert at most"


def test_an_untrusted_certificate_is_the_clients_no(daemon: Daemon) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Socket(daemon.port("websocket"), tls=ssl.create_default_context())
    assert daemon.get("/readyz")[0] == 200
    assert [line for line in daemon.lines() if "traceback" in line] == []
