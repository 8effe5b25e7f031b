"""The program that the conformance suite drives: clients/python on a scripted server."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from typing import Any

from notifier_client import Backoff, Client, Stopped, Timing

TOKENS = count(1)


async def token() -> str:
    return f"token-{next(TOKENS)}"


def show(client: Client, news: list[str]) -> None:
    inbox, rows = client.inbox, client.inbox.newest()
    shown = {
        "state": client.state, "rows": [row.id for row in rows], "read": [row.id for row in rows if row.read],
        "unread": inbox.unread, "seen": inbox.seen, "news": news,
    }  # fmt: skip
    sys.stdout.write(json.dumps(shown) + "\n")
    sys.stdout.flush()


async def obey(client: Client, command: dict[str, Any]) -> None:
    if command["do"] == "read":
        await client.read(command["ids"])
    elif command["do"] == "read_all":
        await client.read_all()
    elif command["do"] == "seen":
        await client.seen()
    elif command["do"] == "active":
        await client.look(command["value"])


async def commands(client: Client) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        await obey(client, json.loads(line))


async def main() -> None:
    news: list[str] = []
    url, *rest = sys.argv[1:]
    api = rest[0] if rest else None
    timing = Timing(answer=1.5 if api else 0.6)
    client = Client(url, token, api=api, backoff=Backoff(0.02, 0.05), timing=timing)
    async with client:
        obeying = asyncio.create_task(commands(client))
        try:
            async for change in client:
                if change.news and change.row is not None:
                    news.append(change.row.id)
                show(client, news)
        except Stopped:
            show(client, news)
        await obeying


asyncio.run(main())
