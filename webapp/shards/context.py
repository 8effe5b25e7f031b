"""Where the code that runs now is: which shard or server its queries are for, and who is acting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from django.conf import settings

from webapp.shards.layout import Layout, NodePlace

__all__ = [
    "Scope", "ShardError", "current_node", "current_shard", "identify", "in_scope", "layout", "on_alias",
    "primary_only",
    "scope", "shard", "target", "wants_primary",
]  # fmt: skip


class ShardError(RuntimeError):
    """A query has no shard, or the wrong one: a mistake in the code that made it."""


@dataclass(slots=True)
class Scope:
    """What is known during one request: who acts, what they wrote, and from where each node is read."""

    person: int | None
    marks: dict[int, tuple[int, int]] | None = (
        None  # node -> (LSN, Unix ms) of the last write; None: not asked yet
    )
    wrote: set[int] = field(default_factory=set)  # nodes
    reads: dict[int, str] = field(default_factory=dict)  # node -> alias


_target: ContextVar[int | str | None] = ContextVar("webapp_shard", default=None)
_scope: ContextVar[Scope | None] = ContextVar("webapp_scope", default=None)
_primary: ContextVar[bool] = ContextVar("webapp_primary", default=False)


def layout() -> Layout:
    """All shards and nodes."""
    found: Layout = settings.LAYOUT
    return found


@contextmanager
def shard(number: int) -> Iterator[int]:
    """Sends all queries of the block to logical shard `number`. May be nested. A new thread begins without one."""
    if number not in layout().homes:
        raise ShardError(f"there is no shard {number}: there are 0 to {layout().count - 1}")
    token = _target.set(number)
    try:
        yield number
    finally:
        _target.reset(token)


@contextmanager
def on_alias(alias: str) -> Iterator[NodePlace]:
    """Sends all queries of the block to one server, outside every shard: they name schemas themselves."""
    place = layout().aliases[alias]
    token = _target.set(alias)
    try:
        yield place
    finally:
        _target.reset(token)


def target() -> int | str:
    """The current shard, or the alias of the current server outside shards. Raises ShardError without either."""
    found = _target.get()
    if found is None:
        raise ShardError(
            "this code reads or writes the database outside `with shard(n):`. Say where the data is: "
            "shard_of(id) for what has an id, shard_of_name(name) for a person's name, each_node() for all shards"
        )
    return found


def current_shard() -> int:
    """The current shard. Raises ShardError outside one."""
    found = target()
    if isinstance(found, str):
        raise ShardError(f"this code asks for a shard, but speaks to the server {found} as a whole")
    return found


def current_node() -> NodePlace:
    """The node of the current shard or server. Raises ShardError without one."""
    found = target()
    return layout().aliases[found] if isinstance(found, str) else layout().homes[found]


def scope() -> Scope | None:
    """What is known about the current request; None outside `acting`."""
    return _scope.get()


@contextmanager
def in_scope(found: Scope) -> Iterator[None]:
    """The block is the request that `found` tells of."""
    token = _scope.set(found)
    try:
        yield
    finally:
        _scope.reset(token)


def identify(person: int) -> None:
    """Tells who makes the current request. Without effect outside `acting`."""
    found = _scope.get()
    if found is not None and found.person != person:
        found.person = person
        found.marks = None
        found.reads.clear()


@contextmanager
def primary_only() -> Iterator[None]:
    """Reads of the block go to primaries: for what a cache is filled from, or what may be too new for a replica."""
    token = _primary.set(True)
    try:
        yield
    finally:
        _primary.reset(token)


def wants_primary() -> bool:
    """True inside `primary_only`."""
    return _primary.get()
