"""Brings the schemas of all shards up to date: each has its own tables, and its own list of migrations applied."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from django.db import OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

from webapp.shards.access import all_shards
from webapp.shards.context import ShardError, layout, on_alias, shard
from webapp.shards.layout import schema

__all__ = ["migrate_all", "migrate_shard"]

LOCK: Final = (
    1_918_985_318  # first key of the advisory locks under which shards are changed; the second is the shard
)
SETUP: Final = """
CREATE TABLE IF NOT EXISTS public.webapp_setup (name text PRIMARY KEY, value text NOT NULL);
INSERT INTO public.webapp_setup VALUES ('shards', %s) ON CONFLICT DO NOTHING;
SELECT value FROM public.webapp_setup WHERE name = 'shards'
"""
PATIENCE: Final = "500ms"
"""How long a migration waits for a table. Whoever asks for that table meanwhile waits behind it, and so does the site.

It is less than PostgreSQL's deadlock_timeout: where a request and a migration wait for each other, no request fails.
"""
PAUSE: Final = 1.0
"""Seconds for the site to go on, before a migration tries again."""

_BUSY: Final = frozenset({"55P03", "40P01"})  # lock_not_available, deadlock_detected
_log: Final = logging.getLogger(__name__)


def migrate_all(told: Callable[[int, int], object] = lambda shard, applied: None) -> int:
    """Makes and migrates every shard; how many migrations that took. May run several times, also at once.

    told  called after each shard with its number and how many migrations it was given
    Raises ShardError when the servers were set up for another number of shards.
    """
    for node in layout().nodes:
        _check_count(node.primary)
    applied = 0
    for number in all_shards():
        count = migrate_shard(number)
        applied += count
        told(number, count)
    return applied


def migrate_shard(number: int) -> int:
    """Makes the schema of a shard if need be, and applies what it lacks; how many migrations that were."""
    alias = layout().homes[number].primary
    with _locked(alias, number):
        with on_alias(alias), connections[alias].cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema(number)}")
        with shard(number):
            return _migrate(alias, number)


def _migrate(alias: str, number: int) -> int:
    """Applies what the current shard lacks, while the site works on; how many migrations that were."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SET lock_timeout = %s", [PATIENCE])
    count = 0
    while True:
        executor = MigrationExecutor(connections[alias])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        count = count or len(plan)
        try:
            executor.migrate(None, plan)
            return count
        except OperationalError as failure:
            if getattr(failure.__cause__, "pgcode", None) not in _BUSY:
                raise
            _log.warning("shard %d is in use, its migration is tried again: %s", number, failure)
        time.sleep(PAUSE)


def _check_count(alias: str) -> None:
    """A person's shard is their name's hash modulo the number of shards: with another number nobody is found."""
    with on_alias(alias), _locked(alias, -1), connections[alias].cursor() as cursor:
        cursor.execute(SETUP, [str(layout().count)])
        (found,) = cursor.fetchone()
    if int(found) != layout().count:
        raise ShardError(
            f"{alias} was set up for {found} shards, but shards.count is {layout().count}: the number of logical "
            "shards cannot be changed once there is data. Put it back: more servers share the same shards."
        )


@contextmanager
def _locked(alias: str, number: int) -> Iterator[None]:
    """Whoever comes second waits, then finds nothing to do. The lock is gone with the connection."""
    with on_alias(alias), connections[alias].cursor() as cursor:
        cursor.execute(
            "SET lock_timeout = 0; SET statement_timeout = 0; SELECT pg_advisory_lock(%s, %s)", [LOCK, number]
        )
    try:
        yield
    finally:
        with on_alias(alias), connections[alias].cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_unlock(%s, %s); RESET lock_timeout; RESET statement_timeout",
                [LOCK, number],
            )
