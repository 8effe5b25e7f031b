"""PostgreSQL in logical shards: `with shard(shard_of(id)):` says where the queries of a block go."""

from __future__ import annotations

from webapp.shards.access import (
    ScatterNode,
    acting,
    all_shards,
    atomic,
    each_node,
    node_of,
    on_commit,
    read_cursor,
    shard_of_name,
    write_cursor,
)
from webapp.shards.context import (
    Scope,
    ShardError,
    current_node,
    current_shard,
    identify,
    layout,
    on_alias,
    primary_only,
    shard,
)
from webapp.shards.ids import datetime_of, first_id_at, milliseconds_of, shard_of
from webapp.shards.layout import Layout, NodePlace, schema

__all__ = [
    "Layout", "NodePlace", "ScatterNode", "Scope", "ShardError", "acting", "all_shards", "atomic", "current_node",
    "current_shard", "datetime_of", "each_node", "first_id_at", "identify", "layout", "milliseconds_of", "node_of",
    "on_alias", "on_commit", "primary_only", "read_cursor", "schema", "shard", "shard_of", "shard_of_name",
    "write_cursor",
]  # fmt: skip
