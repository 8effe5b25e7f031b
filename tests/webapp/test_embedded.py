"""PostgreSQL as a child process: as root and as an ordinary user, killed, moved, refused, left alone."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from webapp.embedded import PortTaken, Postgres, PostgresError, find_programs

ROOT = Path(__file__).parent.parent.parent


QUICK = {"fsync": "off"}  # what the kernel has outlives a process, if not a machine


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user gets into: pytest's own is closed to all but who runs it."""
    found = Path(tempfile.mkdtemp(prefix="webapp-embedded-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def folder(place: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own, of the same kind."""
    found: Path = place / request.node.name[:60]
    found.mkdir()
    return found


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Postgres]:
    with Postgres(place / "primary", settings=QUICK) as server:
        yield server
    server.remove()


@pytest.fixture
def primary(shared: Postgres) -> Postgres:
    """The server that tests share, running; they may stop, kill and start it."""
    if not shared.running:
        shared.start()
    one(shared, "DROP TABLE IF EXISTS kept")
    return shared


def one(server: Postgres, query: str) -> Any:
    with closing(server.connect()) as link:
        link.autocommit = True
        with link.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0] if cursor.description else None


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """A zombie is not: nobody may have fetched its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_answers_on_the_loopback_and_with_its_password_alone(primary: Postgres) -> None:
    assert one(
        primary, "SELECT current_setting('listen_addresses') || current_setting('unix_socket_directories')"
    ) == ("127.0.0.1")
    assert one(primary, "SELECT lower('ÄÉ') || current_setting('server_encoding')") == "äéUTF8"
    assert primary.password_file.stat().st_mode & 0o777 == 0o600
    assert len(primary.password_file.read_text().strip()) >= 24
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(primary.url, password="wrong")
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(primary.url)


def test_it_runs_as_nobody_of_importance(primary: Postgres) -> None:
    owner = Path(f"/proc/{primary.pid}").stat().st_uid
    assert owner == (pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())
    assert primary.data.stat().st_mode & 0o777 == 0o700


def test_what_was_written_outlives_a_stop_and_a_kill(primary: Postgres) -> None:
    port = primary.port
    one(primary, "CREATE TABLE kept AS SELECT 1 AS a")
    primary.stop()
    assert not primary.running
    primary.start()
    one(primary, "INSERT INTO kept VALUES (2)")
    primary.kill()
    primary.start()
    assert one(primary, "SELECT sum(a) FROM kept") == 3
    assert primary.port == port


def test_nothing_of_it_answers_after_a_kill(primary: Postgres) -> None:
    with closing(primary.connect()) as link, closing(primary.connect()) as busy:
        with busy.cursor() as cursor:
            cursor.execute("SET statement_timeout = '20s'; SELECT pg_backend_pid()")
            (session,) = cursor.fetchone()
        with ThreadPoolExecutor() as pool:
            counting = pool.submit(
                busy.cursor().execute, "SELECT count(*) FROM generate_series(1, 1e12::bigint)"
            )
            until(
                lambda: one(
                    primary,
                    f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session} AND state = 'active'",
                ),
                "the session does not count",
            )
            primary.kill()
            with pytest.raises(psycopg2.OperationalError):
                counting.result(10)
        with pytest.raises(psycopg2.OperationalError), link.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_it_stops_at_once_though_somebody_is_connected(primary: Postgres) -> None:
    with closing(primary.connect()) as link, link.cursor() as cursor:
        cursor.execute("SELECT 1")
        pid = primary.pid
        primary.stop()
        assert not alive(pid)


def test_a_stopped_process_is_stopped_too_and_in_order(primary: Postgres) -> None:
    os.kill(primary.pid, signal.SIGSTOP)
    pid, log = primary.pid, primary.log.stat().st_size
    primary.stop(timeout=60)
    assert not alive(pid)
    assert b"database system is shut down" in primary.log.read_bytes()[log:]


def test_a_replica_follows_also_after_restarts_and_kills(primary: Postgres, folder: Path) -> None:
    one(primary, "CREATE TABLE kept AS SELECT 1 AS a")
    replica = Postgres(folder / "replica", settings=QUICK, primary=primary)

    def follows(sum_: int) -> None:
        lsn = one(primary, "SELECT pg_current_wal_flush_lsn()")
        until(
            lambda: one(replica, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "the replica does not follow"
        )
        assert one(replica, "SELECT sum(a) FROM kept") == sum_

    try:
        replica.start()
        assert one(replica, "SELECT pg_is_in_recovery()")
        follows(1)
        one(primary, "INSERT INTO kept VALUES (2)")
        follows(3)
        replica.kill()
        one(primary, "INSERT INTO kept VALUES (3)")
        replica.start()
        follows(6)
        replica.stop()
        primary.stop()
        primary.port = 0  # another one: the replica must be told
        primary.start()
        replica.start()
        one(primary, "INSERT INTO kept VALUES (4)")
        follows(10)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            one(replica, "INSERT INTO kept VALUES (5)")
    finally:
        replica.stop()
        replica.remove()


def test_a_replica_of_a_primary_that_is_no_more_is_made_anew(primary: Postgres, folder: Path) -> None:
    old = Postgres(folder / "old", settings=QUICK)
    replica = Postgres(folder / "replica", settings=QUICK, primary=old)
    try:
        with old:
            replica.start()
            replica.stop()
        replica.primary = primary
        one(primary, "CREATE TABLE kept AS SELECT 7 AS a")
        replica.start()
        lsn = one(primary, "SELECT pg_current_wal_flush_lsn()")
        until(
            lambda: one(replica, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "the replica does not follow"
        )
        assert one(replica, "SELECT a FROM kept") == 7
    finally:
        replica.stop()
        replica.remove()
        old.remove()


def test_a_start_that_was_broken_off_begins_again(folder: Path) -> None:
    server = Postgres(folder / "broken", settings=QUICK)
    server._settle()
    (server.place / "data.new").mkdir()
    (server.place / "data.new" / "half").write_text("")
    with server:
        assert one(server, "SELECT 1") == 1
    server.remove()


def test_a_pid_file_of_another_process_is_no_hindrance(primary: Postgres) -> None:
    """After a kill, and a restart of the machine, its number may be that of any process of the same user."""
    uid = Path(f"/proc/{primary.pid}").stat().st_uid
    primary.stop()
    user: Any = {"user": uid} if os.geteuid() == 0 else {}
    other = subprocess.Popen(["sleep", "600"], cwd="/", **user)
    try:
        (primary.data / "postmaster.pid").write_text(f"{other.pid}\n{primary.data}\n1\n{primary.port}\n\n\n")
        primary.start()
        assert one(primary, "SELECT 1") == 1
    finally:
        other.kill()
        other.wait()


def test_two_servers_do_not_share_a_folder(primary: Postgres) -> None:
    with pytest.raises(PostgresError, match="another server still works in"):
        Postgres(primary.folder).start(timeout=0.2)
    assert one(primary, "SELECT 1") == 1


def test_a_taken_port_is_told(primary: Postgres, folder: Path) -> None:
    other = Postgres(folder / "other", settings=QUICK, port=primary.port)
    with pytest.raises(PortTaken, match=f"port {primary.port} of 127.0.0.1 is in use"):
        other.start()
    other.remove()


def test_a_fault_shows_the_log(folder: Path) -> None:
    server = Postgres(folder / "bad", settings={**QUICK, "shared_buffers": "much"})
    with pytest.raises(
        PostgresError, match=r"ended at once with status 1; the end of its log(.|\n)*shared_buffers"
    ):
        server.start()
    server.remove()


def test_without_programs_all_that_was_looked_at_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("webapp.embedded.DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PostgresError, match=r"wheel\): not found\n.*PATH\): not found\n.*: not found\nInstall one:"
    ):
        find_programs()
    for name in ("postgres", "initdb", "pg_basebackup"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(PostgresError, match="is version 9; 14 or later is needed"):
        find_programs()


STARTER = """
import os, sys, time
from pathlib import Path
from webapp.embedded import Postgres
if len(sys.argv) > 3:  # only now: the Python that runs this may be where that user cannot read
    os.setgroups([])
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[3]))
server = Postgres(Path(sys.argv[1]), settings={"fsync": "off"})
server.start()
with server.connect() as link, link.cursor() as cursor:
    cursor.execute("SELECT 1")
print(server.pid, os.getuid(), Path(f"/proc/{server.pid}").stat().st_uid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
server.stop()
server.remove()
"""


def starter(folder: Path, *, stay: bool, user: pwd.struct_passwd | None = None) -> subprocess.Popen[str]:
    """Another process that starts a server, perhaps as another user."""
    who = [str(user.pw_uid), str(user.pw_gid)] if user else []
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), "stay" if stay else "go", *who],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_ends_when_its_starter_is_gone(folder: Path) -> None:
    process = starter(folder / "left", stay=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline().split()[0])
    assert alive(pid)
    process.kill()
    process.communicate()
    until(lambda: not alive(pid), "the server stays though its starter is gone")
    with Postgres(folder / "left", settings=QUICK) as server:
        assert one(server, "SELECT 1") == 1
    server.remove()


def test_an_ordinary_user_may_start_one(folder: Path) -> None:
    """As root by turning into one."""
    user = pwd.getpwnam("daemon") if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user.pw_name)
    process = starter(folder / "own", stay=False, user=user)
    said, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, wrong
    _, starter_uid, server_uid = map(int, said.split())
    assert starter_uid == server_uid == (user.pw_uid if user else os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")
def test_root_may_start_one_in_a_folder_closed_to_others(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with Postgres(closed / "data", settings=QUICK) as server:
        assert not server.place.is_relative_to(folder)
        assert (closed / "data" / "elsewhere").read_text().strip() == str(server.place)
        one(server, "CREATE TABLE kept AS SELECT 1 AS a")
        place = server.place
    assert closed.stat().st_mode & 0o777 == 0o700  # nothing was opened for it
    with Postgres(closed / "data", settings=QUICK) as server:
        assert one(server, "SELECT a FROM kept") == 1
    server.remove()
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")
def test_what_was_elsewhere_goes_with_its_folder(folder: Path) -> None:
    """Who removes the folder means the data, wherever root's server had to keep it."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with Postgres(closed / "data", settings=QUICK) as server:
        one(server, "CREATE TABLE kept AS SELECT 1 AS a")
    shutil.rmtree(closed / "data")
    with Postgres(closed / "data", settings=QUICK) as server:
        assert one(server, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == 0
    server.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")
def test_root_may_start_one_from_programs_closed_to_others(folder: Path) -> None:
    """As when the virtual environment is in root's own home."""
    wheel = find_programs().parent.parent
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(wheel / "pginstall", closed / wheel.name / "pginstall", symlinks=True)
    if (libraries := wheel.with_suffix(".libs")).is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    server = Postgres(folder / "data", settings=QUICK, programs=closed / wheel.name / "pginstall" / "bin")
    with server:
        assert one(server, "SELECT 1") == 1
    server.remove()


def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make such a folder")
    (folder / "theirs").mkdir()
    shutil.chown(folder / "theirs", "daemon")
    with pytest.raises(PostgresError, match="belongs to another user"):
        Postgres(folder / "theirs").start()


def test_the_command_says_where_and_stops_all(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "webapp", "postgres", "--folder", str(folder / "pg")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WEBAPP_CONFIG": str(ROOT / "conf" / "webapp.toml")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "PostgreSQL is ready" in process.stdout.readline()
        node = json.loads((folder / "pg" / "nodes.json").read_text())
        password = Path(node["password_file"]).read_text().strip()
        for url, standby in ((node["primary"], False), (node["replicas"][0], True)):
            with closing(psycopg2.connect(url, password=password)) as link, link.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                assert cursor.fetchone() == (standby,)
    finally:
        process.terminate()
        _, wrong = process.communicate(timeout=60)
    assert process.returncode == 0, wrong
    assert not (folder / "pg" / "nodes.json").exists()
    for name in ("primary", "replica0"):
        Postgres(folder / "pg" / name).remove()
