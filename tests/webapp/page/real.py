"""The whole system for tests of the site: gunicorn, a relay, PostgreSQL, Redis, the notifier and fake providers."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from notifier.edge.embedded import free_port
from tests import client
from tests.daemon import ROOT, Daemon, wait_until
from tests.page.chromium import PATIENCE
from tests.sandboxes import SandboxProcess
from tests.webapp.page.fake import HOST
from tests.webapp.page.stage import ALWAYS
from tests.webapp.stack import Stack
from webapp.tokens import make_key, tokens

KID: Final = "webapp"
# Ends when its starter has gone: the pipe on stdin closes then.
PROGRAM: Final = (
    "import os, runpy, sys, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


class RealSite:
    """Everything from the click to the phone, on `stack`'s servers. A context manager. `url`: the site."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.port, ports = free_port(), {name: free_port() for name in ("websocket", "api")}
        self.url = f"http://{HOST}:{self.port}"
        self._listen = {
            name: {"listen": f"tcp:{port}:interface={HOST}", "origins": [self.url]}
            for name, port in ports.items()
        }
        self._told = {
            "websocket": f"ws://{HOST}:{ports['websocket']}{client.PATH}",
            "api": f"http://{HOST}:{ports['api']}",
        }
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            sandbox = parts.enter_context(SandboxProcess(self.folder / "sandbox"))
            public = self._configure(sandbox.endpoints["sandbox"])
            key = f'[[tokens.keys]]\nkid = "{KID}"\nalgorithm = "EdDSA"\nfile = "{public}"\n'
            self.daemon = Daemon(
                self.folder / "daemon", self.stack.redis_url, self._listen, more=key + sandbox.toml() + ALWAYS
            )
            parts.enter_context(self.daemon)
            bind = f"--bind={HOST}:{self.port}"
            self._start(
                parts,
                "gunicorn",
                bind,
                "--workers=1",
                "--threads=8",
                "--worker-class=webapp.worker.Worker",
                "webapp.wsgi",
            )
            self._start(parts, "webapp", "relay")
            wait_until(lambda: "Listening" in self.log("gunicorn"), PATIENCE, lambda: self.log("gunicorn"))
            self._parts = parts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def log(self, name: str) -> str:
        """What a part has said so far."""
        return (self.folder / f"{name}.log").read_text()

    def _configure(self, sandbox: str) -> Path:
        """The file of the photo API; gives that of its public key."""
        private, public = self.folder / "tokens.pem", self.folder / "tokens.pub"
        make_key(private)
        self.stack.sections.update(
            tokens={"key_file": str(private), "kid": KID},
            site={"allowed_hosts": [HOST]},
            notifier={**self._told, "sandbox": sandbox},
        )
        self.stack.write()
        public.write_bytes(tokens().public_pem())
        return public

    def _start(self, parts: ExitStack, module: str, *arguments: str) -> None:
        with (self.folder / f"{module}.log").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, module, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**os.environ, "WEBAPP_CONFIG": str(self.stack.file)},
            )
        parts.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(PATIENCE)
    assert process.stdin is not None
    process.stdin.close()
