"""migrate_shards: all schemas, several at once, broken off and begun again, never for another number of shards."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from tests.daemon import wait_until
from tests.webapp.stack import Stack
from webapp.models import Person
from webapp.shards import ShardError, all_shards, schema, shard
from webapp.shards.migrating import migrate_all, migrate_shard
from webapp.shards.next_id import next_id_sql

OTHER = "other"
MIGRATIONS = 5


@pytest.fixture
def empty(db: Stack) -> Iterator[Stack]:
    """A database of this test alone, with nothing in it, on the shared server."""
    execute(db, "webapp", f"CREATE DATABASE {OTHER}")
    db.database = OTHER
    db.write()
    yield db
    connections.close_all()
    db.database = "webapp"
    db.write()
    execute(db, "webapp", f"DROP DATABASE {OTHER} WITH (FORCE)")


def execute(db: Stack, database: str, query: str) -> list[Any]:
    link = db.primary.connect(database)
    link.autocommit = True
    try:
        with link.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        link.close()


def complete(db: Stack) -> bool:
    """Has every shard its tables, and takes them?"""
    found = execute(
        db,
        OTHER,
        "SELECT schemaname FROM pg_tables WHERE tablename IN ('person', 'outbox') ORDER BY schemaname",
    )
    names = sorted(schema(number) for number in all_shards() for _ in range(2))
    if [name for (name,) in found] != names:
        return False
    for number in all_shards():
        with shard(number):
            Person.objects.create(name="ana", password="x")
    return True


def test_all_shards_are_made_once(empty: Stack) -> None:
    told: list[tuple[int, int]] = []
    assert migrate_all(lambda number, count: told.append((number, count))) == 8 * MIGRATIONS
    assert told == [(number, MIGRATIONS) for number in range(8)]
    assert complete(empty)
    assert migrate_all() == 0
    assert execute(empty, OTHER, "SELECT to_regclass('public.django_migrations')::text") == [(None,)]


def test_what_was_broken_off_is_finished(empty: Stack) -> None:
    migrate_all()
    execute(empty, OTHER, "DROP SCHEMA s0005 CASCADE; DROP SCHEMA s0007 CASCADE; CREATE SCHEMA s0007")
    told: list[int] = []
    assert migrate_all(lambda number, count: told.extend([number] * count)) == 2 * MIGRATIONS
    assert told == [5] * MIGRATIONS + [7] * MIGRATIONS
    assert complete(empty)


def test_a_failure_leaves_nothing_of_a_migration(empty: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(number: int) -> str:
        return next_id_sql(number) + "; SELECT 1 / 0" * (number == 3)

    initial = importlib.import_module("webapp.migrations.0001_initial")
    monkeypatch.setattr(initial, "next_id_sql", broken)
    with pytest.raises(Exception, match="division by zero"):
        migrate_all()
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 's0003' AND tablename <> 'django_migrations'"
    assert execute(empty, OTHER, tables) == []
    monkeypatch.undo()
    assert migrate_all() == 5 * MIGRATIONS
    assert complete(empty)


def test_several_at_once_do_it_once(empty: Stack) -> None:
    """Processes, as on several machines that are set up at the same time."""
    command = [sys.executable, "-m", "webapp", "migrate_shards"]
    running = [
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    applied = [int(out.strip().splitlines()[-1].split("; ")[1].split()[0]) for out, _ in said]
    assert sum(applied) == 8 * MIGRATIONS
    assert complete(empty)


def test_another_number_of_shards_is_refused(empty: Stack) -> None:
    migrate_all()
    empty.shards = 4
    empty.write()
    try:
        with pytest.raises(ShardError, match=r"set up for 8 shards, but shards\.count is 4"):
            migrate_all()
        with pytest.raises(CommandError, match="set up for 8 shards"):
            call_command("migrate_shards")
    finally:
        empty.shards = 8


def test_the_locks_are_given_back(empty: Stack) -> None:
    migrate_all()
    assert execute(empty, OTHER, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    with shard(1), connections["node0"].cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("30s",)


@pytest.fixture
def migrating(empty: Stack) -> Iterator[Callable[[], None]]:
    """Begins the last migration of shard 3, whose tables are as the one before left them, until it waits for a table.

    It must succeed, once the test is over.
    """
    migrate_all()
    with shard(3):
        MigrationExecutor(connections["node0"]).migrate([("webapp", "0003_answered")])
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            migrate_shard(3)
        except BaseException as failure:
            failures.append(failure)
        finally:
            connections.close_all()

    def begin() -> None:
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        wait_until(lambda: execute(empty, OTHER, waiting) != [], 60.0)

    thread = threading.Thread(target=migrate)
    yield begin
    thread.join(60.0)
    assert not thread.is_alive()
    assert failures == []
    assert migrate_shard(3) == 0


LIKE = "INSERT INTO photo_like (photo_id, person_id) SELECT id, 1 FROM photo WHERE id = 1"
EVENT = "INSERT INTO outbox (id, lane, kind, payload, created) VALUES (%s, 0, 'event', '{}', now())"


def test_a_request_and_a_migration_never_fail_for_each_other(
    empty: Stack, migrating: Callable[[], None]
) -> None:
    """A request locks the outbox last, the migration locked it first."""
    with closing(empty.primary.connect(OTHER)) as link, link.cursor() as cursor:
        cursor.execute("SET search_path TO s0003")
        cursor.execute(LIKE)
        migrating()
        cursor.execute("UPDATE photo SET likes = likes + 1 WHERE id = 1")
        cursor.execute(EVENT, [1])
        link.commit()


def test_a_migration_that_waits_for_a_dump_keeps_nobody_waiting(
    empty: Stack, migrating: Callable[[], None]
) -> None:
    with (
        closing(empty.primary.connect(OTHER)) as dump, dump.cursor() as reads,
        closing(empty.primary.connect(OTHER)) as link, link.cursor() as cursor,
    ):  # fmt: skip
        reads.execute("SELECT count(*) FROM s0003.photo_like")
        migrating()
        cursor.execute("SET search_path TO s0003; SET lock_timeout = '60s'")
        for number in range(1, 4):
            cursor.execute(LIKE)
            cursor.execute(EVENT, [number])
            link.commit()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_and_a_file_lines(empty: Stack) -> None:
    terminal, file = Terminal(), StringIO()
    call_command("migrate_shards", stdout=terminal, no_color=True)
    bars = terminal.getvalue().split("\r")[1:]
    assert bars[0] == f"[{'#' * 5}{'.' * 35}] shard 1 of 8"
    assert bars[-1].splitlines() == [
        f"[{'#' * 40}] shard 8 of 8",
        f"8 shards are up to date; {8 * MIGRATIONS} migrations were applied",
    ]
    execute(empty, OTHER, "DROP SCHEMA s0002 CASCADE")
    call_command("migrate_shards", stdout=file)
    assert (
        file.getvalue()
        == f"shard 2: {MIGRATIONS} migrations\n8 shards are up to date; {MIGRATIONS} migrations were applied\n"
    )


def test_the_models_need_no_further_migration(db: Stack) -> None:
    call_command("makemigrations", check=True, dry_run=True, stdout=StringIO())


def test_djangos_own_migrate_is_refused(db: Stack) -> None:
    with pytest.raises(CommandError, match="migrate_shards"):
        call_command("migrate", stdout=StringIO())


def test_one_shard_alone(empty: Stack) -> None:
    migrate_all()
    execute(empty, OTHER, "DROP SCHEMA s0006 CASCADE")
    assert migrate_shard(6) == MIGRATIONS
    assert migrate_shard(6) == 0
