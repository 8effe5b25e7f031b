"""Real Valkey and Redis servers that a test may start, kill, pause, starve and cut short."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import hiredis
import pytest

from notifier.edge.embedded import HOST, EmbeddedServer, ServerError, check_server, find_server

Kind = Literal["valkey", "redis"]


def missing(program: str, why: str) -> None:
    """Skips the running test because `program` is not there; fails it where NOTIFIER_REQUIRE is set to 1."""
    reason = f"{program}: {why}"
    if os.environ.get("NOTIFIER_REQUIRE") == "1":
        pytest.fail(f"{reason} (NOTIFIER_REQUIRE=1: a missing program is a failure)", pytrace=False)
    pytest.skip(reason)


def binary_of(kind: Kind) -> Path:
    """The server program: "valkey" the one the demo uses, "redis" the system's redis-server (else skips)."""
    if kind == "valkey":
        return find_server()
    found = shutil.which("redis-server")
    fault = check_server(Path(found)) if found else "not in PATH"
    if found is None or fault is not None:
        missing("redis-server", fault or "not in PATH")
    assert found is not None
    return Path(found)


class Valkey(EmbeddedServer):
    """A server of one test, with append-only file (everysec) unless `aof` is False. A context manager.

    maxmemory  e.g. "10mb"; with noeviction, as in production
    extra      further settings by name
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Kind = "valkey",
        aof: bool = True,
        maxmemory: str | None = None,
        extra: Mapping[str, str | tuple[str, ...]] | None = None,
        port: int = 0,
    ) -> None:
        options: dict[str, str | tuple[str, ...]] = {"appendonly": "yes" if aof else "no"}
        options["enable-debug-command"] = "local"
        if maxmemory is not None:
            options |= {"maxmemory": maxmemory, "maxmemory-policy": "noeviction"}
        super().__init__(folder, port=port, options=options | dict(extra or {}), binary=binary_of(binary))

    def restart(self) -> None:
        """Stops in order and starts again, on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def call(self, *command: str | bytes | float) -> object:
        """One command over a connection of its own; the reply as hiredis gives it, bytes undecoded.

        Raises hiredis.ReplyError for an error reply, OSError when the server does not answer within 5 s.
        """
        reader = hiredis.Reader()
        with socket.create_connection((HOST, self.port), timeout=20) as link:
            if password := self.options.get("requirepass"):
                link.sendall(_packed("AUTH", str(password)))
                _reply(link, reader)
            link.sendall(_packed(*command))
            return _reply(link, reader)

    def truncate_aof(self, count: int) -> int:
        """Cuts `count` bytes off the newest incremental append-only file of the *ended* server.

        What a machine that lost its last second leaves behind. Returns the bytes that stay.
        """
        if self.running:
            raise ServerError("the append-only file of a running server cannot be cut: kill() it first")
        files = list(self.folder.glob("appendonlydir/*.incr.aof"))
        if not files:
            raise ServerError(f"no incremental append-only file in {self.folder}/appendonlydir")
        newest = max(files, key=lambda file: int(file.name.split(".")[-3]))
        size = max(0, newest.stat().st_size - count)
        os.truncate(newest, size)
        return size


def _packed(*command: str | bytes | float) -> bytes:
    return hiredis.pack_command(command)  # type: ignore[arg-type, no-any-return]  # its stub is wrong


def _reply(link: socket.socket, reader: hiredis.Reader) -> object:
    # False also is what hiredis says for "not yet": no reply of protocol 2 is ever False.
    while (reply := reader.gets()) is False:
        data = link.recv(65536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        reader.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply
