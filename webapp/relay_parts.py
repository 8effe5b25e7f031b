"""A relay put together from the configuration in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psycopg2
from django.db import connections

from webapp.claims import Claims
from webapp.edges import PostgresEdges
from webapp.feeds import home_feeds
from webapp.redis_clients import client
from webapp.relay import Relay, Stream
from webapp.shards import NodePlace, layout, schema
from webapp.storage import store
from webapp.tasks import Tasks

# A table of rows that come and go is never what its statistics say: the planner gets no choice but the index.
# A relay whose machine is gone frees its lanes after a minute. Its commits need not wait for the disk: all they do is
# delete, and a row that comes back after a crash of PostgreSQL is done again, as after one of the relay.
_SETTINGS: Final = (
    " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"
    " -c idle_in_transaction_session_timeout=60000 -c synchronous_commit=off"
)


def relay_of() -> Relay:
    """A relay for all nodes."""
    nodes = {place.primary: Claims(_connector(place), _tables(place)) for place in layout().nodes}
    tasks = Tasks(PostgresEdges(), home_feeds(), lambda name: store().delete(name))
    return Relay(nodes, Stream(client("events")), tasks)


def _tables(place: NodePlace) -> dict[int, str]:
    return {shard: f"{schema(shard)}.outbox" for shard in place.shards}


def _connector(place: NodePlace) -> Callable[[], Any]:
    def connect() -> Any:
        parameters = connections[place.primary].get_connection_params()
        own = {
            "connect_timeout": 2,
            "application_name": "webapp relay",
            "options": parameters.get("options", "") + _SETTINGS,
        }
        plain = {
            name: value
            for name, value in parameters.items()
            if name not in ("connection_factory", "cursor_factory")
        }
        return psycopg2.connect(**plain | own)

    return connect
