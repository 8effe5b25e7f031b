"""What the site stands on in tests: a fake photo API in front of a real notifier, its Redis and its sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from notifier.core.keys import FRONT_DOOR
from notifier.edge.embedded import free_port
from tests import client
from tests.daemon import Daemon
from tests.page.chromium import Chromium, Window
from tests.sandboxes import SandboxProcess
from tests.servers import Valkey
from tests.webapp.page.fake import HOST, FakeApi, FakeServer, Person

# Phones are told though a page is open, as in the demo.
ALWAYS: Final = "".join(f'[types.{kind}]\npush = "always"\n' for kind in ("follow", "like", "comment"))
KEPT: Final = "glimpse"  # what webapp/page/session.js keeps in localStorage


class Stage:
    """All parts on this machine. A context manager. `api` may be given people, photos and bad moods."""

    def __init__(self, folder: Path) -> None:
        self.redis = Valkey(folder / "valkey", aof=False)
        self.sandbox = SandboxProcess(folder / "sandbox")
        self.api = FakeApi(publish=self._publish)
        self.server = FakeServer(self.api)
        self.url = self.server.url
        self._folder = folder / "daemon"

    def __enter__(self) -> Self:
        self.redis.start()
        self.sandbox.__enter__()
        # Ports that stay: after a restart the pages find it again.
        ports = {name: free_port() for name in ("websocket", "api")}
        settings = {
            name: {"listen": f"tcp:{port}:interface={HOST}", "origins": [self.url]}
            for name, port in ports.items()
        }
        self.daemon = Daemon(self._folder, self.redis.url, settings, more=self.sandbox.toml() + ALWAYS)
        self.daemon.start()
        self.api.site.update(
            websocket=f"ws://{HOST}:{ports['websocket']}{client.PATH}",
            api=f"http://{HOST}:{ports['api']}",
            sandbox=self.sandbox.endpoints["sandbox"],
        )
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__()
        self.daemon.kill()
        self.sandbox.__exit__(kind, fault, trace)
        self.redis.stop()

    def _publish(self, event: dict[str, Any]) -> None:
        self.redis.call("XADD", FRONT_DOOR, "*", "event", json.dumps(event))

    def open(
        self, browser: Chromium, person: Person | None, path: str = "/", width: int = 1280, height: int = 800,
        renewal: str = "",
    ) -> Window:  # fmt: skip
        """A window in which this person is signed in already; they share what the browser keeps.

        `renewal`: what renews their token, if anything.
        """
        window = browser.open(self.url + "/static/icon.svg", width, height)
        if person is None:
            window.run("localStorage.clear()")
        else:
            known = person.brief | {"bio": person.bio}
            more = {"renewal": renewal} if renewal else {}
            kept = json.dumps({"token": client.token(person.id), "person": known} | more)
            window.run("localStorage.setItem(arguments[0], arguments[1])", KEPT, kept)
        window.driver.get(self.url + path)
        return window
