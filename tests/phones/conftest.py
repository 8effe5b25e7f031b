"""A server of the run's own, a sandbox that the tests of a file share, and listeners whose TLS fails."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator

import pytest

from notifier.sandbox import listen
from tests import reactor
from tests.contract.world import RedisWorld
from tests.edge.http2.world import reactor as the_reactor
from tests.edge.provider_world import World, no_canaries_logged
from tests.phones.gateway import Gateway
from tests.phones.listeners import Stage, listeners
from tests.servers import Valkey


@pytest.fixture
def real(valkey: Valkey) -> Iterator[RedisWorld]:
    """A real server, emptied."""
    valkey.call("FLUSHALL")

    async def build() -> RedisWorld:
        world = RedisWorld(valkey.url)
        await world.open()
        return world

    made = reactor.run(build())
    yield made
    reactor.run(made.close())


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Fake APNs and FCM; when the file's last test has ended, no token and no secret stands in any log."""
    folder = tmp_path_factory.mktemp("sandbox")
    with no_canaries_logged():
        world: World = reactor.run(lambda: World(listen.start(the_reactor, folder)))
        yield world
        reactor.run(world.stop())


@pytest.fixture(scope="module")
def stage(there: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same providers, also behind TLS that fails; and a gateway."""

    def begin() -> Stage:
        gateway = Gateway(there.sandbox.phones)
        return Stage(there, listeners(there, tmp_path_factory.mktemp("failing")), gateway, gateway.listen())

    made: Stage = reactor.run(begin)
    yield made
    for port in (made.port, *(listener.port for listener in made.failing.values())):
        reactor.run(port.stopListening)
