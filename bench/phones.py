"""Phones for a bench: a push server in C in the place of both providers, people with devices, events for them."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from bench.harness import (
    BenchFailed,
    Process,
    build_push_server,
    event_json,
    free_port,
    redis_command,
    scratch,
)
from bench.wire import Wire, pack
from notifier.cli.progress import progress
from notifier.core import keys
from notifier.core.devices import device_id, encode
from notifier.core.lanes import Lane
from notifier.core.model import Device
from notifier.core.model import Provider as Platform
from notifier.edge.redis import load_script
from notifier.sandbox.authority import Certificates, make_certificates
from notifier.sandbox.credentials import app_toml, make_credentials

APP: Final = "bench"
LANES: Final = (Lane(APP, "apns"), Lane(APP, "fcm"))
STREAMS: Final = 1_000  # that the server takes at once on a connection, as Apple's does
CHUNK: Final = 200  # events that a producer writes at once
BACKLOG: Final = 3_000  # events and pushes that may wait before it stops


class Arrived(NamedTuple):
    """What the push server has counted. Events are told apart by the number in each."""

    once: int
    again: int
    unnamed: int
    connections: int
    timed: int
    p50_us: float
    p99_us: float
    max_us: float


@cache
def papers() -> Certificates:
    return make_certificates(_folder() / "authority")


def _folder() -> Path:
    return scratch("phones", b"").parent / "phones.d"


@dataclass
class Providers:
    """Where APNs and FCM are, or will be: one server for both, which is down until `start`."""

    port: int
    control: int
    process: Process | None = None

    @classmethod
    def reserve(cls) -> Providers:
        return cls(free_port(), free_port())

    def start(self, core: int | None, streams: int = STREAMS) -> Process:
        """`streams`: open at once on each connection."""
        argv: list[str | Path] = [
            build_push_server(), str(self.port), str(self.control), papers().server, str(streams), "0",
        ]  # fmt: skip
        self.process = Process("push server", argv, core)
        self.process.wait_for_port(self.control)
        return self.process

    def look(self) -> Arrived:
        """Counts since the start, latencies since the last look."""
        with socket.create_connection(("127.0.0.1", self.control), timeout=30) as link:
            said = link.makefile("rb").read()
        return Arrived(**json.loads(said))

    def settings(self) -> str:
        """The app of the daemon's configuration."""
        at = f"https://127.0.0.1:{self.port}"
        made = make_credentials(_folder())
        return app_toml(APP, made, at, at, f"{at}/token", str(papers().authority))


# ---- devices ----------------------------------------------------------------------------------------------


def add_devices(wire: Wire, people: int, android: float = 0.0, shards: int = 1) -> None:
    """A device for each person, by the scripts that the API calls; `android`: the share of them that FCM reaches."""
    script = load_script("device")
    wire.call("SCRIPT", "LOAD", script.text)
    with progress("devices", "devices", people) as bar:
        for first in range(0, people, CHUNK):
            users = range(first, min(people, first + CHUNK))
            commands = [words for user in users for words in _registration(script.sha, user, android, shards)]
            wire.ask(pack(commands), len(commands))
            bar.advance(len(users), len(users))


def _registration(script: str, user: int, android: float, shards: int) -> Iterator[tuple[object, ...]]:
    name, now = f"{user:06d}", int(time.time() * 1000)
    # every hundredth person has the same place in each hundred: shares are exact, and mixed
    platform: Platform = "fcm" if user * 37 % 100 < android * 100 else "apns"
    token = f"{user:064x}" if platform == "apns" else f"bench-{user:0130d}"
    one = Device(device_id(token), platform, APP, token, now)
    yield "EVALSHA", script, 1, keys.owner(one.id, shards), "claim", name, now
    tagged = keys.tag(keys.shard_of(name, shards))
    yield "EVALSHA", script, 1, keys.devices(name, shards), "add", one.id, encode(one), 50, "stays", tagged


# ---- what waits -------------------------------------------------------------------------------------------


class Waiting(NamedTuple):
    """Events at the front door, pushes in lanes, pushes that come later."""

    events: int
    pushes: int
    later: int


@cache
def _how_much(shards: int) -> tuple[bytes, int]:
    tags = [keys.tag(shard) for shard in range(shards)]
    doors = dict.fromkeys([keys.FRONT_DOOR, *(keys.events(shard, shards) for shard in range(shards))])
    commands = [("XLEN", door) for door in doors]
    commands += [("XLEN", keys.pushes(tag, lane)) for tag in tags for lane in LANES]
    return pack([*commands, *(("ZCARD", keys.due(tag)) for tag in tags)]), len(doors)


def waiting(wire: Wire, shards: int = 1) -> Waiting:
    commands, doors = _how_much(shards)
    lanes = doors + len(LANES) * shards
    counts = wire.ask(commands, lanes + shards)
    return Waiting(sum(counts[:doors]), sum(counts[doors:lanes]), sum(counts[lanes:]))


def settled(wire: Wire, providers: Providers, expected: int, seconds: float, shards: int = 1) -> Arrived:
    """Once every push has arrived, exactly once, and been settled. Raises BenchFailed if that does not come true."""
    give_up = time.monotonic() + seconds
    while True:
        left, arrived = waiting(wire, shards), providers.look()
        if not any(left) and arrived.once >= expected:
            break
        if time.monotonic() > give_up:
            raise BenchFailed(
                f"after {seconds:.0f} s {expected} pushes were due, {arrived} arrived, {left} wait"
            )
        time.sleep(0.1)
    if (arrived.once, arrived.again, arrived.unnamed) != (expected, 0, 0):
        raise BenchFailed(f"{expected} pushes were due, each once: {arrived}")
    return arrived


# ---- events -----------------------------------------------------------------------------------------------


class Producer:
    """Appends comments for random people, none of whom is connected, as fast as they are pushed."""

    def __init__(self, wire: Wire, people: int) -> None:
        self._wire = wire
        self._people = people
        self._chance = random.Random(1)
        command = redis_command("XADD", keys.FRONT_DOOR, "*", "event", event_json(kind="comment"))
        # Users have six digits, events ten, stamps nineteen: lengths stay right.
        text = command.replace(b"%", b"%%").replace(b"U" * 6, b"%06d").replace(b"E" * 10, b"%010d")
        self._event = text.replace(b"TS=" + b"0" * 19, b"TS=%019d")
        self.written = 0

    def write(self, count: int) -> None:
        """So many events at once."""
        draw, people, event, now = self._chance.random, self._people, self._event, time.monotonic_ns()
        first = self.written
        commands = [event % (int(draw() * people), number, now) for number in range(first, first + count)]
        self._wire.ask(b"".join(commands), count)
        self.written += count

    def run(self, seconds: float) -> None:
        """Keep the daemon busy for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            left = waiting(self._wire)
            if left.events + left.pushes > BACKLOG:
                time.sleep(0.002)
            else:
                self.write(CHUNK)
