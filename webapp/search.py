"""Finding people and photos by words. A backend answers with ids and places; what is shown comes from the tables."""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple, Protocol

from django.utils.module_loading import import_string

from webapp.shards import each_node


class Hit(NamedTuple):
    """Something found: where it stands in the list, smaller first, and its id."""

    place: tuple[int, ...]
    id: int


class Search(Protocol):
    """What finds. A place is two numbers for people, one for photos, from 0 on, and no two are equal."""

    def people(self, text: str, after: tuple[int, ...] | None, limit: int) -> list[Hit]:
        """People by name and shown name, the best first, that stand after the place `after`."""
        ...

    def photos(self, text: str, after: tuple[int, ...] | None, limit: int) -> list[Hit]:
        """Photos by their captions, the newest first, that stand after the place `after`."""
        ...


_NONE: Final = (-1, -1)
_LAST: Final = (1 << 63) - 1
# The last word may be the beginning of one: people type while they look. to_tsquery would take the text for a
# language; plainto_tsquery takes it for words, and its own text for these can be put on. Of no words it is NULL,
# which finds nothing.
_PEOPLE: Final = """
SELECT rank, id FROM (
  SELECT id, CASE WHEN name = %(name)s THEN 0 WHEN starts_with(name, %(name)s) THEN 1 ELSE 2 END AS rank
  FROM {schema}.person
  WHERE name = %(name)s
  OR search @@ (nullif(plainto_tsquery('simple', %(text)s)::text, '') || ':*')::tsquery
) AS found
WHERE (rank, id) > (%(rank)s, %(id)s) ORDER BY rank, id LIMIT %(limit)s
"""
_PHOTOS: Final = (
    "SELECT id FROM {schema}.photo "
    "WHERE search @@ websearch_to_tsquery('simple', %(text)s) AND id < %(before)s ORDER BY id DESC LIMIT %(limit)s"
)


class PostgresqlSearch:
    """PostgreSQL's own full text, one query a node."""

    def people(self, text: str, after: tuple[int, ...] | None, limit: int) -> list[Hit]:
        """As Search says."""
        rank, id_ = after or _NONE
        name = text.strip().removeprefix("@").lower()
        values = {"text": text, "name": name, "rank": rank, "id": id_, "limit": limit}
        rows = _asked(_PEOPLE, " ORDER BY 1, 2 LIMIT %(limit)s", values)
        return [Hit((rank, id_), id_) for rank, id_ in sorted(rows)[:limit]]

    def photos(self, text: str, after: tuple[int, ...] | None, limit: int) -> list[Hit]:
        """As Search says. A place is how far the id is from the largest one, so that the newest come first."""
        before = _LAST - after[0] if after else _LAST
        values = {"text": text, "before": before, "limit": limit}
        rows = _asked(_PHOTOS, " ORDER BY 1 DESC LIMIT %(limit)s", values)
        return [Hit((_LAST - id_,), id_) for (id_,) in sorted(rows, reverse=True)[:limit]]


def _asked(query: str, order: str, values: dict[str, Any]) -> list[tuple[int, ...]]:
    rows: list[tuple[int, ...]] = []
    for node in each_node():
        with node.cursor() as cursor:
            cursor.execute(node.union_all(query) + order, values)
            rows += cursor.fetchall()
    return rows


def search() -> Search:
    """The backend of the configuration in force."""
    from django.conf import settings

    return _backend(settings.CONFIG.search.backend)


@functools.lru_cache(maxsize=8)
def _backend(name: str) -> Search:
    made: Search = PostgresqlSearch() if name == "postgresql" else import_string(name)()
    return made
