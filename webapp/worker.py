"""gunicorn's gthread worker with a time for each request to arrive: `--worker-class webapp.worker.Worker`.

gthread itself has none: a request that never ends keeps its thread, and a few such keep everybody out.
"""

from __future__ import annotations

import math
import socket
import time
from functools import cached_property
from typing import Any, Final

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped, unused-ignore]

SLOWEST: Final = 10_000
"""Bytes a second that the content of a request arrives with at least: a phone's line may be that slow."""


class Worker(ThreadWorker):  # type: ignore[misc, unused-ignore]  # gunicorn has no types
    """As gthread. What has not arrived in time is taken for ended where it is, and its connection is closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: dict[Any, float] = {}  # connection -> when its patience ends, monotonic

    def handle(self, conn: Any) -> Any:
        """A connection on which a request has begun, in a thread of the pool."""
        self._arriving[conn] = time.monotonic() + self._seconds
        try:
            return super().handle(conn)
        finally:
            self._arriving.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Its head is here; each part of the content has a time of its own, so what goes on may take long in all.

        How long the answer takes does not count: once the content is here, the connection stays as it was announced.
        """
        unreader = conn.parser.unreader
        awaited = _length(req) - len(unreader.buf.getvalue())  # the rest came with the head
        if awaited <= 0:
            self._arriving.pop(conn, None)
            return super().handle_request(req, conn)
        self._arriving[conn] = time.monotonic() + self._seconds
        self._follow(conn, awaited)
        try:
            return super().handle_request(req, conn)
        finally:
            vars(unreader).pop("chunk", None)  # the next request on this connection is no part of this one

    def _follow(self, conn: Any, awaited: float) -> None:
        """Nothing is saved up: who has sent much at once must go on all the same. `awaited`: bytes to come."""
        unreader, missing = conn.parser.unreader, self._seconds * SLOWEST
        read = type(unreader).chunk

        def chunk(*hint: Any, **hints: Any) -> bytes:
            nonlocal awaited, missing
            data: bytes = read(unreader, *hint, **hints)
            awaited -= len(data)
            missing -= len(data)
            if awaited <= 0:
                self._arriving.pop(conn, None)
            elif missing <= 0 and conn in self._arriving:
                missing = self._seconds * SLOWEST
                self._arriving[conn] = time.monotonic() + self._seconds
            return data

        unreader.chunk = chunk

    def notify(self) -> None:
        """gunicorn's loop calls this once a second, or more often."""
        super().notify()
        now = time.monotonic()
        for conn, until in list(self._arriving.items()):
            late = now >= until and not getattr(conn, "is_http2", False)
            if late and self._arriving.pop(conn, None) is not None:  # or it has just arrived
                _hear_no_more(conn.sock)

    @cached_property
    def _seconds(self) -> float:
        from django.conf import settings

        return float(settings.CONFIG.site.request_seconds)


def _length(req: Any) -> float:
    """Bytes of the content that a request announces; of one in chunks nobody knows."""
    length: float = getattr(req.body.reader, "length", math.inf)
    return length


def _hear_no_more(found: socket.socket) -> None:
    """Whoever waits for more reads the end. One that has arrived whole is still answered: only reading is over."""
    try:
        found.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # it is closed already
