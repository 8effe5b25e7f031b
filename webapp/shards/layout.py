"""Which shard is on which server: the nodes of the configuration, and their names among Django's databases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from webapp.config import Config, Node, secret, shard_numbers
from webapp.shards.ids import hash_of

__all__ = ["Layout", "NodePlace", "databases"]

ENGINE = "webapp.shards.backend"
IDLE_SECONDS = 60
"""A process that was stopped, or whose machine is gone, in the middle of a transaction holds its rows no longer."""


class NodePlace(NamedTuple):
    """One server: its number, its shards, and the aliases of its primary and replicas."""

    number: int
    shards: tuple[int, ...]
    primary: str
    replicas: tuple[str, ...]


class Layout:
    """All shards and nodes."""

    def __init__(self, count: int, nodes: tuple[Node, ...]) -> None:
        self.count = count
        self.nodes = tuple(
            NodePlace(
                number,
                shard_numbers(node.shards),
                f"node{number}",
                tuple(f"node{number}_replica{index}" for index in range(len(node.replicas))),
            )
            for number, node in enumerate(nodes)
        )

    @cached_property
    def homes(self) -> Mapping[int, NodePlace]:
        """The node of each shard."""
        return {shard: node for node in self.nodes for shard in node.shards}

    @cached_property
    def aliases(self) -> Mapping[str, NodePlace]:
        """The node of each alias."""
        return {alias: node for node in self.nodes for alias in (node.primary, *node.replicas)}

    def shard_of_name(self, name: str) -> int:
        """The shard of the person of that name."""
        return hash_of(name) % self.count


def schema(shard: int) -> str:
    """The schema of a shard: s0007."""
    return f"s{shard:04}"


def databases(config: Config) -> dict[str, dict[str, Any]]:
    """Django's DATABASES. Raises ConfigError when a file with a password cannot be read."""
    layout = Layout(config.shards.count, config.shards.nodes)
    # There is no default database, but Django asks it what the engine can do. Every use is refused.
    found: dict[str, dict[str, Any]] = {"default": {"ENGINE": ENGINE, "NAME": "none"}}
    for place, node in zip(layout.nodes, config.shards.nodes, strict=True):
        password = secret(node.password_file, f"shards.nodes[{place.number}].password_file")
        for alias, url in zip((place.primary, *place.replicas), (node.primary, *node.replicas), strict=True):
            found[alias] = _database(url, password, config)
    return found


def _database(url: str, password: str, config: Config) -> dict[str, Any]:
    parts = urlsplit(url)
    milliseconds = config.shards.statement_seconds * 1000
    options = {
        "connect_timeout": config.shards.connect_seconds,
        # Told here, the zone costs no statement of its own.
        "options": f"-c timezone=UTC -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        f" -c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000}",
        "application_name": "webapp",
    }
    return {
        "ENGINE": ENGINE,
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or 5432),
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": password,
        "OPTIONS": options | dict(parse_qsl(parts.query)),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        # A server-side cursor outlives its transaction only WITH HOLD, which copies all its rows.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "TIME_ZONE": None,
    }
