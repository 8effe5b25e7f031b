"""The photo site of the demo, a child process: `python -m webapp.demo`. Its code is never imported here."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import notifier
from notifier.edge.embedded import HOST

# What the site is made of that is not of notifier's own dependencies, by the name it is imported by.
NEEDED: Final = {
    "webapp": "webapp", "django": "django", "ninja": "django-ninja", "gunicorn": "gunicorn", "PIL": "pillow",
    "redis": "redis", "storages": "django-storages",
}  # fmt: skip


def missing() -> list[str]:
    """The packages that the site needs and that are not installed."""
    return [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]


class Site:
    """The site's process: `step` is what it does, `prepared` and `ready` how far it is, `fault` why it ended.

    It ends when its stdin does, so also when we are killed.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.step, self.fault = "", ""
        self.prepared = self.ready = False
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""

    def listen(self, port: int) -> int:
        """Take the port, 0 = a free one; who connects already will be answered when the site is up. Raises OSError."""
        self._socket = listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(512)
        taken: int = listening.getsockname()[1]
        return taken

    def start(self, redis: str, key: Path, kid: str, crowd: str = "", visitors: bool = False) -> None:
        """Start the process; it prepares its data by itself. Raises OSError."""
        assert self._socket is not None
        fd, port = self._socket.fileno(), self._socket.getsockname()[1]
        arguments: list[Any] = ["--folder", self.folder, "--redis", redis, "--key", key, "--kid", kid]
        arguments += ["--fd", fd, "--port", port]
        arguments += ["--crowd", crowd] if crowd else []
        arguments += ["--visitors"] if visitors else []
        root = str(Path(notifier.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "webapp.demo", *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, pass_fds=(fd,), bufsize=0,
                start_new_session=True, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        self._socket.close()
        os.set_blocking(self._out.fileno(), False)

    @property
    def _out(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def look(self) -> None:
        """Read what it has said meanwhile."""
        if self._process is None:
            return
        while chunk := self._out.read(65_536):
            self._said += chunk
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.step = said.get("step", self.step)
            self.prepared |= bool(said.get("prepared"))
            self.ready |= bool(said.get("ready"))
            self.fault = said.get("fault", self.fault)

    def tell(self, addresses: Mapping[str, str]) -> None:
        """Where the notifier is; then it serves."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; `ended` says how
            self._process.stdin.write(json.dumps(dict(addresses)).encode() + b"\n")

    def ended(self) -> str | None:
        """How the process ended; None while it runs, or before it was started."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self.look()
        tail = "\n  ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        return f"the photo site ended with status {code}: {self.fault or tail or 'it said nothing'}"

    def stop(self, timeout: float) -> None:
        """End it in order, by force after `timeout` seconds."""
        if self._socket is not None:
            self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()  # its guards end what it leaves
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
