"""Django's database router: writes go to the primary of the current shard, reads where they see enough."""

from __future__ import annotations

from typing import Any

from webapp.shards.context import ShardError, current_node, layout, scope, target
from webapp.shards.ids import shard_of
from webapp.shards.replicas import reading

__all__ = ["Router"]


class Router:
    """Chooses by the shard of the context; see `webapp.shards.context`."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Alias to read from: a replica only when the acting person would not miss a write of theirs there."""
        _check(hints.get("instance"))
        where = target()
        return where if isinstance(where, str) else reading(current_node())

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Alias of the primary. From here on the request reads from there, too."""
        _check(hints.get("instance"))
        node = current_node()
        found = scope()
        if found is not None:
            found.wrote.add(node.number)
        return node.primary

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        """Rows of one server, be they read from its primary or a replica, may be related."""
        places = [layout().aliases.get(row._state.db) for row in (one, other)]
        return places[0] is not None and places[0] == places[1]

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Replicas get their tables from the primary."""
        node = layout().aliases.get(db)
        return node is not None and node.primary == db


def _check(instance: Any) -> None:
    """A row that came from one shard must not be written to another: there it would be made anew."""
    name = getattr(instance, "shard_by", None)
    key = instance.__dict__.get(name) if name else None
    where = target()
    if isinstance(key, int) and isinstance(where, int) and shard_of(key) != where:
        raise ShardError(
            f"{type(instance).__name__} with {name} {key} is of shard {shard_of(key)}, "
            f"but this code runs `with shard({where}):`"
        )
