"""The HTTP API beside the scripted server: event streams that a scenario feeds, and the marks that it waits for."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from tests.conformance.scenarios import Answers, Message


class Mark(NamedTuple):
    """A request that is no stream. `at`: when it came, on the monotonic clock."""

    path: str
    content: Any
    token: str
    at: float


def problem(status: int, name: str) -> tuple[str, bytes]:
    """Type and content of a refusal; without a name that of somebody else."""
    if not name:
        return "text/html", b"<!doctype html><title>somebody else</title>"
    said = {"type": f"urn:problem-type:notifier:{name}", "title": "No", "status": status}
    return "application/problem+json", json.dumps(said).encode()


class StreamLink:
    """A request for a stream: not answered yet, then under way, then over."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.over = threading.Event()
        self.token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        self.last_id: str | None = handler.headers.get("Last-Event-ID")
        self.place = self._place()
        self._epoch = ""
        self.told: Message = {}  # the place of the last event that had an id

    def _place(self) -> Message:
        """The id wins over the query."""
        if self.last_id is not None:
            return _place(*self.last_id.rpartition(":")[::2])
        query = dict(parse_qsl(urlsplit(self._handler.path).query))
        return {name: int(value) if name == "after" else value for name, value in query.items()}

    def begin(self) -> None:
        self._answer(200, "text/event-stream", {"Transfer-Encoding": "chunked"})
        self.write(b"retry: 1000\n\n")

    def refuse(self, status: int, kind: str, content: bytes) -> None:
        """An answer that is none of a stream."""
        self._answer(status, kind, {"Content-Length": str(len(content))})
        self._handler.wfile.write(content)
        self.over.set()

    def _answer(self, status: int, kind: str, lines: dict[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in {"Content-Type": kind, "Connection": "close", **lines}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def say(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._epoch = message.get("epoch", self._epoch)
            head = ""
            if "seq" in message and message["type"] != "ready":
                head = f"id: {self._epoch}:{message['seq']}\n"
                self.told = _place(self._epoch, str(message["seq"]))
            self.write(f"{head}data: {json.dumps(message)}\n\n".encode())

    def write(self, data: bytes) -> None:
        """One chunk (RFC 9112 section 7.1)."""
        self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self, code: int, reason: str) -> None:
        """1006: in the middle of the answer. From 4000 on: the last event says so. Any other: it just ends."""
        if code == 1006:
            self._handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            if code >= 4000:
                self.say([{"type": "error", "code": code, "reason": reason}])
            self._handler.wfile.write(b"0\r\n\r\n")
        self.over.set()


def _place(epoch: str, seq: str) -> Message:
    return {"epoch": epoch, "after": int(seq)}


def _answer(
    handler: BaseHTTPRequestHandler, status: int, kind: str, content: bytes, after: int | None = None
) -> None:
    handler.send_response(status)
    if after is not None:
        handler.send_header("Retry-After", str(after))
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _refuse(handler: BaseHTTPRequestHandler, answer: Answers, over: threading.Event) -> None:
    if isinstance(answer.status, int):
        _answer(handler, answer.status, *problem(answer.status, answer.problem), answer.after)
        return
    if answer.status == "silent":
        over.wait(60)
    handler.close_connection = True
    with suppress(OSError):  # the client was sooner
        handler.connection.shutdown(socket.SHUT_RDWR)


class FakeApi:
    """Listens on a free port of this machine. A context manager.

    come     is given each request for a stream
    marks    what was posted, in order
    answers  to what is posted next, one each; all else is taken
    """

    def __init__(self, come: Callable[[StreamLink], None]) -> None:
        self.marks: queue.Queue[Mark] = queue.Queue()
        self.answers: queue.SimpleQueue[Answers] = queue.SimpleQueue()
        self._every: list[StreamLink] = []
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if urlsplit(self.path).path != "/v1/stream":
                    self.send_error(404)
                    return
                link = StreamLink(self)
                outer._every.append(link)
                self.close_connection = True
                come(link)
                link.over.wait(60)

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
                answer = None if outer.answers.empty() else outer.answers.get()
                outer.marks.put(Mark(self.path, content, bearer, time.monotonic()))
                if answer is None:
                    _answer(self, 200, "application/json", b"{}")
                else:
                    _refuse(self, answer, outer._over)

            def log_message(self, format: str, *values: Any) -> None:  # noqa: A002  # its name in the library
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes in the middle is none."""

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for link in self._every:
            link.over.set()
        self._server.shutdown()
        self._server.server_close()
