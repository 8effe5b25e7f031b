"""Rows of several shards by their ids, with one query for each node that has some of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from webapp.problems import Problem
from webapp.shards import each_node, layout, schema, shard_of

_LARGEST: Final = (1 << 63) - 1
_DIGITS: Final = frozenset("0123456789")


def rows_of(
    query: str,
    wanted: Iterable[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    where: Callable[[Any], int] = shard_of,
) -> list[tuple[Any, ...]]:
    """What `query` finds in the shards that `wanted` are in; `where` tells the shard of each, by its id if left out.

    In the query `{schema}` is the shard's, and `{wanted}` is an array of those that are in it. No rows are found
    for what is in no shard.
    """
    in_shard: dict[int, list[Any]] = defaultdict(list)
    for one in wanted:
        in_shard[where(one)].append(one)
    found: list[tuple[Any, ...]] = []
    for node in each_node():
        here = [number for number in node.place.shards if number in in_shard]
        if not here:
            continue
        arms = (f"({query.format(schema=schema(number), wanted=f'%(wanted_{number})s')})" for number in here)
        values = {**(parameters or {}), **{f"wanted_{number}": in_shard[number] for number in here}}
        with node.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(arms), values)
            found += cursor.fetchall()
    return found


def id_of(text: str) -> int:
    """The id that a client sends. Raises Problem `not-found` for what can be none."""
    # Not isdecimal(), which is true of the digits of every script.
    number = int(text) if 0 < len(text) <= 19 and _DIGITS.issuperset(text) and text[0] != "0" else 0
    if not 0 < number <= _LARGEST or shard_of(number) >= layout().count:
        raise Problem("not-found", "nothing has this id")
    return number
