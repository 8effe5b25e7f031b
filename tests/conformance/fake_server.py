"""A scripted server: plays a scenario to a client's program and tells where the client goes wrong."""

from __future__ import annotations

import json
import queue
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.conformance.scenarios import (
    Accept,
    AckedInFew,
    Close,
    Do,
    Hear,
    Message,
    Say,
    Scenario,
    Shows,
    Stays,
    Step,
)

PATIENCE = 10.0  # seconds for anything that has no time of its own


class Wrong(Exception):
    """What the client did wrong, at which step."""


class Program:
    """The client under test: gets the server's address, reads commands line by line, prints what it shows."""

    def __init__(self, command: Sequence[str], url: str, environ: Mapping[str, str] | None = None) -> None:
        self.shown: dict[str, Any] = {}
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*command, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if line.startswith("{"):
                self.shown = json.loads(line)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def do(self, command: Message) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Link:
    """One connection of the client."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.over = threading.Event()
        self.acks: list[Message] = []

    def hear(self, seconds: float) -> Message:
        """The next message. Raises TimeoutError, ConnectionClosed."""
        message: Message = json.loads(self.connection.recv(timeout=max(0.0, seconds)))
        if message.get("type") == "ack":
            self.acks.append(message)
        return message


class FakeServer:
    """Listens on a free port of this machine; connections are taken one by one. A context manager.

    pages  path -> (type, content) of plain GET requests
    """

    def __init__(self, pages: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._pages = pages or {}
        self._links: queue.Queue[Link] = queue.Queue()
        self._every: list[Link] = []
        self._server = serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("notifier.v1")],
            ping_interval=None,
            open_timeout=2,  # browsers open connections in advance, and never say anything on them
            close_timeout=1,
            process_request=self._page,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _handle(self, connection: ServerConnection) -> None:
        link = Link(connection)
        self._every.append(link)
        self._links.put(link)
        link.over.wait(60)

    def _page(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        kind, content = self._pages.get(request.path.partition("?")[0], ("", ""))
        answer = connection.respond(HTTPStatus.OK if kind else HTTPStatus.NOT_FOUND, content)
        if kind:
            del answer.headers["Content-Type"]
            answer.headers["Content-Type"] = kind
        return answer

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/v1/websocket"

    def take(self, seconds: float) -> Link | None:
        """The next connection, or None when none comes."""
        try:
            return self._links.get(timeout=seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._every:  # before: the server waits for those who handle connections
            link.over.set()
        self._server.shutdown()


class Play:
    """One scenario with one client."""

    def __init__(self, server: FakeServer, program: Program, patience: float = PATIENCE) -> None:
        self.server, self.program, self.patience = server, program, patience
        self.links: list[Link] = []
        self.token = ""
        self.ended = time.monotonic()
        self.acts: Mapping[type, Callable[[Any], None]] = {
            Accept: self._accept, Say: self._say, Hear: self._hear, Close: self._close, Stays: self._stays,
            Do: self._do, Shows: self._shows, AckedInFew: self._acked,
        }  # fmt: skip

    @property
    def link(self) -> Link:
        return self.links[-1]

    def run(self, steps: Sequence[Step]) -> None:
        """Raises Wrong at the first step that fails."""
        try:
            for number, step in enumerate(steps, 1):
                try:
                    self.acts[type(step)](step)
                except (Wrong, TimeoutError, ConnectionClosed) as fault:
                    said = str(fault) or type(fault).__name__
                    raise Wrong(f"step {number}, {step}: {said}; it shows {self.program.shown}") from fault
        finally:
            for link in self.links:
                link.over.set()

    def _come(self) -> Link | None:
        end = time.monotonic() + self.patience
        while (link := self.server.take(0.1)) is None and self.program.running and time.monotonic() < end:
            pass
        return link

    def _accept(self, step: Accept) -> None:
        link = self._come()
        if link is None:
            raise Wrong("no connection came" if self.program.running else "the program has ended")
        waited = (time.monotonic() - self.ended) * 1000
        self.links.append(link)
        self.ended = time.monotonic()
        if waited < step.after_ms:
            raise Wrong(f"it came after {waited:.0f} ms")
        if link.connection.subprotocol != "notifier.v1":
            raise Wrong("the subprotocol notifier.v1 was not offered")
        self._authenticated(link.hear(self.patience), step)

    def _authenticated(self, auth: Message, step: Accept) -> None:
        place = {name: auth[name] for name in ("epoch", "after") if name in auth}
        if auth.get("type") != "auth" or not auth.get("token"):
            raise Wrong(f"the first message is {auth}, not `auth` with a token")
        if place != step.place:
            raise Wrong(f"it names the place {place}, which must be {step.place}")
        if step.renewed and auth["token"] == self.token:
            raise Wrong("it came with the same token")
        self.token = auth["token"]

    def _say(self, step: Say) -> None:
        for message in step.messages:
            self.link.connection.send(json.dumps(message))

    def _hear(self, step: Hear) -> None:
        end = time.monotonic() + step.seconds
        heard: list[Message] = []
        while True:
            try:
                message = self.link.hear(end - time.monotonic())
            except TimeoutError:
                raise Wrong(f"not heard; heard {heard}") from None
            heard.append(message)
            if all(message.get(name) == value for name, value in step.message.items()):
                if found := [name for name in step.without if message.get(name)]:
                    raise Wrong(f"{message} must not have {found}")
                return

    def _close(self, step: Close) -> None:
        link = self.link
        if step.code == 1006:
            link.connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            link.connection.close(step.code, step.reason)
        link.over.set()
        self.ended = time.monotonic()

    def _stays(self, step: Stays) -> None:
        if (link := self.server.take(step.seconds)) is not None:
            self.links.append(link)
            raise Wrong("it connected again")

    def _do(self, step: Do) -> None:
        self.program.do(step.command)

    def _shows(self, step: Shows) -> None:
        end = time.monotonic() + self.patience
        while any(self.program.shown.get(name) != value for name, value in step.what.items()):
            if time.monotonic() > end or not self.program.running:
                raise Wrong("it does not show that")
            time.sleep(0.005)

    def _acked(self, step: AckedInFew) -> None:
        while not self.link.acks or self.link.acks[-1]["seq"] < step.seq:
            self.link.hear(3.0)
        if len(self.link.acks) > step.most:
            raise Wrong(f"{len(self.link.acks)} acks")


def play(
    scenario: Scenario,
    command: Sequence[str] | str,
    environ: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> None:
    """Plays one scenario to a fresh start of the client's program. Raises Wrong.

    patience  seconds for anything that has no time of its own
    """
    words = shlex.split(command) if isinstance(command, str) else command
    with FakeServer() as server:
        program = Program(words, server.url, environ)
        try:
            Play(server, program, patience).run(scenario.steps)
        finally:
            program.end()
