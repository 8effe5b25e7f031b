"""Real daemons for tests: `twistd notifier` as a child process, to kill, pause, ask and read the log of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from notifier.edge.embedded import free_port
from tests.client import KID, SECRET

ROOT: Final = Path(__file__).parent.parent
READY: Final = "notifier is ready"
STOPPED: Final = "notifier has stopped"
# twistd, that ends when its starter has gone: the pipe on stdin closes then.
TWISTD: Final = (
    "-c",
    "import os, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "from twisted.scripts.twistd import run\n"
    "run()",
    "--nodaemon",
    "--pidfile=",
    "notifier",
)
FREE: Final = "tcp:0:interface=127.0.0.1"
# For tests: free ports, and stops that do not take their time.
DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "websocket": {"listen": FREE},
    "api": {"listen": FREE},
    "drain": {"seconds": 0.0, "timeout_seconds": 5.0},
}

Settings = Mapping[str, Mapping[str, object]]


class Daemon:
    """One process; may be started again and again. A context manager that starts and kills.

    folder    where configuration and log go
    settings  sections of the configuration, over DEFAULTS
    more      TOML to append
    name      consumer name, and that of the files
    program   what the interpreter runs, before the options of `twistd notifier`
    """

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        settings: Settings | None = None,
        *,
        name: str = "notifier",
        more: str = "",
        program: Sequence[str] = TWISTD,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.program = name, program
        self.admin_port = free_port()  # known beforehand: it answers also while Redis does not
        self.config, self.log = folder / f"{name}.toml", folder / f"{name}.log"
        secret = folder / "tests.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        self._write(redis_url, settings or {}, secret, more)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0  # where in the log the present process begins
        self._ports: Mapping[str, int] = {}

    def _write(self, redis_url: str, settings: Settings, secret: Path, more: str) -> None:
        tree: dict[str, dict[str, object]] = {
            "redis": {"url": redis_url},
            "admin": {"listen": f"tcp:{self.admin_port}:interface=127.0.0.1"},
        }
        for given in (DEFAULTS, settings):
            for section, values in given.items():
                tree[section] = {**tree.get(section, {}), **values}
        lines = [f"name = {json.dumps(self.name)}"]
        for section, values in tree.items():
            lines.append(f"[{section}]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        key = {"kid": KID, "algorithm": "HS256", "file": str(secret)}
        lines += ["[[tokens.keys]]", *(f"{name} = {json.dumps(value)}" for name, value in key.items())]
        self.config.write_text("\n".join(lines) + f"\n{more}")

    # -- life

    def launch(self, *before: str) -> None:
        """Start; `before`: arguments in front of the options."""
        assert not self.running, f"{self.name} runs already"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}
        self._began = self.log.stat().st_size if self.log.exists() else 0
        self._ports = {}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, *before, "--config", str(self.config)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env=environ,
            )

    def start(self, timeout: float = 20.0) -> Self:
        """Launch, and return when it is ready."""
        self.launch()
        self.wait_for(READY, timeout)
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def ended(self, timeout: float) -> int | None:
        """The exit status, negative for a signal; None when it still runs after so many seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def stop(self, timeout: float = 20.0) -> None:
        """SIGTERM, and wait for an end in order. Fails when it takes longer, or ends otherwise."""
        assert self._process is not None
        self._process.terminate()
        status = self.ended(timeout)
        assert status is not None, f"{self.name} still runs {timeout:g} s after SIGTERM\n{self.tail()}"
        # twistd ends by the signal itself, after everything has stopped
        assert status in (0, -signal.SIGTERM), f"{self.name} ended with {status}\n{self.tail()}"
        assert STOPPED in self.messages(), f"{self.name} was cut short\n{self.tail()}"

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # -- what it says

    def lines(self) -> list[dict[str, Any]]:
        """The log of the present process; a line that is no JSON stands as {"message": line}."""
        with self.log.open("rb") as log:
            log.seek(self._began)
            return [_parsed(line) for line in log.read().splitlines()]

    def messages(self) -> list[str]:
        return [str(line.get("message", "")) for line in self.lines()]

    def tail(self, count: int = 15) -> str:
        return "\n".join(self.messages()[-count:])

    def wait_for(self, said: str, timeout: float = 30.0) -> dict[str, Any]:
        """The first log line with this text, as soon as it is there. Fails when the process ends before."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.extend(line for line in self.lines() if said in str(line.get("message", "")))
            assert found or self.running, f"{self.name} ended without saying {said!r}:\n{self.tail()}"
            return bool(found)

        wait_until(look, timeout, lambda: f"{self.name} does not say {said!r}; it says:\n{self.tail()}")
        return found[0]

    def listening(self, name: str) -> int | None:
        """Where it listens, or None while it is not ready."""
        if not self.running:
            return None
        if not self._ports:
            self._ports = next((line for line in self.lines() if line.get("message") == READY), {})
        return int(self._ports[name]) if self._ports else None

    def port(self, name: str) -> int:
        """Where it listens: websocket, api or admin; waits until it is ready."""
        if not self._ports:
            self._ports = self.wait_for(READY)
        return int(self._ports[name])

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page of the admin listener."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def metrics(self) -> dict[str, float]:
        """Every sample: `name` or `name{label="value"}`, without the prefix."""
        found = {}
        for line in self.get("/metrics")[1].decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.removeprefix("notifier_")] = float(value)
        return found

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no VmRSS for {self.pid}")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"message": line.decode(errors="replace")}
    return found


def wait_until(
    what: Callable[[], object], timeout: float, otherwise: Callable[[], str] | str = "", every: float = 0.02
) -> None:
    """Return when `what()` holds, looking `every` so many seconds; fails with `otherwise` after `timeout`."""
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            said = otherwise() if callable(otherwise) else otherwise
            raise AssertionError(f"not within {timeout:g} s: {said}")
        time.sleep(every)
