"""The `notifier` program as a user has it: a process of its own, in a folder of the test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
COMMAND: Final = (sys.executable, "-c", "from notifier.cli.main import main; main()")
GOOD: Final = b'{"type":"like","actor":{"id":"42"},"to":["7"]}'


@dataclass(frozen=True)
class Said:
    """What a program left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Program:
    """Runs `notifier` in `folder`; the environment holds no setting but those given."""

    folder: Path

    def run(self, *arguments: str, given: bytes = b"", environ: Mapping[str, str] | None = None) -> Said:
        """To the end, 20 s at most, with `given` on stdin."""
        with self.start(*arguments, environ=environ) as process:
            try:
                out, err = process.communicate(given, timeout=20)
            except BaseException:
                process.kill()
                raise
        return Said(process.returncode, out.decode(), err.decode())

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, **streams: int
    ) -> subprocess.Popen[bytes]:
        """A process with pipes, where `streams` says nothing else; killed after 25 s: no test waits for ever."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | streams
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=clean | {"PYTHONPATH": str(ROOT)} | dict(environ or {}),
            stdin=pipes["stdin"],
            stdout=pipes["stdout"],
            stderr=pipes["stderr"],
        )
        end = threading.Timer(25, process.kill)
        end.daemon = True
        end.start()
        return process
