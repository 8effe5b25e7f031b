"""The notifier daemon as a child process of the demo: `twistd notifier`, with a log file of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

import notifier
from notifier.cli.folder import AUDIENCE, KID
from notifier.edge.embedded import HOST

# twistd, started so that neither the current folder nor PATH decides which notifier it finds.
TWISTD: Final = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.append(root); sys.argv[0] = 'twistd'; "
    "from twisted.scripts.twistd import run; run()"
)
# Ends the daemon when the demo is gone, however it went: the pipe on stdin then closes without a line.
# CONT after TERM, because a stopped process sees no TERM.
GUARD: Final = """read -r line && exit
kill -TERM "$1" && kill -CONT "$1" || exit
for second in 1 2 3 4 5 6 7 8; do sleep 1; kill -0 "$1" || exit; done
kill -KILL "$1"
"""
WEBSOCKET_PATH: Final = "/v1/websocket"
KINDS: Final = ("follow", "like", "comment")
LISTENERS: Final = ("websocket", "api", "admin")
TAIL_LINES, TAIL_MOST = 8, 30


class Daemon:
    """`twistd notifier --config CONFIG`; all it prints goes to `log`, whose predecessor is kept as `log`.1."""

    def __init__(self, config: Path, log: Path) -> None:
        self.config, self.log = config, log
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; `ports` tells when it is ready. Raises OSError."""
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        root = str(Path(notifier.__file__).parent.parent)
        twistd = [sys.executable, "-P", "-c", TWISTD, root, "--nodaemon", "--pidfile="]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops all in order.
            self._process = subprocess.Popen(
                [*twistd, "notifier", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(os.environ),
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "notifier-guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )

    def ended(self) -> str | None:
        """How the process ended, with its last lines; None while it runs."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        how = f"status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return f"the notifier daemon ended with {how}; {self.tail()}"

    def ports(self) -> dict[str, int] | None:
        """The TCP port of each listener, out of the line that the daemon writes when it is ready."""
        for line in self.log.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                said = msgspec.json.decode(line)
                if isinstance(said, dict) and all(type(said.get(name)) is int for name in LISTENERS):
                    return {name: said[name] for name in LISTENERS}
        return None

    def tail(self) -> str:
        """The last lines of the log, and of those before them the ones that are no mere information."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines[:-TAIL_LINES] if '"level":"info"' not in line] + lines[-TAIL_LINES:]
        said = "\n  ".join(map(_plain, kept[-TAIL_MOST:])) or "(nothing)"
        return f"the end of its log {self.log}:\n  {said}"

    def stop(self, timeout: float = 5.0) -> None:
        """End the process in order (SIGTERM: it drains), by force after `timeout` seconds."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            with suppress(BrokenPipeError):  # somebody ended the guard; there is nothing left to guard
                guard.stdin.write(b"done\n")
            guard.stdin.close()
            guard.wait()


def daemon_toml(
    redis_url: str, page_origins: Iterable[str], app: str = "", kids: Iterable[str] = (KID,)
) -> str:
    """The daemon's configuration: all on the loopback, on free ports, for these pages and keys alone.

    `app`: TOML of the one app, whose phones are told of everything beside the bell. `kids`: names of the keys."""
    trusted = "\n".join(
        f'[[tokens.keys]]\nkid = "{kid}"\nalgorithm = "EdDSA"\nfile = "keys/{kid}.pub"\n' for kid in kids
    )
    # Each once: whoever names our own page with --origin says nothing new.
    origins = ", ".join(f'"{origin}"' for origin in dict.fromkeys(page_origins))
    listen = f'listen = "tcp:0:interface={HOST}"'
    return f"""\
# Written by `notifier demo` at every start: what is changed here does not last.
name = "demo"

[redis]
url = "{redis_url}"

[websocket]
{listen}
path = "{WEBSOCKET_PATH}"
origins = [{origins}]

[api]
{listen}
origins = [{origins}]

[admin]
{listen}

[tokens]
audience = "{AUDIENCE}"

{trusted}
[drain]
seconds = 1.0
timeout_seconds = 3.0

{app}
{"".join(f'[types.{kind}]{chr(10)}push = "always"{chr(10)}' for kind in KINDS) if app else ""}"""


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the daemon may know of our environment: no setting may overrule the file that was made for it."""
    foreign = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {
        name: value
        for name, value in ours.items()
        if name not in foreign and not (name.startswith("NOTIFIER_") and "__" in name)
    }


def _plain(line: str) -> str:
    """A JSON line of the log as a person reads it; anything else as it is."""
    try:
        said = json.loads(line)
        return f"{said['time']} {said['level']:<5} {said['message']}"
    except (ValueError, KeyError, TypeError):
        return line
