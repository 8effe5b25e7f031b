"""Ids: 64 bits of milliseconds since 2024, shard and sequence. An id alone tells where its row is, and from when."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Final

__all__ = ["EPOCH_MS", "PER_MILLISECOND", "datetime_of", "first_id_at", "milliseconds_of", "shard_of"]

# 2024-01-01T00:00:00Z. With 63 bits to use, the ids last until 2058.
EPOCH_MS: Final = 1_704_067_200_000
SHARD_BITS: Final = 13
SEQUENCE_BITS: Final = 10
PER_MILLISECOND: Final = 1 << SEQUENCE_BITS


def shard_of(id: int) -> int:  # noqa: A002  # an id is what it is
    """The logical shard in which `id` was made."""
    return id >> SEQUENCE_BITS & (1 << SHARD_BITS) - 1


def milliseconds_of(id: int) -> int:  # noqa: A002
    """When `id` was made: Unix time in milliseconds, of the database's clock."""
    return (id >> SHARD_BITS + SEQUENCE_BITS) + EPOCH_MS


def datetime_of(id: int) -> datetime:  # noqa: A002
    """When `id` was made, to the millisecond, in UTC."""
    seconds, milliseconds = divmod(milliseconds_of(id), 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)


def first_id_at(milliseconds: int) -> int:
    """The smallest id, over all shards, that can be made at a Unix time in milliseconds: to search by time."""
    return (milliseconds - EPOCH_MS) << SHARD_BITS + SEQUENCE_BITS


def hash_of(name: str) -> int:
    """32 bits of a name, the same in every process and language, whatever its case."""
    return zlib.crc32(name.lower().encode())
