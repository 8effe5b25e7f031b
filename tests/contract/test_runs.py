"""Which run of the server a script writes down: always that of the server which runs it, whatever was behind the
address before. A wrong one would pass off what was lost with a server as still known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.portforward import ProxyFactory

from notifier.core.inbox import Join
from notifier.edge.embedded import HOST
from notifier.edge.redis import Address, Connection, ReplyError
from notifier.edge.store import RedisInbox, Rules, Scripts
from notifier.metrics import Metrics
from tests import reactor
from tests.contract.world import ISSUED, NOWHERE, Reader, RedisWorld, event, load, pause, people
from tests.daemon import wait_until
from tests.servers import Valkey

U, V = people(2)
LOAD = Join("load", NOWHERE, 10)


def told(server: Valkey) -> str:
    """What the server says of its run."""
    about = server.call("INFO", "server")
    assert isinstance(about, bytes)
    return about.partition(b"run_id:")[2][:16].decode()


async def run_of(calls: Connection, user: str = U) -> str:
    """As a join reads it: of the inbox, or of the server where there is none."""
    return (await RedisInbox(calls, Scripts(), Rules(), "one").sync(user, LOAD, ISSUED)).run


def connected_again(world: RedisWorld) -> None:
    wait_until(lambda: world.calls.up and world.calls._times == 2, 10, "a second connection")


def test_a_server_that_is_started_anew_is_another_run_on_the_same_connection_object(
    own_server: Valkey,
) -> None:
    world = RedisWorld(own_server.url)
    reactor.run(world.open())
    reactor.run(Reader(world).deliver(event(to=U)))
    first = told(own_server)
    assert reactor.run(run_of(world.calls)) == first
    own_server.kill()
    own_server.start()
    second = told(own_server)
    assert second != first
    connected_again(world)
    # nothing is loaded there: this goes through NOSCRIPT and EVAL
    assert reactor.run(run_of(world.calls, V)) == second
    reactor.run(Reader(world).deliver(event(to=U)))
    assert reactor.run(run_of(world.calls)) == second
    reactor.run(world.close())


def test_a_replica_that_takes_over_the_address_is_another_run(tmp_path: Path, own_server: Valkey) -> None:
    extra = {"replicaof": f"{HOST} {own_server.port}"}
    with Valkey(tmp_path / "replica", aof=False, extra=extra) as replica:
        before, after = told(own_server), told(replica)
        assert before != after
        port: Any = reactor.run(lambda: _listen(ProxyFactory(HOST, own_server.port)))
        world = RedisWorld(f"redis://{HOST}:{port.getHost().port}/0")
        reactor.run(world.open())
        reactor.run(Reader(world).deliver(event(to=U)))
        assert reactor.run(load(world, U)).run == before
        wait_until(lambda: replica.call("EXISTS", f"inbox:{{0}}:{U}") == 1, 10, "the replica has the inbox")
        port.factory.port = replica.port
        own_server.kill()
        replica.call("REPLICAOF", "NO", "ONE")
        connected_again(world)
        reactor.run(Reader(world).deliver(event(to=U)))
        now = reactor.run(load(world, U))
        assert (now.run, now.seq) == (after, 2)
        reactor.run(world.close())
        reactor.run(port.stopListening)


def _listen(factory: Any) -> Any:
    from twisted.internet import reactor as running

    listening: Any = running
    return listening.listenTCP(0, factory, interface=HOST)


async def test_each_command_has_the_run_of_the_connection_that_takes_it(real: RedisWorld) -> None:
    """Also the second try of a call, which may be another connection's."""
    scripts, link = Scripts(), real.calls._link
    assert link is not None
    assert link.run.decode() == await run_of(real.calls)
    await real.calls.call("SCRIPT", "FLUSH", "SYNC")
    answers: list[tuple[Any, ...]] = []
    taking: Any = link
    call = link.call

    def noted(*command: Any) -> Any:
        link.run = f"{len(answers) + 1:016x}".encode()  # as if each had come from another server
        answers.append(command)
        return call(*command)

    taking.call = noted
    joined = await RedisInbox(real.calls, scripts, Rules(), "one").sync(V, LOAD, ISSUED)
    assert [command[0] for command in answers] == ["EVALSHA", "SCRIPT", "EVAL"]
    # as the link had it when EVAL was handed to it, not when the call began
    assert joined.run == f"{2:016x}"


@pytest.mark.parametrize("script", Scripts().all(), ids=lambda script: script.name)
async def test_a_script_that_needs_the_run_refuses_to_work_without(real: RedisWorld, script: Any) -> None:
    """Whoever calls one without it has an error, not inboxes of a run that never was."""
    if not script.dated:
        assert "local run =" not in script.text
        return
    for args in (("{0}",), ("{0}", "not a run")):
        with pytest.raises(ReplyError, match="the last argument is not the run of the server"):
            await real.calls.call("EVAL", script.text, 1, f"inbox:{{0}}:{U}", *args)


class Odd(Protocol):
    """Answers like a Redis, but for a run."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(b"+PONG\r\n" if b"PING" in data else b"$16\r\nredis_version:7\n\r\n")


async def test_a_server_that_does_not_tell_its_run_is_refused_by_name() -> None:
    from twisted.internet import reactor as running

    port = _listen(Factory.forProtocol(Odd))
    address = Address(HOST, port.getHost().port, 0)
    reports: list[str] = []
    calls = Connection(running, address, "commands", Metrics({}), reports.append)
    calls.start()
    while not reports:
        await pause(0.01)
    said = f"commands: {address} does not tell its run_id in INFO server: is that Redis or Valkey?"
    assert (reports, calls.up) == ([said], False)
    await calls.stop()
    await port.stopListening()
