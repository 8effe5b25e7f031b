"""What domain code does with the current shard: transactions, plain SQL, and questions to all shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from django.db import connections, transaction

from webapp.shards.context import Scope, current_node, in_scope, layout, on_alias, scope
from webapp.shards.layout import NodePlace, schema
from webapp.shards.replicas import reading, remember

__all__ = [
    "ScatterNode",
    "acting",
    "all_shards",
    "atomic",
    "each_node",
    "node_of",
    "on_commit",
    "read_cursor",
    "shard_of_name",
    "write_cursor",
]


def all_shards() -> range:
    """The numbers of all logical shards."""
    return range(layout().count)


def node_of(shard: int) -> NodePlace:
    """The node that holds a shard."""
    return layout().homes[shard]


def shard_of_name(name: str) -> int:
    """The shard of the person of that name, in whatever case; of the one who takes it, if nobody has it yet."""
    return layout().shard_of_name(name)


def atomic(**options: Any) -> AbstractContextManager[Any]:
    """A transaction on the current shard's primary; options as of django.db.transaction.atomic. Counts as a write."""
    found: AbstractContextManager[Any] = transaction.atomic(using=_primary(), **options)
    return found


def on_commit(function: Callable[[], object]) -> None:
    """Calls a function when the transaction of the current shard's server is committed; at once outside one.

    What it raises is logged: what is committed has not failed, and others wait to be called.
    """
    transaction.on_commit(function, using=current_node().primary, robust=True)


def write_cursor() -> Any:
    """A cursor (a context manager) for SQL on the current shard's primary. Counts as a write."""
    return connections[_primary()].cursor()


def read_cursor() -> Any:
    """A cursor (a context manager) for SQL that only reads, where the router would read."""
    return connections[reading(current_node())].cursor()


def _primary() -> str:
    node = current_node()
    found = scope()
    if found is not None:
        found.wrote.add(node.number)
    return node.primary


@contextmanager
def acting(person: int | None = None) -> Iterator[Scope]:
    """The block is one request, made by the person of that id, who will not miss what they wrote.

    None: by somebody unknown, until `identify` tells.
    """
    found = Scope(person)
    try:
        with in_scope(found):
            yield found
    finally:
        remember(found)


class ScatterNode(NamedTuple):
    """A node while all are asked. Queries name the schemas themselves; `union_all` does that."""

    place: NodePlace
    alias: str

    def union_all(self, query: str) -> str:
        """`query` for each shard of the node, as one; in it `{schema}` is the shard's. Parameters: repeat them
        `len(place.shards)` times, or use named ones."""
        return " UNION ALL ".join(
            f"({query.replace('{schema}', schema(shard))})" for shard in self.place.shards
        )

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor on the node, outside every shard."""
        with on_alias(self.alias), connections[self.alias].cursor() as cursor:
            yield cursor


def each_node(*, primary: bool = False) -> Iterator[ScatterNode]:
    """Every node, to be asked once for all its shards; its primary if wanted, else where the router would read."""
    for place in layout().nodes:
        yield ScatterNode(place, place.primary if primary else reading(place))
