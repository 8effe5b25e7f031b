"""The sandbox as a program of its own, which can be stopped in the middle; and its control API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

COMMAND = (sys.executable, "-c", "from notifier.cli.main import main; main()")


class Sandbox:
    """`endpoints`: as endpoints.json has them."""

    def __init__(self, process: subprocess.Popen[bytes], endpoints: dict[str, str]) -> None:
        self.process, self.endpoints = process, endpoints

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the control API. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.endpoints["sandbox"] + path, data, method=method)  # our own URL
        with urlopen(request, timeout=20) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, the kernel accepts more, nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """Runs while the context does."""
    announced = folder / "endpoints.json"
    with subprocess.Popen([*COMMAND, "sandbox", "--data", str(folder)], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while not announced.exists():
                assert process.poll() is None, "the sandbox ended"
                assert time.monotonic() < deadline, "the sandbox does not start"
                time.sleep(0.02)
            yield Sandbox(process, json.loads(announced.read_bytes()))
        finally:
            process.kill()
