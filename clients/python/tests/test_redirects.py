"""A WebSocket that leads elsewhere: the token goes to the host that it is for, and to no other."""

from __future__ import annotations

import asyncio

import pytest
from notifier_client import Client
from notifier_client.backoff import Backoff
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

PATIENCE = 20.0  # seconds for what must happen


@pytest.mark.parametrize(("name", "told"), [("localhost", False), ("127.0.0.1", False), (None, True)])
def test_a_token_is_for_one_host(name: str | None, told: bool) -> None:
    """`name`: the host led to, on another port; None: another path of the same."""
    heard: list[str | bytes] = []

    async def main() -> None:
        came, again = asyncio.Event(), asyncio.Event()

        async def there(connection: ServerConnection) -> None:
            try:
                heard.append(await connection.recv())
            finally:
                (again if came.is_set() else came).set()

        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 307 There\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()

        def here(connection: ServerConnection, request: object) -> object:
            if name is not None or connection.request is None or connection.request.path != "/v1/websocket":
                return None
            answer = connection.respond(307, "")
            answer.headers["Location"] = "/v2/websocket"
            return answer

        async def token() -> str:
            return "a.b.c"

        protocols = [Subprotocol("notifier.v1")]
        async with (
            serve(there, "127.0.0.1", 0, subprotocols=protocols, process_request=here) as server,  # type: ignore[arg-type]
            await asyncio.start_server(lead, "127.0.0.1", 0) as leader,
        ):
            port = next(iter(server.sockets)).getsockname()[1]
            place = f"ws://{name}:{port}/"
            first = port if name is None else leader.sockets[0].getsockname()[1]
            client = Client(f"ws://127.0.0.1:{first}/v1/websocket", token, backoff=Backoff(0.001, 0.002))
            async with client, asyncio.timeout(PATIENCE):
                await (came if told else again).wait()

    asyncio.run(main())
    assert bool(heard) == told
