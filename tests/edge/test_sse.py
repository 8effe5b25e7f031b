"""Event streams of real daemons, read as a browser's EventSource reads them."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from notifier.core.inbox import Joined
from notifier.core.session import BEHIND, PAUSED, Session
from tests.client import Closed, Socket, token
from tests.daemon import Daemon, Settings, wait_until
from tests.edge.test_tls import Papers, make_papers
from tests.servers import Valkey
from tests.stored import state_of

PAGE = "https://app.example"
Message = dict[str, Any]


class Ended(Exception):
    """The server has ended the stream."""


class Source:
    """One stream. `id` is the last one seen, as a browser keeps it; `retry` the last time to wait (ms)."""

    def __init__(
        self, daemon: Daemon, user: str = "7", query: str = "", *, bearer: str | None = "", method: str = "GET",
        receive_bytes: int = 0, tls: ssl.SSLContext | None = None, **headers: str,
    ) -> None:  # fmt: skip
        fields = {"Host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer is not None:
            fields["Authorization"] = f"Bearer {bearer or token(user)}"
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", daemon.port("api")))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.socket.sendall(f"{method} /v1/stream{query} HTTP/1.1\r\n{lines}\r\n".encode())
        self.held = b""
        self.id = ""
        self.retry = 0
        self.comments = 0
        head = self._until(b"\r\n\r\n", 5).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:])}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _until(self, mark: bytes, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while mark not in self.held:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            except ssl.SSLWantReadError:
                raise TimeoutError from None
            if not data:
                raise Ended
            self.held += data
        found, _, self.held = self.held.partition(mark)
        return found

    def block(self, timeout: float = 20.0) -> Message | None:
        """The next block of lines; None for one without data. Raises TimeoutError, Ended."""
        data = None
        for line in self._until(b"\n\n", timeout).decode().split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                self.id = value
            elif name == "retry":
                self.retry = int(value)
            elif name == "data":
                assert data is None
                data = json.loads(value)
            else:
                assert name == "", line
                self.comments += 1
        return data

    def next(self, timeout: float = 20.0) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            found = self.block(max(0.001, deadline - time.monotonic()))
            if found is not None:
                return found

    def until(self, kind: str, timeout: float = 20.0) -> Message:
        while (found := self.next(timeout))["type"] != kind:
            pass
        return found

    def end(self, timeout: float = 20.0) -> tuple[Message, float]:
        """The last message, and how long it took until the connection ended."""
        began, last = time.monotonic(), {}
        try:
            while True:
                last = self.next(timeout)
        except Ended:
            return last, time.monotonic() - began

    def problem(self) -> str:
        """The kind of the problem that came instead of a stream."""
        size = int(self.headers["content-length"])
        while len(self.held) < size:
            self.held += self.socket.recv(65536)
        assert self.headers["content-type"] == "application/problem+json"
        return str(json.loads(self.held)["type"].rpartition(":")[2])


class Scene:
    """A daemon over an emptied server."""

    def __init__(self, folder: Path, server: Valkey, settings: Settings) -> None:
        self.server = server
        self.daemon = Daemon(folder, server.url, settings)

    def like(self, *photos: str, to: str = "7", text: str = "") -> None:
        for photo in photos:
            event: Message = {"type": "like", "actor": {"id": "42"}, "to": [to]}
            event["object"] = {"type": "photo", "id": photo}
            if text:
                event["text"] = text
            self.server.call("XADD", "notifier:events", "*", "event", json.dumps(event))

    def has(self, user: str, seq: int) -> None:
        """Return when so many changes are in an inbox."""
        wait_until(lambda: state_of(self.server, user).seq == seq, 10)

    def gone(self) -> None:
        wait_until(lambda: self.daemon.metrics()["streams"] == 0, 5)


def scene_of(folder: Path, server: Valkey, **settings: dict[str, object]) -> Scene:
    return Scene(folder, server, {"tokens": {"leeway_seconds": 0}, **settings})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Scene]:
    valkey.call("FLUSHALL")
    api: dict[str, object] = {"listen": "tcp:0:interface=127.0.0.1", "origins": [PAGE], "event_source": "on"}
    websocket: dict[str, object] = {
        "listen": "tcp:0:interface=127.0.0.1",
        "ping_seconds": 2,
        "pong_seconds": 1,
    }
    scene = scene_of(tmp_path_factory.mktemp("sse"), valkey, api=api, websocket=websocket, inbox={"page": 20},
                     limits={"window": 32, "requests_per_user_burst": 1000})  # fmt: skip
    with scene.daemon:
        yield scene


def photos(source: Source, count: int) -> list[str]:
    return [source.until("notification")["object"]["id"] for _ in range(count)]


# -- the session


def test_changes_come_as_they_happen_each_with_its_place(shared: Scene) -> None:
    with Source(shared.daemon, "live") as source:
        assert source.status == 200
        assert source.headers["content-type"] == "text/event-stream"
        assert source.headers["cache-control"] == "no-store"
        assert source.headers["x-accel-buffering"] == "no"
        assert not {"content-length", "transfer-encoding", "server"} & source.headers.keys()
        ready = source.next()
        assert ready["type"] == "ready"
        assert 1000 <= source.retry <= 5000
        shared.like("1", "2", to="live")
        first, second = source.next(), source.next()
        assert [(m["seq"], m["object"]["id"]) for m in (first, second)] == [(1, "1"), (2, "2")]
        epoch, _, seq = source.id.rpartition(":")
        assert (epoch.count("."), seq) == (1, "2")


def test_the_same_messages_as_on_a_socket(shared: Scene) -> None:
    with (
        Source(shared.daemon, "both", "?after=0") as source,
        Socket(shared.daemon.port("websocket")) as other,
    ):
        other.auth("both", after=0)
        source.until("upto")
        other.until("upto")
        shared.like("1", "2", to="both")
        assert [source.next(), source.next()] == [other.receive(), other.receive()]
        other.send({"type": "ack", "seq": 2, "active": True})
        assert source.next() == other.receive()


def test_a_browser_that_comes_back_gets_what_it_missed_and_only_that(shared: Scene) -> None:
    with Source(shared.daemon, "back", "?after=0") as source:
        source.until("upto")
        shared.like("1", to="back")
        source.until("notification")
        place = source.id
    shared.like("2", "3", to="back")
    shared.has("back", 3)
    # the address is that of the first time: EventSource cannot change it
    with Source(shared.daemon, "back", "?after=0", Last_Event_ID=place) as source:
        assert source.next()["type"] == "ready"
        assert source.id == ""  # the new place is not there before what leads to it
        assert photos(source, 2) == ["2", "3"]
        upto = source.next()
        assert (upto["type"], upto["seq"]) == ("upto", 3)
        assert source.id == f"{upto['epoch']}:3"


def test_a_place_in_the_query_does_the_same(shared: Scene) -> None:
    shared.like("1", "2", to="query")
    shared.has("query", 2)
    with Source(shared.daemon, "query", "?after=0") as source:
        epoch = source.until("upto")["epoch"]
    with Source(shared.daemon, "query", f"?epoch={epoch}&after=1") as source:
        assert photos(source, 1) == ["2"]
        assert source.next()["type"] == "upto"


def test_who_began_without_a_place_misses_nothing_either(shared: Scene) -> None:
    with Source(shared.daemon, "fresh") as source:
        ready = source.next()
        assert source.id == f"{ready['epoch']}:{ready['seq']}"
        place = source.id
    shared.like("1", to="fresh")
    shared.has("fresh", 1)
    with Source(shared.daemon, "fresh", Last_Event_ID=place) as source:
        assert photos(source, 1) == ["1"]


@pytest.mark.parametrize("place", ["x", "1.a:7", ":", "1.a:", "1.a:-1", "\xff:1", "9" * 400])
def test_a_place_that_is_none_is_a_resync(shared: Scene, place: str) -> None:
    with Source(shared.daemon, "lost") as source:
        shared.like("1", to="lost")
        source.until("notification")
    with Source(shared.daemon, "lost", Last_Event_ID=place) as source:
        assert [source.next()["type"] for _ in range(2)] == ["ready", "resync"]
        assert source.until("upto")["seq"] >= 1


@pytest.mark.parametrize("query", ["?after=x", "?epoch=1.a", "?after=-1", "?after=1&after=2"])
def test_half_a_place_in_the_query_is_a_mistake(shared: Scene, query: str) -> None:
    with Source(shared.daemon, "half", query) as source:
        assert (source.status, source.problem()) == (400, "invalid-request")


def test_nobody_acks_and_yet_nothing_stops(shared: Scene) -> None:
    """More rows than the window, in history and live: what TCP has taken counts as received."""
    wanted = [str(n) for n in range(90)]
    shared.like(*wanted, to="many")
    shared.has("many", 90)
    with Source(shared.daemon, "many", "?after=0") as source:
        assert photos(source, 90) == wanted
        source.until("upto")
        for begin in range(100, 200, 25):  # no more than the window at once, which may come in one batch
            more = [str(n) for n in range(begin, begin + 25)]
            shared.like(*more, to="many")
            assert photos(source, 25) == more


def test_a_session_takes_what_has_arrived_for_received() -> None:
    session = Session("7", None, 4)
    session.want(4)
    record = '1n0 1 g id "id":"id","kind":"like"'
    session.joined(Joined("fresh", 1, "a", 0, 0, 0, 0, 1, False, ()))
    assert session.taken() == []
    session.again()
    session.want(4)
    records = tuple((seq, record) for seq in range(1, 5))
    session.joined(Joined("resume", 1, "a", 9, 0, 0, 0, 1, True, records))
    assert session.state == PAUSED
    (mark,) = session.taken()
    assert (getattr(mark, "kind", ""), getattr(mark, "seq", 0)) == ("ack", 4)
    assert (session.state, session.taken()) == (BEHIND, [])


# -- who may follow


def test_a_token_is_needed(shared: Scene) -> None:
    cases = [
        (None, 401, "not-authenticated"),
        ("x.y.z", 401, "invalid-token"),
        (token("7", -60), 401, "expired-token"),
        (token("7", scope="publish"), 403, "missing-scope"),
    ]
    for bearer, status, problem in cases:
        with Source(shared.daemon, bearer=bearer) as source:
            assert (source.status, source.problem()) == (status, problem)


def test_a_token_in_the_query_where_the_configuration_says_so(shared: Scene) -> None:
    with Source(shared.daemon, query=f"?access_token={token('7')}", bearer=None) as source:
        assert source.next()["type"] == "ready"
    # RFC 6750 section 2: one way only
    with Source(shared.daemon, query=f"?access_token={token('7')}") as source:
        assert (source.status, source.problem()) == (400, "invalid-request")
    assert "access_token" not in shared.daemon.log.read_text()


def test_pages_of_listed_origins(shared: Scene) -> None:
    with Source(shared.daemon, Origin=PAGE) as source:
        assert source.headers["access-control-allow-origin"] == PAGE
    with Source(shared.daemon, Origin="https://evil.example") as source:
        assert "access-control-allow-origin" not in source.headers
        assert source.headers["vary"] == "Origin"


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("DELETE", 405)])
def test_other_methods(shared: Scene, method: str, status: int) -> None:
    with Source(shared.daemon, method=method) as source:
        assert (source.status, source.problem()) == (status, "method-not-allowed")


def test_head_says_what_get_would_and_begins_nothing(shared: Scene) -> None:
    with Source(shared.daemon, method="HEAD", Connection="close") as source:
        assert (source.status, source.headers["content-type"]) == (200, "text/event-stream")
        with pytest.raises(Ended):
            source.block()
    shared.gone()


def test_revocation_ends_a_stream_and_lets_no_other_begin(shared: Scene) -> None:
    with Source(shared.daemon, "void") as source:
        source.until("ready")
        shared.server.call("SET", "revoked:{0}:void", int(time.time()) + 1, "EX", 60)
        shared.server.call("PUBLISH", "notifier:control", "revoke void")
        last, _ = source.end()
        assert (last["type"], last["code"]) == ("error", 4509)
        assert source.retry == 60_000
    with Source(shared.daemon, "void") as source:
        assert (source.status, source.problem()) == (401, "revoked-token")


def test_a_stream_ends_with_its_token(shared: Scene) -> None:
    with Source(shared.daemon, bearer=token("7", 3)) as source:
        assert source.until("reauth")["by"]
        last, took = source.end()
        assert (last["type"], last["code"]) == ("error", 4001)
        assert took < 4


# -- the line


def test_signs_of_life(shared: Scene) -> None:
    with Source(shared.daemon, "quiet") as source:
        source.until("ready")
        with pytest.raises(TimeoutError):
            source.next(4.5)
        assert source.comments >= 2


def test_whoever_goes_leaves_nothing_behind(shared: Scene) -> None:
    shared.gone()
    sources = [Source(shared.daemon, "leaver") for _ in range(5)]
    wait_until(lambda: shared.daemon.metrics()["streams"] == 5, 5)
    for source in sources[:3]:
        source.socket.close()
    for source in sources[3:]:
        source.socket.shutdown(socket.SHUT_WR)
    shared.gone()
    assert shared.daemon.metrics()["sessions"] == 0
    assert not [line for line in shared.daemon.lines() if line.get("level") in ("error", "critical")]


def test_what_is_sent_behind_the_request_is_ignored(shared: Scene) -> None:
    with Source(shared.daemon, "chatty") as source:
        source.until("ready")
        source.socket.sendall(b"GET /v1/inbox HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        shared.like("1", to="chatty")
        assert photos(source, 1) == ["1"]


def test_a_client_that_does_not_read_is_closed(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    limits: dict[str, object] = {"unsent_bytes": 65_536, "window": 400}
    scene = scene_of(tmp_path, valkey, limits=limits, inbox={"page": 10})
    with scene.daemon, Source(scene.daemon, receive_bytes=4096) as source:
        source.until("ready")
        scene.like(*map(str, range(300)), text="x" * 4000)
        wait_until(lambda: scene.daemon.metrics()["slow_clients_total"] == 1, 10)
        place = ""
        try:
            while True:
                source.next()
                place = source.id
        except Ended:
            pass
        with Source(scene.daemon, Last_Event_ID=place) as again:  # and gets the rest
            assert again.until("upto")["seq"] == 300


def test_a_drain_sends_everybody_away_with_a_time_to_wait(
    tmp_path: Path, valkey: Valkey, redis_url: str
) -> None:
    scene = scene_of(tmp_path, valkey, drain={"seconds": 0.5}, websocket={"close_seconds": 1.0})
    with scene.daemon:
        sources = [Source(scene.daemon, f"u{n}") for n in range(5)]
        for source in sources:
            source.until("ready")
        scene.daemon.stop()
        for source in sources:
            drain, last = source.until("drain"), source.next()
            assert (last["type"], last["code"], source.retry) == ("error", 4003, drain["retry_ms"])
            with pytest.raises(Ended):
                source.block()


def test_limits_are_shared_with_the_sockets(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    limits: dict[str, object] = {"per_user": 2, "per_address": 5, "trusted_proxies": ["10.0.0.0/8"]}
    scene = scene_of(tmp_path, valkey, limits=limits)
    with scene.daemon, Socket(scene.daemon.port("websocket")) as oldest:
        oldest.auth("7")
        with Source(scene.daemon) as one, Source(scene.daemon) as two:
            assert oldest.closing().code == 4508
            one.until("ready")
            two.until("ready")
            with Source(scene.daemon, "8") as three, Source(scene.daemon, "8") as four:
                four.until("ready")
                with Source(scene.daemon, "9") as five:
                    assert (five.status, five.problem()) == (429, "too-many-connections")
                    assert five.headers["retry-after"] == "1"
                three.until("ready")
        scene.gone()
        with Source(scene.daemon, "9") as five:
            assert five.status == 200


def test_all_connections_of_a_process_count_together(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    scene = scene_of(tmp_path, valkey, limits={"connections": 2})
    with scene.daemon, Source(scene.daemon), Source(scene.daemon, "8"):
        with Source(scene.daemon, "9") as third:
            assert (third.status, third.problem()) == (503, "unavailable")
        with pytest.raises(Closed):
            Socket(scene.daemon.port("websocket"))


def test_without_the_store_a_stream_waits_for_it(tmp_path: Path, own_server: Valkey) -> None:
    """EventSource gives up for good on any answer but 200."""
    scene = scene_of(tmp_path, own_server)
    with scene.daemon:
        scene.like("1")
        own_server.stop()
        with Source(scene.daemon, query="?after=0") as source:
            assert source.status == 200
            own_server.start()
            assert photos(source, 1) == ["1"]


def test_over_tls(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    papers: Papers = make_papers(tmp_path)
    listen = f"ssl:0:interface=127.0.0.1:privateKey={papers.key}:certKey={papers.certificate}"
    scene = scene_of(tmp_path, valkey, api={"listen": listen})
    with scene.daemon, Source(scene.daemon, tls=papers.context()) as source:
        source.until("ready")
        scene.like("1")
        assert photos(source, 1) == ["1"]
        scene.server.call("PUBLISH", "notifier:control", "revoke 7")
        assert source.end()[0]["code"] == 4509
