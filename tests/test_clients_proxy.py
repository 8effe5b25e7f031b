"""The Python client on a real daemon behind a real nginx that lets no WebSocket through, collects or cuts streams."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from notifier_client import Backoff, Client, Stopped, Timing

from notifier.edge.embedded import free_port
from tests.client import token
from tests.conf.nginx import Nginx
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

PATIENCE: Final = 60.0  # seconds for what must happen
SOCKETS: Final = "proxy_pass http://notifier_websocket;"
STREAMS: Final = """proxy_buffering off;
            proxy_cache off;
            gzip off;
            proxy_read_timeout 120s;"""
NO_SOCKETS: Final = {SOCKETS: "return 403;"}
CUT: Final = {STREAMS: STREAMS.replace("120s", "1s")}
COLLECTED: Final = {STREAMS: "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"}
ASKED_NOT_TO: Final = {STREAMS: "proxy_buffering on;"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """On ports that it keeps when it starts again."""
    settings: Settings = {
        "websocket": {"listen": f"tcp:{free_port()}:interface=127.0.0.1"},
        "api": {"listen": f"tcp:{free_port()}:interface=127.0.0.1"},
        "tokens": {"leeway_seconds": 0},
        "limits": {"trusted_proxies": ["127.0.0.1/32"], "per_address_rate": 1000.0},
    }
    with Daemon(tmp_path_factory.mktemp("daemon"), server.url, settings) as daemon:
        yield daemon


class Front(Nginx):
    """nginx that can become another while it runs."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self._behind = (daemon.port("websocket"), daemon.port("api"))
        super().__init__(folder, *self._behind, NO_SOCKETS)

    def become(self, changes: dict[str, str]) -> None:
        """With these changes from now on; returns when the connections of the old one have been dropped."""
        text = self._adapted(*self._behind, changes)
        self.conf.write_text(text.replace("worker_shutdown_timeout 10m;", "worker_shutdown_timeout 1s;"))
        before = self._workers()
        subprocess.run([*self.command(), "-s", "reload"], check=True, timeout=20, capture_output=True)
        wait_until(lambda: not self._workers() & before, PATIENCE, self.said)

    def _workers(self) -> set[str]:
        master = (self.folder / "nginx.pid").read_text().strip()
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())


@pytest.fixture(scope="module")
def nginx(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Front(tmp_path_factory.mktemp("front") / "nginx", daemon) as front:
        yield front


@pytest.fixture
def front(nginx: Front, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """nginx without WebSockets, whose certificate the client trusts; the daemon runs behind it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.papers.certificate))
    yield nginx
    nginx.become(NO_SOCKETS)
    if not daemon.running:
        daemon.start()


class Follower:
    """A client whose changes are taken. calls: how often it asked for a token. news: what was announced, by object."""

    def __init__(self, front: Front, person: str, life: float = 3600, answer: float = 10.0) -> None:
        self.calls, self.person, self.life = 0, person, life
        self.news: list[str] = []
        self.kinds: list[str] = []
        self.stopped: Stopped | None = None
        self.client = Client(
            f"wss://localhost:{front.port}/v1/websocket", self._token, api=f"https://localhost:{front.port}",
            backoff=Backoff(0.02, 0.1), timing=Timing(answer=answer),
        )  # fmt: skip

    async def _token(self) -> str:
        self.calls += 1
        return token(self.person, self.life)

    async def follow(self) -> None:
        try:
            async for change in self.client:
                self.kinds.append(change.kind)
                if change.news and change.row is not None and change.row.object is not None:
                    self.news.append(change.row.object.id)
        except Stopped as stopped:
            self.stopped = stopped

    async def live(self) -> None:
        await until(lambda: self.client.state == "live")

    async def has(self, *objects: str) -> None:
        """Comes to show exactly these, newest first."""
        await until(lambda: [row.object.id for row in self.client.inbox.newest() if row.object] == [*objects])


@asynccontextmanager
async def following(front: Front, person: str, **options: float) -> AsyncIterator[Follower]:
    follower = Follower(front, person, **options)
    async with follower.client:
        task = asyncio.create_task(follower.follow())
        yield follower
        if follower.stopped is None:
            await follower.client.close()
        await task


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110  # of other processes
            await asyncio.sleep(0.01)


def like(server: Valkey, person: str, *photos: str) -> None:
    for photo in photos:
        event = {
            "type": "like", "actor": {"id": "42"}, "to": [person], "object": {"type": "photo", "id": photo},
        }  # fmt: skip
        server.call("XADD", "notifier:events", "*", "event", json.dumps(event))


async def aside(work: Callable[..., Any], *given: Any) -> Any:
    """While it works the client goes on."""
    return await asyncio.to_thread(work, *given)


def test_where_no_websocket_gets_through_a_stream_does(front: Front, daemon: Daemon, server: Valkey) -> None:
    async def story() -> None:
        like(server, "blocked", "1")
        async with following(front, "blocked") as one:
            await one.has("1")
            metrics = await aside(daemon.metrics)
            assert (metrics["streams"], metrics["connections"]) == (1, 0)
            like(server, "blocked", "2")
            await one.has("2", "1")
            await one.client.read_all()
            await until(lambda: one.client.inbox.unread == 0)
            await one.client.seen()
            await until(lambda: one.client.inbox.seen >= 2)
            await one.client.look(True)
            like(server, "blocked", "3")
            await until(lambda: one.client.inbox.seen >= 5)
            await until(lambda: one.news == ["2", "3"])

    asyncio.run(story())


def test_the_place_is_what_the_ids_of_events_say(front: Front, server: Valkey) -> None:
    """Who resumes with Last-Event-ID, or with the client's place, misses nothing and gets nothing twice."""

    async def resumed(**how: str) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token('ids')}", "Accept": "text/event-stream"}
        query = how.pop("query", "")
        reader, writer = await asyncio.open_connection("localhost", front.port, ssl=front.papers.context())
        lines = {"Host": "localhost", **headers, **{name.replace("_", "-"): how[name] for name in how}}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET /v1/stream{query} HTTP/1.1\r\n{head}\r\n".encode())
        said: list[dict[str, Any]] = []
        identity = ""
        async with asyncio.timeout(PATIENCE):
            while not said or said[-1].get("type") != "upto":
                line = await reader.readline()
                if line.startswith(b"id: "):
                    identity = line[4:].decode().strip()
                if line.startswith(b"data: "):
                    said.append(json.loads(line[6:]))
        writer.close()
        return [*said, {"id": identity}]

    async def story() -> None:
        like(server, "ids", "1", "2")
        async with following(front, "ids") as one:
            await one.has("2", "1")
            place = one.client.inbox.where()
            whole = await resumed(query="?after=0")
            assert whole[-1]["id"] == f"{place['epoch']}:{place['after']}"
            for how in (
                {"Last_Event_ID": whole[-1]["id"]},
                {"query": f"?epoch={place['epoch']}&after={place['after']}"},
            ):
                again = await resumed(**how)
                assert [message.get("type") for message in again[:-1]] == ["ready", "upto"]

    asyncio.run(story())


def test_a_stream_that_is_cut_again_and_again_loses_nothing(front: Front, server: Valkey) -> None:
    async def story() -> None:
        await aside(front.become, NO_SOCKETS | CUT)
        async with following(front, "cut") as one:
            await one.live()
            for number in range(8):
                like(server, "cut", str(number))
                await asyncio.sleep(0.5)
            await one.has(*map(str, reversed(range(8))))
            await until(lambda: one.calls >= 8)  # each stream has a token of its own
            await until(lambda: one.news == [*map(str, range(8))])
            assert "resync" not in one.kinds

    asyncio.run(story())


def test_a_proxy_that_collects_is_found_out_and_one_that_obeys_is_not(front: Front, server: Valkey) -> None:
    async def story() -> None:
        await aside(front.become, NO_SOCKETS | COLLECTED)
        async with following(front, "collected", answer=2.0) as one:
            await until(lambda: one.calls >= 6)
            assert one.client.state != "live"
            await aside(front.become, NO_SOCKETS | ASKED_NOT_TO)
            like(server, "collected", "1")
            await one.has("1")
            like(server, "collected", "2")
            await one.has("2", "1")

    asyncio.run(story())


def test_a_daemon_that_is_killed_and_comes_back(front: Front, daemon: Daemon, server: Valkey) -> None:
    async def story() -> None:
        async with following(front, "killed") as one:
            await one.live()
            like(server, "killed", "1")
            await one.has("1")
            await one.client.read_all()
            await until(lambda: one.client.inbox.unread == 0)
            await aside(daemon.kill)
            await until(lambda: one.client.state != "live")
            like(server, "killed", "2")
            await one.client.seen()  # nobody is there: it is made again
            await aside(daemon.start)
            await one.has("2", "1")
            await until(lambda: one.client.inbox.seen >= 2)
            await until(lambda: one.news == ["1", "2"])

    asyncio.run(story())


def test_back_to_the_websocket_when_it_gets_through(front: Front, daemon: Daemon, server: Valkey) -> None:
    async def story() -> None:
        async with following(front, "back") as one:
            await one.live()
            await aside(front.become, {})  # and drops the stream
            await until(lambda: one.kinds.count("complete") >= 2)
            metrics = await aside(daemon.metrics)
            assert (metrics["streams"], metrics["connections"]) == (0, 1)
            like(server, "back", "1")
            await one.has("1")
            await aside(front.become, NO_SOCKETS)
            await until(lambda: one.kinds.count("complete") >= 3)
            assert (await aside(daemon.metrics))["streams"] == 1
            like(server, "back", "2")
            await one.has("2", "1")
            await until(lambda: one.news == ["1", "2"])

    asyncio.run(story())


def test_a_token_that_ends_is_renewed_and_a_revoked_one_stops(front: Front, server: Valkey) -> None:
    async def story() -> None:
        async with following(front, "short", life=3) as one:
            await one.live()
            before = one.calls
            await until(lambda: one.calls > before + 1)
            like(server, "short", "1")
            await one.has("1")
            server.call("SET", "revoked:{0}:short", int(time.time()) + 60, "EX", 60)
            server.call("PUBLISH", "notifier:control", "revoke short")
            await until(lambda: one.stopped is not None)
            assert one.stopped is not None
            assert one.stopped.code == 4509

    asyncio.run(story())
