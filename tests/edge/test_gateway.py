"""The WebSocket listener over real sockets, a real daemon and a real Valkey: every close code, every limit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATH,
    PING,
    PONG,
    PROTOCOL,
    TEXT,
    Closed,
    Refused,
    Socket,
    auth,
    frame,
    request,
    text,
    token,
)
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey
from tests.stored import state_of

Daemons = Callable[..., Daemon]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as running:
        yield running


@pytest.fixture(scope="module")
def daemons(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """One daemon for each set of settings that a test asks for."""
    folder: Path = tmp_path_factory.mktemp("daemons")
    started: dict[str, Daemon] = {}

    def get(**sections: dict[str, object]) -> Daemon:
        key = json.dumps(sections, sort_keys=True)
        if key not in started:
            settings: Settings = {"tokens": {"leeway_seconds": 0}, **sections}
            started[key] = Daemon(folder, server.url, settings, name=f"d{len(started)}").start()
        return started[key]

    yield get
    for daemon in started.values():
        daemon.kill()


@pytest.fixture
def port(daemons: Daemons) -> int:
    """The socket of a daemon with default settings."""
    return daemons().port("websocket")


_people = iter(range(1_000_000))


@pytest.fixture
def user() -> str:
    """Somebody new."""
    return f"u{next(_people)}"


def publish(server: Valkey, *to: str, count: int = 1, **fields: Any) -> None:
    """`count` likes of different photos."""
    for _ in range(count):
        thing = {"type": "photo", "id": str(next(_people))}
        event = {"type": "like", "actor": {"id": "ana"}, "to": list(to), "object": thing} | fields
        server.call("XADD", "notifier:events", "*", "event", json.dumps(event))


def wait_for_seq(server: Valkey, user: str, seq: int) -> None:
    wait_until(lambda: state_of(server, user).seq >= seq, 10, f"seq {seq} of {user}")


# --- the conversation --------------------------------------------------------------------------------------


def test_ready_comes_first_then_each_change_with_the_next_seq(server: Valkey, port: int, user: str) -> None:
    with Socket(port) as client:
        ready = client.auth(user)
        assert sorted(ready) == ["epoch", "seq", "server_time", "type", "unread"]
        assert (ready["seq"], ready["unread"]) == (0, 0)
        publish(server, user, text="hello")
        first = client.receive()
        publish(server, user)
        second = client.receive()
    assert (first["type"], first["seq"], first["kind"], first["text"]) == ("notification", 1, "like", "hello")
    assert (first["actors"], first["count"], first["read"]) == ([{"id": "ana"}], 1, False)
    assert (second["seq"], second["unread"], second["floor"]) == (2, 2, 0)
    assert first["id"] != second["id"]


def test_after_0_brings_the_whole_inbox_and_a_place_what_follows_it(
    server: Valkey, port: int, user: str
) -> None:
    publish(server, user, count=3)
    wait_for_seq(server, user, 3)
    with Socket(port) as client:
        assert client.auth(user, after=0)["seq"] == 3
        assert [client.receive()["seq"] for _ in range(3)] == [1, 2, 3]
        upto = client.receive()
    assert (upto["type"], upto["seq"], upto["unread"], upto["floor"]) == ("upto", 3, 3, 0)
    with Socket(port) as client:
        client.auth(user, epoch=upto["epoch"], after=2)
        assert [client.receive()["seq"], client.receive()["type"]] == [3, "upto"]
    with Socket(port) as client:
        assert client.auth(user)["seq"] == 3
        assert client.silent()


@pytest.mark.parametrize("epoch", ["1.abcdef0123456789", "no epoch at all", ""])
def test_an_unknown_place_is_told_and_everything_follows(
    server: Valkey, port: int, user: str, epoch: str
) -> None:
    publish(server, user, count=2)
    wait_for_seq(server, user, 2)
    with Socket(port) as client:
        client.auth(user, epoch=epoch, after=1)
        kinds = [client.receive()["type"] for _ in range(4)]
    assert kinds == ["resync", "notification", "notification", "upto"]


def test_a_place_beyond_the_inbox_is_unknown(server: Valkey, port: int, user: str) -> None:
    publish(server, user)
    wait_for_seq(server, user, 1)
    with Socket(port) as client:
        epoch = client.auth(user)["epoch"]
    with Socket(port) as client:
        client.auth(user, epoch=epoch, after=2)
        assert client.receive()["type"] == "resync"


def test_token_in_the_handshake_is_never_echoed(port: int, user: str) -> None:
    bearer = token(user)
    with Socket(port, subprotocols=(PROTOCOL, f"bearer.{bearer}")) as client:
        assert client.receive()["type"] == "ready"
        assert "bearer" not in client.answer
        assert bearer not in client.answer
        assert f"Sec-WebSocket-Protocol: {PROTOCOL}" in client.answer


def test_token_in_the_handshake_with_a_place_in_the_query(server: Valkey, port: int, user: str) -> None:
    publish(server, user, count=2)
    wait_for_seq(server, user, 2)
    offered = (PROTOCOL, f"bearer.{token(user)}")
    with Socket(port, path=f"{PATH}?after=0", subprotocols=offered) as client:
        assert [client.receive()["type"] for _ in range(4)] == [
            "ready",
            "notification",
            "notification",
            "upto",
        ]
    with Socket(port, path=f"{PATH}?after=x", subprotocols=offered) as client:
        assert client.closing().code == 4510


def test_auth_right_behind_the_handshake_is_not_lost(port: int, user: str) -> None:
    with Socket(port, opening=request(PATH, (PROTOCOL,), {}) + text(auth(token(user)))) as client:
        assert client.receive()["type"] == "ready"


def test_ping_is_answered_and_an_unknown_message_refused_without_a_close(port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.send({"type": "ping"}, {"type": "wave", "at": 1}, {"type": "ping"})
        assert [client.receive()["type"] for _ in range(3)] == ["pong", "error", "pong"]
        client.raw(frame(PING, b"are you there"))
        assert client.frame() == (PONG, b"are you there")


@pytest.mark.parametrize(
    "offer",
    ["permessage-deflate", "permessage-deflate; client_max_window_bits", "x-unknown, permessage-bzip2"],
)
def test_an_offered_extension_is_declined_and_its_bits_are_refused(port: int, user: str, offer: str) -> None:
    with Socket(port, headers={"Sec-WebSocket-Extensions": offer}) as client:
        assert "extensions" not in client.answer.lower()
        assert client.auth(user)["type"] == "ready"
        client.send({"type": "ping"})
        assert client.receive()["type"] == "pong"
        compressed = bytearray(text({"type": "ping"}))
        compressed[0] |= 0x40  # RSV1 (RFC 7692 6)
        client.raw(bytes(compressed))
        assert client.closing().code == 1002


def test_a_message_in_pieces_byte_by_byte(port: int, user: str) -> None:
    whole = json.dumps(auth(token(user))).encode()
    pieces = frame(TEXT, whole[:10], fin=False) + frame(PING, b"!") + frame(CONTINUATION, whole[10:])
    with Socket(port) as client:
        for at in range(len(pieces)):
            client.raw(pieces[at : at + 1])
        assert client.frame() == (PONG, b"!")
        assert client.receive()["type"] == "ready"


def test_marks_are_heard_on_every_socket_of_the_person(server: Valkey, port: int, user: str) -> None:
    with Socket(port) as here, Socket(port) as there:
        here.auth(user), there.auth(user)
        publish(server, user, count=3)
        seen = [here.until("notification")["id"] for _ in range(3)]
        for _ in range(3):
            there.until("notification")
        here.send({"type": "read", "ids": [seen[1]]})
        assert [there.receive()["ids"], here.receive()["ids"]] == [[seen[1]], [seen[1]]]
        there.send({"type": "seen", "seq": 3})
        assert [here.receive()["upto"], there.receive()["upto"]] == [3, 3]
        there.send({"type": "read", "seq": 3})
        read = here.receive()
        assert (sorted(read["ids"]), read["unread"]) == (sorted(seen), 0)


def test_a_background_tab_acks_and_nothing_counts_as_seen(server: Valkey, port: int, user: str) -> None:
    with Socket(port) as client, Socket(port) as other:
        client.auth(user), other.auth(user)
        for seq in range(1, 21):
            publish(server, user)
            assert client.receive()["seq"] == other.receive()["seq"] == seq
            client.send({"type": "ack", "seq": seq})
        wait_until(lambda: state_of(server, user).ack == 20, 10, "the receipt is written")
        assert (state_of(server, user).seen, state_of(server, user).seq) == (0, 20)
        assert other.silent()
        client.send({"type": "ack", "seq": 20, "active": True})
        assert (other.receive()["type"], state_of(server, user).seen) == ("seen", 20)


def test_acks_beyond_what_was_sent_mean_nothing(server: Valkey, port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        publish(server, user)
        client.receive()
        client.send({"type": "ack", "seq": 10**12, "active": True}, {"type": "seen", "seq": 10**12})
        assert client.receive()["upto"] == 1
        publish(server, user)
        client.until("notification")
        assert state_of(server, user).seen == 1


# --- who may come in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "ping"}, 4501),
        ({"type": "ack", "seq": 1}, 4501),
        (auth("not.a.token"), 4501),
        (auth("x" * 3000), 4501),
        (auth(token("u", -10)), 4001),
        (auth(token("u", aud="other")), 4501),
        (auth(token("u", sub="spaces are no id")), 4501),
        (auth(token("u", 3600 * 25)), 4501),
        (auth(token("u", scope="publish")), 4503),
        (auth(token("u"), epoch="1.a"), 4510),
        (auth(token("u"), after=-1), 4510),
        ({"type": "auth"}, 4510),
    ],
)
def test_a_bad_first_message_is_told_and_closed(port: int, message: dict[str, Any], code: int) -> None:
    with Socket(port) as client:
        client.send(message)
        if code != 4510 or message.keys() > {"token"}:
            assert client.receive()["code"] in (code, 4501)
        closed = client.closing()
        assert closed.code in (code, 4501) if message == {"type": "auth"} else closed.code == code
        assert closed.reason


def test_who_does_not_authenticate_in_time_has_to_go(daemons: Daemons) -> None:
    port = daemons(websocket={"auth_seconds": 0.5}).port("websocket")
    with Socket(port) as client:
        began = time.monotonic()
        assert client.closing().code == 4501
        assert 0.4 < time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    ("origin", "code"),
    [("https://evil.example", 4503), ("http://127.0.0.1", None), ("null", 4503), (None, None)],
)
def test_origin_of_another_site_is_refused(
    port: int, user: str, origin: str | None, code: int | None
) -> None:
    with Socket(port, headers={"Origin": origin} if origin else {}) as client:
        if code is None:
            client.auth(user)
        else:
            assert client.closing().code == code


def test_listed_origins_are_let_in(daemons: Daemons, user: str) -> None:
    port = daemons(websocket={"origins": ["https://app.example"]}).port("websocket")
    with Socket(port, headers={"Origin": "https://app.example"}) as client:
        client.auth(user)
    with Socket(port, headers={"Origin": "http://127.0.0.1"}) as client:
        assert client.closing().code == 4503


def test_a_newer_protocol_alone_is_refused(port: int, user: str) -> None:
    with Socket(port, subprotocols=("notifier.v9",)) as client:
        assert client.closing().code == 4504
    with Socket(port, subprotocols=("notifier.v9", PROTOCOL)) as client:
        client.auth(user)
    with Socket(port, subprotocols=()) as client:
        client.auth(user)
        assert "Sec-WebSocket-Protocol" not in client.answer


def test_the_oldest_of_too_many_sockets_of_one_person_is_closed(daemons: Daemons, user: str) -> None:
    port = daemons(limits={"per_user": 2}).port("websocket")
    with Socket(port) as first, Socket(port) as second, Socket(port) as third:
        for client in (first, second, third):
            client.auth(user)
        assert first.closing().code == 4508
        assert second.silent()
        assert third.silent()


def test_revoked_tokens_close_open_sockets_and_open_no_new_one(
    server: Valkey, daemons: Daemons, user: str
) -> None:
    ports = [daemons().port("websocket"), daemons(limits={"per_user": 2}).port("websocket")]
    old = token(user, issued=time.time() - 10)
    clients = [Socket(port) for port in ports]
    for client in clients:
        client.send(auth(old))
        client.until("ready")
    now = int(time.time()) - 5
    server.call("SET", f"revoked:{{0}}:{user}", now)
    server.call("PUBLISH", "notifier:control", f"revoke {user}")
    for client in clients:
        assert client.closing().code == 4509
        client.close()
    with Socket(ports[0]) as client:
        client.send(auth(old))
        assert client.closing().code == 4509
    with Socket(ports[0]) as client:
        client.auth(user)


def test_a_revocation_that_was_not_heard_is_found_by_the_sweep(
    server: Valkey, daemons: Daemons, user: str
) -> None:
    port = daemons(websocket={"refresh_seconds": 1}).port("websocket")
    with Socket(port) as client:
        client.auth(user)
        server.call("SET", f"revoked:{{0}}:{user}", int(time.time()) + 1)
        assert client.closing(8).code == 4509


def test_the_end_of_a_token_is_announced_and_enforced(daemons: Daemons, user: str) -> None:
    port = daemons(websocket={"reauth_seconds": 2}).port("websocket")
    with Socket(port) as client:
        client.send(auth(token(user, 4)))
        client.until("ready")
        assert client.receive()["type"] == "reauth"
        began = time.monotonic()
        assert client.closing().code == 4001
        assert time.monotonic() - began < 4


def test_a_new_token_keeps_the_socket_open(server: Valkey, daemons: Daemons, user: str) -> None:
    port = daemons(websocket={"reauth_seconds": 2}).port("websocket")
    with Socket(port) as client:
        client.send(auth(token(user, 4)))
        client.until("ready")
        client.until("reauth")
        client.send(auth(token(user)))
        assert client.silent(4)
        publish(server, user)
        assert client.receive()["seq"] == 1


def test_a_new_token_of_somebody_else_is_refused(port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.send(auth(token("somebody-else")))
        assert client.closing().code == 4501


def test_a_new_token_may_name_a_place(server: Valkey, port: int, user: str) -> None:
    publish(server, user, count=2)
    wait_for_seq(server, user, 2)
    with Socket(port) as client:
        client.auth(user)
        client.send(auth(token(user), after=0))
        assert [client.receive()["type"] for _ in range(3)] == ["notification", "notification", "upto"]
        publish(server, user)
        assert client.receive()["seq"] == 3


# --- who has to go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"nonsense", b"[]", b'"ack"', b"{}", b'{"type": 1}', b'{"type": "ack"}', b'{"type": "ack", "seq": "1"}',
     b'{"type": "read"}', b'{"type": "read", "seq": 1, "ids": []}', b'{"type": "seen", "seq": 1.5}',
     b'{"type": "ack", "seq": null}', b"[" * 5000,
     b'{"type": "read", "ids": [' + b",".join([b'"x"'] * 401) + b"]}"],
)  # fmt: skip
def test_what_is_no_message_closes(port: int, user: str, said: bytes) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.raw(frame(TEXT, said))
        assert client.receive()["code"] == 4510
        assert client.closing().code == 4510


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"{}", masked=False), 1002),
        (frame(3, b""), 1002),
        (frame(CONTINUATION, b"{}"), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
        (bytes((0xC1, 0x80, 0, 0, 0, 0)), 1002),
        (frame(CLOSE, b"\x00"), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (frame(BINARY, b"\x00\x01"), 1003),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b" " * 16_385), 1009),
        (bytes((0x81, 0xFF)) + (1 << 62).to_bytes(8, "big") + b"mask", 1009),
        (frame(TEXT, b" ", fin=False) + 64 * frame(CONTINUATION, b" ", fin=False), 1008),
    ],
    ids=lambda value: value if isinstance(value, int) else "frame",  # masks are random, names must not be
)
def test_a_breach_of_the_rfc_closes_with_its_code(port: int, user: str, sent: bytes, code: int) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.raw(sent)
        assert client.closing().code == code


def test_a_stranger_may_send_less(port: int) -> None:
    with Socket(port) as client:
        client.raw(frame(TEXT, b" " * 4097))
        assert client.closing().code == 1009


@pytest.mark.parametrize(
    ("payload", "code"), [((1000).to_bytes(2, "big"), 1000), ((3999).to_bytes(2, "big"), 3999), (b"", 1005)]
)
def test_a_close_is_answered_with_the_same_code(port: int, user: str, payload: bytes, code: int) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.raw(frame(CLOSE, payload))
        assert client.closing().code == code
        assert client.socket.recv(10) == b""  # RFC 6455 7.1.1: the server ends the TCP connection


def test_a_peer_that_does_not_read_its_close_is_cut_off(daemons: Daemons, user: str) -> None:
    daemon = daemons(websocket={"close_seconds": 1.0}, limits={"unsent_bytes": 67_108_864})
    with Socket(daemon.port("websocket"), receive_bytes=4096) as client:
        client.auth(user)
        client.raw(frame(BINARY, b""))
        wait_until(lambda: daemon.metrics()["connections"] == 0, 5, "the connection is gone")


def test_too_many_messages_close(port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.send(*[{"type": "ping"}] * 60)
        assert client.closing().code == 4005


def test_too_many_websocket_pings_close(port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        client.raw(frame(PING, b"") * 200)
        assert client.closing().code == 4005


def test_acks_that_move_on_are_free_others_are_not(server: Valkey, port: int, user: str) -> None:
    with Socket(port) as client:
        client.auth(user)
        publish(server, user, count=60)
        for _ in range(60):
            client.send({"type": "ack", "seq": client.until("notification")["seq"]})
        assert client.silent()
        client.send(*[{"type": "ack", "seq": 60}] * 60)
        assert client.closing().code == 4005


def test_silence_is_pinged_and_no_pong_closes(daemons: Daemons, user: str) -> None:
    port = daemons(websocket={"ping_seconds": 2, "pong_seconds": 1}).port("websocket")
    with Socket(port, pong=False) as dead, Socket(port) as alive:
        dead.auth(user), alive.auth(user)
        ends: list[Closed] = []
        watcher = threading.Thread(target=lambda: ends.append(dead.closing(9)))
        watcher.start()
        assert alive.silent(7)
        watcher.join(9)
        assert [end.code for end in ends] == [4006]


def test_a_client_that_never_acks_is_slow(server: Valkey, daemons: Daemons, user: str) -> None:
    port = daemons(limits={"window": 8}, inbox={"page": 8}).port("websocket")
    with Socket(port) as client:
        client.auth(user)
        publish(server, user, count=12)
        got = []
        with pytest.raises(Closed) as closed:
            while True:
                got.append(client.receive()["seq"])
        assert closed.value.code == 4002
        assert got == list(range(1, len(got) + 1))
        assert len(got) <= 8
    with Socket(port) as client:  # it resumes, at the pace of its acks
        client.auth(user, after=0)
        got = []
        while (message := client.receive())["type"] != "upto":
            got.append(message["seq"])
            client.send({"type": "ack", "seq": message["seq"]})
        assert got == list(range(1, 13))


def test_history_that_nobody_acks_waits_and_then_is_slow(server: Valkey, daemons: Daemons, user: str) -> None:
    port = daemons(
        limits={"window": 8}, inbox={"page": 8}, websocket={"ping_seconds": 2, "pong_seconds": 1}
    ).port("websocket")
    publish(server, user, count=20)
    wait_for_seq(server, user, 20)
    with Socket(port, pong=False) as client:
        client.auth(user, after=0)
        assert [client.receive()["seq"] for _ in range(8)] == list(range(1, 9))
        assert client.closing(8).code == 4002


def test_a_drain_says_when_to_come_back(server: Valkey, tmp_path: Path, user: str) -> None:
    daemon = Daemon(tmp_path, server.url, {"drain": {"seconds": 1.0}}, name="draining").start()
    port = daemon.port("websocket")
    clients = [Socket(port) for _ in range(20)]
    stranger = Socket(port)
    try:
        for at, client in enumerate(clients):
            client.auth(f"{user}-{at}")
        began = time.monotonic()
        stopping = threading.Thread(target=daemon.stop)
        stopping.start()
        assert stranger.closing().code == 4003
        stranger.close()
        ends = []
        for client in clients:
            assert client.receive()["retry_ms"] > 0
            assert client.closing().code == 4003
            client.close()
            ends.append(time.monotonic() - began)
        stopping.join(10)
        assert not stopping.is_alive()
        assert max(ends) > 0.7, "the closes are spread"
        assert time.monotonic() - began < 4, "the stop waits for nobody who has gone"
        with pytest.raises(OSError, match="refused"):
            Socket(port)
    finally:
        daemon.kill()
        for client in (*clients, stranger):
            client.close()


# --- the handshake and its limits --------------------------------------------------------------------------


def test_another_path_is_not_found(port: int) -> None:
    with pytest.raises(Refused) as refused:
        Socket(port, path="/elsewhere")
    assert refused.value.status == 404
    assert PATH in refused.value.said


def test_a_handshake_that_is_too_large_is_dropped(port: int) -> None:
    with pytest.raises(Closed):
        Socket(port, headers={"X-Long": "x" * 9000})


@pytest.mark.parametrize("line", ["GET / HTTP/1.1\r\n\r\n", "POST /v1/websocket HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_what_asks_for_no_websocket_gets_an_answer_and_the_end(port: int, line: str) -> None:
    with pytest.raises(Refused) as refused:
        Socket(port, opening=line.encode())
    assert 400 <= refused.value.status < 500


def test_a_handshake_that_does_not_end_is_dropped(daemons: Daemons) -> None:
    port = daemons(websocket={"handshake_seconds": 0.5}).port("websocket")
    began = time.monotonic()
    with pytest.raises(Closed):
        Socket(port, opening=b"GET /v1/websocket HTTP/1.1\r\nHost: ")
    assert 0.2 < time.monotonic() - began < 3


def refusals(port: int, count: int, **more: Any) -> list[int]:
    """Statuses of `count` handshakes that stay open: 101 or what was said; 0 = dropped."""
    found, opened = [], []
    for _ in range(count):
        try:
            opened.append(Socket(port, **more))
            found.append(101)
        except Refused as refused:
            found.append(refused.status)
        except Closed:
            found.append(0)
    for client in opened:
        client.close()
    return found


def test_a_full_process_takes_nobody(daemons: Daemons) -> None:
    daemon = daemons(limits={"connections": 3})
    assert refusals(daemon.port("websocket"), 5) == [101, 101, 101, 0, 0]
    wait_until(lambda: daemon.metrics()["connections"] == 0, 5, "all have gone")
    assert refusals(daemon.port("websocket"), 1) == [101]
    assert daemon.metrics()['handshake_rejects_total{reason="full"}'] == 2


def test_only_so_many_strangers(daemons: Daemons, user: str) -> None:
    port = daemons(limits={"unauthenticated": 3}).port("websocket")
    with Socket(port) as known:
        known.auth(user)
        assert refusals(port, 4) == [101, 101, 101, 503]


def test_only_so_many_of_one_address(daemons: Daemons) -> None:
    limits: dict[str, object] = {"per_address": 3, "trusted_proxies": []}
    daemon = daemons(limits=limits)
    port = daemon.port("websocket")
    assert refusals(port, 4) == [101, 101, 101, 429]
    # it does not help to claim another address
    assert refusals(port, 4, headers={"X-Forwarded-For": "9.9.9.9"})[-1] == 429
    wait_until(lambda: daemon.metrics()["connections"] == 0, 5, "all have gone")
    assert refusals(port, 1) == [101]


def test_only_so_fast_from_one_address(daemons: Daemons) -> None:
    limits: dict[str, object] = {"per_address_rate": 2.0, "trusted_proxies": []}
    port = daemons(limits=limits).port("websocket")
    assert refusals(port, 6)[-1] == 429
    time.sleep(1)
    assert refusals(port, 1) == [101]


def test_behind_a_proxy_the_address_that_it_saw_counts(daemons: Daemons) -> None:
    port = daemons(limits={"per_address": 2}).port("websocket")
    for address in ("9.9.9.9", "1.1.1.1, 8.8.8.8", "2001:db8:1:2::1"):
        assert refusals(port, 3, headers={"X-Forwarded-For": address}) == [101, 101, 429]
    # one household has a whole /64
    with (
        Socket(port, headers={"X-Forwarded-For": "2001:db8:1:3::1"}),
        Socket(port, headers={"X-Forwarded-For": "2001:db8:1:3::2"}),
    ):
        assert refusals(port, 1, headers={"X-Forwarded-For": "2001:db8:1:3::3"}) == [429]
    assert refusals(port, 5) == [101] * 5, "the proxy itself is not counted"


# --- presence ----------------------------------------------------------------------------------------------


def test_presence_ends_with_the_last_socket_however_they_race(
    server: Valkey, daemons: Daemons, user: str
) -> None:
    daemon = daemons()
    port = daemon.port("websocket")

    def come_and_go() -> None:
        for _ in range(25):
            with Socket(port) as client:
                client.send(auth(token(user)))

    def present() -> object:
        return server.call("SCARD", f"on:{{0}}:{user}")

    crowd = [threading.Thread(target=come_and_go) for _ in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    wait_until(lambda: present() == 0, 5, "presence of nobody ends")
    with Socket(port) as stays:
        stays.auth(user)
        with Socket(port) as goes:
            goes.auth(user)
        for _ in range(10):
            with Socket(port) as client:
                client.send(auth(token(user)))
        time.sleep(0.3)
        assert present() == 1
        publish(server, user)
        assert stays.receive()["seq"] == 1
    wait_until(lambda: present() == 0, 5, "presence ends with the last")
    assert daemon.metrics()["sessions"] == 0


def test_nothing_of_all_this_was_a_bug(daemons: Daemons) -> None:
    """Every daemon that the tests above have abused still serves, and has logged no traceback."""
    checked = [daemons(), daemons(limits={"window": 8}, inbox={"page": 8}), daemons(limits={"per_user": 2})]
    for daemon in checked:
        assert daemon.get("/healthz")[0] == 200
        assert daemon.get("/readyz")[0] == 200, daemon.get("/readyz")
        assert [line for line in daemon.lines() if "traceback" in line or line.get("level") == "error"] == []


def test_a_peer_that_vanishes_leaves_nothing(daemons: Daemons, user: str) -> None:
    daemon = daemons()
    client = Socket(daemon.port("websocket"))
    client.auth(user)
    wait_until(lambda: daemon.metrics()["connections"] == 1, 5, "the connection is counted")
    client.close()
    wait_until(lambda: daemon.metrics()["connections"] == 0, 5, "the connection is gone")
