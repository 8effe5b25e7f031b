"""The real nginx with conf/nginx.conf, as a process of its own on free ports of the loopback."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
from pathlib import Path
from typing import Final, NamedTuple

from notifier.edge.embedded import free_port
from tests.client import request
from tests.conf.shipped import Shipped
from tests.daemon import ROOT
from tests.edge.test_tls import Papers, make_papers
from tests.servers import missing

CONF: Final = ROOT / "conf/nginx.conf"
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program() -> str:
    """Where nginx is; skips where there is none."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        missing("nginx", "not in PATH")
    assert found is not None
    return found


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Nginx(Shipped):
    """nginx as shipped, but for ports, paths and `changes` (a text of the file: what stands there instead).

    A context manager. websocket, api: ports of the daemon behind it.
    """

    def __init__(self, folder: Path, websocket: int, api: int, changes: dict[str, str] | None = None) -> None:
        super().__init__(folder)
        self.papers: Papers = make_papers(folder)
        self.plain, self.port = free_port(), free_port()
        self.conf = folder / "nginx.conf"
        self.conf.write_text(self._adapted(websocket, api, changes or {}), encoding="utf-8")

    def _adapted(self, websocket: int, api: int, changes: dict[str, str]) -> str:
        temporary = "".join(f"{name}_temp_path {self.folder}/{name};\n" for name in TEMPORARY)
        # A master that is root hands its workers to somebody who may not write into a test's folder.
        user = "user root;\n" if os.getuid() == 0 else ""
        here = {
            "worker_processes auto;": f"worker_processes 1;\ndaemon off;\n{user}",
            "worker_connections 65536;": "worker_connections 512;",
            "worker_rlimit_nofile 262144;": "",
            "/run/nginx.pid": f"{self.folder}/nginx.pid",
            "/var/log/nginx/": f"{self.folder}/",
            "http {": f"http {{\n{temporary}",
            "listen 80 ": f"listen 127.0.0.1:{self.plain} ",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/etc/nginx/tls/push.example.com.pem": str(self.papers.certificate),
            "/etc/nginx/tls/push.example.com.key": str(self.papers.key),
            "server 127.0.0.1:8081;": f"server 127.0.0.1:{websocket};",
            "server 127.0.0.1:8082;": f"server 127.0.0.1:{api};",
        }
        text = re.sub(r"^ *listen \[::\].*\n", "", CONF.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for old, new in (here | changes).items():
            assert old in text, f"no {old!r} in {CONF}"
            text = text.replace(old, new)
        return text

    def command(self) -> list[str | Path]:
        return [program(), "-p", self.folder, "-c", self.conf, "-e", self.folder / "error.log"]

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def said(self) -> str:
        logs = (self.folder / name for name in ("said.log", "error.log"))
        return "\n".join(log.read_text() for log in logs if log.exists())

    def connect(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        """A TLS connection, from an address of the loopback's network."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))
        return self.papers.context().wrap_socket(plain, server_hostname="localhost")

    def knock(self, source: str = "127.0.0.1", **headers: str) -> tuple[int, ssl.SSLSocket]:
        """A WebSocket's handshake from this address: the status, and the connection. `_` in a name stands for `-`."""
        client = self.connect(source)
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        client.sendall(request("/v1/websocket", (), lines))
        return int(client.recv(4096).split(b" ", 2)[1]), client

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """One request, over a TLS connection of its own."""
        with self.connect() as client:
            lines = {
                "Host": f"localhost:{self.port}",
                "Connection": "close",
                "Content-Length": str(len(body)),
            }
            lines |= {name.replace("_", "-"): value for name, value in headers.items()}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            client.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            return parsed(b"".join(iter(lambda: client.recv(65536), b"")))


def parsed(reply: bytes) -> Reply:
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *rows = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
    return Reply(int(status.split(" ", 2)[1]), headers, body)
