"""A scripted server: plays a scenario to a client's program and tells where the client goes wrong."""

from __future__ import annotations

import json
import queue
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.conformance.fake_api import FakeApi, StreamLink, problem
from tests.conformance.scenarios import (
    Accept,
    AckedInFew,
    Answers,
    Chunks,
    Close,
    Do,
    Hear,
    Message,
    Posts,
    Refuse,
    Say,
    Scenario,
    Shows,
    Sockets,
    Stays,
    Step,
    Stream,
)

PATIENCE = 10.0  # seconds for anything that has no time of its own


class Wrong(Exception):
    """What the client did wrong, at which step."""


class Program:
    """The client under test: gets the server's addresses, reads commands line by line, prints what it shows."""

    def __init__(
        self, command: Sequence[str], *addresses: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self.shown: dict[str, Any] = {}
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*command, *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
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
    """One WebSocket of the client."""

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

    def say(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.connection.send(json.dumps(message))

    def close(self, code: int, reason: str) -> None:
        if code == 1006:
            self.connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            self.connection.close(code, reason)
        self.over.set()


class FakeServer:
    """Listens on a free port of this machine; connections are taken one by one. A context manager.

    pages    path -> (type, content) of plain GET requests
    sockets  what becomes of WebSockets
    tries    how many were not taken
    """

    def __init__(self, pages: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._pages = pages or {}
        self.sockets: Literal["taken", "refused", "silent"] = "taken"
        self.tries = 0
        self._links: queue.Queue[Link | StreamLink] = queue.Queue()
        self._every: list[Link] = []
        self._over = threading.Event()
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
            return self._upgrade(connection)
        kind, content = self._pages.get(request.path.partition("?")[0], ("", ""))
        answer = connection.respond(HTTPStatus.OK if kind else HTTPStatus.NOT_FOUND, content)
        if kind:
            del answer.headers["Content-Type"]
            answer.headers["Content-Type"] = kind
        return answer

    def _upgrade(self, connection: ServerConnection) -> Response | None:
        if self.sockets == "taken":
            return None
        self.tries += 1
        if self.sockets == "silent":
            self._over.wait(60)
        return connection.respond(HTTPStatus.FORBIDDEN, "no WebSockets here")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/v1/websocket"

    def api(self) -> FakeApi:
        """An HTTP API whose streams are taken here, among the connections."""
        return FakeApi(self._links.put)

    def take(self, seconds: float) -> Link | StreamLink | None:
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
        self._over.set()
        for link in self._every:  # before: the server waits for those who handle connections
            link.over.set()
        self._server.shutdown()


class Play:
    """One scenario with one client."""

    def __init__(
        self, server: FakeServer, program: Program, api: FakeApi | None = None, patience: float = PATIENCE
    ) -> None:
        self.server, self.program, self.api, self.patience = server, program, api, patience
        self.links: list[Link | StreamLink] = []
        self.token = ""
        self.tries = 0  # WebSockets in vain, before the last connection
        self.ended = time.monotonic()
        self.posted = 0.0  # when the last mark came
        self.acts: Mapping[type, Callable[[Any], None]] = {
            Accept: self._accept, Say: self._say, Hear: self._hear, Close: self._close, Stays: self._stays,
            Do: self._do, Shows: self._shows, AckedInFew: self._acked, Sockets: self._sockets,
            Stream: self._stream, Refuse: self._refuse, Chunks: self._chunks, Posts: self._posts,
            Answers: self._answers,
        }  # fmt: skip

    @property
    def socket(self) -> Link:
        link = self.links[-1]
        assert isinstance(link, Link), "a step of the scenario wants a WebSocket, and there is a stream"
        return link

    @property
    def stream(self) -> StreamLink:
        link = self.links[-1]
        assert isinstance(link, StreamLink), "a step of the scenario wants a stream, and there is a WebSocket"
        return link

    def run(self, steps: Sequence[Step]) -> None:
        """Raises Wrong at the first step that fails."""
        try:
            for number, step in enumerate(steps, 1):
                try:
                    self.acts[type(step)](step)
                except (Wrong, OSError, ConnectionClosed) as fault:
                    said = str(fault) or type(fault).__name__
                    raise Wrong(f"step {number}, {step}: {said}; it shows {self.program.shown}") from fault
        finally:
            for link in self.links:
                link.over.set()

    def _come(self, after_ms: int = 0) -> Link | StreamLink:
        """The next connection."""
        end = time.monotonic() + self.patience
        while (link := self.server.take(0.1)) is None and self.program.running and time.monotonic() < end:
            pass
        if link is None:
            raise Wrong("no connection came" if self.program.running else "the program has ended")
        waited = (time.monotonic() - self.ended) * 1000
        self.links.append(link)
        self.ended = time.monotonic()
        self.tries, self.server.tries = self.server.tries, 0
        if waited < after_ms:
            raise Wrong(f"it came after {waited:.0f} ms")
        return link

    def _accept(self, step: Accept) -> None:
        link = self._come(step.after_ms)
        if isinstance(link, StreamLink):
            raise Wrong("it asks for a stream, not for a WebSocket")
        if link.connection.subprotocol != "notifier.v1":
            raise Wrong("the subprotocol notifier.v1 was not offered")
        self._authenticated(link.hear(self.patience), step)

    def _authenticated(self, auth: Message, step: Accept) -> None:
        place = {name: auth[name] for name in ("epoch", "after") if name in auth}
        if auth.get("type") != "auth" or not auth.get("token"):
            raise Wrong(f"the first message is {auth}, not `auth` with a token")
        if place != step.place:
            raise Wrong(f"it names the place {place}, which must be {step.place}")
        self._renewed(auth["token"], step.renewed)

    def _renewed(self, token: str, renewed: bool) -> None:
        if not token:
            raise Wrong("it came without a token")
        if renewed and token == self.token:
            raise Wrong("it came with the same token")
        self.token = token

    def _say(self, step: Say) -> None:
        self.links[-1].say(step.messages)

    def _hear(self, step: Hear) -> None:
        end = time.monotonic() + step.seconds
        heard: list[Message] = []
        while True:
            try:
                message = self.socket.hear(end - time.monotonic())
            except TimeoutError:
                raise Wrong(f"not heard; heard {heard}") from None
            heard.append(message)
            if all(message.get(name) == value for name, value in step.message.items()):
                if found := [name for name in step.without if message.get(name)]:
                    raise Wrong(f"{message} must not have {found}")
                return

    def _close(self, step: Close) -> None:
        self.links[-1].close(step.code, step.reason)
        self.ended = time.monotonic()

    def _stays(self, step: Stays) -> None:
        tries = self.server.tries
        if (link := self.server.take(step.seconds)) is not None:
            self.links.append(link)
        if link is not None or self.server.tries > tries:
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
        acks = self.socket.acks
        while not acks or acks[-1]["seq"] < step.seq:
            self.socket.hear(3.0)
        if len(acks) > step.most:
            raise Wrong(f"{len(acks)} acks")

    # -- without WebSockets

    def _sockets(self, step: Sockets) -> None:
        self.server.sockets = step.how

    def _asked(self, after_ms: int = 0) -> StreamLink:
        link = self._come(after_ms)
        if isinstance(link, Link):
            raise Wrong("a WebSocket came, not a request for a stream")
        return link

    def _stream(self, step: Stream) -> None:
        before = self.links[-1] if self.links else None
        link = self._asked(step.after_ms)
        # Who keeps its place by the ids of events alone is at the last one, wherever that stands.
        by_id = link.last_id is not None and isinstance(before, StreamLink) and link.place == before.told
        if link.place != step.place and not by_id:
            raise Wrong(f"it names the place {link.place}, which must be {step.place}")
        if step.tries is not None and self.tries != step.tries:
            raise Wrong(f"it tried {self.tries} WebSockets before")
        self._renewed(link.token, step.renewed)
        link.begin()

    def _refuse(self, step: Refuse) -> None:
        link = self._asked()
        self._renewed(link.token, False)
        link.refuse(step.status, *problem(step.status, step.problem))

    def _chunks(self, step: Chunks) -> None:
        for piece in step.pieces:
            self.stream.write(piece)
            time.sleep(step.pause)

    def _posts(self, step: Posts) -> None:
        assert self.api is not None
        try:
            mark = self.api.marks.get(timeout=self.patience)
        except queue.Empty:
            raise Wrong("nothing was posted") from None
        if (mark.path, mark.content) != (step.path, step.content):
            raise Wrong(f"it posted {mark.content} to {mark.path}")
        if mark.token != self.token:
            raise Wrong("it posted with another token than that of the stream")
        waited, self.posted = (mark.at - self.posted) * 1000, mark.at
        if waited < step.after_ms:
            raise Wrong(f"it posted after {waited:.0f} ms")

    def _answers(self, step: Answers) -> None:
        assert self.api is not None
        self.api.answers.put(step)


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
    with ExitStack() as stack:
        server = stack.enter_context(FakeServer())
        api = stack.enter_context(server.api()) if scenario.needs_api else None
        addresses = (server.url,) if api is None else (server.url, api.url)
        program = Program(words, *addresses, environ=environ)
        stack.callback(program.end)
        Play(server, program, api, patience).run(scenario.steps)
