"""Real sandboxes for tests: `notifier sandbox` as a child process, with fake APNs, FCM and phones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from notifier.sandbox.credentials import Credentials, app_toml, make_credentials

PROGRAM: Final = ("-c", "from notifier.cli.main import main; main()", "sandbox", "--data")
SECONDS: Final = 30.0


class SandboxProcess:
    """Starts and ends with its context. `endpoints`: what it said of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "sandbox.log"
        self.endpoints: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.credentials: Credentials = make_credentials(self.folder)
        with self.log.open("wb") as out:
            command = [sys.executable, *PROGRAM, str(self.folder)]
            self._process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        announced = self.folder / "endpoints.json"
        while not announced.exists():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, "the sandbox does not start"
            time.sleep(0.02)
        self.endpoints = json.loads(announced.read_bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, the kernel accepts more, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def toml(self, app: str = "demo") -> str:
        """An app of the configuration that sends to this sandbox."""
        where = self.endpoints
        return app_toml(
            app, self.credentials, where["apns"], where["fcm"], where["token_uri"], where["authority"]
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the control API; None for an answer without content."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.endpoints["sandbox"] + path, data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def phone(self, token: str) -> dict[str, Any]:
        """What a phone shows; {} for one that never got anything."""
        found = [one for one in self.ask("GET", "devices")["devices"] if one["token"] == token]
        return found[0] if found else {}
