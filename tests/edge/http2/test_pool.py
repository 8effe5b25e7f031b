"""Pools against a real TLS server: what is accepted is told once, whatever happens to the connections."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from h2.settings import SettingCodes
from OpenSSL.crypto import FILETYPE_PEM

from notifier.core.breaker import Breaker, BreakerRule
from notifier.core.http2 import Answered, Limits, NotAccepting
from notifier.edge.http2.dial import endpoint
from notifier.edge.http2.pool import Pool, Push, Sizes
from tests.core.http2.world import APNS, ID, TOKEN
from tests.edge.http2.world import (
    PAPERS,
    Answer,
    PushServer,
    ServerSide,
    Told,
    make_papers,
    make_pool,
    reactor,
    send,
    trust,
    until,
)

FAST = Sizes(grow_every=0.01)


@asynccontextmanager
async def world(
    answer: Answer | None = None,
    settings: dict[Any, int] | None = None,
    limits: Limits | None = None,
    sizes: Sizes = FAST,
    **more: Any,
) -> AsyncIterator[tuple[PushServer, Pool[int], Told]]:
    """A server, a pool that knows it, and what the pool tells. Nothing is left over behind it."""
    server, told = PushServer(answer, settings).listen(), Told()
    pool = make_pool(server, told, limits, sizes, **more)
    try:
        yield server, pool, told
        assert not server.faults
    finally:
        stopped = pool.stop()
        await server.close()
        await stopped
        assert pool.connections == pool.waiting == pool.open == 0


def keep(side: ServerSide, stream: int) -> None:
    """No answer."""


async def test_pushes_are_answered() -> None:
    async with world() as (server, pool, told):
        send(pool, 500)
        await until(lambda: len(told) == 500)
        assert told.kinds() == dict.fromkeys(range(500), "Answered")
        assert all(isinstance(result, Answered) and result.status == 200 for result in told)
        assert len(server.paths) == 500


async def test_a_turn_of_the_reactor_is_one_write() -> None:
    async with world() as (server, pool, told):
        send(pool, 1)
        await until(lambda: told)
        reads = server.reads
        send(pool, 40)
        await until(lambda: len(told) == 41)
        # One TLS record of less than 16 KiB; acknowledgements may follow apart.
        assert server.reads - reads <= 2


async def test_the_name_in_the_certificate_is_checked() -> None:
    server, told = PushServer().listen(make_papers("elsewhere.example")), Told()
    pool = make_pool(server, told)
    send(pool, 1)
    await until(lambda: pool.fault)
    assert not server.paths
    assert not told  # it waits for a connection that works
    await pool.stop()
    assert told.kinds() == {0: "Refused"}
    await server.close()


async def test_a_certificate_that_nobody_has_signed_is_refused() -> None:
    server, told = PushServer().listen(), Told()
    pool: Pool[int] = Pool(reactor, endpoint(reactor, "localhost", server.port), told.extend)
    send(pool, 1)
    await until(lambda: pool.fault)
    assert "certificate verify failed" in pool.fault
    assert not server.paths
    await pool.stop()
    await server.close()


async def test_a_server_without_http_2_is_named(tmp_path: Path) -> None:
    """A server that knows nothing of ALPN, as the standard library makes it."""
    papers = tmp_path / "server.pem"
    papers.write_bytes(PAPERS.dumpPEM() + PAPERS.privateKey.dump(FILETYPE_PEM))  # type: ignore[no-untyped-call]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(papers)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as line:
            line.recv(1000)

    serving = threading.Thread(target=serve)
    serving.start()
    told = Told()
    to = endpoint(reactor, "localhost", listener.getsockname()[1], trust())
    pool: Pool[int] = Pool(reactor, to, told.extend)
    send(pool, 1)
    await until(lambda: pool.fault)
    assert "no h2 in ALPN" in pool.fault
    await pool.stop()
    serving.join(10)
    listener.close()


async def test_goaway_replays_on_another_connection_and_waits_for_what_may_be_answered() -> None:
    """Streams 1 and 3 are answered after it, those above it are answered by the next connection."""

    async with world(keep) as (server, pool, told):
        send(pool, 10)
        await until(lambda: len(server.paths) == 10)
        first = server.sides[0]
        server.answer = lambda side, stream: side.respond(stream)
        for stream in (1, 3):
            first.respond(stream)
        late = first.h2.data_to_send()
        first.transport.write(b"\0\0\x08\x07\0\0\0\0\0" + (3).to_bytes(4, "big") + bytes(4))
        await until(lambda: len(told) == 8)
        assert sorted(told.kinds()) == list(range(2, 10))
        first.transport.write(late)
        await until(lambda: len(told) == 10)
        assert set(told.kinds().values()) == {"Answered"}
        assert len(server.paths) == 18
        await until(lambda: first.closed)


async def test_a_refused_stream_is_sent_again_but_not_for_ever() -> None:
    def answer(side: ServerSide, stream: int) -> None:
        side.h2.reset_stream(stream, 7)

    async with world(answer) as (server, pool, told):
        send(pool, 5)
        await until(lambda: len(told) == 5)
        assert set(told.kinds().values()) == {"Refused"}
        assert len(server.paths) == 20


async def test_a_broken_line_leaves_no_push_untold_and_the_next_go_through() -> None:
    async with world(keep) as (server, pool, told):
        send(pool, 20)
        await until(lambda: len(server.paths) == 20)
        server.answer = lambda side, stream: side.respond(stream)
        server.sides[0].transport.abortConnection()
        await until(lambda: len(told) == 20)
        assert set(told.kinds().values()) == {"Unknown"}
        send(pool, 5, 20)
        await until(lambda: len(told) == 25)
        assert [told.kinds()[number] for number in range(20, 25)] == ["Answered"] * 5


async def test_what_waits_for_a_window_when_the_line_breaks_is_sent_again() -> None:
    async with world(
        keep, {SettingCodes.MAX_CONCURRENT_STREAMS: 3}, sizes=Sizes(most=1, grow_every=0.01)
    ) as (
        server,
        pool,
        told,
    ):
        send(pool, 10)
        await until(lambda: len(server.paths) >= 3)
        server.answer = lambda side, stream: side.respond(stream)
        server.sides[0].transport.abortConnection()
        await until(lambda: len(told) == 10)
        assert Counter(told.kinds().values()) == {"Unknown": 3, "Answered": 7}


async def test_connections_are_added_while_pushes_wait_for_streams() -> None:
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    async with world(keep, settings, sizes=Sizes(most=4, grow_every=0.01)) as (server, pool, told):
        send(pool, 1)
        await until(lambda: len(server.paths) == 1)
        send(pool, 50, 1)
        await until(lambda: len(server.live) == 4)
        await until(lambda: sum(len(side.streams) for side in server.sides) >= 8)
        assert pool.connections == 4
        assert pool.waiting >= 40
        server.answer = lambda side, stream: side.respond(stream)
        for side in server.sides:
            for stream in side.streams:
                side.respond(stream)
            side.flush()
        await until(lambda: len(told) == 51)


async def test_the_first_push_goes_alone() -> None:
    async with world(keep, limits=Limits(first_alone=True), sizes=Sizes(most=1, grow_every=0.01)) as (
        server,
        pool,
        told,
    ):
        send(pool, 30)
        await until(lambda: server.paths)
        await until(lambda: pool.waiting == 29)
        assert len(server.paths) == 1
        server.answer = lambda side, stream: side.respond(stream)
        server.sides[0].respond(1)
        server.sides[0].flush()
        await until(lambda: len(told) == 30)


async def test_a_server_that_is_down_opens_the_breaker_and_is_found_again() -> None:
    server = PushServer().listen()
    port, told = server.port, Told()
    pool = make_pool(server, told, breaker=Breaker(BreakerRule(failures=3, floor=0.3, base=0.0)))
    await server.close()
    send(pool, 4)
    await until(lambda: len(told) == 4)
    assert set(told.kinds().values()) == {"Refused"}
    with pytest.raises(NotAccepting, match="breaker is open"):
        send(pool, 1, 9)
    server = PushServer().listen(port=port)
    await until(lambda: pool.accepting)
    send(pool, 3, 10)
    await until(lambda: len(told) == 7)
    assert [told.kinds()[number] for number in (10, 11, 12)] == ["Answered"] * 3
    await pool.stop()
    await server.close()


async def test_a_server_that_says_nothing_costs_waiting_time_and_no_push() -> None:
    """TLS, then silence: no SETTINGS."""
    limits = Limits(settings_within=0.2, wait_within=30)
    server, told = PushServer(), Told()
    server.speaks = False
    server.listen()
    pool = make_pool(server, told, limits, breaker=Breaker(BreakerRule(failures=2, floor=60, base=0.0)))
    send(pool, 3)
    await until(lambda: len(told) == 3)
    assert set(told.kinds().values()) <= {"Unknown", "Refused"}
    await pool.stop()
    await server.close()


async def test_pushes_that_wait_too_long_expire() -> None:
    limits = Limits(wait_within=0.2, streams=1)
    async with world(keep, limits=limits, sizes=Sizes(most=1, grow_every=0.01)) as (server, pool, told):
        send(pool, 5)
        await until(lambda: len(told) == 4)
        assert set(told.kinds().values()) == {"Expired"}
        assert len(server.paths) == 1


async def test_stop_lets_open_pushes_run_on() -> None:
    async with world(keep, limits=Limits(streams=2), sizes=Sizes(most=1, grow_every=0.01)) as (
        server,
        pool,
        told,
    ):
        send(pool, 4)
        await until(lambda: len(server.paths) == 2)
        stopped = pool.stop()
        assert told.kinds() == {2: "Refused", 3: "Refused"}
        with pytest.raises(NotAccepting, match="stopped"):
            send(pool, 1, 9)
        assert not stopped.called
        for stream in (1, 3):
            server.sides[0].respond(stream)
        server.sides[0].flush()
        await stopped
        assert told.kinds() == {0: "Answered", 1: "Answered", 2: "Refused", 3: "Refused"}


async def test_an_old_connection_is_replaced() -> None:
    async with world(sizes=Sizes(lifetime=0.05, grow_every=0.01)) as (server, pool, told):
        send(pool, 1)
        await until(lambda: len(told) == 1)
        await until(lambda: server.sides[0].closed)
        send(pool, 1, 1)
        await until(lambda: len(told) == 2)
        assert len(server.sides) == 2


async def test_a_tripped_breaker_refuses_what_waits() -> None:
    async with world(keep, limits=Limits(streams=1), sizes=Sizes(most=1, grow_every=0.01)) as (
        server,
        pool,
        told,
    ):
        send(pool, 3)
        await until(lambda: len(server.paths) == 1)
        pool.trip(60.0, "403 InvalidProviderToken")
        assert told.kinds() == {1: "Refused", 2: "Refused"}
        assert pool.retry_at > reactor.seconds()
        with pytest.raises(NotAccepting, match="InvalidProviderToken"):
            send(pool, 1, 9)


async def test_no_more_wait_than_may() -> None:
    async with world(keep, sizes=Sizes(waiting=3)) as (_, pool, told):
        send(pool, 3)
        with pytest.raises(NotAccepting, match="3 pushes wait"):
            send(pool, 1, 3)
        assert not told


async def test_the_server_stops_reading() -> None:
    """Bodies of 64 MB in all: no more is written than the transport takes, and all is told at the end."""
    async with world(limits=Limits(answer_within=30)) as (server, pool, told):
        send(pool, 1)
        await until(lambda: told)
        side = server.sides[0]
        side.transport.pauseProducing()
        send(pool, 2000, 1, bytes(32_000))
        await until(lambda: pool.waiting > 1000)
        side.transport.resumeProducing()
        await until(lambda: len(told) == 2001)
        assert set(told.kinds().values()) == {"Answered"}


def test_a_client_certificate_is_taken() -> None:
    assert endpoint(reactor, "localhost", 1, trust(), PAPERS) is not None


def test_a_push_is_small() -> None:
    assert not hasattr(Push("a", APNS, (TOKEN, ID), b""), "__dict__")


def test_a_push_with_too_few_values_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="2 values are needed, not 1"):
        Push("a", APNS, (TOKEN,), b"")


def test_a_push_that_ends_up_in_a_log_shows_no_token() -> None:
    push = Push(7, APNS, (b"canary", ID), b"canary")
    answered = Answered(push, 200)
    assert "canary" not in repr((push, answered)) + str(push)
    assert "7" in repr(push)
