"""One connection to Redis, blocking: commands out many at a time, their answers back."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import hiredis

from bench.harness import BenchFailed


class Wire:
    """`port`: of Redis on this machine. An answer that is an error raises BenchFailed."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._parser = hiredis.Reader()

    def ask(self, commands: bytes, count: int) -> list[Any]:
        """Send `count` commands as they are; the answers in order."""
        self._link.sendall(commands)
        return [self._answer() for _ in range(count)]

    def call(self, *words: Any) -> Any:
        """One command; its answer."""
        return self.ask(hiredis.pack_command(words), 1)[0]

    def close(self) -> None:
        self._link.close()

    def _answer(self) -> Any:
        while (answer := self._parser.gets()) is False:
            data = self._link.recv(262_144)
            if not data:
                raise BenchFailed("Redis closed the connection")
            self._parser.feed(data)
        if isinstance(answer, hiredis.ReplyError):
            raise BenchFailed(f"Redis refused: {answer}")
        return answer


def pack(commands: Sequence[Sequence[Any]]) -> bytes:
    """Many commands in one piece."""
    return b"".join(hiredis.pack_command(tuple(words)) for words in commands)
