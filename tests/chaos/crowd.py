"""Many clients in one thread: each keeps a Copy, acknowledges, and comes back to resume when it is dropped."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from tests.chaos.copies import Copy
from tests.client import (
    CLOSE,
    PATH,
    PING,
    PONG,
    PROTOCOL,
    TEXT,
    Frames,
    Message,
    auth,
    frame,
    request,
    text,
    token,
)

PAUSE: Final = (0.02, 0.1)  # s before a client comes back
UP: Final = 60.0  # s that an upgrade may take


class Follower:
    """One client. `restless`: it also drops its connection by itself; `reads`: it marks what it has as read."""

    def __init__(
        self,
        user: str,
        ports: Callable[[], Sequence[int]],
        *,
        restless: bool = False,
        reads: bool = False,
        seed: int,
    ) -> None:
        self.user, self.ports = user, ports
        self.restless, self.reads = restless, reads
        self.copy = Copy()
        self.connections = 0
        self.closes: Counter[int] = Counter()
        self._chance = random.Random(seed)
        self._token = token(user)

    async def follow(self) -> None:
        """For ever: connect, resume, apply."""
        while True:
            ports = self.ports()
            if ports:
                try:
                    await self._converse(self._chance.choice(ports))
                except (OSError, EOFError) as error:
                    self.failed(error)
            await asyncio.sleep(self.pause())

    async def _converse(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request(PATH, (PROTOCOL,), {}))
            async with asyncio.timeout(UP):
                head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head:
                raise OSError(head.decode("latin-1"))
            epoch, after = self.copy.connected()
            self.connections += 1
            writer.write(text(auth(self._token, epoch, after)))
            async with asyncio.timeout(self._chance.uniform(0.3, 4.0) if self.restless else None):
                await self._listen(reader, writer)
        finally:
            writer.transport.abort()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        while data := await reader.read(65536):
            ack, out = 0, []
            for opcode, payload in frames.feed(data):
                if opcode == TEXT:
                    ack = self.take(json.loads(payload)) or ack
                elif opcode == PING:
                    out.append(frame(PONG, payload))
                elif opcode == CLOSE:
                    self.closes[int.from_bytes(payload[:2], "big")] += 1
                    return
            out += map(text, self._answer(ack))
            if out:
                writer.write(b"".join(out))
        raise EOFError("the connection ended without a close")

    def take(self, message: Message) -> int:
        """One message; the seq to acknowledge, or 0."""
        return self.copy.apply(message)

    def failed(self, error: Exception) -> None:
        """A connection was not made, or ended without a close."""

    def pause(self) -> float:
        """Seconds before it comes back."""
        return self._chance.uniform(*PAUSE)

    def _answer(self, ack: int) -> list[Message]:
        said: list[Message] = [{"type": "ack", "seq": ack}] if ack else []
        if ack and self.reads and self._chance.random() < 0.05:
            said.append({"type": "read", "seq": ack})
        return said


F = TypeVar("F", bound=Follower)


class Company(Generic[F]):
    """Followers, and other coroutines that run for ever, in a thread of their own. A context manager."""

    def __init__(self, followers: Sequence[F], *others: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.followers = followers
        self._works = (*(follower.follow for follower in followers), *others)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []  # the loop itself holds its tasks only weakly

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._tasks = [self._loop.create_task(work()) for work in self._works]
        self._loop.run_forever()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        results: list[Any] = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def copies(self) -> dict[str, Copy]:
        return {follower.user: follower.copy for follower in self.followers}

    @property
    def connections(self) -> int:
        """How often a connection was made, in all."""
        return sum(follower.connections for follower in self.followers)


class Crowd(Company[Follower]):
    """Followers of `users`, connected to any of the ports that `ports()` gives."""

    def __init__(
        self, users: Sequence[str], ports: Callable[[], Sequence[int]], *, restless: int = 0, reads: int = 0
    ) -> None:
        """Every `restless`-th client drops its connection now and then, every `reads`-th reads (0: none)."""
        super().__init__(
            [
                Follower(user, ports, restless=_every(restless, at), reads=_every(reads, at), seed=at)
                for at, user in enumerate(users)
            ]
        )

    def calm(self) -> None:
        """From now on nobody drops a connection or reads anything; who is restless comes back once more."""
        for follower in self.followers:
            follower.restless = follower.reads = False


def _every(nth: int, at: int) -> bool:
    return bool(nth) and at % nth == 0
