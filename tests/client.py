"""A WebSocket client of the tests' own, bytes by hand (RFC 6455), so that no code of the server checks itself."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import jwt

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PATH: Final = "/v1/websocket"
PROTOCOL: Final = "notifier.v1"
SECRET: Final = "a shared secret of the tests, 32 bytes and more"
KID: Final = "tests"
GONE: Final = 1006  # RFC 6455 7.1.5: the connection ended without a close frame

Message = dict[str, Any]


class Closed(Exception):
    """The server ended the connection, with this close code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Refused(Exception):
    """The server did not upgrade: the HTTP status, and what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status, self.said = status, said


def token(user: str, life: float = 3600, *, issued: float | None = None, **claims: Any) -> str:
    """A token for `user` that ends after `life` seconds, signed with SECRET; `claims` add or replace."""
    now = int(time.time()) if issued is None else issued
    content = {"sub": user, "aud": "notifier", "iat": int(now), "exp": int(now + life)} | claims
    return jwt.encode(content, SECRET, "HS256", headers={"kid": KID})


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """One frame as a client sends it."""
    mask = 0x80 if masked else 0
    head = bytes(((0x80 if fin else 0) | opcode,))
    if len(payload) < 126:
        head += bytes((mask | len(payload),))
    elif len(payload) < 65536:
        head += bytes((mask | 126,)) + len(payload).to_bytes(2, "big")
    else:
        head += bytes((mask | 127,)) + len(payload).to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[at & 3] for at, byte in enumerate(payload))


def text(message: Message) -> bytes:
    """The frame of a protocol message."""
    return frame(TEXT, json.dumps(message).encode())


def request(path: str, subprotocols: Iterable[str], headers: Mapping[str, str]) -> bytes:
    """The opening handshake (RFC 6455 4.1)."""
    lines = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    if offered := ", ".join(subprotocols):
        lines["Sec-WebSocket-Protocol"] = offered
    lines |= headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


def response(head: bytes) -> tuple[int, str]:
    """Status and full text of the answer to a handshake, given up to its empty line."""
    said = head.decode("latin-1")
    return int(said.split(" ", 2)[1]), said


class Frames:
    """Bytes from a server in, (opcode, payload) out. A server neither masks nor, here, fragments."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        held, at, found = self._held + data, 0, []
        while len(held) - at >= 2:
            size, start = held[at + 1], at + 2
            assert size < 0x80, "a server must not mask (RFC 6455 5.1)"
            if size > 125:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(held[start : start + width], "big"), start + width
            if len(held) < start + size:
                break
            assert held[at] & 0xF0 == 0x80, f"fragment or reserved bit in the first byte {held[at]:#x}"
            found.append((held[at] & 0x0F, held[start : start + size]))
            at = start + size
        self._held = held[at:]
        return found


class Socket:
    """One connection, blocking. A context manager.

    headers       more or other lines of the handshake
    tls           a client context: speak TLS
    receive_bytes size of the socket's receive buffer, for clients that shall be slow
    pong          answer the server's pings
    opening       what is sent in place of a handshake
    Raises Refused, or Closed when the connection ends without an answer.
    """

    def __init__(
        self,
        port: int,
        *,
        path: str = PATH,
        subprotocols: Iterable[str] = (PROTOCOL,),
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        receive_bytes: int = 0,
        pong: bool = True,
        opening: bytes = b"",
        timeout: float = 20.0,
    ) -> None:
        self.pong = pong
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._frames = Frames()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self.socket.sendall(opening or request(path, subprotocols, headers or {}))
        self.answer = self._shake_hands()

    def _shake_hands(self) -> str:
        head = b""
        while b"\r\n\r\n" not in head:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed(GONE, f"during the handshake, after {head!r}")
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        status, said = response(head)
        if status != 101:
            self.socket.close()
            raise Refused(status, said)
        self._waiting.extend(self._frames.feed(rest))
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection without a word."""
        self.socket.close()

    # -- out

    def send(self, *messages: Message) -> None:
        """Protocol messages, in one write."""
        self.raw(b"".join(map(text, messages)))

    def auth(self, user: str, *, epoch: str | None = None, after: int | None = None) -> Message:
        """Say who we are; the `ready` that follows."""
        self.send(auth(token(user), epoch, after))
        return self.until("ready")

    def raw(self, data: bytes) -> None:
        """Any bytes."""
        self.socket.sendall(data)

    # -- in

    def frame(self, timeout: float = 20.0) -> tuple[int, bytes]:
        """The next frame. Raises TimeoutError; Closed when the connection is over."""
        deadline = time.monotonic() + timeout
        while not self._waiting:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except ssl.SSLWantReadError:
                raise TimeoutError("nothing came") from None
            except ConnectionError:
                data = b""
            if not data:
                raise Closed(GONE, "")
            self._waiting.extend(self._frames.feed(data))
        return self._waiting.popleft()

    def receive(self, timeout: float = 20.0) -> Message:
        """The next message; pings are answered on the way. Raises TimeoutError, Closed."""
        deadline = time.monotonic() + timeout
        while True:
            opcode, payload = self.frame(max(0.001, deadline - time.monotonic()))
            if opcode == TEXT:
                message: Message = json.loads(payload)
                return message
            if opcode == CLOSE:
                raise Closed(int.from_bytes(payload[:2], "big") or 1005, payload[2:].decode())
            if opcode == PING and self.pong:
                self.raw(frame(PONG, payload))

    def until(self, kind: str, timeout: float = 20.0) -> Message:
        """The next message of this type; others are skipped."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(max(0.001, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def closing(self, timeout: float = 20.0) -> Closed:
        """How the connection ends; messages before are skipped. Raises TimeoutError when it does not."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.receive(max(0.001, deadline - time.monotonic()))
            except Closed as closed:
                return closed

    def silent(self, seconds: float = 0.3) -> bool:
        """True when no message comes for so long; pings do not count. Raises Closed."""
        try:
            self.receive(seconds)
        except TimeoutError:
            return True
        return False


def auth(bearer: str, epoch: str | None = None, after: int | None = None) -> Message:
    """The first message of a client."""
    message: Message = {"type": "auth", "token": bearer}
    if epoch is not None:
        message["epoch"] = epoch
    if after is not None:
        message["after"] = after
    return message
