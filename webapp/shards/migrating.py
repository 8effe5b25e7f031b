"""Brings the schemas of all shards up to date: each has its own tables, and its own list of migrations applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from django.db import connections
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
            executor = MigrationExecutor(connections[alias])
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
            executor.migrate(None, plan)
            return len(plan)


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
