"""The client's own life: waits, ends, errors. How it speaks is in the conformance suite."""

from __future__ import annotations

import asyncio
import json

import pytest
from notifier_client import Backoff, Client, Stopped, Timing
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

QUICK = {"timing": Timing(answer=0.5, ack=0.01)}


async def token() -> str:
    return "a.b.c"


async def serves_one_row(socket: ServerConnection) -> None:
    await socket.recv()
    for message in (
        {"type": "ready", "epoch": "1.a", "seq": 0, "unread": 0},
        {"type": "upto", "epoch": "1.a", "seq": 0, "seen": 0, "floor": 0, "unread": 0},
    ):
        await socket.send(json.dumps(message))
    await socket.wait_closed()


def test_waits_double_up_to_a_bound_and_begin_again() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.tries = 100_000
    assert backoff.next() == 30
    backoff.reset()
    assert backoff.next() == 0.5
    waits = [Backoff(tries=1).next() for _ in range(2000)]
    assert min(waits) < 0.1
    assert 0.9 < max(waits) <= 1


def test_no_token_is_an_end_and_an_error_is_not() -> None:
    async def main() -> None:
        answers: list[str | None] = [None]

        async def nobody() -> str | None:
            if len(answers) < 3:
                answers.append("")
                raise OSError("the application is away")
            return None

        client = Client("ws://127.0.0.1:9/", nobody, backoff=Backoff(0.001))
        async with client:
            with pytest.raises(Stopped, match="nobody is signed in") as stopped:
                await anext(client)
            assert (stopped.value.code, client.state, len(answers)) == (0, "stopped", 3)
            with pytest.raises(StopAsyncIteration):
                await anext(client)

    asyncio.run(main())


def test_an_address_that_is_none_is_an_end() -> None:
    async def main() -> None:
        async with Client("http://example.com/", token) as client:
            with pytest.raises(Stopped, match="isn't a valid URI"):
                await anext(client)

    asyncio.run(main())


def test_close_ends_the_loop_and_the_connection_and_it_can_begin_again() -> None:
    async def main() -> None:
        async with serve(serves_one_row, "127.0.0.1", 0, subprotocols=[Subprotocol("notifier.v1")]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            client = Client(f"ws://127.0.0.1:{port}/v1/websocket", token, timing=QUICK["timing"])
            for _ in range(2):
                async with client:
                    assert (await anext(client)).kind == "complete"
                    assert client.state == "live"
                    with pytest.raises(RuntimeError, match="connected already"):
                        await client.__aenter__()
                assert client.state == "idle"
                assert [change async for change in client] == []

    asyncio.run(main())


def test_a_bug_of_ours_is_told_to_whoever_takes_the_changes() -> None:
    async def broken(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"type":"notification","seq":1}')
        await socket.wait_closed()

    async def main() -> None:
        async with serve(broken, "127.0.0.1", 0, subprotocols=[Subprotocol("notifier.v1")]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"ws://127.0.0.1:{port}/v1/websocket", token) as client:
                with pytest.raises(KeyError):
                    await anext(client)

    asyncio.run(main())
