"""`python -m webapp.demo`: the whole photo site on this machine, for `notifier demo`. It ends when stdin does.

On stdout it says in JSON lines how far it is. It reads one line: the addresses of the notifier, as [notifier] has them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import webapp
from webapp.embedded import Postgres, PostgresError

HOST: Final = "127.0.0.1"
ANSWER_SECONDS: Final = 30.0
STOP_SECONDS: Final = 3.0  # for each child, all at once
TAIL_LINES: Final = 15
# The data may go with the machine, which a demo's may: each commit costs a tenth of what it would otherwise.
SETTINGS: Final[Mapping[str, str]] = {"synchronous_commit": "off", "max_connections": "100"}
# Ends a child when its starter is gone, however it went: the pipe on stdin then closes without a line.
GUARD: Final = """read -r line && exit
kill -TERM "$1" && kill -CONT "$1" || exit
for second in 1 2 3 4 5; do sleep 1; kill -0 "$1" || exit; done
kill -KILL "$1"
"""


class DemoError(Exception):
    """The site cannot be started or a part of it ended; the text says why."""


def say(**what: object) -> None:
    """A line for who started us."""
    print(json.dumps(what), flush=True)  # noqa: T201  # that is what stdout is here for


class Child:
    """A Python program of ours; all it prints goes to `log`, whose predecessor is kept as `log`.1."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], keep: Sequence[int] = ()
    ) -> None:
        """Starts it, with the descriptors `keep` open in it."""
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *arguments], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env=environment, pass_fds=keep, start_new_session=True,
            )  # fmt: skip
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "webapp-guard", str(self.process.pid)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
        )  # fmt: skip

    def ended(self) -> str | None:
        """How it ended, with its last lines; None while it runs."""
        code = None if self.process is None else self.process.poll()
        if code is None:
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        said = "\n  ".join(lines) or "(nothing)"
        return f"{self.name} ended with status {code}; the end of its log {self.log}:\n  {said}"

    def ask(self) -> None:
        """Asks it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)

    def stop(self, until: float) -> None:
        """Waits for its end, which comes by force at `until` (monotonic)."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.05, until - time.monotonic()))
            # A session of its own: its workers too, which outlive a master that was killed.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(b"done\n")
            self._guard.stdin.close()
            self._guard.wait()


class Site:
    """PostgreSQL with a replica, gunicorn, a relay, and a crowd if one is asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "webapp.toml"
        self.primary = Postgres(self.folder / "postgresql", settings=SETTINGS)
        self.replica = Postgres(self.folder / "replica", settings=SETTINGS, primary=self.primary)
        names = ("gunicorn", "relay", "crowd")
        self.children = {name: Child(name, self.folder / f"{name}.log") for name in names}
        self.stopping = threading.Event()
        self._told = False
        self.waits = False  # for `stopping`, which then is enough to end it

    def run(self) -> None:
        """Until asked to stop. Raises DemoError, PostgresError."""
        with ExitStack() as stack:
            say(step="PostgreSQL, and a replica")
            stack.callback(self.primary.stop, STOP_SECONDS)
            self.primary.start()
            stack.callback(self.replica.stop, STOP_SECONDS)
            self.replica.start()
            stack.callback(self._stop)
            self._write({})
            say(step="tables on 8 shards")
            self._do("migrate_shards")
            say(step="a dozen people and their pictures")
            self._do("seed")
            say(prepared=True)
            self._serve(self._addresses())
            self._watch()

    def _addresses(self) -> dict[str, str]:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)  # whoever started us is gone, or wants us to go
        threading.Thread(target=self._until_eof, daemon=True).start()
        found: dict[str, str] = json.loads(line)
        return found

    def _until_eof(self) -> None:
        sys.stdin.read()
        self.stopping.set()

    def _serve(self, addresses: Mapping[str, str]) -> None:
        self._write(addresses)
        fd = self.options.fd
        self._start("gunicorn", (
            "-m", "gunicorn", "--bind", f"fd://{fd}", "--workers", "2", "--threads", "4", "--graceful-timeout", "1",
            "--worker-class", "webapp.worker.Worker", "--keep-alive", "20", "--no-control-socket",
            "webapp.wsgi:application",
        ), (fd,))  # fmt: skip
        self._start("relay", ("-m", "webapp", "relay"))
        if self.options.crowd:
            visitors = ("--visitors",) if self.options.visitors else ()
            self._start("crowd", ("-m", "webapp", "crowd", self.options.crowd, *visitors))
        self._until_it_answers()
        say(ready=True)

    def _until_it_answers(self) -> None:
        end = time.monotonic() + ANSWER_SECONDS
        while (fault := _ask(self.options.port)) is not None:
            self._check()
            if self.stopping.wait(0.1):
                return
            if time.monotonic() > end:
                raise DemoError(
                    f"the site did not answer within {ANSWER_SECONDS:g} s: {fault}; see {self.folder}/*.log"
                )

    def asked(self, *_: object) -> None:
        """Signal handler: stop in order, whatever is being prepared. Asked again meanwhile, it goes on with that."""
        again, waits, self._told = self._told, self.waits, True
        if not again:  # the event's lock would be taken twice by two signals that come close together
            self.stopping.set()
        if not (again or waits):
            raise SystemExit(0)

    def _watch(self) -> None:
        self.waits = True
        while not self.stopping.wait(0.2):
            self._check()

    def _check(self) -> None:
        for child in self.children.values():
            if (how := child.ended()) is not None:
                raise DemoError(how)
        for server in (self.primary, self.replica):
            if not server.running:
                raise DemoError(f"PostgreSQL ended; see its log {server.log}")

    def _start(self, name: str, arguments: Sequence[str], keep: Sequence[int] = ()) -> None:
        self.children[name].start(arguments, self._environment(), keep)

    def _do(self, command: str) -> None:
        """Runs a command to its end. Raises DemoError with what it said."""
        if self.stopping.is_set():
            raise SystemExit(0)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "webapp", command], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, env=self._environment(),
        )  # fmt: skip
        if done.returncode:
            raise DemoError(
                f"`python -m webapp {command}` failed:\n{(done.stdout + done.stderr).strip()[-2000:]}"
            )

    def _environment(self) -> dict[str, str]:
        root = str(Path(webapp.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path, "WEBAPP_CONFIG": str(self.file)}

    def _write(self, addresses: Mapping[str, str]) -> None:
        node = (
            f'{{shards = "0-7", primary = "{self.primary.url}", replicas = ["{self.replica.url}"], '
            f'password_file = "{self.primary.password_file}"}}'
        )
        tables: dict[str, dict[str, Any]] = {
            "site": {"secret_key_file": str(self._secret())},
            "redis": {"url": self.options.redis},
            "tokens": {"key_file": str(self.options.key.absolute()), "kid": self.options.kid},
            "photos": {"folder": str(self.folder / "photos")},
            "notifier": dict(addresses),
        }
        text = "# Written by the demo at every start: what is changed here does not last.\n"
        text += f"[shards]\ncount = 8\nnodes = [{node}]\n"
        for name, values in tables.items():
            text += f"\n[{name}]\n" + "".join(
                f"{key} = {json.dumps(value)}\n" for key, value in values.items()
            )
        self.file.write_text(text, encoding="utf-8")

    def _secret(self) -> Path:
        path = self.folder / "secret.key"
        if not path.exists():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(os.urandom(32).hex())
        return path

    def _stop(self) -> None:
        for child in self.children.values():
            child.ask()
        until = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            child.stop(until)


def _ask(port: int) -> str | None:
    """What is wrong with the site's answer; None when it is well."""
    link = HTTPConnection(HOST, port, timeout=2.0)
    try:
        link.request("GET", "/api/ready")
        answer = link.getresponse()
        said = answer.read(500).decode("utf-8", "replace")
        return None if answer.status == 200 else f"{answer.status} {said}"
    except (OSError, HTTPException) as fault:
        return f"{type(fault).__name__}: {fault}"
    finally:
        link.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m webapp.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where its data and logs are")
    parser.add_argument("--redis", required=True, help="redis://127.0.0.1:PORT/0")
    parser.add_argument(
        "--key", type=Path, required=True, help="PEM file of the key that signs people's tokens"
    )
    parser.add_argument("--kid", required=True, help="its name, as the notifier knows it")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--port", type=int, required=True, help="where that listens")
    parser.add_argument(
        "--crowd", default="", help="what the people of the seed do, as 5/s; nothing otherwise"
    )
    parser.add_argument("--visitors", action="store_true", help="they do it to visitors too")
    return parser.parse_args()


def main() -> None:
    """Runs the demo's site. Exit status 1: it could not be started, or a part ended; a JSON line says why."""
    site = Site(_options())
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_, site.asked)
    try:
        site.run()
    except (DemoError, PostgresError, OSError) as fault:
        say(fault=str(fault))
        sys.exit(1)


if __name__ == "__main__":
    main()
