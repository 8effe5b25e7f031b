"""/readyz cannot lie: whatever is stuck on the path of an event, it turns within 15 s and says where."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock, deferLater

from notifier.core import canary
from notifier.core.keys import shard_of
from notifier.core.session import Session
from notifier.core.tokens import Key, TokenError, Verifier
from notifier.edge.canary import LATE, Canary, Heard
from notifier.edge.embedded import free_port
from notifier.edge.hub import Hub
from notifier.edge.memory import MemoryBus, MemoryInbox
from notifier.edge.memory_state import MemoryServer
from notifier.edge.store import Rules
from notifier.metrics import Metrics
from tests.client import Closed, Refused, Socket, auth, token
from tests.daemon import FREE, TWISTD, Daemon, Settings, wait_until
from tests.edge.test_tls import make_papers
from tests.servers import Valkey
from tests.test_restart import ACTIVATED, Activated

STREAM: Final = "notifier:events"
WITHIN: Final = 15.0  # s
MOST: Final = 4  # connections of a process that is easily full


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
def again_and_again(server: Valkey, *command: str | bytes | float, every: float = 0.01) -> Iterator[None]:
    """Somebody who sends a command every so many seconds."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(every):
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
    # between a canary's join and the handover that rings for it there are but few milliseconds
    return again_and_again(server, "DEL", f"on:{{0}}:{canary.PREFIX}0", every=0.0003)


@contextmanager
def switched(daemon: Daemon) -> Iterator[None]:
    """The fault that was built into the daemon is there (see `faulty`)."""
    os.kill(daemon.pid, signal.SIGUSR1)
    yield
    os.kill(daemon.pid, signal.SIGUSR2)


def faulty(method: str, broken: str, program: tuple[str, ...] = TWISTD) -> tuple[str, ...]:
    """A program for Daemon, in whose gateway a method is replaced: by SIGUSR1, until SIGUSR2."""
    code = (
        "import signal\n"
        "from twisted.internet.protocol import Protocol\n"
        "from notifier.edge import websocket\n"
        f"whole, broken = websocket.{method}, {broken}\n"
        f"def switch(to): websocket.{method} = to\n"
        "signal.signal(signal.SIGUSR1, lambda *_: switch(broken))\n"
        "signal.signal(signal.SIGUSR2, lambda *_: switch(whole))\n"
    )
    run = "from twisted.scripts.twistd import run"
    return (program[0], program[1].replace(run, code + run), *program[2:])


@contextmanager
def crowded(daemon: Daemon) -> Iterator[None]:
    """Other clients have all the connections that the process bears."""
    with ExitStack() as crowd:
        came = 0

        def fill() -> bool:
            nonlocal came
            try:
                crowd.enter_context(Socket(daemon.port("websocket"))).auth("ana")
                came += 1
            except Closed:
                pass  # for a moment, while it comes in, the canary is one of them
            return came == MOST

        wait_until(fill, WITHIN, "it is full", 0.1)
        yield


@dataclass(frozen=True)
class Wound:
    """What is done to a server, or to the daemon, and what /readyz must say of it.

    stream   where one canary must wait, no more
    program  of the daemon
    """

    hurt: Callable[[Valkey], AbstractContextManager[None]]
    said: Mapping[str, str]
    shards: int = 1
    stream: str = ""
    inner: Callable[[Daemon], AbstractContextManager[None]] = lambda daemon: nullcontext()
    program: tuple[str, ...] = TWISTD
    settings: Settings = field(default_factory=dict)

    def heal(self, folder: Path) -> None:
        """The whole story: ready, hurt, not ready in time, healed, ready."""
        settings: Settings = {
            "redis": {"shards": self.shards},
            "websocket": {"refresh_seconds": 2, "listen": FREE},
            **self.settings,
        }
        with (
            Valkey(folder / "valkey") as server,
            Daemon(folder, server.url, settings, program=self.program) as daemon,
        ):
            assert parts(daemon) == {}, "ready when it says so"
            with self.hurt(server), self.inner(daemon):
                turns(daemon, self.said)
                if self.stream:
                    time.sleep(3)
                    assert server.call("XLEN", self.stream) == 1, "a stuck reader does not fill the stream"
            recovers(daemon)


def untouched(server: Valkey) -> AbstractContextManager[None]:
    return nullcontext()


SLEEPER: Final = "which another process reads (sleeper)"
WOUNDS: Final = {
    "redis stands still": Wound(paused, {"redis": "has not answered", "canary": "Redis"}),
    "a dead subscriber": Wound(deaf, {"bell": "0 of 1 shards heard", "canary": "bell"}),
    "a bell for nobody": Wound(unheard, {"canary": "the inbox has it, but no bell was heard"}),
    "a gateway that does not answer": Wound(
        untouched, {"canary": "the gateway does not answer the handshake"}, inner=switched,
        program=faulty("Gateway.buildProtocol", "lambda self, addr: Protocol()"),
    ),
    "a gateway that lets nobody in": Wound(
        untouched, {"canary": "the gateway does not say `ready`"}, inner=switched,
        program=faulty("Gateway.authenticate", "lambda *arguments: None"),
    ),
    "frames that do not leave": Wound(
        untouched, {"canary": "our WebSocket brought nothing"}, inner=switched,
        program=faulty("Connection.flush", "lambda self: setattr(self, 'queue', None)"),
    ),
    "a full process": Wound(
        untouched, {"canary": "the process is full (limits.connections)"}, inner=crowded,
        settings={"limits": {"connections": MOST}},
    ),
    "a stuck lease": Wound(held("{0}"), {"canary": f"wait in {STREAM}, {SLEEPER}"}, stream=STREAM),
    "a stuck shard": Wound(held("{1}"), {"canary": f"wait in events:{{1}}, {SLEEPER}"}, 2, "events:{1}"),
    "a stuck router": Wound(held("{notifier:events}"), {"canary": f"wait in {STREAM}, {SLEEPER}"}, 2, STREAM),
}  # fmt: skip


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Some at the same time, for each takes its 15 seconds."""
    with ThreadPoolExecutor(4) as pool:
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
            "acks_total",
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


# Through which door it comes -----------------------------------------------------------------------------


def listening(daemon: Daemon) -> set[int]:
    """The TCP ports of IPv4 on which the process listens, as the kernel has it (proc(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {row[9]: int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
    sockets = set()
    for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return {port for inode, port in ports.items() if inode in sockets}


def came_home(daemon: Daemon, times: int = 10) -> None:
    """So many more canaries have come back, and nobody was turned away for it."""
    before = daemon.metrics()["canary_seconds_count"]
    wait_until(lambda: daemon.metrics()["canary_seconds_count"] >= before + times, 30, daemon.tail)
    assert parts(daemon) == {}
    turned_away = {
        name: value
        for name, value in daemon.metrics().items()
        if name.startswith(("auth_failures", "handshake_rejects")) and value
    }
    assert turned_away == {}
    assert [line for line in daemon.lines() if "traceback" in line] == []


OFTEN: Final[Settings] = {"admin": {"canary_seconds": 0.2}}


def test_it_comes_through_the_listener_of_the_clients(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    with Daemon(tmp_path, redis_url, OFTEN) as daemon:
        seen = set[int]()
        before = daemon.metrics()["canary_seconds_count"]
        while daemon.metrics()["canary_seconds_count"] < before + 10:
            seen |= listening(daemon)
        assert seen == {daemon.port("websocket"), daemon.port("api"), daemon.admin_port}
        came_home(daemon)


def test_it_comes_through_tls(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    papers = make_papers(tmp_path)
    listen = f"ssl:0:interface=127.0.0.1:privateKey={papers.key}:certKey={papers.certificate}"
    with Daemon(tmp_path, redis_url, {**OFTEN, "websocket": {"listen": listen}}) as daemon:
        came_home(daemon)


@pytest.mark.parametrize("where", ["ipv6", "wildcard", "unix", "another path"])
def test_it_finds_every_kind_of_listener(tmp_path: Path, valkey: Valkey, redis_url: str, where: str) -> None:
    settings: dict[str, object] = {
        "ipv6": {"listen": "tcp6:0:interface=\\:\\:1"},
        "wildcard": {"listen": "tcp:0"},
        "unix": {"listen": f"unix:{tmp_path}/websocket"},
        "another path": {"listen": FREE, "path": "/a/b(c)~"},
    }[where]  # type: ignore[assignment]
    with Daemon(tmp_path, redis_url, {**OFTEN, "websocket": settings}) as daemon:
        came_home(daemon)


def test_it_takes_nobodys_place(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    """Two connections are two of clients, of the process and of an address that is counted."""
    limits = {"connections": 2, "per_address": 2, "per_address_rate": 20.0, "trusted_proxies": ["192.0.2.1"]}
    with Daemon(tmp_path, redis_url, {"limits": limits}) as daemon, ExitStack() as clients:
        came_home(daemon, 2)
        came = 0

        def both() -> bool:
            nonlocal came
            try:
                clients.enter_context(Socket(daemon.port("websocket"))).auth("7")
                came += 1
            except (Closed, Refused):
                pass  # for a moment, while it comes in, it is a stranger like others
            return came == 2

        wait_until(both, 20, "two are in", 0.1)
        assert daemon.metrics()["connections"] == 2
        with pytest.raises((Closed, Refused)):
            Socket(daemon.port("websocket"))


def test_a_drain_does_not_count_it(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    """The closes of a drain are spread, the first comes at once: that is a client's, and none of the canary's 16."""
    patient: Settings = {"redis": {"shards": 16}, "drain": {"seconds": 600.0, "timeout_seconds": 600.0}}
    with Daemon(tmp_path, redis_url, patient) as daemon, Socket(daemon.port("websocket")) as client:
        client.auth("7")
        os.kill(daemon.pid, signal.SIGTERM)
        assert client.until("drain", 30)
        assert daemon.ended(30) is not None, "nobody else is here"


def test_siblings_that_share_a_socket_do_not_answer_for_each_other(
    tmp_path: Path, valkey: Valkey, redis_url: str
) -> None:
    """A connection to a shared socket goes to whoever accepts first. The canary's comes through a door of its own,
    which is shut again behind it."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        sockets = {"websocket": one, "api": two}
        program = faulty("Gateway.buildProtocol", "lambda self, addr: Protocol()", ACTIVATED)
        shared: Settings = {
            **OFTEN,
            **{name: {"listen": f"systemd:domain=INET:name={name}"} for name in sockets},
        }
        pair = [
            Activated(tmp_path / side, redis_url, sockets, shared, program=program)
            for side in ("left", "right")
        ]
        with pair[0] as left, pair[1] as right:
            for daemon in pair:
                came_home(daemon)
                wait_until(lambda daemon=daemon: len(listening(daemon)) == 3, 10, "the door is shut")  # type: ignore[misc]
            with switched(left):
                turns(left, {"canary": "the gateway does not answer the handshake"})
                assert parts(right) == {}
            recovers(left)


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


class Perch:
    """A client of ours without a socket (hub.Client and canary.Nest); one that is not let in stays outside."""

    def __init__(
        self, hub: Hub, user: str, heard: Heard, changed: Callable[[Any], None], let_in: bool
    ) -> None:
        self.hub, self._heard, self._changed = hub, heard, changed
        self.session = Session(user, None, 256)
        self.issued = 2**53
        self.where = "the gateway does not answer the handshake"
        self.greeted = self.over = False
        if let_in:
            hub.reactor.callLater(0, hub.add, self)

    def push(self, text: bytes) -> bool:
        told = canary.heard(text)
        if told.type == "ready":
            self.greeted = True
            self._changed(self)
        self._heard(self, told)
        return False

    def flush(self) -> None:
        """Nothing is ever queued."""

    def calm(self) -> bool:
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.over = True
        self.hub.remove(self)

    abort = close


class Door:
    """Through which a canary's clients come in, while it is open."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.open, self.came = hub, True, 0

    def __call__(self, user: str, heard: Heard, changed: Callable[[Any], None]) -> Perch:
        self.came += 1
        return Perch(self.hub, user, heard, changed, self.open)


def scene(clock: Clock, streams: Streams) -> Canary:
    """A canary over the double of everything, whose bells ring only when the test lets them."""
    rules = Rules(shards=1)
    server = MemoryServer()
    bus = MemoryBus(server, 1, "me")
    hub = Hub(clock, MemoryInbox(server, rules, "me"), bus, Metrics(), 1)
    bus.start()
    calls: Any = streams
    made = Canary(clock, calls, hub, Metrics(), 1, "like", 3.0, lambda: "notifier-1", "me", dict, Door(hub))
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


def test_a_client_of_its_own_that_cannot_come_in_is_told_in_time() -> None:
    clock, streams = Clock(), Streams()
    bird = scene(clock, streams)
    door: Any = bird.open_nest
    came_back(bird, clock)
    door.open, before = False, clock.seconds()
    while bird.part()[0]:
        clock.advance(1)
    assert clock.seconds() - before <= WITHIN
    assert "shard 0: the gateway does not answer the handshake" in bird.part()[1]
    sent = sum(command[0] == "XADD" for command in streams.asked)
    clock.advance(30)
    assert sum(command[0] == "XADD" for command in streams.asked) == sent, "no canary without a nest"
    door.open = True
    for _ in range(10):
        clock.advance(1)
    assert sum(command[0] == "XADD" for command in streams.asked) > sent


def came_back(bird: Canary, clock: Clock) -> None:
    """The canary under way is told to its nest."""
    nest = bird.shards[0].nest
    assert nest is not None
    bird.heard(nest, canary.Heard("notification", 1, "x", bird._text()))
    assert bird.part()[0]


def test_what_was_not_told_by_the_bell_does_not_count() -> None:
    clock, streams = Clock(), Streams()
    bird = scene(clock, streams)
    perch: Any = bird.shards[0].nest
    perch.session.joins += 1
    bird.heard(perch, canary.Heard("notification", 1, "x", bird._text()))
    assert not bird.part()[0]
    assert "no bell was heard" in bird.part()[1]


def test_what_the_bell_told_and_the_client_did_not_hear_is_told_apart() -> None:
    clock, streams = Clock(), Streams()
    bird = scene(clock, streams)
    perch: Any = bird.shards[0].nest
    for _ in range(5):
        perch.session.last += 1
        clock.advance(1)
    assert "the bell was heard, but our WebSocket brought nothing" in bird.part()[1]


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
