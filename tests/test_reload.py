"""SIGHUP: other keys and limits are used at once, a fault changes nothing, and systemd is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from notifier.config import Config, Redis, Tokens
from notifier.edge.reload import needs_restart
from tests.client import Socket, auth, token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey

OTHER: Final = "another shared secret of the tests, long enough"


@pytest.fixture
def daemon(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Daemon]:
    with Daemon(tmp_path, redis_url, {"limits": {"per_user": 1}}) as running:
        yield running


def edit(daemon: Daemon, old: str, new: str) -> None:
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new))


def reload(daemon: Daemon, said: str) -> str:
    """SIGHUP; the line with which the daemon answers."""
    before = len([line for line in daemon.messages() if said in line])
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: len([line for line in daemon.messages() if said in line]) > before, 10, daemon.tail)
    return [line for line in daemon.messages() if said in line][-1]


def other_key(daemon: Daemon, kid: str = "other") -> None:
    """In the configuration, in place of the one before."""
    secret = daemon.config.parent / "other.secret"
    secret.write_text(OTHER)
    secret.chmod(0o600)
    edit(daemon, 'kid = "tests"', f'kid = "{kid}"')
    edit(daemon, "tests.secret", "other.secret")


def signed(user: str, kid: str = "other", **claims: object) -> str:
    content = jwt.decode(token(user), options={"verify_signature": False}) | claims
    return jwt.encode(content, OTHER, "HS256", headers={"kid": kid})


def admitted(daemon: Daemon, bearer: str) -> bool:
    with Socket(daemon.port("websocket")) as client:
        client.send(auth(bearer))
        return bool(client.receive()["type"] == "ready")


def test_other_keys(daemon: Daemon) -> None:
    assert not admitted(daemon, signed("bo"))
    other_key(daemon)
    reload(daemon, "reloaded: 1 token keys")
    assert admitted(daemon, signed("bo"))
    assert not admitted(daemon, token("bo")), "the old key is void"
    assert daemon.metrics()['reloads_total{result="done"}'] == 1


def add_key(daemon: Daemon) -> None:
    """The other key, beside the one that was there."""
    text = daemon.config.read_text()
    other_key(daemon)
    added = daemon.config.read_text().partition("[[tokens.keys]]")[2]
    daemon.config.write_text(f"{text}[[tokens.keys]]{added}")


def test_sockets_whose_key_is_gone_are_closed_and_no_others(daemon: Daemon) -> None:
    before = daemon.config.read_text()
    add_key(daemon)
    reload(daemon, "reloaded: 2 token keys")
    port = daemon.port("websocket")
    with Socket(port) as old, Socket(port) as new, Socket(port) as renewed:
        old.send(auth(signed("old")))
        new.send(auth(token("new")))
        renewed.send(auth(signed("renewed")))
        for client in (old, new, renewed):
            client.until("ready")
        reload(daemon, "reloaded: 2 token keys")  # read once more, both are what they were
        renewed.send(auth(token("renewed")))
        daemon.config.write_text(before)
        reload(daemon, "reloaded: 1 token keys")
        assert (old.closing(15).code, old.closing().code) == (4001, 1006)
        for client in (new, renewed):
            client.send({"type": "ping"})
            client.until("pong")
        assert daemon.metrics()['closes_total{code="4001"}'] == 1


def test_an_event_stream_whose_key_is_gone_ends(daemon: Daemon) -> None:
    before = daemon.config.read_text()
    add_key(daemon)
    reload(daemon, "reloaded: 2 token keys")
    with socket.create_connection(("127.0.0.1", daemon.port("api")), 15) as stream:
        bearer = signed("streaming")
        stream.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {bearer}\r\n\r\n".encode()
        )
        held = b""
        while b'"ready"' not in held:
            held += stream.recv(4096)
        daemon.config.write_text(before)
        reload(daemon, "reloaded: 1 token keys")
        while more := stream.recv(4096):
            held += more
    assert b'"code":4001' in held, "it is told why, and then ended"


def test_another_key_under_the_same_name_is_another_key(daemon: Daemon) -> None:
    with Socket(daemon.port("websocket")) as here:
        here.auth("ana")
        other_key(daemon, "tests")
        reload(daemon, "reloaded: 1 token keys")
        assert here.closing(15).code == 4001
        assert admitted(daemon, signed("ana", "tests"))


def test_what_tokens_must_say(daemon: Daemon) -> None:
    edit(daemon, "[[tokens.keys]]", '[tokens]\naudience = "elsewhere"\n[[tokens.keys]]')
    reload(daemon, "reloaded")
    assert not admitted(daemon, token("ana"))
    assert admitted(daemon, token("ana", aud="elsewhere"))


def test_other_limits(daemon: Daemon) -> None:
    with Socket(daemon.port("websocket")) as first, Socket(daemon.port("websocket")) as second:
        first.auth("ana")
        second.auth("ana")
        assert first.closing().code == 4508, "one connection each"
    edit(daemon, "per_user = 1", "per_user = 2\nwindow = 300\nmessage_bytes = 8192")
    reload(daemon, "reloaded")
    with Socket(daemon.port("websocket")) as first, Socket(daemon.port("websocket")) as second:
        first.auth("ana")
        second.auth("ana")
        assert first.silent()
        second.raw(b"\x81\xfe\x20\x01\0\0\0\0" + b" " * 0x2001)
        assert second.closing().code == 1009, "8 KiB is the most now"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("per_user = 1", "per_user = 0", "limits.per_user: found 0"),
        ("per_user = 1", "per_usr = 1", "did you mean limits.per_user?"),
        ("[limits]", "[limits", "this is not TOML"),
        ("tests.secret", "missing.secret", "there is no file"),
        ('"HS256"', '"EdDSA"', "must be one PEM public key"),
    ],
)
def test_a_fault_changes_nothing(daemon: Daemon, old: str, new: str, why: str) -> None:
    edit(daemon, old, new)
    assert why in reload(daemon, "reload refused, nothing has changed")
    assert admitted(daemon, token("ana"))
    assert not admitted(daemon, signed("ana"))
    assert daemon.metrics()['reloads_total{result="refused"}'] == 1
    edit(daemon, new, old)
    reload(daemon, "reloaded")


def test_what_waits_for_a_restart_is_named_each_time(daemon: Daemon) -> None:
    edit(daemon, "[drain]", "[inbox]\ncap = 7\n[drain]")
    edit(daemon, "[api]", "[api]\nbody_bytes = 2048")
    for _ in range(2):
        said = reload(daemon, "used only after a restart")
        assert said.endswith("inbox.cap, api.body_bytes")


def test_settings_that_wait_for_a_restart() -> None:
    old = Config()
    assert needs_restart(old, replace(old, tokens=Tokens(audience="x"))) == []
    assert needs_restart(old, replace(old, name="other", redis=Redis(shards=2))) == ["name", "redis.shards"]


def test_systemd_is_told(
    tmp_path: Path, valkey: Valkey, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Daemon(tmp_path, redis_url) as daemon:
            assert manager.recv(4096).startswith(b"READY=1")
            reload(daemon, "reloaded")
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=reloaded")
            edit(daemon, "[drain]", "[drian]")
            reload(daemon, "reload refused")
            assert manager.recv(4096).startswith(b"RELOADING=1")
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=reload refused")


# Keys by URL ----------------------------------------------------------------------------------------------


class KeySet(BaseHTTPRequestHandler):
    """Publishes one key."""

    text = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        """Not onto the tests' output."""


@pytest.fixture
def published() -> Iterator[tuple[str, Ed25519PrivateKey]]:
    """(address of a key set, the private half of its key, kid "far")."""
    key = Ed25519PrivateKey.generate()
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()))
    KeySet.text = json.dumps({"keys": [jwk | {"kid": "far", "use": "sig"}]}).encode()
    with HTTPServer(("127.0.0.1", 0), KeySet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json", key
        server.shutdown()
        thread.join(5)


def test_a_key_set_by_url_comes_and_goes(daemon: Daemon, published: tuple[str, Ed25519PrivateKey]) -> None:
    url, key = published
    content = jwt.decode(token("ana"), options={"verify_signature": False})
    far = jwt.encode(content, key, "EdDSA", headers={"kid": "far"})
    assert not admitted(daemon, far)
    edit(daemon, "[[tokens.keys]]", f'[tokens]\njwks_url = "{url}"\n[[tokens.keys]]')
    reload(daemon, "reloaded")
    wait_until(lambda: admitted(daemon, far), 10, "its key is fetched")
    other_key(daemon)
    reload(daemon, "reloaded")
    assert admitted(daemon, far), "what was fetched stays beside other configured keys"
    assert admitted(daemon, signed("ana"))
    counted = daemon.metrics()
    assert counted['jwks_fetches_total{result="done"}'] >= 1
    assert counted["jwks_keys"] == 1
    edit(daemon, f'jwks_url = "{url}"\n', "")
    reload(daemon, "reloaded")
    assert not admitted(daemon, far)
    assert "jwks" not in json.loads(daemon.get("/readyz")[1])["parts"]
