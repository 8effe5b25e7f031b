"""Real daemons, a real Redis and sandboxes, with many people who have two phones each."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from twisted.internet.defer import Deferred, gatherResults

from notifier.core import keys
from notifier.core.devices import device_id
from notifier.core.model import Device, Provider
from notifier.sandbox.credentials import app_toml
from tests import reactor
from tests.chaos.scene import merged
from tests.contract.phones import enlist as of_contract
from tests.contract.world import RedisWorld
from tests.daemon import TWISTD, Daemon, Settings, wait_until
from tests.sandboxes import SandboxProcess
from tests.servers import Valkey

STREAM: Final = "notifier:events"
APP: Final = "demo"
ALWAYS: Final = '[types.comment]\npush = "always"\n'
PAGE: Final = 100  # devices that the sandbox is asked for at once
CHUNK: Final = 500  # people whose devices are registered at once
PATIENCE: Final = 60.0  # s, for a machine that has other work
RELOADED: Final = "reloaded:"
SETTINGS: Final[Settings] = {
    "fanout": {"lease_seconds": 0.5, "poll_ms": 50, "claim_seconds": 1},
    "push": {"poll_ms": 50, "claim_seconds": 1},
    "redis": {"timeout_seconds": 2.0},
}
# What begins our tokens and Apple's or Google's, and what stands in key files: never to be logged.
CANARIES: Final = ("c0ffee5ec2e7", "5ecret-", "ya29.", "PRIVATE KEY", "eyJ")


def iphone(number: int, prefix: str = "") -> str:
    """A token as Apple's are: 64 hexadecimal digits."""
    return f"{prefix}{'c0ffee5ec2e7' * 5}"[:56] + f"{number:08x}"


def android(number: int, prefix: str = "") -> str:
    return f"{prefix}5ecret-{number:08d}:APA91b{'x' * 40}"


def device(token: str, provider: Provider) -> Device:
    return Device(device_id(token), provider, APP, token, 1_700_000_000_000)


def enlist(server: Valkey, people: Mapping[str, Sequence[Device]], shards: int = 1) -> None:
    """Register these devices, as a file that is read in would."""

    async def all_of(chunk: Sequence[tuple[str, Sequence[Device]]], world: RedisWorld) -> None:
        await gatherResults(
            [Deferred.fromCoroutine(of_contract(world, user, devices)) for user, devices in chunk]
        )

    async def work() -> None:
        world = RedisWorld(server.url, shards)
        await world.open()
        left = iter(people.items())
        while chunk := list(islice(left, CHUNK)):
            await all_of(chunk, world)
        await world.close()

    reactor.run(work, timeout=300)


def _said(daemon: Daemon, what: str) -> int:
    """How often its log has it."""
    return daemon.log.read_text().count(what)


def _says_more(daemon: Daemon, what: str, than: int) -> bool:
    return _said(daemon, what) > than


class Site:
    """Everything up. A context manager; at its end no log has a token or a key in it.

    apns, fcm   sandboxes, or one for both
    people      how many, each with an iPhone and an Android phone; theirs are iphone(n) and android(n)
    settings    sections over SETTINGS; `types`: TOML
    shards      of Redis; more than one are behind a router
    durable     Redis has written what it answers for
    """

    def __init__(
        self, folder: Path, apns: SandboxProcess, fcm: SandboxProcess | None = None, *, people: int,
        settings: Settings | None = None, types: str = ALWAYS, daemons: Sequence[str] = ("left",),
        program: Sequence[str] = TWISTD, durable: bool = False, shards: int = 1,
    ) -> None:  # fmt: skip
        self.folder, self.apns, self.fcm = folder, apns, fcm or apns
        self.users = [f"u{number}" for number in range(people)]
        extra = {"appendfsync": "always"} if durable else {}
        self.server = Valkey(folder / "valkey", aof=durable, extra=extra)
        self.shards = shards
        self.tags = [keys.tag(shard) for shard in range(shards)]
        self.lanes = [f"push:{tag}:{APP}:{provider}" for tag in self.tags for provider in ("apns", "fcm")]
        settings = merged(settings or {}, {"redis": {"shards": shards}})
        self._settings, self._names, self._program = merged(SETTINGS, settings), daemons, program
        self._types = types
        self.daemons: list[Daemon] = []
        self.comments: dict[str, tuple[str, ...]] = {}  # what was published, and for whom
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for sandbox in {id(one): one for one in (self.apns, self.fcm)}.values():
            for what in ("devices", "script"):
                sandbox.ask("DELETE", what)
        self._stack.enter_context(self.server)
        enlist(self.server, {user: self.phones_of(at) for at, user in enumerate(self.users)}, self.shards)
        self.daemons = [
            Daemon(
                self.folder, self.server.url, self._settings, name=name, more=self.toml() + self._types,
                program=self._program,
            )
            for name in self._names
        ]  # fmt: skip
        self._stack.callback(self.kill)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            spilled = self.spilled()
            assert not spilled, "a token or a key in a log: " + "\n".join(spilled)

    def spilled(self) -> list[str]:
        """Lines of any log that a token or a key stands in."""
        logs = {*(daemon.log for daemon in self.daemons), self.apns.log, self.fcm.log}
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return [line for line in lines if any(canary in line for canary in CANARIES)]

    def start(self) -> None:
        for daemon in self.daemons:
            daemon.start(PATIENCE)

    def kill(self) -> None:
        for daemon in self.daemons:
            daemon.kill()

    @property
    def daemon(self) -> Daemon:
        return self.daemons[0]

    def reconfigure(self, old: str, new: str) -> None:
        """Another word in everybody's configuration, read anew on SIGHUP."""
        for daemon in self.daemons:
            text = daemon.config.read_text()
            assert old in text
            daemon.config.write_text(text.replace(old, new))
            before = _said(daemon, RELOADED)
            os.kill(daemon.pid, signal.SIGHUP)
            wait_until(partial(_says_more, daemon, RELOADED, before), PATIENCE, daemon.tail)

    def toml(self) -> str:
        """The app, at its two providers: the one's authority is believed for Apple, the other's for Google."""
        own = self.apns.toml(APP)
        if self.fcm is self.apns:
            return own
        there, made = self.fcm.endpoints, self.fcm.credentials
        google = app_toml(APP, made, "-", there["fcm"], there["token_uri"], there["authority"])
        return own.partition(f"[apps.{APP}.fcm]")[0] + "".join(google.partition(f"[apps.{APP}.fcm]")[1:])

    @staticmethod
    def phones_of(number: int) -> list[Device]:
        return [device(iphone(number), "apns"), device(android(number), "fcm")]

    # -- events

    def comment(self, to: Sequence[str] | None = None) -> str:
        """A comment on everybody's photo; its id."""
        name = f"c{len(self.comments)}"
        given = self.users if to is None else to
        self.comments[name] = tuple(given)
        event = {
            "id": name, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "type": "comment",
            "to": list(given), "actor": {"id": "42"}, "object": {"type": "photo", "id": name}, "text": "hello",
        }  # fmt: skip
        self.server.call("XADD", STREAM, "*", "event", json.dumps(event))
        return name

    # -- Redis

    def count(self, command: str, key: str) -> int:
        found = self.server.call(command, key)
        assert isinstance(found, int)
        return found

    def handed_over(self) -> bool:
        streams = {STREAM, *(keys.events(shard, self.shards) for shard in range(self.shards))}
        return all(self.count("XLEN", stream) == 0 for stream in streams)

    def backlog(self) -> int:
        """Entries of lanes that nobody has settled."""
        return sum(self.count("XLEN", lane) for lane in self.lanes)

    def waiting(self) -> int:
        return sum(self.count("ZCARD", keys.due(tag)) for tag in self.tags)

    def hurry(self) -> None:
        """All that waits is due now."""
        for due in map(keys.due, self.tags):
            found = self.server.call("ZRANGE", due, "0", "-1")
            assert isinstance(found, list)
            for names in (found[at : at + CHUNK] for at in range(0, len(found), CHUNK)):
                # XX: what was woken meanwhile must not come back
                self.server.call("ZADD", due, "XX", *(part for name in names for part in ("1", name)))

    def dead_letters(self) -> list[str]:
        found = self.server.call("KEYS", "dead:*")
        assert isinstance(found, list)
        return sorted(key.decode() for key in found)

    def told_dead(self) -> list[object]:
        """Tokens that were told of as dead."""
        found: list[object] = []
        for tag in self.tags:
            told = self.server.call("XRANGE", keys.dead_tokens(tag), "-", "+")
            assert isinstance(told, list)
            found += told
        return found

    def lost_devices(self) -> list[str]:
        """People who have not both their phones any more."""
        lost = []
        for number, user in enumerate(self.users):
            wanted = (one.id for one in self.phones_of(number))
            found = self.server.call("HMGET", keys.devices(user, self.shards), *wanted)
            assert isinstance(found, list)
            if None in found:
                lost.append(user)
        return lost

    # -- phones

    def shown(
        self, provider: Provider, users: Iterable[str] | None = None
    ) -> Iterator[tuple[str, list[str]]]:
        """Each person's phone of this kind, and the notifications on it, the first one first."""
        sandbox, name = (self.apns, iphone) if provider == "apns" else (self.fcm, android)
        wanted = iter(self.users if users is None else users)
        while page := list(islice(wanted, PAGE)):
            tokens = {name(int(user[1:])): user for user in page}
            found = {
                one["token"]: one
                for one in sandbox.ask("GET", f"devices?tokens={','.join(tokens)}")["devices"]
            }
            for token, user in tokens.items():
                said = found[token]["shown"] if token in found else []
                yield user, [push["data"]["nid"] for push in reversed(said)]

    def missing(self, provider: Provider, comments: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """(person, comment) that a phone of this kind should show and does not."""
        wanted: dict[str, set[str]] = {user: set() for user in self.users}
        for comment in self.comments if comments is None else comments:
            for user in self.comments[comment]:
                wanted[user].add(comment)
        return [
            (user, comment)
            for user, has in self.shown(provider)
            for comment in sorted(wanted[user] - set(has))
        ]

    def accepted(self, provider: Provider) -> int:
        """Pushes that the provider has taken, each as often as it came."""
        sandbox, platform = (self.apns, "ios") if provider == "apns" else (self.fcm, "android")
        return int(sandbox.ask("GET", "counts")["accepted"].get(platform, 0))

    def shown_twice(self) -> int:
        """Alerts that stood on a screen a second time, on all phones."""
        return sum(int(one.ask("GET", "counts")["shown_twice"]) for one in {self.apns, self.fcm})

    @property
    def pushes(self) -> int:
        """How many each provider must be asked for."""
        return sum(map(len, self.comments.values()))

    # -- the judgement

    def settled(self) -> bool:
        """Nothing is left to do."""
        return self.handed_over() and not self.backlog() and not self.waiting()

    def judge(self) -> None:
        """Everything arrived, nothing was shown twice, nobody has lost a device, nothing was given up."""
        found = {
            "not on Apple's phones": self.missing("apns"),
            "not on Google's": self.missing("fcm"),
            "shown twice": self.shown_twice(),
            "dead letters": self.dead_letters(),
            "lost their phones": self.lost_devices(),
            "told of as dead": self.told_dead(),
        }
        faults = {what: how for what, how in found.items() if how}
        assert not faults, faults

    def said(self) -> str:
        """What there is to know when it stands still."""
        lines = [f"backlog {self.backlog()}, waiting {self.waiting()}, dead letters {self.dead_letters()}"]
        for daemon in self.daemons:
            lines += [daemon.name, daemon.tail()]
        return "\n".join(lines)

    def rest(self, timeout: float = PATIENCE, *, hurry: bool = False) -> None:
        """Wait until all is settled; `hurry`: what waits is due at once, again and again."""

        def calm() -> bool:
            if hurry:
                self.hurry()
            return self.settled()

        wait_until(calm, timeout, self.said, every=0.1)
