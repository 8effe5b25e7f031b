"""/readyz cannot lie: whatever is stuck on the path of an event, it turns within 15 s and says where."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock, deferLater

from notifier.core import canary
from notifier.core.keys import shard_of
from notifier.core.tokens import Key, TokenError, Verifier
from notifier.edge.canary import LATE, Canary
from notifier.edge.embedded import free_port
from notifier.edge.hub import Hub
from notifier.edge.memory import MemoryBus, MemoryInbox
from notifier.edge.memory_state import MemoryServer
from notifier.edge.store import Rules
from notifier.metrics import Metrics
from tests.client import Socket, auth, token
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

STREAM: Final = "notifier:events"
WITHIN: Final = 15.0  # s


def parts(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """What /readyz says of each part that does not work."""
    status, body = daemon.get("/readyz")
    found = json.loads(body)
    assert (status == 200) == found["ready"]
    return {name: part for name, part in found["parts"].items() if not part["ok"]}


def turns(daemon: Daemon, said: Mapping[str, str]) -> None:
    """Return when /readyz names these parts, each with its text."""

    def all_said() -> bool:
        wrong = parts(daemon)
        return all(text in wrong.get(name, {}).get("detail", "") for name, text in said.items())

    wait_until(all_said, WITHIN, lambda: f"{said}: {parts(daemon)}")


def recovers(daemon: Daemon) -> None:
    wait_until(lambda: not parts(daemon), WITHIN, lambda: str(parts(daemon)))


@contextmanager
def again_and_again(server: Valkey, *command: str | bytes | float) -> Iterator[None]:
    """Somebody who sends a command every 10 ms."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(0.01):
            server.call(*command)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(5)


# Real servers that are hurt -------------------------------------------------------------------------------


@contextmanager
def paused(server: Valkey) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def deaf(server: Valkey) -> Iterator[None]:
    """The subscriber's connection is cut, and it may not subscribe again."""
    server.call("ACL", "SETUSER", "default", "-subscribe")
    server.call("CLIENT", "KILL", "TYPE", "pubsub")
    yield
    server.call("ACL", "SETUSER", "default", "+subscribe")


def held(tag: str) -> Callable[[Valkey], AbstractContextManager[None]]:
    """Another process holds this lease, and does nothing."""
    return lambda server: again_and_again(server, "SET", f"lease:{tag}", "sleeper", "PX", 300)


def unheard(server: Valkey) -> AbstractContextManager[None]:
    """All connections stand and all streams are empty; only the last step is missing."""
    return again_and_again(server, "DEL", f"on:{{0}}:{canary.PREFIX}0")


@dataclass(frozen=True)
class Wound:
    """What is done to a server, and what /readyz must say of it. `stream`: where one canary must wait, no more."""

    hurt: Callable[[Valkey], AbstractContextManager[None]]
    said: Mapping[str, str]
    shards: int = 1
    stream: str = ""

    def heal(self, folder: Path) -> None:
        """The whole story: ready, hurt, not ready in time, healed, ready."""
        settings: Settings = {"redis": {"shards": self.shards}, "websocket": {"refresh_seconds": 2}}
        with Valkey(folder / "valkey") as server, Daemon(folder, server.url, settings) as daemon:
            assert parts(daemon) == {}, "ready when it says so"
            with self.hurt(server):
                turns(daemon, self.said)
                if self.stream:
                    time.sleep(3)
                    assert server.call("XLEN", self.stream) == 1, "a stuck reader does not fill the stream"
            recovers(daemon)


SLEEPER: Final = "which another process reads (sleeper)"
WOUNDS: Final = {
    "redis stands still": Wound(paused, {"redis": "has not answered", "canary": "Redis"}),
    "a dead subscriber": Wound(deaf, {"bell": "0 of 1 shards heard", "canary": "bell"}),
    "a bell for nobody": Wound(unheard, {"canary": "the inbox has it, but no bell was heard"}),
    "a stuck lease": Wound(held("{0}"), {"canary": f"wait in {STREAM}, {SLEEPER}"}, stream=STREAM),
    "a stuck shard": Wound(held("{1}"), {"canary": f"wait in events:{{1}}, {SLEEPER}"}, 2, "events:{1}"),
    "a stuck router": Wound(held("{notifier:events}"), {"canary": f"wait in {STREAM}, {SLEEPER}"}, 2, STREAM),
}


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Some at the same time, for each takes its 15 seconds."""
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(wound.heal, tmp_path_factory.mktemp("wound")) for name, wound in WOUNDS.items()
        }


@pytest.mark.parametrize("name", WOUNDS)
def test_what_is_stuck_is_named_within_15_seconds(stories: dict[str, Future[None]], name: str) -> None:
    stories[name].result()


def test_the_canary_leaves_nothing_behind(tmp_path: Path, own_server: Valkey) -> None:
    daemon = Daemon(tmp_path, own_server.url, {"redis": {"shards": 2}})
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[admin]", "[admin]\ncanary_seconds = 0.2"))
    inboxes = [f"inbox:{{{shard}}}:{user}" for shard, user in enumerate(canary.users(2))]

    def kept() -> tuple[object, ...]:
        keys = own_server.call("KEYS", "*")
        assert isinstance(keys, list)
        # when marks were last swept is noted within the first second
        names = {key for key in keys if not key.startswith(b"swept:")}
        return (names, *(own_server.call("HLEN", key) for key in inboxes))

    with daemon:
        wait_until(lambda: daemon.metrics()["canary_seconds_count"] >= 2, 10, "two came back")
        before = kept()
        wait_until(lambda: daemon.metrics()["canary_seconds_count"] >= 12, 20, "ten more came back")
        assert kept() == before
        assert not own_server.call("KEYS", "seen:*")
        assert not own_server.call("KEYS", "dead:*")
        counted = daemon.metrics()
        for name in (
            "events_read_total",
            "events_handed_over_total",
            "deliveries_total",
            "sessions",
            "connections",
        ):
            assert counted[name] == 0, name
        assert not any(
            value
            for name, value in counted.items()
            if name.startswith(("notifications_total", "joins_", "marks_"))
        )
        assert counted["delivery_seconds_count"] == 0
        daemon.stop()
    assert all(own_server.call("EXISTS", f"on:{{{s}}}:{u}") == 0 for s, u in enumerate(canary.users(2))), (
        "it has left"
    )


def test_a_canary_that_cannot_be_applied_is_no_dead_letter(tmp_path: Path, own_server: Valkey) -> None:
    own_server.call("SET", f"inbox:{{0}}:{canary.PREFIX}0", "no inbox")
    daemon = Daemon(tmp_path, own_server.url).start(30)
    with daemon:
        wait_until(lambda: "canary" in parts(daemon), WITHIN, "not ready")
        own_server.call(
            "XADD", STREAM, "*", "event", canary.event("like", "x", "1", "2020-01-01T00:00:00Z", ("u",))
        )
        wait_until(lambda: own_server.call("XLEN", STREAM) == 0, 10, "an old one is dropped")
        assert not own_server.call("KEYS", "dead:*")
        own_server.call("DEL", f"inbox:{{0}}:{canary.PREFIX}0")
        recovers(daemon)


def test_nobody_is_a_canary(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    with Daemon(tmp_path, redis_url) as daemon, Socket(daemon.port("websocket")) as client:
        client.send(auth(token(f"{canary.PREFIX}0")))
        assert client.closing().code == 4501


# Parts of it ----------------------------------------------------------------------------------------------


def test_every_shard_has_its_reserved_user() -> None:
    for shards in (1, 2, 7, 64):
        users = canary.users(shards)
        assert [shard_of(user, shards) for user in users] == list(range(shards))
        assert all(map(canary.is_reserved, users))


def test_a_canary_is_known_by_its_bytes() -> None:
    assert canary.is_canary(canary.event("like", "notifier-1", "a.1", "2026-11-22T10:00:00Z", ("u",)))
    assert not canary.is_canary(b'{"actor":{"id":"42"},"type":"like","to":["7"]}')
    assert not canary.is_canary(None)


def test_no_token_is_good_for_a_reserved_user() -> None:
    verifier = Verifier([Key("tests", "HS256", lambda data, signature: True)], "notifier", None, 86_400, 30)
    now = time.time()
    assert verifier.verify(token("notifier.canar"), now).user == "notifier.canar"
    with pytest.raises(TokenError) as refused:
        verifier.verify(token(f"{canary.PREFIX}anything"), now)
    assert refused.value.reason == "subject"


class Streams:
    """Answers as Redis does for a front door in which one entry after the other stands first."""

    def __init__(self, first: str | None = None) -> None:
        self.first = first
        self.asked: list[tuple[object, ...]] = []

    async def call(self, *command: object) -> Any:
        self.asked.append(command)
        match command[0]:
            case "TIME":
                return [b"1700000000", b"0"]
            case "XADD":
                return b"9-0"
            case "GET":
                return b"me"
            case "XRANGE":
                return [[self.first.encode(), [b"event", b"{}"]]] if self.first else []
        raise AssertionError(command)


def scene(clock: Clock, streams: Streams) -> Canary:
    """A canary over the double of everything, whose bells ring only when the test lets them."""
    rules = Rules(shards=1)
    server = MemoryServer()
    bus = MemoryBus(server, 1, "me")
    hub = Hub(clock, MemoryInbox(server, rules, "me"), bus, Metrics(), 1)
    bus.start()
    calls: Any = streams
    made = Canary(clock, calls, hub, Metrics(), 1, "like", 3.0, lambda: "notifier-1", "me", dict)
    made.start()
    for _ in range(100):
        clock.advance(0.02)
    return made


def test_slow_is_not_stuck() -> None:
    clock, streams = Clock(), Streams("1-0")
    bird = scene(clock, streams)
    assert not bird.part()[0], "the first has not come back"
    for second in range(40):
        streams.first = f"{1 + second // 4}-0"
        clock.advance(1)
    bird._came = clock.seconds() - 40
    assert bird.part()[0]
    assert "behind, but moving: events wait in notifier:events, which this process reads" in bird.part()[1]
    for _ in range(int(LATE) + 2):
        clock.advance(1)
    assert not bird.part()[0]
    assert sum(command[0] == "XADD" for command in streams.asked) == 1, "none is added to what waits"


def test_what_is_lost_on_the_way_is_sent_again() -> None:
    clock, streams = Clock(), Streams()
    bird = scene(clock, streams)
    for _ in range(30):
        clock.advance(1)
    assert bird.part() == (False, bird.part()[1])
    assert "no bell was heard" in bird.part()[1]
    sent = sum(command[0] == "XADD" for command in streams.asked)
    assert 8 <= sent <= 12, "one each period"


async def test_a_listener_that_is_shut_is_named() -> None:
    bird = scene(Clock(), Streams())
    bird.reactor = installed
    with socket.create_server(("127.0.0.1", 0)) as open_:
        doors = {
            "websocket": IPv4Address("TCP", "0.0.0.0", open_.getsockname()[1]),
            "api": IPv4Address("TCP", "127.0.0.1", free_port()),
        }
        bird.listeners = lambda: doors
        for _ in range(2):
            assert bird.doors()[0], "once may be chance"
            bird._knock()
            await deferLater(installed, 0.1, lambda: None)
        ok, said = bird.doors()
        assert not ok
        assert said.startswith("api: ")
        assert "websocket" not in said
