"""Django's PostgreSQL backend, with the schema of the current shard put before a query when it changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg2
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.postgresql import base
from psycopg2 import errorcodes, extensions, sql

from webapp.shards.context import ShardError, layout, target
from webapp.shards.layout import schema
from webapp.shards.replicas import down

__all__ = ["DatabaseWrapper"]

# Statements that PostgreSQL does not run together with another one.
ALONE: Final = re.compile(r"\bCONCURRENTLY\b|\A\s*VACUUM\b", re.IGNORECASE)
# Statements that need no schema. In a transaction that has failed nothing may stand before them.
BOUNDARY: Final = re.compile(r"\A\s*(SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)
IDLE_SECONDS: Final = 1.0  # a connection that was of use so recently is taken to be alive


class ShardConnection(extensions.connection):
    """A connection that knows which shard its search_path is set to."""

    alias = ""
    path: int | None = None
    used = 0.0

    def rollback(self) -> None:
        """As psycopg2 has it. A SET of the transaction is undone with it."""
        self.path = None
        super().rollback()


class ShardCursor(extensions.cursor):
    """A cursor whose statements run in the current shard, without a round trip more."""

    connection: ShardConnection

    def execute(self, query: str | sql.Composable, vars: Any = None) -> None:  # noqa: A002  # psycopg2's name
        """As psycopg2 has it. Raises ShardError outside a shard, or on a server that does not have it."""
        text = query if isinstance(query, str) else query.as_string(self)
        path = self._path_to_set()
        if path is not None and BOUNDARY.match(text):
            path = None
        elif path is not None and ALONE.search(text):
            self._set_path()
            path = None
        super().execute(text if path is None else f"{_set(path)}; {text}", vars)
        if path is not None:  # what fails takes the SET with it
            self.connection.path = path
        self.connection.used = time.monotonic()

    def executemany(self, query: Any, vars_list: Any) -> None:
        """As psycopg2 has it."""
        self._set_path()
        super().executemany(query, vars_list)

    def callproc(self, *arguments: Any) -> Any:
        """As psycopg2 has it."""
        self._set_path()
        return super().callproc(*arguments)

    def copy_expert(self, *arguments: Any, **named: Any) -> None:
        """As psycopg2 has it."""
        self._set_path()
        super().copy_expert(*arguments, **named)

    def _path_to_set(self) -> int | None:
        """The shard that search_path has to be set to first; None if it is set, or not to be set."""
        where = target()
        alias = self.connection.alias
        if isinstance(where, str):
            if where != alias:
                raise ShardError(f"this code speaks to the server {where}, but uses a connection to {alias}")
            return None
        home = layout().homes[where]
        if alias != home.primary and alias not in home.replicas:
            raise ShardError(
                f"shard {where} is on {home.primary}, but this code uses a connection to {alias}"
            )
        return where if self.connection.path != where else None

    def _set_path(self) -> None:
        path = self._path_to_set()
        if path is not None:
            super().execute(_set(path))
            self.connection.path = path


def _set(path: int) -> str:
    return f"SET search_path TO {schema(path)}"


class DatabaseWrapper(base.DatabaseWrapper):
    """One server. Its errors are Django's."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        place = layout().aliases.get(self.alias)
        if place is not None and self.alias != place.primary:
            self.execute_wrappers.append(_read_elsewhere)

    def get_connection_params(self) -> dict[str, Any]:
        """What psycopg2.connect is called with."""
        own = {"connection_factory": ShardConnection, "cursor_factory": ShardCursor}
        return {**super().get_connection_params(), **own}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A new connection. Raises ShardError for the default database, which there is not."""
        if self.alias not in layout().aliases:
            raise ShardError(
                f"there is no database {self.alias!r}: use `with shard(n):`, and and what webapp.shards has"
            )
        connection = super().get_new_connection(conn_params)
        connection.alias = self.alias
        connection.used = time.monotonic()
        return connection

    def is_usable(self) -> bool:
        """Whether the connection is alive; one that was just of use is not asked again."""
        if self.connection.closed:
            return False
        if time.monotonic() - self.connection.used < IDLE_SECONDS:
            return True
        try:
            with self.connection.cursor(cursor_factory=extensions.cursor) as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def _savepoint_rollback(self, sid: str) -> None:
        super()._savepoint_rollback(sid)
        self.connection.path = None  # it is again what it was at the savepoint


def _read_elsewhere(
    execute: Callable[..., Any], query: str, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """Runs a query of a replica that died, or gave way to what it replays, on the primary."""
    wrapper = context["connection"]
    try:
        return execute(query, params, many, context)
    except (OperationalError, InterfaceError) as fault:
        dead = wrapper.connection is None or wrapper.connection.closed
        if wrapper.in_atomic_block or isinstance(target(), str) or not (dead or _gave_way(fault)):
            raise
        if dead:
            down(wrapper.alias, fault)
            wrapper.close()
        cursor = connections[layout().aliases[wrapper.alias].primary].cursor()
        cursor.execute(query, params)
        context["cursor"].cursor = cursor.cursor  # the caller fetches from it
        return None


def _gave_way(fault: Exception) -> bool:
    """Did the replica cancel the query because what it replays removes rows that the query needs?"""
    code: object = getattr(fault.__cause__, "pgcode", None)
    return code == str(errorcodes.SERIALIZATION_FAILURE)
