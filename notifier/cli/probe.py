"""Does each part of a running demo answer? Asked over the network, as a visitor would."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from secrets import token_bytes
from typing import Final
from urllib.parse import SplitResult, urlsplit

TIMEOUT: Final = 1.0  # s, for each question


def silent_parts(endpoints: Mapping[str, str], stop: Callable[[], bool]) -> dict[str, str]:
    """The parts that do not answer as they should, each with what it did instead.

    Blocks for TIMEOUT a part at worst; asks no more once `stop` says so.
    """
    faults = {}
    for name, question in QUESTIONS.items():
        if name not in endpoints:
            continue
        if stop():
            faults[name] = "was not asked"
            continue
        try:
            fault = question(urlsplit(endpoints[name]))
        except (OSError, HTTPException) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            faults[name] = fault
    return faults


def _redis(url: SplitResult) -> str | None:
    with socket.create_connection((url.hostname, url.port), timeout=TIMEOUT) as link:
        link.sendall(b"PING\r\n")
        said = link.recv(64)
    return None if said.startswith(b"+PONG") else f"PING was answered by {said!r}"


def _status(url: SplitResult, path: str, wanted: int, headers: Mapping[str, str] | None = None) -> str | None:
    connection = HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        if response.status == wanted:
            return None
        said = response.read(400).decode(errors="replace").strip()
        return f"GET {path} was answered by {response.status}, not {wanted}: {said}"
    finally:
        connection.close()


def _websocket(url: SplitResult) -> str | None:
    # RFC 6455 section 4.1: the handshake alone; 101 is the answer of a server that goes on.
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(token_bytes(16)).decode(),
        "Sec-WebSocket-Protocol": "notifier.v1",
    }
    return _status(url, url.path, 101, handshake)


QUESTIONS: Final[dict[str, Callable[[SplitResult], str | None]]] = {
    "redis": _redis,
    "admin": lambda url: _status(url, "/readyz", 200),
    "websocket": _websocket,
    "api": lambda url: _status(url, "/v1/inbox", 401),  # no token was sent: that it asks for one is an answer
    "sandbox": lambda url: _status(url, "/counts", 200),
    "page": lambda url: _status(url, url.path, 200),
    "web": lambda url: _status(url, "/api/ready", 200),
}
