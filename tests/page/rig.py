"""What the page stands on: a Redis and a daemon to hurt, and the demo's page server in the tests' own reactor."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from notifier.cli.lines import checker_of
from notifier.cli.page_server import PublishError, Token, own_hosts, page_site
from notifier.config import Config
from notifier.core.keys import FRONT_DOOR
from notifier.edge.embedded import HOST, free_port
from tests import client, reactor
from tests.daemon import Daemon
from tests.servers import Valkey

LIFE: Final = 900


class Rig:
    """All parts on this machine; the daemon comes back on the same ports. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.redis = Valkey(folder / "valkey", aof=False)
        self.redis.start()
        self._page: Any = reactor.run(self._listen)
        port: int = self._page.getHost().port
        self.url = f"http://{HOST}:{port}/"
        self._folder, self._origins = folder / "daemon", [f"http://{host}" for host in own_hosts(port)]
        self.daemon = self._made()
        self.refusal = ""  # what Redis is made to say to a publisher
        self.mute = False  # no tokens: the daemon is not ready yet

    def _made(self) -> Daemon:
        """A daemon on ports of its own."""
        self.websocket_port, self.api_port = free_port(), free_port()
        settings = {
            "websocket": {"listen": f"tcp:{self.websocket_port}:interface={HOST}", "origins": self._origins},
            "api": {"listen": f"tcp:{self.api_port}:interface={HOST}", "origins": self._origins},
        }
        return Daemon(self._folder, self.redis.url, settings)

    def move(self) -> None:
        """The daemon is killed; one on other ports takes its place."""
        self.daemon.kill()
        self.daemon = self._made()
        self.daemon.start()

    def _listen(self) -> Any:
        from twisted.internet import reactor as installed  # late: importing it installs it

        looping: Any = installed
        return looping.listenTCP(
            0, page_site(self._mint, self._publish, checker_of(Config()).fault), interface=HOST
        )

    def __enter__(self) -> Self:
        self.daemon.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.kill()
        reactor.run(self._page.stopListening)
        self.redis.stop()

    def _mint(self, user: str) -> Token | None:
        if self.mute:
            return None
        return Token(
            user,
            client.token(user, LIFE),
            int(time.time()) + LIFE,
            f"ws://{HOST}:{self.websocket_port}{client.PATH}",
            f"http://{HOST}:{self.api_port}",
        )

    async def _publish(self, event: bytes) -> str:
        if self.refusal:
            raise PublishError(self.refusal)
        added: Deferred[Any] = deferToThread(self.redis.call, "XADD", FRONT_DOOR, "*", "event", event)
        entry: bytes = await added
        return entry.decode()

    def like(self, person: str, photo: str, actor: str = "zoe") -> None:
        """Somebody likes a photo of this person."""
        thing = {"type": "photo", "id": photo}
        event = {"type": "like", "actor": {"id": actor}, "to": [person], "object": thing}
        self.redis.call("XADD", FRONT_DOOR, "*", "event", json.dumps(event))

    def address(self, *people: str) -> str:
        """Of the page, with these people on it."""
        return self.url + "?" + "&".join(f"user={person}" for person in people)
