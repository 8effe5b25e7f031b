"""The worlds that the contract is held in; the servers are shared, and emptied for each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from notifier.edge.embedded import free_port
from tests import reactor
from tests.contract.world import MemoryWorld, RedisWorld, World
from tests.servers import Valkey

SHARDS = 4
W = TypeVar("W", bound=RedisWorld)


@pytest.fixture(scope="session")
def redis7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The system's redis-server."""
    with Valkey(tmp_path_factory.mktemp("redis7"), binary="redis", aof=False) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A cluster of one node, which holds all slots: a script that touches two of them is refused."""
    # the bus's port would be 10 000 higher, where there may be none
    extra = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with Valkey(tmp_path_factory.mktemp("cluster"), aof=False, extra=extra) as server:
        server.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in bytes(server.call("CLUSTER", "INFO")):  # type: ignore[call-overload]
            time.sleep(0.02)
        yield server


def opened(server: Valkey, kind: type[W], shards: int = 1) -> W:
    """An empty world over this server."""
    server.call("FLUSHALL")

    async def build() -> W:
        world = kind(server.url, shards)
        await world.open()
        return world

    return reactor.run(build())


def explored(
    server: Valkey, case: Callable[[RedisWorld], type[RuleBasedStateMachine]], examples: int, steps: int
) -> None:
    """Run a state machine, which `case` makes for a world over this server."""
    world = opened(server, RedisWorld)
    try:
        run_state_machine_as_test(
            case(world),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        reactor.run(world.close())


@pytest.fixture(params=["memory", "valkey", "redis7", "cluster"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One test in every world. On the cluster people live on four shards; those of the tests on shard 0."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    made = opened(
        request.getfixturevalue(request.param), RedisWorld, SHARDS if request.param == "cluster" else 1
    )
    yield made
    reactor.run(made.close())


@pytest.fixture(params=["memory", "cluster"])
def spread(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world with four shards."""
    if request.param == "memory":
        yield MemoryWorld(SHARDS)
        return
    made = opened(request.getfixturevalue(request.param), RedisWorld, SHARDS)
    yield made
    reactor.run(made.close())


@pytest.fixture
def real(valkey: Valkey) -> Iterator[RedisWorld]:
    """A real server alone."""
    made = opened(valkey, RedisWorld)
    yield made
    reactor.run(made.close())
