"""The worker under real gunicorn: requests that never end keep nobody out, those that only take long are answered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from notifier.edge.embedded import free_port
from tests.daemon import wait_until

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0
THREADS: Final = 4
HEAD: Final = b"POST / HTTP/1.1\r\nHost: a\r\n"
ENDLESS: Final = {
    "a head that does not go on": (HEAD, b""),
    "a head that trickles": (HEAD + b"X: ", b"y"),
    "a content that does not go on": (HEAD + b"Content-Length: 5000\r\n\r\nabc", b""),
    "a content that trickles": (HEAD + b"Content-Length: 5000\r\n\r\n", b"z"),
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """gunicorn with few threads, in which a request has a second to arrive."""
    folder, found = tmp_path_factory.mktemp("worker"), free_port()
    (folder / "webapp.toml").write_text("[site]\nrequest_seconds = 1\n")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{found}", f"--threads={THREADS}",
                "--worker-class=webapp.worker.Worker", "tests.webapp.plain_app",
            ],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={
                **os.environ, "WEBAPP_CONFIG": str(folder / "webapp.toml"),
                "DJANGO_SETTINGS_MODULE": "webapp.settings",
            },
        )  # fmt: skip
    try:
        wait_until(lambda: "Booting worker" in log.read_text(), PATIENCE, log.read_text)
        yield found
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def connected(port: int, sent: bytes) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), PATIENCE)
    found.sendall(sent)
    return found


def answered(found: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    said = b""
    try:
        while data := found.recv(4096):
            said += data
    except ConnectionResetError:
        pass
    return said


def get(port: int, path: str = "/") -> bytes:
    with connected(port, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()) as found:
        return answered(found)


def test_requests_that_never_end_keep_nobody_out(port: int) -> None:
    """More of each kind than there are threads for all."""
    stop = threading.Event()

    def go_on(found: socket.socket, drip: bytes) -> None:
        while drip and not stop.wait(0.1):
            try:
                found.sendall(drip)
            except OSError:
                return

    with ExitStack() as open_ones:
        open_ones.callback(stop.set)
        slow = []
        for begin, drip in [*ENDLESS.values()] * 2:
            slow.append(open_ones.enter_context(connected(port, begin)))
            threading.Thread(target=go_on, args=(slow[-1], drip), daemon=True).start()
        assert get(port).startswith(b"HTTP/1.1 200 ")
        for found in slow:
            answered(found)  # each is closed, also while it still trickles


def test_an_answer_that_takes_long_is_no_request_that_does(port: int) -> None:
    assert get(port, "/slow").startswith(b"HTTP/1.1 200 ")


def sent_in_parts(port: int, length: int, part: int, every: float) -> bytes:
    """The answer to a content that is announced with this length, and sent in parts."""
    with connected(port, HEAD + f"Connection: close\r\nContent-Length: {length}\r\n\r\n".encode()) as found:
        for _ in range(0, length, part):
            threading.Event().wait(every)
            found.sendall(b"x" * part)
        return answered(found)


@pytest.mark.parametrize(("length", "part", "every"), [(400_000, 50_000, 0.3), (120_000, 4_000, 0.1)])
def test_a_content_that_goes_on_may_take_long(port: int, length: int, part: int, every: float) -> None:
    """It takes more than twice as long as a head may, the second over the line of a phone, and arrives whole."""
    assert sent_in_parts(port, length, part, every).endswith(b"\r\n\r\n%d" % length)


def test_a_content_that_began_fast_must_go_on(port: int) -> None:
    """Most of it is here at once: that gives no time to stop."""
    length, sent = 3_000_000, 2_900_000
    with connected(port, HEAD + f"Connection: close\r\nContent-Length: {length}\r\n\r\n".encode()) as found:
        found.sendall(b"x" * sent)
        assert not answered(found).endswith(b"\r\n\r\n%d" % length)


def asked(found: socket.socket, *parts: bytes, length: int = 0) -> None:
    """Sends a request in parts, and takes the answer: so many bytes of content were sent."""
    for part in parts:
        found.sendall(part)
        threading.Event().wait(0.1)
    said = b""
    while not said.endswith(b"\r\n\r\n%d" % length):
        data = found.recv(4096)
        assert data, said
        said += data
    assert said.startswith(b"HTTP/1.1 200 ")


GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW: Final = {
    "no content": ((b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",), 0),
    "content with the head": ((b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",), 3),
    "content after the head": (
        (b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n", b"abc", b"def"),
        6,
    ),
}


def test_a_connection_that_is_kept_has_its_time_for_each_request(port: int) -> None:
    with connected(port, b"") as found:
        for _ in range(5):
            asked(found, GET)
            threading.Event().wait(0.4)


@pytest.mark.parametrize(("parts", "length"), SLOW.values(), ids=SLOW.keys())
def test_a_connection_is_kept_though_an_answer_takes_long(
    port: int, parts: tuple[bytes, ...], length: int
) -> None:
    """Longer than a request may take to arrive; the next request has its time again, and no more than that."""
    with connected(port, b"") as found:
        asked(found, *parts, length=length)
        threading.Event().wait(0.4)  # a connection that is to end does so now
        asked(found, GET)
        found.sendall(HEAD)
        answered(found)  # a head that never ends is still given up
