"""Reading many sockets in one turn: all is heard, in order, and Twisted has the transport back whenever it ends."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from notifier.edge import inlet as module
from notifier.edge.inlet import Inlet

reactor: Any = default_reactor
PATIENCE = 1000  # looks, 10 ms apart


class Speaker:
    """One accepted connection; `fails` is raised by what it is told next."""

    def __init__(self, inlet: Inlet) -> None:
        self.inlet, self.descriptor = inlet, -1
        self.transport: Any = None
        self.heard = b""
        self.pieces = 0
        self.over = False
        self.fails: Exception | None = None
        self.told: Callable[[], None] = lambda: None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.inlet.take(self)

    def logPrefix(self) -> str:
        return "speaker"

    def dataReceived(self, data: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        self.heard += data
        self.pieces += 1
        self.told()

    def connectionLost(self, reason: object) -> None:
        self.inlet.forget(self)
        self.over = True


class House:
    """A listener whose connections are read through an inlet."""

    def __init__(self) -> None:
        self.inlet = Inlet(reactor)
        self.speakers: list[Speaker] = []
        self.links: list[socket.socket] = []
        factory: Any = Factory.forProtocol(self._accept)
        factory.noisy = False
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1", backlog=500)

    def _accept(self) -> Any:
        speaker: Any = Speaker(self.inlet)
        speaker.factory = None
        self.speakers.append(speaker)
        return speaker

    async def connect(self, count: int) -> list[socket.socket]:
        """So many clients, all read through the inlet."""
        address = ("127.0.0.1", self.port.getHost().port)
        self.links += (new := [socket.create_connection(address) for _ in range(count)])
        await until(lambda: len(self.speakers) == len(self.links))
        assert all(speaker.descriptor >= 0 for speaker in self.speakers)
        # in the order of the links
        by_port = {speaker.transport.getPeer().port: speaker for speaker in self.speakers}
        self.speakers = [by_port[link.getsockname()[1]] for link in self.links]
        return new

    async def close(self) -> None:
        self.inlet.stop()
        await self.port.stopListening()
        for link in self.links:
            link.close()
        await until(lambda: all(speaker.over for speaker in self.speakers))


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    made = House()
    try:
        yield made
    finally:
        await made.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(PATIENCE):
        if true():
            return
        await pause()
    raise AssertionError("it did not happen")


def pause(seconds: float = 0.01) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


@pytest.fixture
def failures() -> Iterator[list[dict[str, Any]]]:
    """What is logged as a failure."""
    found: list[dict[str, Any]] = []

    def see(event: dict[str, Any]) -> None:
        if "log_failure" in event or event.get("isError"):  # Twisted's reactor tells in the old way
            found.append(event)

    observer: Any = see
    globalLogPublisher.addObserver(observer)
    yield found
    globalLogPublisher.removeObserver(observer)


async def test_everybody_is_heard_whole_and_in_order() -> None:
    async with house() as world:
        links = await world.connect(module.AT_ONCE + 50)  # more than one turn takes
        said = [b"".join(b"%d:%d " % (at, word) for word in range(5)) for at in range(len(links))]
        for word in range(5):
            for at, link in enumerate(links):
                link.sendall(b"%d:%d " % (at, word))
            await pause()
        await until(lambda: sum(len(speaker.heard) for speaker in world.speakers) == sum(map(len, said)))
        assert [speaker.heard for speaker in world.speakers] == said


async def test_more_than_one_read_takes_comes_whole() -> None:
    async with house() as world:
        (link,) = await world.connect(1)
        words = os.urandom(10 * module.READ_SIZE + 7)
        link.sendall(words)
        await until(lambda: len(world.speakers[0].heard) == len(words))
        assert world.speakers[0].heard == words
        assert world.speakers[0].pieces >= 11


async def test_who_floods_does_not_keep_others_from_being_heard() -> None:
    async with house() as world:
        flooder, other = await world.connect(2)
        flood, word = world.speakers
        word.told = lambda: setattr(flood, "until", len(flood.heard))
        flooder.sendall(b"x" * 1_000_000)
        other.sendall(b"word")
        await until(lambda: len(flood.heard) == 1_000_000 and word.heard == b"word")
        assert vars(flood)["until"] <= 2 * module.READ_SIZE


class Broken:
    """Stands in for a socket or an epoll until `call` is called, which raises; the rest goes through."""

    def __init__(self, inner: Any, call: str, fault: BaseException, then: Callable[[], None]) -> None:
        self.inner, self.call, self.fault, self.then = inner, call, fault, then

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self.call else getattr(self.inner, name)

    def _fail(self, *args: object) -> None:
        self.then()
        raise self.fault


LONG = 3600.0  # s: no test waits so long


async def speak_twice(link: socket.socket, speaker: Speaker) -> None:
    """Two words, one after the other: the inlet waits for company then, if they came closely."""
    for word in (b".", b".."):
        link.sendall(b".")
        await until(lambda: speaker.heard == word)  # noqa: B023 (it is over before the next round)


async def test_who_speaks_seldom_leaves_the_reactor_watching() -> None:
    waits: list[float] = []
    seconds = iter(range(1000, 2000))

    def call_later(delay: float, *what: Any) -> Any:
        waits.append(delay)
        return reactor.callLater(delay, *what)

    async with house() as world:
        world.inlet.reactor = SimpleNamespace(
            seconds=lambda: next(seconds),  # any two words are a second apart
            callLater=call_later,
            addReader=reactor.addReader,
            removeReader=reactor.removeReader,
        )
        (link,) = await world.connect(1)
        await speak_twice(link, world.speakers[0])
        assert world.inlet in reactor.getReaders()
        assert not waits


async def test_who_speaks_often_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", LONG)
    async with house() as world:
        link, other = await world.connect(2)
        speaker, silent = world.speakers
        await speak_twice(link, speaker)
        assert world.inlet not in reactor.getReaders()
        other.sendall(b"w")
        await pause(0.05)
        assert not silent.heard
        world.inlet.stop()
        await until(lambda: silent.heard == b"w")


async def test_what_one_read_did_not_take_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", LONG)
    async with house() as world:
        (link,) = await world.connect(1)
        words = os.urandom(10 * module.READ_SIZE + 7)
        link.sendall(words)
        await until(lambda: len(world.speakers[0].heard) == len(words))


async def test_who_has_bytes_unsent_is_not_taken() -> None:
    async with house() as world:
        (link,) = await world.connect(1)
        (speaker,) = world.speakers
        world.inlet.give_back(speaker)
        speaker.transport.write(b"x")  # Twisted sends it on the next turn
        world.inlet.take(speaker)
        assert speaker.descriptor == -1
        await pause()
        assert link.recv(2) == b"x"
        world.inlet.take(speaker)
        assert speaker.descriptor >= 0


@pytest.mark.parametrize("call", ["epoll", "register"])
async def test_without_a_descriptor_or_memory_twisted_reads(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house() as world:
        (link,) = await world.connect(1)
        (speaker,) = world.speakers
        world.inlet.give_back(speaker)
        asked: list[str] = []
        fault = OSError(errno.EMFILE, "too many open files")
        broken: Any = Broken(
            select if call == "epoll" else select.epoll(), call, fault, lambda: asked.append(call)
        )
        with monkeypatch.context() as patch:
            patch.setattr(module, "select", broken) if call == "epoll" else patch.setattr(
                select, "epoll", lambda: broken
            )
            world.inlet.take(speaker)
        assert asked and speaker.descriptor == -1
        link.sendall(b"word")
        await until(lambda: speaker.heard == b"word")


async def test_a_fault_while_it_gathers_leaves_nobody_unheard(
    failures: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER", 0.5)
    told: list[dict[str, Any]] = []
    observer: Any = told.append
    globalLogPublisher.addObserver(observer)
    async with house() as world:
        links = await world.connect(3)
        await speak_twice(links[0], world.speakers[0])
        transport = world.speakers[1].transport
        whole = transport.socket
        transport.socket = Broken(whole, "recv", MemoryError(), lambda: setattr(transport, "socket", whole))
        links[1].sendall(b"word")
        await until(lambda: bool(failures))
        for link in links:
            link.sendall(b"!")
        await until(lambda: [each.heard for each in world.speakers] == [b"..!", b"word!", b"!"])
        assert [each.descriptor for each in world.speakers] == [-1, -1, -1]
    globalLogPublisher.removeObserver(observer)
    assert [type(event["log_failure"].value) for event in failures] == [MemoryError]
    assert sum("until the next start" in (event.get("log_format") or "") for event in told) == 1


async def test_an_end_is_left_to_twisted_behind_what_was_said_before() -> None:
    async with house() as world:
        link, other = await world.connect(2)
        link.sendall(b"last words")
        link.close()
        speaker, silent = world.speakers
        await until(lambda: speaker.over)
        assert speaker.heard == b"last words"
        assert not silent.over and silent.descriptor >= 0
        other.sendall(b"still here")
        await until(lambda: silent.heard == b"still here")


async def test_a_reset_ends_the_connection() -> None:
    async with house() as world:
        link, _ = await world.connect(2)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()
        await until(lambda: world.speakers[0].over)
        assert not world.speakers[1].over
        assert world.speakers[1].descriptor >= 0, "the other one is read as before"


async def test_a_socket_that_turns_out_empty_is_no_end() -> None:
    async with house() as world:
        links = await world.connect(2)
        one, two = world.speakers
        one.told = lambda: two.transport.socket.recv(100)
        two.told = lambda: one.transport.socket.recv(100)
        for link in links:
            link.sendall(b"word")
        await until(lambda: bool(one.heard or two.heard))
        await pause(0.05)
        assert sorted((one.heard, two.heard)) == [b"", b"word"]
        assert one.descriptor >= 0 <= two.descriptor


async def test_a_connection_given_back_is_read_by_twisted() -> None:
    async with house() as world:
        (link,) = await world.connect(1)
        (speaker,) = world.speakers
        link.sendall(b"a")
        await until(lambda: speaker.heard == b"a")
        world.inlet.give_back(speaker)
        assert speaker.descriptor == -1
        world.inlet.give_back(speaker)  # once more changes nothing
        link.sendall(b"b")
        await until(lambda: speaker.heard == b"ab")
        world.inlet.take(speaker)
        link.sendall(b"c")
        await until(lambda: speaker.heard == b"abc")


async def test_who_is_ended_by_another_in_the_same_turn_is_not_heard(failures: list[dict[str, Any]]) -> None:
    async with house() as world:
        links = await world.connect(20)

        def end_all() -> None:
            for speaker in world.speakers:
                world.inlet.give_back(speaker)
                speaker.transport.stopReading()
                speaker.told = lambda: None

        for speaker in world.speakers:
            speaker.told = end_all
        # the inlet must find them all at once: nothing is read while this turn of the reactor lasts
        for link in links:
            link.sendall(b"word")
        await until(lambda: any(speaker.heard for speaker in world.speakers))
        await pause(0.05)
        assert sum(bool(speaker.heard) for speaker in world.speakers) == 1
        assert not failures
        for speaker in world.speakers:
            speaker.transport.startReading()
        await until(lambda: all(speaker.heard == b"word" for speaker in world.speakers))


async def test_a_bug_ends_one_connection_and_no_other(failures: list[dict[str, Any]]) -> None:
    async with house() as world:
        links = await world.connect(3)
        world.speakers[1].fails = RuntimeError("a bug")
        for link in links:
            link.sendall(b"word")
        await until(lambda: world.speakers[1].over)
        await until(lambda: all(world.speakers[at].heard == b"word" for at in (0, 2)))
        assert ["a bug" in str(event["log_failure"].value) for event in failures] == [True]


async def test_nothing_stays_in_the_reactor_when_nobody_is_left() -> None:
    before = set(reactor.getReaders())
    async with house() as world:
        for link in await world.connect(3):
            link.sendall(b"word")
        await until(lambda: all(speaker.heard for speaker in world.speakers))
        for link in world.links:
            link.close()
        await until(lambda: all(speaker.over for speaker in world.speakers))
        assert world.inlet not in reactor.getReaders()
        assert world.inlet.fileno() == -1
        world.links, world.speakers = [], []
        again = await world.connect(1)
        again[0].sendall(b"again")
        await until(lambda: world.speakers[-1].heard == b"again")
    assert set(reactor.getReaders()) <= before


async def test_after_its_stop_everything_is_twisteds() -> None:
    async with house() as world:
        link, other = await world.connect(2)
        world.inlet.stop()
        assert [speaker.descriptor for speaker in world.speakers] == [-1, -1]
        world.inlet.take(world.speakers[0])
        assert world.speakers[0].descriptor == -1
        link.sendall(b"word")
        other.close()
        await until(lambda: world.speakers[0].heard == b"word" and world.speakers[1].over)


async def test_a_transport_of_another_kind_is_not_taken() -> None:
    class Wrapped:
        """As TLS looks from outside: it forwards what the TCP transport has."""

        connected = True

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    async with house() as world:
        (link,) = await world.connect(1)
        (speaker,) = world.speakers
        world.inlet.give_back(speaker)
        plain, speaker.transport = speaker.transport, Wrapped(speaker.transport)
        world.inlet.take(speaker)
        assert speaker.descriptor == -1
        speaker.transport = plain
        link.sendall(b"word")
        await until(lambda: speaker.heard == b"word")
